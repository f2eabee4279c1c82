//! Counting, by counter and by probe.
//!
//! A program that runs for a uprobe can be preempted, so that two may add to the same CPU's slot at
//! once: the additions are atomic. The slot being the CPU's own, they are not contended.

use core::arch::asm;

use aya_ebpf::maps::PerCpuArray;
use profiler_common::{Counter, LandingId, ProbeId};

use crate::maps::{COUNTERS, HITS, LANDINGS, LOST};

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

#[inline(always)]
pub(crate) fn add(counter: Counter, count: u64) {
    add_to(&COUNTERS, counter as u32, count);
}

/// The target has hit a site of the probe.
#[inline(always)]
pub(crate) fn hit(probe: ProbeId) {
    add_to(&HITS, u32::from(probe.0), 1);
}

/// An event of the probe could not be sent.
#[inline(always)]
pub(crate) fn lost(probe: ProbeId) {
    add_to(&LOST, u32::from(probe.0), 1);
}

/// A landing was run into; `matched`: by a call that was awaited.
#[inline(always)]
pub(crate) fn landing(landing: LandingId, matched: bool) {
    if let Some(count) = LANDINGS.get_ptr_mut(u32::from(landing.0)) {
        // SAFETY: a live map value; its members are only ever changed atomically.
        let (hits, matches) = unsafe { (&raw mut (*count).hits, &raw mut (*count).matched) };
        atomic_add(hits, 1);
        if matched {
            atomic_add(matches, 1);
        }
    }
}

#[inline(always)]
fn add_to(slots: &PerCpuArray<u64>, index: u32, count: u64) {
    if let Some(slot) = slots.get_ptr_mut(index) {
        atomic_add(slot, count);
    }
}

#[inline(always)]
fn atomic_add(slot: *mut u64, count: u64) {
    // By hand, because the compiler offers this target no atomic read-modify-write.
    // SAFETY: every caller hands over 8 aligned bytes of a live map value, only ever changed so.
    unsafe {
        asm!("lock *(u64 *)({slot} + 0) += {count}", slot = in(reg) slot, count = in(reg) count);
    }
}
