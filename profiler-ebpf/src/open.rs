//! The open frames: an exit is one only of a frame that is known to be open.
//!
//! Keyed by lane and return slot, so that coroutine and signal stacks do not disturb each other.

use aya_ebpf::bindings::BPF_ANY;
use profiler_common::{Counter, LandingId};

use crate::lane::Lane;
use crate::maps::{Awaited, LaneState, OPEN, OpenCall, OpenFrame};
use crate::{count, fold, in_trace, inner};

/// A recorded call begins: remembers it by the slot whose return ends it. `slot`: its own.
///
/// If the awaited slot is a caller's, and that one is open and comes to the same landing, its entry
/// stands for both: the words of its exit may be wanted.
#[inline(always)]
pub(crate) fn remember(
    state: &mut Option<&mut LaneState>,
    lane: &Lane,
    slot: u64,
    awaited_slot: u64,
    mut awaited: Awaited,
    opens_trace: bool,
) -> bool {
    let frame = OpenFrame { lane: lane.key, slot: awaited_slot };
    if let Some(state) = state.as_deref_mut() {
        awaited.outer = inner::before(state, lane, slot);
        if opens_trace {
            awaited.flags |= in_trace::open(state, lane, slot);
        }
    }
    if awaited_slot != slot
        && let Some(open) = shared(&frame, awaited.landing)
    {
        if open.flags & Awaited::FOLD == 0 {
            open.began = awaited.began;
            open.flags |= awaited.flags & (Awaited::OPENS_TRACE | Awaited::MORE_TRACES);
            innermost(state, slot, awaited_slot, awaited.began);
            return true;
        }
        // The folded call ends with this one.
        awaited.outer = open.outer;
        awaited.with = u32::from(open.probe) + 1;
        fold::ends_with_another(lane, &open.outer, open.probe, open.began);
    }
    let remembered = insert(&frame, &awaited);
    if remembered {
        innermost(state, slot, awaited_slot, awaited.began);
    }
    remembered
}

#[inline(always)]
fn innermost(state: &mut Option<&mut LaneState>, slot: u64, awaited: u64, serial: u64) {
    if let Some(state) = state
        && serial != 0
    {
        state.inner = OpenCall { awaited, slot, serial };
    }
}

/// The same for a call that is folded below `awaited.outer`.
#[inline(always)]
pub(crate) fn remember_folded(lane: &Lane, slot: u64, awaited_slot: u64, awaited: &Awaited) {
    let frame = OpenFrame { lane: lane.key, slot: awaited_slot };
    if awaited_slot != slot
        && let Some(open) = shared(&frame, awaited.landing)
    {
        // What is folded below a call ends with it anyway.
        if open.flags & Awaited::FOLD != 0 {
            open.with = u32::from(awaited.probe) + 1;
        }
        fold::ends_with_another(lane, &awaited.outer, awaited.probe, awaited.began);
        return;
    }
    insert(&frame, awaited);
}

/// The entry of another call that comes to the same landing.
#[inline(always)]
fn shared<'a>(frame: &OpenFrame, landing: LandingId) -> Option<&'a mut Awaited> {
    // SAFETY: a live map value; no other thread touches it.
    let open = unsafe { &mut *OPEN.get_ptr_mut(frame)? };
    (open.landing == landing).then_some(open)
}

#[inline(always)]
fn insert(frame: &OpenFrame, awaited: &Awaited) -> bool {
    let remembered = OPEN.insert(frame, awaited, u64::from(BPF_ANY)).is_ok();
    if !remembered {
        count::count(Counter::OpenTableFull);
    }
    remembered
}

/// The frame of a slot, if it is open; it stays so.
#[inline(always)]
pub(crate) fn get(lane: &Lane, slot: u64) -> Option<Awaited> {
    // SAFETY: a live map value.
    OPEN.get_ptr(&OpenFrame { lane: lane.key, slot }).map(|awaited| unsafe { *awaited })
}

/// The frame of a slot, if it is open; it no longer is.
#[inline(always)]
pub(crate) fn take(lane: &Lane, slot: u64) -> Option<Awaited> {
    // Looking up takes no lock, removing does; most exits in shared code belong to nobody.
    let awaited = get(lane, slot)?;
    OPEN.remove(&OpenFrame { lane: lane.key, slot }).is_ok().then_some(awaited)
}

/// The frame that comes back at a landing, if one is open that awaits it; it no longer is.
#[inline(always)]
pub(crate) fn lands(lane: &Lane, slot: u64, landing: LandingId) -> Option<Awaited> {
    // Another call may have its slot at the same place, and pass here for another reason.
    let frame = OPEN.get_ptr(&OpenFrame { lane: lane.key, slot })?;
    // SAFETY: a live map value.
    if unsafe { (*frame).landing } != landing {
        return None;
    }
    take(lane, slot)
}

/// A frame that was taken has ended. Whether it is to be recorded.
#[inline(always)]
pub(crate) fn ended(
    state: &mut Option<&mut LaneState>,
    time: u64,
    lane: &Lane,
    slot: u64,
    awaited: &Awaited,
) -> bool {
    if awaited.with != 0 {
        fold::other_ended(lane, &awaited.outer, (awaited.with - 1) as u16, time);
    }
    if awaited.flags & Awaited::FOLD != 0 {
        fold::end(lane, &awaited.outer, awaited.probe, awaited.began, time);
        return false;
    }
    if let Some(state) = state {
        if awaited.fold_probe != 0 {
            fold::close(state, time, lane, awaited);
        }
        inner::ended(state, lane, slot, awaited.outer);
        in_trace::ended(state, lane, slot, awaited.flags);
    }
    true
}
