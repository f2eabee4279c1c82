//! Why a process cannot be a target.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::{Pid, Tid};

/// Why a process cannot be profiled.
#[derive(Debug, Error)]
pub enum TargetError {
    /// There is none.
    #[error("no process {0}: it has ended, or lives in a pid namespace of which we see nothing")]
    NoSuchProcess(Pid),
    /// The number names a thread.
    #[error("{tid} is a thread of process {pid}: use `-p {pid}`")]
    IsThread {
        /// The number given.
        tid: Tid,
        /// The process it belongs to.
        pid: Pid,
    },
    /// It belongs to somebody else.
    #[error(
        "may not read {} of process {pid}: it belongs to another user or may not be inspected; \
         run as root, or with CAP_SYS_PTRACE", file.display()
    )]
    NotPermitted {
        /// The process.
        pid: Pid,
        /// What could not be read.
        file: PathBuf,
    },
    /// It has no user code.
    #[error("process {pid} ({name}) is a kernel thread: there is no program in it to profile")]
    KernelThread {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
    },
    /// It is dead and waits for its parent.
    #[error("process {pid} ({name}) is a zombie: it has ended and waits to be reaped")]
    Zombie {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
    },
    /// Its code is not x86-64.
    #[error("process {pid} runs {found}: only 64-bit x86-64 ELF programs can be profiled")]
    Unsupported {
        /// The process.
        pid: Pid,
        /// What it runs.
        found: String,
    },
    /// It ended while it was read.
    #[error("process {0} ended while it was being read")]
    Exited(Pid),
    /// Something else failed.
    #[error("cannot read {} of process {pid}", file.display())]
    Read {
        /// The process.
        pid: Pid,
        /// What could not be read.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl TargetError {
    /// Nobody was asked for.
    pub(crate) const fn none() -> Self {
        Self::NoSuchProcess(Pid(0))
    }

    /// The meaning of a failure to read `file` of a process that was there a moment ago.
    pub(super) fn reading(pid: Pid, file: &Path, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ESRCH) => Self::Exited(pid),
            Some(libc::EACCES | libc::EPERM) => Self::NotPermitted { pid, file: file.into() },
            _ => Self::Read { pid, file: file.into(), source },
        }
    }
}
