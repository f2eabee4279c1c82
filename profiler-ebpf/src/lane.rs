//! What is known of each lane: the number of its latest event, so that a gap names the lane that lost
//! something, and what of its calls matters to further ones.
//!
//! Only the thread itself reads and writes it, one program at a time: nothing is locked.

use aya_ebpf::bindings::BPF_NOEXIST;
use profiler_common::Counter;

use crate::count;
use crate::maps::{LANES, LaneState, OpenCall, TRACES};

/// Two addresses on one stack are seldom further apart, and those on two stacks seldom nearer: the
/// smallest common coroutine stack has 64 KiB. User space tells stacks apart by the same
/// (`stitch::lane`).
pub(crate) const NEAR: u64 = 32 << 10;

impl OpenCall {
    pub(crate) const NONE: Self = Self { awaited: 0, slot: 0, serial: 0 };

    pub(crate) const fn is_none(&self) -> bool {
        self.awaited == 0
    }
}

const NEW: LaneState = LaneState {
    sequence: 0,
    twin: 0,
    twin_slot: 0,
    twin_time: 0,
    inner: OpenCall::NONE,
    traces: [0; TRACES],
    more_traces: 0,
    folds: 0,
};

/// The lane of a thread, if it has had one; one that never had an event has none.
#[inline(always)]
pub(crate) fn known<'a>(thread: u64) -> Option<&'a mut LaneState> {
    // SAFETY: a live map value; no other thread touches it.
    LANES.get_ptr_mut(&thread).map(|lane| unsafe { &mut *lane })
}

/// The lane of a thread; none, which is counted, if there are too many.
#[inline(always)]
pub(crate) fn of<'a>(thread: u64) -> Option<&'a mut LaneState> {
    if let Some(lane) = known(thread) {
        return Some(lane);
    }
    if LANES.insert(&thread, &NEW, u64::from(BPF_NOEXIST)).is_err() {
        count::count(Counter::LaneTableFull);
        return None;
    }
    known(thread)
}

/// The number of the lane's next event, from 1. It counts whether or not the event gets through.
/// 0 if the lane cannot be numbered.
#[inline(always)]
pub(crate) fn next(lane: &mut Option<&mut LaneState>) -> u32 {
    let Some(lane) = lane else { return 0 };
    lane.sequence = following(lane.sequence);
    lane.sequence
}

/// The number of the lane's last event, and forgets the lane; none if it never had an event.
#[inline(always)]
pub(crate) fn end(thread: u64) -> Option<u32> {
    let latest = known(thread)?.sequence;
    // It was there, and only this thread removes it.
    let _ = LANES.remove(&thread);
    (latest != 0).then(|| following(latest))
}

/// After 2³²−1 comes 1, because 0 says "not numbered".
#[inline(always)]
const fn following(number: u32) -> u32 {
    match number.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}
