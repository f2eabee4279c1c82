//! Noticing that the target has ended.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, pidfd_open};

use super::{TargetError, process};
use crate::model::Pid;

/// A handle on one very process: unlike its number it can never come to mean another.
#[derive(Debug)]
pub struct ExitWatch {
    pid: Pid,
    pidfd: OwnedFd,
}

impl ExitWatch {
    /// Watches a process.
    ///
    /// # Errors
    /// [`TargetError::NoSuchProcess`], or [`TargetError::Read`] for what the kernel says otherwise.
    pub fn new(pid: Pid) -> Result<Self, TargetError> {
        let raw = i32::try_from(pid.0).ok().and_then(rustix::process::Pid::from_raw);
        let raw = raw.ok_or(TargetError::NoSuchProcess(pid))?;
        match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { pid, pidfd }),
            Err(Errno::SRCH) => Err(TargetError::NoSuchProcess(pid)),
            Err(errno) => {
                Err(TargetError::Read { pid, file: "its pidfd".into(), source: errno.into() })
            }
        }
    }

    /// Whether the process (all its threads) has ended. Never blocks.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        // A pidfd is readable from the moment the thread group is dead (pidfd_open(2)).
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut fds, Some(&now)), Ok(ready) if ready > 0)
    }

    /// Whether it has ended or is about to: whatever is missing of it may be missing for that.
    ///
    /// A dying process gives up its memory, and with it all its mappings, before it counts as dead
    /// (`exit_mm` and `exit_notify` in the kernel's `do_exit`).
    #[must_use]
    pub fn is_ending(&self) -> bool {
        fs::read_link(process::file(self.pid, "exe"))
            .is_err_and(|error| matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)))
            || self.has_exited()
    }
}

impl AsFd for ExitWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn notices_the_end_and_only_the_end() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let watch = ExitWatch::new(Pid(child.id())).unwrap();
        assert!(!watch.has_exited() && !watch.is_ending());
        drop(child.stdin.take());
        while !watch.has_exited() {
            std::thread::yield_now();
        }
        assert!(watch.is_ending(), "a zombie has no program any more");
        child.wait().unwrap();
        assert!(watch.has_exited() && watch.is_ending());
    }

    #[test]
    fn numbers_that_no_process_can_have() {
        for pid in [0, u32::MAX, 0x7fff_ffff] {
            assert!(matches!(ExitWatch::new(Pid(pid)), Err(TargetError::NoSuchProcess(_))));
        }
    }
}
