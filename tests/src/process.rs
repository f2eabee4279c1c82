//! Processes that end when the test ends.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use crate::environment;
use crate::timeout::{PATIENCE, until};

/// A child with its output in files; dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    directory: PathBuf,
    stdin: Option<ChildStdin>,
    /// How many lines of its stdout were taken as answers.
    heard: usize,
}

/// How a process ended, and what it said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// The exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All it wrote to stdout.
    pub stdout: String,
    /// All it wrote to stderr.
    pub stderr: String,
}

impl Process {
    /// Starts `command` with stdin as a pipe and its output going to files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(name: &str, command: Command) -> Result<Self> {
        let directory = environment::scratch(name)?;
        Self::spawn_in(name, command, directory)
    }

    /// As [`Process::spawn`], with the output going to `stdout` and `stderr` in `directory`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn_in(name: &str, mut command: Command, directory: PathBuf) -> Result<Self> {
        // Where a program that was built for gprof leaves its counts.
        command.env("GMON_OUT_PREFIX", directory.join("gmon"));
        command
            .stdin(Stdio::piped())
            .stdout(File::create(directory.join("stdout"))?)
            .stderr(File::create(directory.join("stderr"))?);
        let shown = format!("{command:?}");
        let mut child = spawn_bound(command).with_context(|| format!("starting {shown}"))?;
        let stdin = child.stdin.take();
        Ok(Self { name: name.to_owned(), child, directory, stdin, heard: 0 })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output goes, and other files of its own may.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it has written to stdout.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// What it has written to stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    fn read(&self, file: &str) -> String {
        let bytes = fs::read(self.directory.join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes a line to its stdin.
    ///
    /// # Errors
    /// When it has closed that, or ended.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let name = &self.name;
        let stdin = self.stdin.as_mut().ok_or_else(|| anyhow!("stdin of {name} is closed"))?;
        writeln!(stdin, "{line}").with_context(|| format!("writing to {name}"))
    }

    /// Waits for its next line on stdout.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn hear(&mut self) -> Result<String> {
        let what = format!("line {} of what {} says", self.heard + 1, self.name);
        let line = until(PATIENCE, &what, || {
            let alive = self.alive();
            let said = self.stdout();
            let line =
                said.rsplit_once('\n').and_then(|(whole, _)| whole.split('\n').nth(self.heard));
            if let Some(line) = line {
                return Ok(Some(line.to_owned()));
            }
            ensure!(alive, "{} has ended", self.name);
            Ok(None)
        })
        .with_context(|| format!("its stderr: {}", tail(&self.stderr())))?;
        self.heard += 1;
        Ok(line)
    }

    /// Writes a line to its stdin, and waits for the line it answers on stdout.
    ///
    /// # Errors
    /// When it ends before it has answered.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.hear()
    }

    /// Closes its stdin.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended already.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} has ended ({status}): it cannot be signalled", self.name);
        }
        // Not reaped above, so the number is still its own.
        kill_process(self.pid_typed()?, signal).with_context(|| format!("signalling {}", self.name))
    }

    fn pid_typed(&self) -> Result<Pid> {
        i32::try_from(self.pid())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| anyhow!("{} has no process id", self.name))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it has not after `limit`: the message carries the tail of its stderr.
    pub fn wait(&mut self, limit: Duration) -> Result<Finished> {
        let what = format!("the end of {} (pid {})", self.name, self.pid());
        let status = until(limit, &what, || Ok(self.child.try_wait()?))
            .with_context(|| format!("its stderr ends with: {}", tail(&self.stderr())))?;
        Ok(self.finished(status))
    }

    /// Asks it to end with SIGINT and waits.
    ///
    /// # Errors
    /// When it had ended before, or does not within `limit` (then it is killed).
    pub fn interrupt(&mut self, limit: Duration) -> Result<Finished> {
        self.signal(Signal::INT)?;
        self.wait(limit)
    }

    /// Ends it with SIGKILL and waits.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(&mut self) -> Result<Finished> {
        self.signal(Signal::KILL)?;
        let status = self.child.wait()?;
        Ok(self.finished(status))
    }

    fn finished(&self, status: ExitStatus) -> Finished {
        Finished {
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout(),
            stderr: self.stderr(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended and is reaped, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
///
/// # Errors
/// When it cannot be started, or has not ended after `limit`.
pub fn run(name: &str, command: Command, limit: Duration) -> Result<Finished> {
    let mut process = Process::spawn(name, command)?;
    process.close_stdin();
    process.wait(limit)
}

/// The last lines of a text, for messages.
#[must_use]
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(20)..).unwrap_or_default().join("\n")
}

type Job = (Command, Sender<std::io::Result<Child>>);

/// Starts a child that the kernel kills when this test binary is gone, however it went.
///
/// The kernel watches the *thread* that made the child (`PR_SET_PDEATHSIG`, prctl(2)), and tests
/// run on threads that end, so one thread that never ends makes them all.
fn spawn_bound(command: Command) -> Result<Child> {
    static SPAWNER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, answer) in jobs {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let mut command = command;
    // SAFETY: between fork and exec the closure only makes one system call.
    unsafe {
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let (answer, child) = mpsc::channel();
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, answer))?;
    Ok(child.recv()??)
}
