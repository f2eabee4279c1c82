//! What the kernel side has counted, summed over the CPUs.

use aya::Ebpf;
use profiler_common::{Counter, LandingCount, ProbeCount, ProbeId, global};

use super::{AttachError, batch};

/// The counters of the kernel side at one moment. They only ever grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCounts {
    counters: Vec<u64>,
    probes: Vec<ProbeCount>,
}

impl KernelCounts {
    /// Reads them: one system call for the counters and one for all probes.
    pub(super) fn read(bpf: &Ebpf, probes: usize) -> Result<Self, AttachError> {
        let add = |sum: u64, of: &u64| sum.saturating_add(*of);
        Ok(Self {
            counters: batch::sums(bpf, global::COUNTERS, Counter::ALL.len(), add)?,
            probes: batch::sums(bpf, global::PROBES, probes, add_counts)?,
        })
    }

    /// One counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.get(counter as usize).copied().unwrap_or(0)
    }

    /// What became of the hits of a probe's sites.
    #[must_use]
    pub fn of(&self, probe: ProbeId) -> ProbeCount {
        self.probes.get(probe.index()).copied().unwrap_or_default()
    }

    /// How often the target hit sites of the probe, landings not counted.
    #[must_use]
    pub fn hits(&self, probe: ProbeId) -> u64 {
        let ProbeCount { enters, exits, .. } = self.of(probe);
        enters.saturating_add(exits)
    }

    /// Events of the probe that were lost.
    #[must_use]
    pub fn lost(&self, probe: ProbeId) -> u64 {
        self.of(probe).lost
    }
}

fn add_counts(sum: ProbeCount, of: &ProbeCount) -> ProbeCount {
    ProbeCount {
        enters: sum.enters.saturating_add(of.enters),
        quiet: sum.quiet.saturating_add(of.quiet),
        unlanded: sum.unlanded.saturating_add(of.unlanded),
        exits: sum.exits.saturating_add(of.exits),
        landed: sum.landed.saturating_add(of.landed),
        sent: sum.sent.saturating_add(of.sent),
        lost: sum.lost.saturating_add(of.lost),
    }
}

/// How often the first `len` landings were run into.
pub(super) fn landings(bpf: &Ebpf, len: usize) -> Result<Vec<LandingCount>, AttachError> {
    let add = |sum: LandingCount, of: &LandingCount| LandingCount {
        hits: sum.hits.saturating_add(of.hits),
        matched: sum.matched.saturating_add(of.matched),
    };
    batch::sums(bpf, global::LANDINGS, len, add)
}
