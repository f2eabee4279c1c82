//! What both sides of the kernel line share.
//!
//! The kernel side (`profiler-ebpf`) writes these records, the user side (`profiler-user`) reads
//! them; each is defined once, here, with its layout checked at compile time. No allocation, no
//! `std`, no `unsafe` outside the feature `user`, which adds the marker traits that let user space
//! put the types into BPF maps.
#![no_std]

pub mod capture;
pub mod cookie;
pub mod counter;
pub mod event;
pub mod fold;
pub mod global;
pub mod go;
pub mod lane_key;
pub mod offsets;
pub mod probe;
pub mod probe_count;
pub mod returns;
pub mod target_state;

pub use capture::{Capture, CaptureProgram, MAX_WORDS, Source};
pub use cookie::{Cookie, Role};
pub use counter::Counter;
pub use event::{
    Ahead, EventHeader, EventKind, EventRecord, GO_STACK_END, GO_SYSTEM_STACK_END, LaneKind,
};
pub use fold::{Fold, FoldKey, FoldedCalls, MAX_FOLDS};
pub use go::{ContextNode, ContextParent, ContextType, GoRuntime, MAX_CONTEXTS};
pub use lane_key::{LANE_WORDS, LaneKey};
pub use offsets::KernelOffsets;
pub use probe::{MAX_PROBES, ProbeId};
pub use probe_count::ProbeCount;
pub use returns::{LandingCount, LandingId, MAX_LANDINGS, MAX_LEVELS, Return, ReturnKey};
pub use target_state::TargetState;

#[cfg(feature = "user")]
mod user;
