//! `fixtures/family.c`: a process, and children of it, that do what they are told; and what a run
//! on them must have seen.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::environment::scratch;
use crate::fixture::build;
use crate::process::{Finished, Process};
use crate::qprof::{Done, Run, Running, Summary};
use crate::symbol_map;
use crate::timeout::PATIENCE;
use crate::tree::{Trace, from_otlp};

/// Calls of `query` (and whatever else is a root) by process id.
pub type Roots = BTreeMap<u32, usize>;

/// The fixture, compiled.
///
/// # Errors
/// When it does not compile.
pub fn binary() -> Result<PathBuf> {
    build("family.c", &["-O2", "-ldl"])
}

/// Its library.
///
/// # Errors
/// When it does not compile.
pub fn library() -> Result<PathBuf> {
    build("library.c", &["-O2", "-shared", "-fPIC"])
}

/// A map of all that the fixture and its library have, none of it required.
///
/// # Errors
/// When it cannot be written.
pub fn map() -> Result<PathBuf> {
    let map = symbol_map::of(&["query", "other_query", "plugin_query"], &["family_step"], "");
    symbol_map::file(&map.replace("required = true", "required = false"))
}

/// The fixture, reading commands.
#[derive(Debug)]
pub struct Family {
    process: Process,
}

impl Family {
    /// Starts it.
    ///
    /// # Errors
    /// When it ends before it is ready.
    pub fn start(binary: &Path) -> Result<Self> {
        Self::become_of(Command::new(binary))
    }

    /// Starts a command that becomes the fixture, or has it as a child with the same stdin.
    ///
    /// # Errors
    /// When it ends before the fixture is ready.
    pub fn become_of(command: Command) -> Result<Self> {
        let mut family = Self { process: Process::spawn("family", command)? };
        let first = family.process.hear()?;
        ensure!(first == "ready", "it says {first:?} first");
        Ok(family)
    }

    /// Its process id, or that of the command it was started by.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// Has it do something; its answer.
    ///
    /// # Errors
    /// When it ends before it has answered.
    pub fn ask(&mut self, command: &str) -> Result<String> {
        self.process.ask(command)
    }

    /// Has it do something that it must answer `ok`.
    ///
    /// # Errors
    /// When it answers anything else.
    pub fn tell(&mut self, command: &str) -> Result<()> {
        let answer = self.ask(command)?;
        ensure!(answer == "ok", "{command} was answered {answer:?}");
        Ok(())
    }

    /// Has it (or, with a prefix `@0 `, a child) make a child; its pid.
    ///
    /// # Errors
    /// When it does not.
    pub fn fork(&mut self, who: &str) -> Result<u32> {
        self.ask(&format!("{who}fork"))?.parse().context("the pid of a child")
    }

    /// Lets it end.
    ///
    /// # Errors
    /// When it does not.
    pub fn end(mut self) -> Result<Finished> {
        self.process.close_stdin();
        self.process.wait(PATIENCE)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(mut self) -> Result<Finished> {
        self.process.kill()
    }
}

/// A run whose traces go to a file, with the fixture's map; and that file.
///
/// # Errors
/// When the map cannot be written.
pub fn traced(run: Run) -> Result<(Run, PathBuf)> {
    let file = run.directory().join("traces.jsonl");
    Ok((run.map(map()?).output("none").arg("-o").arg(&file), file))
}

/// As [`traced`], and started.
///
/// # Errors
/// As [`Run::start`].
pub fn start(run: Run) -> Result<(Running, PathBuf)> {
    let (run, file) = traced(run)?;
    Ok((run.start()?, file))
}

/// The traces of a run that has ended well and lost nothing.
///
/// # Errors
/// When it did not, or did.
pub fn traces(done: &Done, file: &Path) -> Result<Vec<Trace>> {
    ensure!(!done.finished.stderr.contains("panicked at"), "panicked: {}", done.finished.stderr);
    whole(&done.summary, file).with_context(|| done.finished.stderr.clone())
}

/// The traces in a file, by a run that has lost nothing.
///
/// # Errors
/// When it has, or they are not all there.
pub fn whole(summary: &Summary, file: &Path) -> Result<Vec<Trace>> {
    summary.check_nothing_lost()?;
    let traces = from_otlp(&fs::read_to_string(file)?)?;
    ensure!(summary.number(&["traces"])? == traces.len() as u64, "traces: {}", summary.0);
    for trace in &traces {
        let root = trace.root()?;
        let steps = usize::from(root.name != "plugin_query");
        ensure!(trace.count("family_step") == steps, "not whole: {}", trace.outline());
        for span in &trace.spans {
            ensure!(span.process == root.process, "a trace of two processes: {trace:?}");
            ensure!(span.ended()? == "returned", "not seen to return: {span:?}");
        }
    }
    Ok(traces)
}

/// How many roots each process has; they ran on threads of its own.
///
/// # Errors
/// When they did not.
pub fn roots(traces: &[Trace]) -> Result<Roots> {
    let mut roots = Roots::new();
    for trace in traces {
        let root = trace.root()?;
        let pid = root.process.context("a span without process.pid")?;
        // The fixture has one thread a process.
        ensure!(root.thread()? == pid, "process {pid}, thread {}", root.thread()?);
        *roots.entry(pid).or_default() += 1;
    }
    Ok(roots)
}

/// Ends the run, and compares the roots it has seen with those there were.
///
/// # Errors
/// When they differ, or something was lost.
pub fn check(done: &Done, file: &Path, expected: &[(u32, usize)]) -> Result<()> {
    let seen = roots(&traces(done, file)?)?;
    let expected: Roots = expected.iter().copied().filter(|(_, count)| *count > 0).collect();
    ensure!(seen == expected, "roots by process: {seen:?}, made: {expected:?}; {}", done.summary.0);
    Ok(())
}

/// A copy of a file of a name of its own.
///
/// # Errors
/// When it cannot be copied.
pub fn copy(file: &Path, name: &str) -> Result<PathBuf> {
    let copy = scratch("copy")?.join(name);
    fs::copy(file, &copy)?;
    Ok(copy)
}
