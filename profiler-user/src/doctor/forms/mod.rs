//! Which forms of instructions this kernel handles under a probe: tried on a child of our own.
//!
//! Every form runs in the child without a probe and then with one, and must leave exactly the same
//! behind: registers, flags, stack pointer, red zone, memory, vector registers; and its probe must
//! have been hit once a run. A child that dies of it is an answer too.

mod blob;
mod harness;
mod measure;
mod snippet;
mod subject;
mod time;
mod verdict;
mod worker;

pub use snippet::Position;
pub use time::{Calibration, EventCost, TrapCost};
pub use verdict::{FormResult, Verdict};
pub use worker::child;

pub(super) use measure::{Scope, Tried, measure};
pub(super) use verdict::kernel_forms;
