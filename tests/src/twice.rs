//! A fixture that is run twice, alone and watched, and must not know which is which.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::fixture::Fixture;
use crate::process::Finished;
use crate::qprof::{Done, Run};
use crate::symbol_map;
use crate::tree::{Trace, from_otlp};

/// What came of it.
#[derive(Clone, Debug)]
pub struct Twice {
    /// How it ended alone.
    pub alone: Finished,
    /// How it ended when it was watched.
    pub watched: Finished,
    /// How the run on it ended.
    pub done: Done,
    /// What that saw.
    pub traces: Vec<Trace>,
}

/// Runs a fixture twice: alone, and with the functions of a map watched.
///
/// # Errors
/// When it does not do its work.
pub fn twice(binary: &Path, arguments: &[&str], map: &str) -> Result<Twice> {
    twice_with(binary, arguments, map, |run| run)
}

/// As [`twice`], with more said to `qprof`.
///
/// # Errors
/// As [`twice`].
pub fn twice_with(
    binary: &Path,
    arguments: &[&str],
    map: &str,
    more: impl FnOnce(Run) -> Run,
) -> Result<Twice> {
    let mut fixture = Fixture::start(binary, arguments)?;
    fixture.work()?;
    let alone = fixture.finish()?;
    let mut fixture = Fixture::start(binary, arguments)?;
    let run = Run::on(fixture.pid())?.map(symbol_map::file(map)?).output("json");
    let run = more(run).start()?;
    fixture.work()?;
    let done = run.stop()?;
    let watched = fixture.finish()?;
    let traces = from_otlp(&done.finished.stdout)?;
    Ok(Twice { alone, watched, done, traces })
}

impl Twice {
    /// The program did and said the same, and the run on it ended well.
    ///
    /// # Errors
    /// When it did not.
    pub fn check_unharmed(&self) -> Result<()> {
        ensure!(self.alone.code == Some(0), "the fixture is at fault: {:?}", self.alone);
        ensure!(self.watched.code == Some(0), "it died of being watched: {:?}", self.watched);
        ensure!(self.watched.stderr == self.alone.stderr, "it said something else when watched");
        self.done.check_ok()
    }

    /// The program did and said the same, and nothing of it was lost.
    ///
    /// # Errors
    /// When it did not, or something was.
    pub fn check(&self) -> Result<()> {
        self.check_unharmed()?;
        self.done.summary.check_nothing_lost()?;
        for trace in &self.traces {
            trace.check()?;
        }
        Ok(())
    }
}
