//! Counting, by counter and by probe.
//!
//! A program that runs for a uprobe can be preempted, so that two may add to the same CPU's slot at
//! once: the additions are atomic. The slot being the CPU's own, they are not contended.

use core::arch::asm;

use aya_ebpf::maps::PerCpuArray;
use profiler_common::{Counter, ProbeId};

use crate::maps::{COUNTERS, HITS, LOST};

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

#[inline(always)]
fn add_to(slots: &PerCpuArray<u64>, index: u32, count: u64) {
    if let Some(slot) = slots.get_ptr_mut(index) {
        // By hand, because the compiler offers this target no atomic read-modify-write.
        // SAFETY: the pointer is a live map value of 8 aligned bytes, only ever changed atomically.
        unsafe {
            asm!("lock *(u64 *)({slot} + 0) += {count}", slot = in(reg) slot, count = in(reg) count);
        }
    }
}
