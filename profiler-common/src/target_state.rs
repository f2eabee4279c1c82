//! What the BPF map `TARGETS` says of a process.

/// Its events are taken.
pub const OBSERVED: u8 = 1;
/// The same; and when it becomes another program it is stopped.
pub const HELD: u8 = 2;
