//! Two links on one site: while links are exchanged, a call hits the old one and the new one, one
//! after the other on its thread, and is recorded once.
//!
//! The two have cookies that differ in one flag. Whichever runs first is taken; the other one, if it
//! comes next on this lane with the same probe and slot, and at once, is its twin. A call that only the
//! old one has seen, before the new one was there, is not mistaken for half of a later one that only
//! the new one sees: both stand for longer than twins are apart. Where the later one is seen by both,
//! the two change places.

use profiler_common::Cookie;

use crate::hit::Hit;
use crate::maps::LaneState;

/// Whether this hit was recorded just now.
#[inline(always)]
pub(crate) fn is_twin(state: &mut LaneState, hit: &Hit<'_>, slot: u64) -> bool {
    const OTHER: u32 = 1 << 17;
    let flag = if hit.cookie.has(Cookie::TWIN) { OTHER } else { 0 };
    let this = (u32::from(hit.cookie.probe().0) + 1) | flag;
    let since = hit.time.wrapping_sub(state.twin_time);
    if state.twin == this ^ OTHER && state.twin_slot == slot && since < Cookie::TWIN_NS {
        state.twin = 0;
        return true;
    }
    state.twin = this;
    state.twin_slot = slot;
    state.twin_time = hit.time;
    false
}
