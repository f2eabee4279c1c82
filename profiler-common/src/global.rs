//! Names of the load-time globals and BPF maps of the kernel side, as user space addresses them.

/// `u32`: process id of the one target, or 0 to look the process up in [`TARGETS`].
pub const TARGET_PID: &str = "TARGET_PID";
/// [`crate::KernelOffsets`]; all zero where nothing needs them.
pub const OFFSETS: &str = "OFFSETS";
/// Ring buffer of [`crate::EventRecord`]s.
pub const EVENTS: &str = "EVENTS";
/// Array of [`crate::CaptureProgram`], by [`crate::CaptureProgram::index`].
pub const CAPTURES: &str = "CAPTURES";
/// Per-CPU array of `u64`, by [`crate::Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Per-CPU array of [`crate::ProbeCount`], by [`crate::ProbeId`].
pub const PROBES: &str = "PROBES";
/// Array of `u32`, by [`crate::ProbeId`]: not 0 if its calls are to begin unseen.
pub const SILENCED: &str = "SILENCED";
/// Hash of [`crate::FoldKey`] to [`crate::Fold`].
pub const FOLDS: &str = "FOLDS";
/// Hash of process ids (`u32` to [`crate::TargetState`]): the targets, where there are several.
pub const TARGETS: &str = "TARGETS";
/// Hash of process ids (`u32`) to the words with which their C library mangles a `jmp_buf` (`u64`).
pub const GUARDS: &str = "GUARDS";
/// Hash of [`crate::ReturnKey`] to [`crate::Return`].
pub const RETURNS: &str = "RETURNS";
/// Per-CPU array of [`crate::LandingCount`], by [`crate::LandingId`].
pub const LANDINGS: &str = "LANDINGS";
/// `u32`: whether a target may be a Go program.
pub const GO: &str = "GO";
/// Hash of [`crate::LaneKey`] to [`crate::LANE_WORDS`] words.
pub const LANES: &str = "LANES";
/// Hash of [`crate::LaneKey`] to [`crate::EventRecord`]: goroutines that have made no call yet.
pub const MADE: &str = "MADE";
/// Hash of address spaces (`u64`) to [`crate::GoRuntime`].
pub const GO_RUNTIMES: &str = "GO_RUNTIMES";
/// Hash of [`crate::ContextType`] to [`crate::ContextParent`].
pub const CONTEXT_TYPES: &str = "CONTEXT_TYPES";
