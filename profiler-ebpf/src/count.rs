//! Counting, by counter and by probe.
//!
//! A program that runs for a uprobe can be preempted, so that two may add to the same CPU's slot at
//! once: the additions are atomic. The slot being the CPU's own, they are not contended.

use core::arch::asm;

use aya_ebpf::maps::PerCpuArray;
use profiler_common::{Counter, LandingId, ProbeCount, ProbeId};

use crate::maps::{COUNTERS, LANDINGS, PROBES};

#[inline(always)]
pub(crate) fn count(counter: Counter) {
    add(counter, 1);
}

#[inline(always)]
pub(crate) fn add(counter: Counter, count: u64) {
    add_to(&COUNTERS, counter as u32, count);
}

/// The counts of a probe, on this CPU.
#[derive(Clone, Copy)]
pub(crate) struct OfProbe(Option<*mut ProbeCount>);

impl OfProbe {
    #[inline(always)]
    pub(crate) fn new(probe: ProbeId) -> Self {
        Self(PROBES.get_ptr_mut(u32::from(probe.0)))
    }

    /// The target has hit an enter site of it.
    #[inline(always)]
    pub(crate) fn enter(self) {
        if let Some(count) = self.0 {
            // SAFETY: a live map value.
            atomic_add(unsafe { &raw mut (*count).enters }, 1);
        }
    }

    /// That hit was turned away.
    #[inline(always)]
    pub(crate) fn quiet(self) {
        if let Some(count) = self.0 {
            // SAFETY: a live map value.
            atomic_add(unsafe { &raw mut (*count).quiet }, 1);
        }
    }

    /// No landing is known for the call.
    #[inline(always)]
    pub(crate) fn unlanded(self) {
        if let Some(count) = self.0 {
            // SAFETY: a live map value.
            atomic_add(unsafe { &raw mut (*count).unlanded }, 1);
        }
    }

    /// The target has hit an exit site of it.
    #[inline(always)]
    pub(crate) fn exit(self) {
        if let Some(count) = self.0 {
            // SAFETY: a live map value.
            atomic_add(unsafe { &raw mut (*count).exits }, 1);
        }
    }

    /// A call of it has come back to a landing.
    #[inline(always)]
    pub(crate) fn landed(self) {
        if let Some(count) = self.0 {
            // SAFETY: a live map value.
            atomic_add(unsafe { &raw mut (*count).landed }, 1);
        }
    }

    /// An event of it was sent, or not.
    #[inline(always)]
    pub(crate) fn sent(self, sent: bool) {
        let Some(count) = self.0 else { return };
        if sent {
            // SAFETY: a live map value.
            atomic_add(unsafe { &raw mut (*count).sent }, 1);
        } else {
            // SAFETY: as above.
            atomic_add(unsafe { &raw mut (*count).lost }, 1);
        }
    }
}

/// The target has run into a landing.
#[inline(always)]
pub(crate) fn hit_landing(landing: LandingId) {
    if let Some(count) = LANDINGS.get_ptr_mut(u32::from(landing.0)) {
        // SAFETY: a live map value.
        atomic_add(unsafe { &raw mut (*count).hits }, 1);
    }
}

/// A call that awaited the landing has ended, there or just before.
#[inline(always)]
pub(crate) fn landed(landing: LandingId) {
    if let Some(count) = LANDINGS.get_ptr_mut(u32::from(landing.0)) {
        // SAFETY: a live map value.
        atomic_add(unsafe { &raw mut (*count).matched }, 1);
    }
}

#[inline(always)]
fn add_to(slots: &PerCpuArray<u64>, index: u32, count: u64) {
    if let Some(slot) = slots.get_ptr_mut(index) {
        atomic_add(slot, count);
    }
}

#[inline(always)]
pub(crate) fn atomic_add(slot: *mut u64, count: u64) {
    // By hand, because the compiler offers this target no atomic read-modify-write.
    // SAFETY: every caller hands over 8 aligned bytes of a live map value, only ever changed so.
    unsafe {
        asm!("lock *(u64 *)({slot} + 0) += {count}", slot = in(reg) slot, count = in(reg) count);
    }
}
