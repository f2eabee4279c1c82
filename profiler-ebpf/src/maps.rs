//! Every BPF map and load-time global: who writes it, who reads it, what happens when it is full.
//!
//! User space addresses them by the names in [`profiler_common::global`].

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use profiler_common::{
    CaptureProgram, ContextNode, ContextParent, ContextType, Counter, EventRecord, Fold, FoldKey,
    GoRuntime, KernelOffsets, LANE_WORDS, LandingCount, LandingId, LaneKey, MAX_LANDINGS,
    MAX_PROBES, ProbeCount, Return, ReturnKey, TargetState,
};

/// Process id of the one target, in the initial pid namespace; 0: ask [`TARGETS`]. Written by user
/// space before loading, then constant: the verifier removes the branch not taken.
#[unsafe(no_mangle)]
pub(crate) static TARGET_PID: Global<u32> = Global::new(0);

/// Not 0: a target may be a Go program. Written by user space before loading, then constant: where no
/// target is one, the verifier removes all that concerns goroutines.
#[unsafe(no_mangle)]
pub(crate) static GO: Global<u32> = Global::new(0);

/// Where the kernel keeps what [`crate::task`] reads. Written by user space before loading.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Global<KernelOffsets> =
    Global::new(KernelOffsets { task_tgid: 0, task_signal: 0, signal_live: 0, task_fsbase: 0 });

/// The events. Written by [`crate::emit`] alone, read by user space (memory-mapped). Full: the
/// event is lost, counted in [`COUNTERS`] and [`PROBES`], and leaves a gap in its lane's numbers.
/// User space sets the size before loading.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// What each side of a probe captures, by [`CaptureProgram::index`]. Written by user space before
/// anything is attached, read by [`crate::capture`]. Never full: one place per probe and side.
#[map]
pub(crate) static CAPTURES: Array<CaptureProgram> = Array::with_max_entries(2 * MAX_PROBES, 0);

/// What happened, by [`Counter`]. Written by [`crate::count`], read by user space.
#[map]
pub(crate) static COUNTERS: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// What became of the hits of each probe. Written by [`crate::count`], read by user space.
#[map]
pub(crate) static PROBES: PerCpuArray<ProbeCount> = PerCpuArray::with_max_entries(MAX_PROBES, 0);

/// Probes whose calls are to begin unseen, because they cost too much: not 0. Written by user space,
/// read by [`crate::enter`].
#[map]
pub(crate) static SILENCED: Array<u32> = Array::with_max_entries(MAX_PROBES, 0);

/// The targets, where there may be several. Written by user space, by [`crate::fork`] for children
/// and by [`crate::thread_end`] when they end; read by [`crate::hit`]. Full: user space is refused
/// the next process and says so, a child is not observed and counted.
#[map]
pub(crate) static TARGETS: HashMap<u32, TargetState> = HashMap::with_max_entries(16_384, 0);

/// A call that is open, as a lane remembers those on its stack. All zero: none.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct OpenCall {
    /// Its place in [`OPEN`]: the slot whose return ends it.
    pub(crate) awaited: u64,
    /// Its own return slot.
    pub(crate) slot: u64,
    /// The number of the event with which it began.
    pub(crate) serial: u64,
}

/// How many stacks of a lane can be in a trace of their own.
pub(crate) const TRACES: usize = 4;

/// What is known of a lane.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct LaneState {
    /// The number of its latest event.
    pub(crate) sequence: u32,
    /// The probe that was hit last, plus one, if it may have been hit by one of two links: with the
    /// flag of the link in bit 16. See [`crate::twin`].
    pub(crate) twin: u32,
    /// And the slot of that call.
    pub(crate) twin_slot: u64,
    /// And when.
    pub(crate) twin_time: u64,
    /// The innermost recorded call. See [`crate::inner`].
    pub(crate) inner: OpenCall,
    /// The slots of the outermost calls that begin or take traces; 0: none. See [`crate::in_trace`].
    pub(crate) traces: [u64; TRACES],
    /// Such calls for which there was no place.
    pub(crate) more_traces: u32,
    /// How many functions are folded below its open calls. See [`crate::fold`].
    pub(crate) folds: u32,
    /// Of a thread: the goroutine that it was last said to run functions in C for; 0: none.
    pub(crate) carries: u64,
}

const _: () = assert!(size_of::<LaneState>() == 8 * LANE_WORDS);

/// The lanes. Written and read by the lane itself, removed when it ends; those of goroutines by user
/// space when their process ends. Full: the events of further lanes go out with number 0 and are
/// counted, and whether these are in a trace is not known: all their calls are recorded, one by one.
#[map]
pub(crate) static LANES: HashMap<LaneKey, LaneState> =
    HashMap::with_max_entries(262_144, BPF_F_NO_PREALLOC);

/// A frame that is open, by what its exit will show.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct OpenFrame {
    /// On what lane.
    pub(crate) lane: LaneKey,
    /// The address of the return slot that is awaited: its own, or that of a caller that returns at
    /// once.
    pub(crate) slot: u64,
}

/// What is known of an open frame.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Awaited {
    /// The landing it will come to; none: only a `ret` can end it.
    pub(crate) landing: LandingId,
    /// The probe.
    pub(crate) probe: u16,
    /// Of the flags below.
    pub(crate) flags: u16,
    /// Always zero.
    pub(crate) pad: u16,
    /// The number of the event with which it began; of a folded call the time.
    pub(crate) began: u64,
    /// The call it was made in; of a folded call the one it is folded below.
    pub(crate) outer: OpenCall,
    /// A folded call that ends with it, by its probe plus one; it is folded below `outer`.
    pub(crate) with: u32,
    /// How many functions are folded below it.
    pub(crate) folds: u32,
    /// The first of them: its slot, and its probe plus one; 0: none.
    pub(crate) fold_slot: u64,
    /// See `fold_slot`.
    pub(crate) fold_probe: u64,
    /// The address of its context, if it is in [`CONTEXTS`]; 0: it is not.
    pub(crate) context: u64,
}

impl Awaited {
    /// The words of its exit are wanted.
    pub(crate) const VALUE: u16 = 1 << 0;
    /// It is not recorded by itself.
    pub(crate) const FOLD: u16 = 1 << 1;
    /// Its lane is in a trace because of it.
    pub(crate) const OPENS_TRACE: u16 = 1 << 2;
    /// The same; it is one of [`LaneState::more_traces`].
    pub(crate) const MORE_TRACES: u16 = 1 << 3;
}

/// The open frames. Written at enter, taken at exit ([`crate::open`]). Full: the frame used longest
/// ago is forgotten, and its exit not seen; an exception that unwinds a frame leaves its entry
/// behind, which is why old ones must be able to go.
#[map]
pub(crate) static OPEN: LruHashMap<OpenFrame, Awaited> = LruHashMap::with_max_entries(65_536, 0);

/// What is folded below open calls. Written and read by [`crate::fold`] on the thread itself; what is
/// left when all probes are gone, user space takes. Full: further calls are recorded one by one,
/// and counted.
#[map]
pub(crate) static FOLDS: HashMap<FoldKey, Fold> = HashMap::with_max_entries(16_384, 0);

/// The words with which C libraries mangle the stack pointer in a `jmp_buf`, by process: glibc's
/// `pointer_guard`. Written by user space, and by [`crate::fork`] and [`crate::exec`]; read by
/// [`crate::in_trace`]. Full: of further processes it is not known, and how far they jump.
#[map]
pub(crate) static GUARDS: HashMap<u32, u64> = HashMap::with_max_entries(16_384, BPF_F_NO_PREALLOC);

/// What is known of return addresses. Written by user space as it learns them, read by
/// [`crate::returns`]. Full: user space learns no more, and says so.
#[map]
pub(crate) static RETURNS: HashMap<ReturnKey, Return> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// How often each landing was run into. Written by [`crate::landing`], read by user space, which
/// drops those that are hit for nothing.
#[map]
pub(crate) static LANDINGS: PerCpuArray<LandingCount> =
    PerCpuArray::with_max_entries(MAX_LANDINGS, 0);

/// Where Go keeps what it knows of goroutines, by address space. Written by user space, read by
/// [`crate::goroutine`]. Full: the calls of further Go programs are not recorded, and counted.
#[map]
pub(crate) static GO_RUNTIMES: HashMap<u64, GoRuntime> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The types of contexts that have a parent. Written by user space, read by [`crate::context`]. Full:
/// further types have none.
#[map]
pub(crate) static CONTEXT_TYPES: HashMap<ContextType, ContextParent> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);

/// The contexts of open calls, and of how many. Written and read by [`crate::context`]. Full: that used
/// longest ago is forgotten; a call that is unwound leaves its own behind, which is why they must be able
/// to go.
#[map]
pub(crate) static CONTEXTS: LruHashMap<ContextNode, u64> = LruHashMap::with_max_entries(65_536, 0);

/// Goroutines that were made in a call and have made none yet. Written by [`crate::go_runtime`], taken by
/// [`crate::born`]. Full: the calls of further ones have no parent by that.
#[map]
pub(crate) static MADE: HashMap<LaneKey, EventRecord> =
    HashMap::with_max_entries(65_536, BPF_F_NO_PREALLOC);
