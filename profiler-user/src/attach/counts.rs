//! What the kernel side has counted, summed over the CPUs.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use profiler_common::{Counter, ProbeId, global};

use super::AttachError;

/// The counters of the kernel side at one moment. They only ever grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCounts {
    counters: Vec<u64>,
    hits: Vec<u64>,
    lost: Vec<u64>,
}

impl KernelCounts {
    /// Reads them: one system call a counter and two a probe.
    pub(super) fn read(bpf: &Ebpf, probes: usize) -> Result<Self, AttachError> {
        Ok(Self {
            counters: sums(bpf, global::COUNTERS, Counter::ALL.len())?,
            hits: sums(bpf, global::HITS, probes)?,
            lost: sums(bpf, global::LOST, probes)?,
        })
    }

    /// One counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters.get(counter as usize).copied().unwrap_or(0)
    }

    /// How often the target hit sites of the probe; what its probing costs is counted in these.
    #[must_use]
    pub fn hits(&self, probe: ProbeId) -> u64 {
        self.hits.get(probe.index()).copied().unwrap_or(0)
    }

    /// Events of the probe that were lost.
    #[must_use]
    pub fn lost(&self, probe: ProbeId) -> u64 {
        self.lost.get(probe.index()).copied().unwrap_or(0)
    }
}

fn sums(bpf: &Ebpf, name: &'static str, len: usize) -> Result<Vec<u64>, AttachError> {
    let what = "read the kernel side's counters";
    let map = bpf.map(name).ok_or(AttachError::Bpf {
        what,
        source: format!("the BPF object has no map {name}").into(),
    })?;
    let map: PerCpuArray<&MapData, u64> =
        map.try_into().map_err(|error| AttachError::bpf(what, error))?;
    (0..len as u32)
        .map(|index| match map.get(&index, 0) {
            Ok(values) => Ok(values.iter().fold(0_u64, |sum, value| sum.saturating_add(*value))),
            Err(error) => Err(AttachError::bpf(what, error)),
        })
        .collect()
}
