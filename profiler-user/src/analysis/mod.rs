//! What traces tell together, and what of them is kept: summaries, critical paths, folding.
//!
//! Pure: no I/O, no clock, no `unsafe`.
#![forbid(unsafe_code)]

mod critical;
mod fold;
mod histogram;
mod keep;
mod summary;

pub use critical::critical_path;
pub use fold::fold_short;
pub use histogram::Histogram;
pub use keep::{Sample, SlowOnly};
pub use summary::{StageSummary, Summary};

#[cfg(test)]
pub(crate) mod testing;
