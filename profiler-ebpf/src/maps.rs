//! Every BPF map and load-time global: who writes it, who reads it, what happens when it is full.
//!
//! User space addresses them by the names in [`profiler_common::global`].

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use profiler_common::{
    CaptureProgram, Counter, KernelOffsets, LandingCount, LandingId, MAX_LANDINGS, MAX_PROBES,
    Return, ReturnKey, TargetState,
};

/// Process id of the one target, in the initial pid namespace; 0: ask [`TARGETS`]. Written by user
/// space before loading, then constant: the verifier removes the branch not taken.
#[unsafe(no_mangle)]
pub(crate) static TARGET_PID: Global<u32> = Global::new(0);

/// Where the kernel keeps what [`crate::task`] reads. Written by user space before loading.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Global<KernelOffsets> =
    Global::new(KernelOffsets { task_tgid: 0, task_signal: 0, signal_live: 0 });

/// The events. Written by [`crate::emit`] alone, read by user space (memory-mapped). Full: the
/// event is lost, counted in [`COUNTERS`] and [`LOST`], and leaves a gap in its lane's numbers.
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

/// Events lost, by probe. Written by [`crate::count`], read by user space.
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_PROBES, 0);

/// Hits of the target, by probe. Written by [`crate::count`], read by user space.
#[map]
pub(crate) static HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(MAX_PROBES, 0);

/// The targets, where there may be several. Written by user space, by [`crate::fork`] for children
/// and by [`crate::thread_end`] when they end; read by [`crate::hit`]. Full: user space is refused
/// the next process and says so, a child is not observed and counted.
#[map]
pub(crate) static TARGETS: HashMap<u32, TargetState> = HashMap::with_max_entries(16_384, 0);

/// The number of each lane's latest event, by `pid << 32 | tid`. Written and read by
/// [`crate::lane`] on the thread itself, removed when it ends. Full: the events of further threads
/// go out with number 0, and are counted.
#[map]
pub(crate) static LANES: HashMap<u64, u32> = HashMap::with_max_entries(32_768, 0);

/// A frame that is open, by what its exit will show.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct OpenFrame {
    /// `pid << 32 | tid`.
    pub(crate) thread: u64,
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
    /// 1: the words of its exit are wanted.
    pub(crate) value: u32,
}

/// The open frames. Written at enter, taken at exit ([`crate::open`]). Full: the frame used longest
/// ago is forgotten, and its exit not seen; an exception that unwinds a frame leaves its entry
/// behind, which is why old ones must be able to go.
#[map]
pub(crate) static OPEN: LruHashMap<OpenFrame, Awaited> = LruHashMap::with_max_entries(65_536, 0);

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
