//! The open frames: an exit is one only of a frame that is known to be open.
//!
//! Keyed by thread and return slot, so that coroutine and signal stacks do not disturb each other.

use aya_ebpf::bindings::BPF_ANY;
use profiler_common::{Counter, LandingId};

use crate::count;
use crate::maps::{Awaited, OPEN, OpenFrame};

/// Remembers a frame by the slot whose return ends it.
///
/// `shared`: the slot is a caller's. If that one is open and comes to the same landing, its entry
/// stands for both: the words of its exit may be wanted.
#[inline(always)]
pub(crate) fn remember(thread: u64, slot: u64, awaited: Awaited, shared: bool) -> bool {
    let frame = OpenFrame { thread, slot };
    if shared
        && let Some(open) = OPEN.get_ptr(&frame)
        // SAFETY: a live map value.
        && unsafe { (*open).landing } == awaited.landing
    {
        return true;
    }
    let remembered = OPEN.insert(&frame, &awaited, u64::from(BPF_ANY)).is_ok();
    if !remembered {
        count::count(Counter::OpenTableFull);
    }
    remembered
}

/// The frame whose `ret` executes, if it is open; it no longer is.
#[inline(always)]
pub(crate) fn returns(thread: u64, slot: u64) -> Option<Awaited> {
    let frame = OpenFrame { thread, slot };
    // Looking up takes no lock, removing does; most exits in shared code belong to nobody.
    // SAFETY: a live map value.
    let awaited = unsafe { *OPEN.get_ptr(&frame)? };
    OPEN.remove(&frame).is_ok().then_some(awaited)
}

/// The frame that comes back at a landing, if one is open that awaits it; it no longer is.
#[inline(always)]
pub(crate) fn lands(thread: u64, slot: u64, landing: LandingId) -> Option<Awaited> {
    let frame = OpenFrame { thread, slot };
    // SAFETY: a live map value.
    let awaited = unsafe { *OPEN.get_ptr(&frame)? };
    // Another call may have its slot at the same place, and pass here for another reason.
    (awaited.landing == landing && OPEN.remove(&frame).is_ok()).then_some(awaited)
}
