//! The file's parts, as types.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::{ClockOffset, MonoNs, Pid, Rules, Tid};

/// How every recording begins.
pub(super) const MAGIC: [u8; 8] = *b"QPROFREC";
/// The format this version writes, and the only one it reads.
pub(super) const VERSION: u32 = 2;
/// No header and no chunk is longer: a length beyond it is a broken file, not a reason to allocate.
pub(super) const MAX_LENGTH: u32 = 16 << 20;

pub(super) const EVENT: u8 = 1;
pub(super) const CLOCK: u8 = 2;
pub(super) const THREAD: u8 = 3;
pub(super) const KERNEL: u8 = 4;
pub(super) const LAST_CALLS: u8 = 5;
pub(super) const RULES: u8 = 6;
pub(super) const END: u8 = 255;

/// What a recording says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The version of Qprof that wrote it.
    pub qprof: String,
    /// The process it was made of.
    pub pid: Pid,
    /// Its name.
    pub name: String,
    /// `service.name` where neither flag nor environment gives one.
    pub service: String,
    /// Monotonic to wall time when it began.
    pub clock: ClockOffset,
    /// The kernel's release.
    pub kernel: String,
}

/// One part of a recording, in the order it happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Chunk {
    /// An event as the kernel wrote it.
    Event(Vec<u8>),
    /// Monotonic to wall time, measured again.
    Clock(MonoNs, ClockOffset),
    /// A thread's name.
    Thread(Tid, String),
    /// What the kernel side counted, by name; the last one counts.
    Kernel(Vec<(String, u64)>),
    /// From here on no new query was taken: the run was asked to stop.
    LastCalls,
    /// The rules the events from here on are to be read by. They begin with what they were.
    Rules(Rules),
}

/// Why a recording cannot be written or read.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// The file cannot be created or written.
    #[error("cannot write the recording `{}` (choose another file with --record)", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file cannot be opened or read.
    #[error("cannot read the recording `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another kind of file.
    #[error("`{}` is not a recording made by `qprof run --record`", path.display())]
    NotARecording {
        /// The file.
        path: PathBuf,
    },
    /// Another version's format.
    #[error(
        "`{}` has recording format {found}, this qprof reads format {VERSION}: replay it with the \
         version that made it", path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It ends in the middle.
    #[error(
        "the recording `{}` is cut short: what came before the cut is used", path.display()
    )]
    CutShort {
        /// The file.
        path: PathBuf,
    },
    /// Something in it cannot be.
    #[error("the recording `{}` is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What cannot be.
        what: String,
    },
}
