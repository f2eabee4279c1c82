//! What the kernel side counts of each probe, in the per-CPU BPF array `PROBES`.

/// What became of the hits of a probe's sites.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ProbeCount {
    /// Hits of its enter sites.
    pub enters: u64,
    /// Of these, those that were turned away: the probe is silenced, or its calls are wanted only
    /// inside a trace or another call, and there was none.
    pub quiet: u64,
    /// Of its enters, those for which no landing was known.
    pub unlanded: u64,
    /// Hits of its exit sites, landings not counted.
    pub exits: u64,
    /// Its calls that came back to a landing.
    pub landed: u64,
    /// Its events that were sent.
    pub sent: u64,
    /// Its events that could not be sent.
    pub lost: u64,
}

const _: () = assert!(size_of::<ProbeCount>() == 56);
