//! Programs that run beside us and never outlive us.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::command::{not_started, shown};
use crate::say;
use crate::sys::{self, Signal};

/// How often a wait looks again.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// The same while something is ending: how long that takes is measured.
const END_TICK: Duration = Duration::from_millis(2);

/// A started program in a process group of its own, so that Ctrl-C reaches us first and we end
/// it in order. Dropping it kills the whole group.
#[derive(Debug)]
pub(crate) struct Guarded {
    child: Child,
    name: String,
    ended: Option<ExitStatus>,
}

impl Guarded {
    /// Starts `command`; its output goes where the caller directed it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(name: &str, command: &mut Command) -> Result<Self> {
        Self::spawn(name, command.stdin(Stdio::null()))
    }

    /// Starts `command` with its input and output in our hands.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start_talking(name: &str, command: &mut Command) -> Result<Self> {
        Self::spawn(name, command.stdin(Stdio::piped()).stdout(Stdio::piped()))
    }

    fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let child = command.process_group(0).spawn().with_context(|| not_started(command))?;
        Ok(Self { child, name: name.to_owned(), ended: None })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard input, if we hold it; once.
    pub(crate) fn take_stdin(&mut self) -> Option<std::process::ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, if it was piped; once.
    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Its standard error, if it was piped; once.
    pub(crate) fn take_stderr(&mut self) -> Option<std::process::ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended, if it did.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn poll(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none() {
            self.ended =
                self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Waits for its end, at most `limit`; [`None`] when it still runs then, or when the person
    /// asks us to stop.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.poll()? {
                return Ok(Some(status));
            }
            if sys::stop_requested() || Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(TICK);
        }
    }

    /// Ends it the way Ctrl-C does and waits `grace`; then by force. [`None`] when by force.
    ///
    /// # Errors
    /// When the kernel does not tell how it ended.
    pub(crate) fn interrupt(&mut self, grace: Duration) -> Result<Option<ExitStatus>> {
        let deadline = Instant::now() + grace;
        if self.poll()?.is_none() {
            sys::signal_group(self.id(), Signal::Interrupt);
        }
        while self.poll()?.is_none() {
            if Instant::now() >= deadline {
                say::err(&format!("{} did not end when asked to: killed", self.name));
                self.kill();
                return Ok(None);
            }
            std::thread::sleep(END_TICK);
        }
        Ok(self.ended)
    }

    fn kill(&mut self) {
        // Until it is waited for, its id cannot belong to another process; what it left in its
        // group keeps the group's id taken.
        sys::signal_group(self.id(), Signal::Kill);
        if let Ok(status) = self.child.wait() {
            self.ended = Some(status);
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if matches!(self.poll(), Ok(None) | Err(_)) {
            self.kill();
        }
    }
}

/// Runs `command` to its end beside nothing else, but ends it when the person asks us to stop.
///
/// # Errors
/// When it cannot be started, takes longer than `limit`, or does not succeed.
pub(crate) fn run_to_end(name: &str, command: &mut Command, limit: Duration) -> Result<()> {
    let text = shown(command);
    let mut child = Guarded::start(name, command)?;
    match child.wait(limit)? {
        Some(status) if status.success() => Ok(()),
        Some(status) => anyhow::bail!("`{text}` failed ({status})"),
        None => {
            sys::check_stop()?;
            anyhow::bail!("`{text}` was not done after {}", say::seconds(limit))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Guarded {
        Guarded::start("sleep", Command::new("sleep").arg("600")).unwrap()
    }

    fn lives(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn dropped_is_gone() {
        let child = sleeper();
        let pid = child.id();
        assert!(lives(pid));
        drop(child);
        assert!(!lives(pid));
    }

    #[test]
    fn interrupted_is_gone_and_says_how() {
        let mut child = sleeper();
        let status = child.interrupt(Duration::from_secs(10)).unwrap().unwrap();
        assert!(!status.success());
        assert!(!lives(child.id()));
    }

    #[test]
    fn what_does_not_listen_is_killed() {
        let script = "trap '' INT; echo set; sleep 600 & wait";
        let mut child =
            Guarded::start("sh", Command::new("sh").args(["-c", script]).stdout(Stdio::piped()))
                .unwrap();
        let mut line = [0; 4];
        std::io::Read::read_exact(&mut child.take_stdout().unwrap(), &mut line).unwrap();
        assert!(child.interrupt(Duration::from_millis(100)).unwrap().is_none());
        assert!(!lives(child.id()));
    }

    #[test]
    fn a_limit_is_kept() {
        let error =
            run_to_end("sleep", Command::new("sleep").arg("600"), Duration::from_millis(60))
                .unwrap_err();
        assert!(error.to_string().contains("was not done after"), "{error}");
    }
}
