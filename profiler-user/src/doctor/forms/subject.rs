//! The child as its parent sees it: asked, answering, or dead.

use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use thiserror::Error;

use super::harness::{Snapshot, WORDS};
use super::worker::{NOT_RUN, RAN, READY, Request};
use crate::model::Pid;

/// How long an answer is waited for, seconds: a child that hangs without using a processor is the
/// only one that takes longer.
const PATIENCE: i64 = 30;

/// Makes the file of the snippets. It has no name, so nobody else can map it, and is gone with the
/// last of us.
pub(super) fn make_file(bytes: &[u8]) -> io::Result<std::fs::File> {
    // The child inherits it. Where executable ones are not allowed, mapping one still is.
    let file = memfd_create("qprof-forms", MemfdFlags::EXEC)
        .or_else(|_| memfd_create("qprof-forms", MemfdFlags::NOEXEC_SEAL))?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    Ok(file)
}

/// The child did not answer.
#[derive(Debug, Error)]
pub(in crate::doctor) enum NoAnswer {
    /// It was killed by what it ran.
    #[error("{0}")]
    Died(String),
    /// It was killed by somebody else, or ended by itself.
    #[error("the child was ended from outside ({0})")]
    Ended(ExitStatus),
    /// It answered something that is no answer.
    #[error("the child answered nonsense")]
    Nonsense,
    /// A pipe broke, or it could not be started.
    #[error("the child: {0}")]
    Io(#[from] io::Error),
}

impl NoAnswer {
    /// Whether another child may do better.
    pub(super) const fn is_from_outside(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// The child. Dropped, it is ended.
pub(super) struct Subject {
    child: Child,
}

impl Subject {
    pub(super) fn start(file: &impl AsRawFd) -> Result<Self, NoAnswer> {
        let child = Command::new("/proc/self/exe")
            .arg("form-test-child")
            .arg(file.as_raw_fd().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut this = Self { child };
        if this.words(1)? == [READY] { Ok(this) } else { Err(NoAnswer::Nonsense) }
    }

    pub(super) fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    /// Runs a case; the first snapshot, and the first one that differs from it or else the last. The
    /// inner error is the kernel's, which gives no shadow stack.
    pub(super) fn run(
        &mut self,
        form: usize,
        case: usize,
        times: u32,
        shadow: bool,
    ) -> Result<io::Result<[Snapshot; 2]>, NoAnswer> {
        let (form, case) = (form as u32, case as u32);
        match self.ask(Request::Run { form, case, times, shadow })? {
            RAN => Ok(Ok([Snapshot(self.words(WORDS)?), Snapshot(self.words(WORDS)?)])),
            NOT_RUN => {
                let errno = self.words(1)?.first().copied().unwrap_or(0);
                Ok(Err(io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or(0))))
            }
            _ => Err(NoAnswer::Nonsense),
        }
    }

    /// Times those of [`super::blob::Blob::timed`] once around: what a probe adds to a call,
    /// nanoseconds, of each snippet, thread by thread.
    pub(super) fn time(&mut self, which: Range<usize>, threads: u32) -> Result<Vec<f64>, NoAnswer> {
        /// More than any answer has.
        const MOST: u64 = 4096;
        let (from, to) = (which.start as u32, which.end as u32);
        if self.ask(Request::Time { from, to, threads })? != RAN {
            return Err(NoAnswer::Nonsense);
        }
        match self.words(1)?.first() {
            Some(&count) if count <= MOST => {
                Ok(self.words(count as usize)?.into_iter().map(f64::from_bits).collect())
            }
            _ => Err(NoAnswer::Nonsense),
        }
    }

    /// Calls a snippet on several threads.
    pub(super) fn call(&mut self, start: u32, threads: u32, times: u32) -> Result<(), NoAnswer> {
        match self.ask(Request::Call { start, threads, times })? {
            RAN => Ok(()),
            _ => Err(NoAnswer::Nonsense),
        }
    }

    fn ask(&mut self, request: Request) -> Result<u64, NoAnswer> {
        let sent = self.child.stdin.as_mut().map_or(Ok(()), |to| to.write_all(&request.encode()));
        // It may have been ended between two questions.
        if let Err(error) = sent {
            return Err(self.post_mortem(error));
        }
        self.words(1)?.first().copied().ok_or(NoAnswer::Nonsense)
    }

    fn words(&mut self, count: usize) -> Result<Vec<u64>, NoAnswer> {
        let mut bytes = vec![0; count * 8];
        match self.read(&mut bytes) {
            Ok(()) => Ok(bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect()),
            Err(error) => Err(self.post_mortem(error)),
        }
    }

    fn read(&mut self, mut into: &mut [u8]) -> io::Result<()> {
        let Some(from) = self.child.stdout.as_mut() else { return Ok(()) };
        while !into.is_empty() {
            let patience = Timespec { tv_sec: PATIENCE, tv_nsec: 0 };
            match poll(&mut [PollFd::new(from, PollFlags::IN)], Some(&patience)) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => return Err(errno.into()),
            }
            let count = from.read(into)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into = into.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Why it does not answer.
    fn post_mortem(&mut self, error: io::Error) -> NoAnswer {
        if error.kind() == io::ErrorKind::TimedOut {
            return NoAnswer::Died(format!("it hung for {PATIENCE} s"));
        }
        let gone = [io::ErrorKind::UnexpectedEof, io::ErrorKind::BrokenPipe];
        if !gone.contains(&error.kind()) {
            return error.into();
        }
        match self.child.wait() {
            Ok(status) => status
                .signal()
                .and_then(death)
                .map_or(NoAnswer::Ended(status), |how| NoAnswer::Died(how.to_owned())),
            Err(error) => error.into(),
        }
    }
}

/// What a signal says that comes from what the child itself did.
fn death(signal: i32) -> Option<&'static str> {
    match signal {
        libc::SIGSEGV => Some("SIGSEGV"),
        libc::SIGTRAP => Some("SIGTRAP"),
        libc::SIGILL => Some("SIGILL"),
        libc::SIGBUS => Some("SIGBUS"),
        libc::SIGFPE => Some("SIGFPE"),
        libc::SIGSYS => Some("SIGSYS"),
        libc::SIGABRT => Some("SIGABRT"),
        libc::SIGXCPU => Some("it ran in circles"),
        _ => None,
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself, which is as well.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
