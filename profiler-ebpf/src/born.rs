//! Where the first call of a goroutine is made: the callers up to the function the goroutine began with.
//!
//! A goroutine that was made for one piece of work does it in the course of its functions; one that was
//! made for many calls what it does from within a loop. Which it is, user space reads in the code.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::bpf_probe_read_user;
use profiler_common::{Cookie, EventHeader, EventKind, EventRecord, LaneKey, MAX_WORDS};

use crate::hit::Hit;
use crate::maps::{LaneState, MADE};
use crate::{emit, lane};

/// A goroutine was made in a call. The event that its first call may take is kept with it: there is no
/// room for a second one on a program's stack.
#[inline(always)]
pub(crate) fn made(child: LaneKey) {
    let empty = EventRecord { header: EventHeader::default(), words: [0; MAX_WORDS] };
    // Where there is no room the child's calls have no parent by that.
    let _ = MADE.insert(&child, &empty, u64::from(BPF_NOEXIST));
}

/// A goroutine has ended; it may not have made any call.
#[inline(always)]
pub(crate) fn ended(goroutine: LaneKey) {
    let _ = MADE.remove(&goroutine);
}

/// A call of a goroutine is about to be recorded: if it is its first, and the goroutine was made in a call,
/// says from where it is called.
#[inline(always)]
pub(crate) fn first(state: &mut LaneState, hit: &Hit<'_>) {
    if state.sequence != 0 {
        return;
    }
    let Some(record) = MADE.get_ptr_mut(&hit.lane.key) else { return };
    // SAFETY: a live map value; no other goroutine touches it.
    let record = unsafe { &mut *record };
    let known = hit.cookie.has(Cookie::KEEPS_FRAME_POINTER);
    read(&mut record.words[0], hit.slot());
    let mut at = if known { hit.regs.rbp } else { 0 };
    let mut count = 1;
    while at != 0 && count < MAX_WORDS {
        // Where a frame pointer points stands that of the caller, then where the call returns to.
        read(&mut record.words[count & (MAX_WORDS - 1)], at.wrapping_add(8));
        read(&mut record.header.frame, at);
        at = record.header.frame;
        count += 1;
    }
    hit.lane.describe(&mut record.header, hit.time, EventKind::Born);
    record.header.frame = 0;
    record.header.words = count as u8;
    record.header.sequence = lane::next(&mut Some(&mut *state));
    emit::send(record, None);
    ended(hit.lane.key);
}

/// Reads a word of the target's memory; 0 where it cannot be read.
#[inline(always)]
fn read(into: &mut u64, address: u64) {
    let (into, from) = (ptr::from_mut(into).cast(), address as *const c_void);
    // SAFETY: `into` holds the 8 bytes; the helper checks the address, and where it cannot read it leaves
    // zero.
    let _ = unsafe { bpf_probe_read_user(into, size_of::<u64>() as u32, from) };
}
