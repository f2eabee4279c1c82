//! Whether a lane is in a trace: a call that begins one, or takes work of one, is open.
//!
//! Where that cannot be told a lane is taken to be in one: recording too much costs, recording too
//! little would lie.

use core::arch::asm;

use crate::lane::Lane;
use crate::maps::{Awaited, GUARDS, LaneState};

/// As large as a thread's stack is, as a rule.
const STACK: u64 = 8 << 20;

/// 1 if the address lies above another by no more than `most`, or is the same; else 0.
///
/// Without a branch, as all here that is asked of each place: the verifier would follow every
/// combination of answers. Addresses of programs have no highest bit.
#[inline(always)]
fn reaches(address: u64, other: u64, most: u64) -> u64 {
    let above = address.wrapping_sub(other);
    let within = most.wrapping_sub(above);
    1 ^ (sign(above) | sign(within))
}

/// The highest bit, told in a way that the compiler makes no comparison of.
#[inline(always)]
fn sign(mut number: u64) -> u64 {
    // SAFETY: it does nothing.
    unsafe { asm!("{number} = {number}", number = inout(reg) number, options(pure, nomem)) };
    number >> 63
}

/// A call that begins or takes a trace has begun; what to remember of it.
#[inline(always)]
pub(crate) fn open(state: &mut LaneState, lane: &Lane, slot: u64) -> u16 {
    close(state, lane, slot);
    let mut nested = 0;
    for outer in &state.traces {
        nested |= reaches(*outer, slot, lane.near);
    }
    if nested != 0 {
        // It ends before that one does.
        return 0;
    }
    for trace in &mut state.traces {
        if *trace == 0 {
            *trace = slot;
            return Awaited::OPENS_TRACE;
        }
    }
    state.more_traces += 1;
    Awaited::MORE_TRACES
}

/// Calls on this stack whose slots are not above are gone.
#[inline(always)]
pub(crate) fn close(state: &mut LaneState, lane: &Lane, slot: u64) {
    for trace in &mut state.traces {
        *trace &= reaches(slot, *trace, lane.near).wrapping_sub(1);
    }
}

/// A call jumps to where a word says, as `longjmp` does: calls between it and there are gone. The word
/// is the stack pointer there, as it is or as glibc keeps it (`agent/jumps.rs` of user space reads the
/// same).
#[inline(always)]
pub(crate) fn jump(state: &mut LaneState, lane: &Lane, slot: u64, word: u64) {
    const ROTATED: u32 = 17;
    let guard = GUARDS.get_ptr(&lane.key.pid());
    // SAFETY: a live map value.
    let plain = guard.map_or(word, |guard| word.rotate_right(ROTATED) ^ unsafe { *guard });
    let below = if is_above(slot, plain) { plain } else { word };
    if !is_above(slot, below) {
        return;
    }
    for trace in &mut state.traces {
        *trace &= reaches(*trace, slot, below - slot - 1).wrapping_sub(1);
    }
}

/// Whether an address can be one on the same stack further up.
#[inline(always)]
const fn is_above(slot: u64, address: u64) -> bool {
    address > slot && address - slot <= STACK && address.is_multiple_of(8)
}

/// An open call has ended; `flags` are those of what was remembered.
#[inline(always)]
pub(crate) fn ended(state: &mut LaneState, lane: &Lane, slot: u64, flags: u16) {
    if flags & Awaited::OPENS_TRACE != 0 {
        close(state, lane, slot);
    }
    if flags & Awaited::MORE_TRACES != 0 {
        state.more_traces = state.more_traces.saturating_sub(1);
    }
}

/// Whether the lane is in a trace, at a call with this slot.
#[inline(always)]
pub(crate) fn is_open(state: &mut LaneState, lane: &Lane, slot: u64) -> bool {
    close(state, lane, slot);
    let mut open = u64::from(state.more_traces);
    for trace in &state.traces {
        open |= *trace;
    }
    open != 0
}
