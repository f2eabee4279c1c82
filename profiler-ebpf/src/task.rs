//! Reading the kernel's own structures, at the offsets that user space found in its BTF.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_probe_read_kernel;

use crate::maps::OFFSETS;

/// A `struct task_struct`.
#[derive(Clone, Copy)]
pub(crate) struct Task(u64);

impl Task {
    /// From a tracepoint's argument.
    #[inline(always)]
    pub(crate) fn new(pointer: *const c_void) -> Self {
        Self(pointer as u64)
    }

    /// Its process; none where it cannot be read.
    #[inline(always)]
    pub(crate) fn process(self) -> Option<u32> {
        read(self.0, OFFSETS.load().task_tgid)
    }

    /// Where its own variables are, of which the target's code speaks as `fs`; none where that cannot be
    /// read.
    #[inline(always)]
    pub(crate) fn fs_base(self) -> Option<u64> {
        let offset = OFFSETS.load().task_fsbase;
        if offset == 0 { None } else { read(self.0, offset) }
    }

    /// Whether it is the last thread of its process, now that it ends. False where that cannot be
    /// told.
    #[inline(always)]
    pub(crate) fn is_last(self) -> bool {
        let offsets = OFFSETS.load();
        if offsets.task_signal == 0 {
            return false;
        }
        // `do_exit` has counted this thread out before the tracepoint.
        let live = read::<u64>(self.0, offsets.task_signal)
            .and_then(|signal| read::<i32>(signal, offsets.signal_live));
        live == Some(0)
    }
}

#[inline(always)]
fn read<T>(base: u64, offset: u32) -> Option<T> {
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address and fails where it cannot read.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}
