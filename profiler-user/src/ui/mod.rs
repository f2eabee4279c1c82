//! What people see: trees, the final summary, the live status line.
//!
//! Plain functions from data to text: no terminal is asked here, colour and width are arguments.

mod format;
mod line;
mod report;
mod status;
mod summary;
mod tree;

pub use format::{count, duration, percent};
pub use report::{Cost, ExportReport, ProbeCost, ProbeHits, RunReport, write_json};
pub use status::{Progress, StatusLine};
pub use summary::write_summary;
pub use tree::{TreeStyle, write_tree};
