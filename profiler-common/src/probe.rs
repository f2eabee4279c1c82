//! The index of a function under observation.

/// How many probes one run may have. Sizes the per-probe BPF maps.
pub const MAX_PROBES: u32 = 8192;

/// A function under observation: the index into the plan's probes.
///
/// One function has one `ProbeId` however many addresses it is compiled to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct ProbeId(pub u16);

impl ProbeId {
    /// As an index into a table of probes.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
