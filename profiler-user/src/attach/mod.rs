//! Loading the kernel side and attaching it to a target, so that any way out detaches.
//!
//! ```text
//! ProbePlan → sites by (object, role) → one uprobe_multi link each → Attached { Ring, counts }
//! ```
//!
//! Rules of this room, each because a target was hurt without it: only `uprobe_multi` links (a
//! perf-event uprobe takes 0.1 s to remove and can outlive us), never a return probe (unwinding
//! past it kills the target), no write to the target's memory. The kernel places the breakpoints
//! and removes them when the last file descriptor is gone, also when we are killed.

mod attached;
mod attaching;
mod batch;
mod btf;
mod counts;
mod error;
mod features;
mod go;
mod kernel_log;
mod landings;
mod links;
mod load;
mod quiet;
mod run_time;
mod sites;
mod trial;

pub use attached::{AttachOptions, Attached, Targets};
pub use counts::KernelCounts;
pub use error::AttachError;
pub use features::{
    Answer, KernelFeatures, check_rights, kernel_features, release as kernel_release,
};
pub use landings::NewLanding;
pub use sites::RefusedSite;
pub use trial::{Trial, TrialProgram, TrialSite};
