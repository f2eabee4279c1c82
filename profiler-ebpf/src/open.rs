//! Open frames whose exit lies in code that other functions run too: a tail call's target.
//!
//! Keyed by thread and return slot, so that coroutine and signal stacks do not disturb each other.

use aya_ebpf::bindings::BPF_ANY;
use profiler_common::Counter;

use crate::count;
use crate::maps::{OPEN, OpenFrame};

#[inline(always)]
pub(crate) fn remember(thread: u64, slot: u64) {
    if OPEN.insert(&OpenFrame { thread, slot }, &1, u64::from(BPF_ANY)).is_err() {
        count::count(Counter::OpenTableFull);
    }
}

/// Whether the frame was open; it no longer is.
#[inline(always)]
pub(crate) fn take(thread: u64, slot: u64) -> bool {
    let frame = OpenFrame { thread, slot };
    // Looking up takes no lock, removing does; most exits in shared code belong to nobody.
    OPEN.get_ptr(&frame).is_some() && OPEN.remove(&frame).is_ok()
}
