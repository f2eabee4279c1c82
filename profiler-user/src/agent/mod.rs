//! The one place that knows all stages: it builds them, connects them, and takes them down.
//!
//! One thread drains the ring, stitches and hands out finished traces; the exporter and the signal
//! handlers live on a small tokio runtime beside it. `replay` drives the same stages from a file.

mod aim;
mod begin;
mod budget;
mod clock;
mod command;
mod discover;
mod endings;
mod expected;
mod fitting;
mod fleet;
mod foresee;
mod go_program;
mod jumps;
mod landings;
mod live;
mod look;
mod memory;
mod meter;
mod observe;
mod outputs;
mod own_events;
mod pipeline;
mod prepare;
mod replay;
mod report;
mod resources;
mod run;
mod spending;
mod survey;
mod threads;

use std::os::fd::AsFd;

pub use aim::{AimError, RunAim, Whom};
pub use command::{CommandError, exec_held};
pub use discover::{DiscoverError, DiscoverSettings, Discovered, discover};
pub use live::{Exits, LiveError};
pub use outputs::{OutSettings, OutputError, Print};
pub use prepare::{Aim, PrepareError, Search};
pub use replay::replay;
pub use run::{RunSettings, run};

pub(crate) use endings::{Ending, Endings, predict_endings};
pub(crate) use fitting::{Fit, ObjectFit};
pub(crate) use live::{Live, LiveOptions};
pub(crate) use observe::{Observed, observe};
pub(crate) use prepare::{Prepared, prepare, prepare_with};
pub(crate) use survey::{Survey, survey};

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What ended it.
    pub by: EndedBy,
    /// Spans that were to be exported and were not.
    pub unsent: u64,
    /// The exit code of the program that was started to be profiled, unless we ended it.
    pub code: Option<u8>,
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The user, by Ctrl-C or a signal.
    Signal,
    /// `--duration`.
    Duration,
    /// The target ended.
    Target,
    /// Whoever read our stdout has gone.
    NoReader,
    /// The recording is over.
    Recording,
}

/// How many columns a terminal has; none if it is none.
#[must_use]
pub fn terminal_width(terminal: impl AsFd) -> Option<usize> {
    rustix::termios::tcgetwinsize(terminal)
        .ok()
        .map(|size| usize::from(size.ws_col))
        .filter(|columns| *columns > 0)
}
