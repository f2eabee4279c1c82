//! What the BPF map `TARGETS` says of a process.

/// A process whose events are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TargetState {
    /// The address space: processes that were forked from one another share it, until they become
    /// other programs. Where there is one target for good: its process id.
    pub space: u64,
    /// [`OBSERVED`] or [`HELD`].
    pub state: u8,
    /// Always zero.
    pub pad: [u8; 7],
}

const _: () = assert!(size_of::<TargetState>() == 16);

/// Its events are taken.
pub const OBSERVED: u8 = 1;
/// The same; and when it becomes another program it is stopped.
pub const HELD: u8 = 2;
