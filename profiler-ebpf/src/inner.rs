//! The innermost recorded call of a lane, and through it those it was made in.
//!
//! Calls whose end nobody has seen are noticed when another call begins where they were. On a lane
//! with several stacks the innermost call may be another stack's: an address far away says so.

use crate::lane::NEAR;
use crate::maps::{Awaited, LaneState, OPEN, OpenCall, OpenFrame};

/// How many calls are looked at.
const LEVELS: usize = 8;

/// Whether an address is on the same stack, and below the call or at it.
#[inline(always)]
const fn is_below(slot: u64, call: &OpenCall) -> bool {
    slot <= call.slot && call.slot - slot <= NEAR
}

/// Whether a call is gone when another has its slot at that address.
#[inline(always)]
const fn is_gone(call: &OpenCall, slot: u64) -> bool {
    call.slot <= slot && slot - call.slot <= NEAR
}

#[inline(always)]
fn outer(thread: u64, call: &OpenCall) -> OpenCall {
    match entry(thread, call) {
        // SAFETY: a live map value.
        Some(entry) => unsafe { (*entry).outer },
        None => OpenCall::NONE,
    }
}

/// What is remembered of a call, if it is still open.
#[inline(always)]
pub(crate) fn entry(thread: u64, call: &OpenCall) -> Option<*mut Awaited> {
    let entry = OPEN.get_ptr_mut(&OpenFrame { thread, slot: call.awaited })?;
    // SAFETY: a live map value; no other thread touches it.
    let known = unsafe { &*entry };
    (known.began == call.serial && known.flags & Awaited::FOLD == 0).then_some(entry)
}

/// The call that one with its slot at that address is made in, or was made after on another stack.
#[inline(always)]
pub(crate) fn before(lane: &LaneState, thread: u64, slot: u64) -> OpenCall {
    let mut call = lane.inner;
    for _ in 0..LEVELS {
        if call.is_none() || !is_gone(&call, slot) {
            return call;
        }
        call = outer(thread, &call);
    }
    OpenCall::NONE
}

/// The call on the same stack that one with its slot at that address is made in.
#[inline(always)]
pub(crate) fn around(lane: &LaneState, thread: u64, slot: u64) -> Option<OpenCall> {
    let mut call = lane.inner;
    for _ in 0..LEVELS {
        if call.is_none() {
            return None;
        }
        if is_below(slot, &call) && slot != call.slot {
            return Some(call);
        }
        call = outer(thread, &call);
    }
    None
}

/// A call has ended, and with it what it had called.
#[inline(always)]
pub(crate) fn ended(lane: &mut LaneState, slot: u64, outer: OpenCall) {
    if lane.inner.awaited == slot || is_gone(&lane.inner, slot) {
        lane.inner = outer;
    }
}
