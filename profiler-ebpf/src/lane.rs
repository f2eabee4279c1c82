//! Numbering the events of each lane, so that a gap names the lane that lost something.
//!
//! Only the thread itself reads and writes its number, one program at a time: nothing is locked.

use aya_ebpf::bindings::BPF_NOEXIST;
use profiler_common::Counter;

use crate::count;
use crate::maps::LANES;

/// The number of the lane's next event, from 1. It counts whether or not the event gets through.
/// 0 if the lane cannot be numbered, which is counted.
#[inline(always)]
pub(crate) fn next(thread: u64) -> u32 {
    if let Some(latest) = LANES.get_ptr_mut(&thread) {
        // SAFETY: a live map value; no other thread touches it.
        let latest = unsafe { &mut *latest };
        *latest = following(*latest);
        return *latest;
    }
    if LANES.insert(&thread, &1, u64::from(BPF_NOEXIST)).is_ok() {
        return 1;
    }
    count::count(Counter::LaneTableFull);
    0
}

/// The number of the lane's last event, and forgets the lane; none if it never had one.
#[inline(always)]
pub(crate) fn end(thread: u64) -> Option<u32> {
    let latest = LANES.get_ptr(&thread)?;
    // SAFETY: as above; it is read before the lane is removed.
    let last = following(unsafe { *latest });
    // It was there, and only this thread removes it.
    let _ = LANES.remove(&thread);
    Some(last)
}

/// After 2³²−1 comes 1, because 0 says "not numbered".
#[inline(always)]
const fn following(number: u32) -> u32 {
    match number.wrapping_add(1) {
        0 => 1,
        next => next,
    }
}
