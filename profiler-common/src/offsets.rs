//! Where the members of the kernel's own structures lie, found in its BTF by user space.

/// Offsets in bytes. Pure Rust eBPF has no CO-RE relocations; these take their place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct KernelOffsets {
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.signal`: what the threads of a process share.
    pub task_signal: u32,
    /// `signal_struct.live`: how many of its threads have not begun to exit.
    pub signal_live: u32,
    /// `task_struct.thread.fsbase`: where a thread's own variables are.
    pub task_fsbase: u32,
}

const _: () = assert!(size_of::<KernelOffsets>() == 16);
