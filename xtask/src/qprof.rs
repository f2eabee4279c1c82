//! `qprof run` beside us: started, heard when it is attached, ended in order.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::child::{Guarded, TICK};
use crate::{say, sys};

const ATTACH_LIMIT: Duration = Duration::from_secs(120);
const DETACH_LIMIT: Duration = Duration::from_secs(60);
/// How much of what it said an error repeats.
const KEPT_LINES: usize = 20;
/// How many lines may wait for whoever asks what it said; what comes then is passed over.
const WAITING_LINES: usize = 1_000;

/// An attached `qprof run`.
#[derive(Debug)]
pub(crate) struct Attached {
    child: Guarded,
    /// From its start to the line that says it is attached.
    pub(crate) after: Duration,
    lines: Receiver<(Instant, String)>,
}

impl Attached {
    /// Starts `program run -p pid` with `words`, and waits until it is attached. What it says is
    /// passed on if `heard`.
    ///
    /// # Errors
    /// When it ends before, with what it said, or is not attached after two minutes.
    pub(crate) fn start(program: &Path, pid: u32, words: &[&str], heard: bool) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(["run", "-p", &pid.to_string()]).args(words).stderr(Stdio::piped());
        if !heard {
            command.stdout(Stdio::null());
        }
        let started = Instant::now();
        let mut child = Guarded::start("qprof", &mut command)?;
        let said = child.take_stderr().context("qprof has no standard error to read")?;
        let (sender, lines) = mpsc::sync_channel(WAITING_LINES);
        // Goes on after the attach: a full pipe would stop qprof. Ends with it.
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if heard {
                    say::err(&line);
                }
                // Full, or nobody asks any more.
                let _ = sender.try_send((Instant::now(), line));
            }
        });
        let mut kept = Vec::new();
        loop {
            match lines.recv_timeout(TICK) {
                Ok((_, line)) if line.starts_with("attached") => {
                    return Ok(Self { child, after: started.elapsed(), lines });
                }
                Ok((_, line)) if kept.len() < KEPT_LINES => kept.push(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if started.elapsed() < ATTACH_LIMIT => {
                    sys::check_stop()?;
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("qprof is not attached after {}", say::seconds(ATTACH_LIMIT));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait(DETACH_LIMIT)?;
                    let status = status.map_or_else(String::new, |status| format!(" ({status})"));
                    bail!("qprof ended before it was attached{status}:\n{}", kept.join("\n"));
                }
            }
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said since it was attached, or since this was asked last, and when.
    pub(crate) fn said(&self) -> impl Iterator<Item = (Instant, String)> + '_ {
        self.lines.try_iter()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn poll(&mut self) -> Result<Option<ExitStatus>> {
        self.child.poll()
    }

    /// Detaches it the way Ctrl-C does.
    ///
    /// # Errors
    /// When it does not end within a minute, or ends with a failure.
    pub(crate) fn finish(mut self) -> Result<()> {
        match self.child.interrupt(DETACH_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("qprof ended with {status}"),
            None => bail!("qprof did not detach within {}", say::seconds(DETACH_LIMIT)),
        }
    }
}
