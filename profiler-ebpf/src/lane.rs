//! What is known of each lane: the number of its latest event, so that a gap names the lane that lost
//! something, and what of its calls matters to further ones.
//!
//! Only the lane itself reads and writes it, one program at a time: nothing is locked.

use aya_ebpf::bindings::BPF_NOEXIST;
use profiler_common::{Counter, EventHeader, EventKind, GO_STACK_END, LaneKey, LaneKind};

use crate::count;
use crate::maps::{LANES, LaneState, OpenCall, TRACES};

/// Two addresses on one stack are seldom further apart, and those on two stacks seldom nearer: the
/// smallest common coroutine stack has 64 KiB. User space tells stacks apart by the same
/// (`stitch::lane`).
pub(crate) const NEAR: u64 = 32 << 10;

/// A lane, and how return slots on its stack are named.
#[derive(Clone, Copy)]
pub(crate) struct Lane {
    pub(crate) key: LaneKey,
    /// `pid << 32 | tid` of the thread it is on now.
    pub(crate) thread: u64,
    kind: LaneKind,
    number: u64,
    /// What to add to the address of a return slot.
    base: u64,
    /// How far apart two addresses on one stack of it can be.
    pub(crate) near: u64,
}

impl Lane {
    #[inline(always)]
    pub(crate) const fn of_thread(thread: u64) -> Self {
        Self {
            key: LaneKey::of_thread(thread),
            thread,
            kind: LaneKind::Thread,
            number: thread as u32 as u64,
            base: 0,
            near: NEAR,
        }
    }

    /// A goroutine on a thread, whose return slots are named by adding `base`.
    #[inline(always)]
    pub(crate) const fn of_goroutine(thread: u64, goid: u64, base: u64) -> Self {
        Self {
            key: LaneKey::of_goroutine((thread >> 32) as u32, goid),
            thread,
            kind: LaneKind::Goroutine,
            number: goid,
            base,
            // It has one stack.
            near: GO_STACK_END,
        }
    }

    /// How an address on its stack is named.
    #[inline(always)]
    pub(crate) const fn named(&self, address: u64) -> u64 {
        address.wrapping_add(self.base)
    }

    /// The header of an event of it, without its number.
    #[inline(always)]
    pub(crate) fn header(&self, time: u64, kind: EventKind) -> EventHeader {
        let mut header = EventHeader::default();
        self.describe(&mut header, time, kind);
        header
    }

    /// Says in a header whose event it is, when and of what kind.
    #[inline(always)]
    pub(crate) fn describe(&self, header: &mut EventHeader, time: u64, kind: EventKind) {
        header.time = time;
        header.lane = self.number;
        header.pid = (self.thread >> 32) as u32;
        header.tid = self.thread as u32;
        header.kind = kind as u8;
        header.lane_kind = self.kind as u8;
    }
}

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
    carries: 0,
};

/// What is known of a lane; one that never had an event is not known.
#[inline(always)]
pub(crate) fn known<'a>(lane: LaneKey) -> Option<&'a mut LaneState> {
    // SAFETY: a live map value; no other lane touches it.
    LANES.get_ptr_mut(&lane).map(|lane| unsafe { &mut *lane })
}

/// The same, also of one that had no event yet; none, which is counted, if there are too many.
#[inline(always)]
pub(crate) fn of<'a>(lane: LaneKey) -> Option<&'a mut LaneState> {
    if let Some(state) = known(lane) {
        return Some(state);
    }
    if LANES.insert(&lane, &NEW, u64::from(BPF_NOEXIST)).is_err() {
        count::count(Counter::LaneTableFull);
        return None;
    }
    known(lane)
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
pub(crate) fn end(lane: LaneKey) -> Option<u32> {
    let latest = known(lane)?.sequence;
    // It was there, and only the lane itself removes it.
    let _ = LANES.remove(&lane);
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
