//! Two links on one site: while links are exchanged, a call hits the old one and the new one, one
//! after the other on its thread, and is recorded once.
//!
//! The two have cookies that differ in one flag. Whichever runs first is taken; the other one, if it
//! comes next on this lane with the same probe and slot, is its twin. A call that only one of them
//! sees is never taken for a twin for good: the two of the next call then change places.

use profiler_common::Cookie;

use crate::hit::Hit;
use crate::maps::LaneState;

/// Whether this hit was recorded just now.
#[inline(always)]
pub(crate) fn is_twin(lane: &mut LaneState, hit: &Hit<'_>, slot: u64) -> bool {
    const OTHER: u32 = 1 << 17;
    let flag = if hit.cookie.has(Cookie::TWIN) { OTHER } else { 0 };
    let this = (u32::from(hit.cookie.probe().0) + 1) | flag;
    if lane.twin == this ^ OTHER && lane.twin_slot == slot {
        lane.twin = 0;
        return true;
    }
    lane.twin = this;
    lane.twin_slot = slot;
    false
}
