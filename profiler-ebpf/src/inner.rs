//! The innermost recorded call of a lane, and through it those it was made in.
//!
//! Calls whose end nobody has seen are noticed when another call begins where they were. On a lane
//! with several stacks the innermost call may be another stack's: an address far away says so.

use crate::lane::Lane;
use crate::maps::{Awaited, LaneState, OPEN, OpenCall, OpenFrame};

/// How many calls are looked at.
const LEVELS: usize = 8;

/// Whether an address is on the same stack, and below the call or at it.
#[inline(always)]
const fn is_below(lane: &Lane, slot: u64, call: &OpenCall) -> bool {
    slot <= call.slot && call.slot - slot <= lane.near
}

/// Whether a call is gone when another has its slot at that address.
#[inline(always)]
pub(crate) const fn is_gone(lane: &Lane, call: &OpenCall, slot: u64) -> bool {
    call.slot <= slot && slot - call.slot <= lane.near
}

#[inline(always)]
fn outer(lane: &Lane, call: &OpenCall) -> OpenCall {
    match entry(lane, call) {
        // SAFETY: a live map value.
        Some(entry) => unsafe { (*entry).outer },
        None => OpenCall::NONE,
    }
}

/// What is remembered of a call, if it is still open.
#[inline(always)]
pub(crate) fn entry(lane: &Lane, call: &OpenCall) -> Option<*mut Awaited> {
    let entry = OPEN.get_ptr_mut(&OpenFrame { lane: lane.key, slot: call.awaited })?;
    // SAFETY: a live map value; no other thread touches it.
    let known = unsafe { &*entry };
    (known.began == call.serial && known.flags & Awaited::FOLD == 0).then_some(entry)
}

/// The call that one with its slot at that address is made in, or was made after on another stack.
#[inline(always)]
pub(crate) fn before(state: &LaneState, lane: &Lane, slot: u64) -> OpenCall {
    let mut call = state.inner;
    for _ in 0..LEVELS {
        if call.is_none() || !is_gone(lane, &call, slot) {
            return call;
        }
        call = outer(lane, &call);
    }
    OpenCall::NONE
}

/// The call on the same stack that one with its slot at that address is made in.
#[inline(always)]
pub(crate) fn around(state: &LaneState, lane: &Lane, slot: u64) -> Option<OpenCall> {
    let mut call = state.inner;
    for _ in 0..LEVELS {
        if call.is_none() {
            return None;
        }
        if is_below(lane, slot, &call) && slot != call.slot {
            return Some(call);
        }
        call = outer(lane, &call);
    }
    None
}

/// A call has ended, and with it what it had called.
#[inline(always)]
pub(crate) fn ended(state: &mut LaneState, lane: &Lane, slot: u64, outer: OpenCall) {
    if state.inner.awaited == slot || is_gone(lane, &state.inner, slot) {
        state.inner = outer;
    }
}
