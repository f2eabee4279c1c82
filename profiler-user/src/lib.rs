//! Qprof: an eBPF zero-code query profiler.
//!
//! One type per arrow, arrows point one way:
//!
//! ```text
//! Target → SymbolSet → ProbePlan → Attached → Event → Span → Trace → sinks · analysis · ui
//! ```
//!
//! `docs/architecture.md` walks through the rooms; each module says what it may and may not do.

pub mod agent;
pub mod analysis;
pub mod attach;
pub mod cli;
pub mod config;
pub mod discover;
pub mod doctor;
pub mod model;
pub mod plan;
pub mod reader;
pub mod recording;
pub mod sink;
pub mod stitch;
pub mod symbols;
pub mod target;
pub mod ui;
mod units;
