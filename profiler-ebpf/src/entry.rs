//! A program that was started to be profiled waits until it is attached to: where it begins as a
//! program, so that user space learns what it is, and again at its first instruction, when its
//! libraries are mapped and `main` is still to come.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::bpf_send_signal;
use profiler_common::target_state::HELD;

use crate::hit::is_target;
use crate::maps::TARGETS;

/// `SIGSTOP` (`include/uapi/asm-generic/signal.h`).
const SIGSTOP: u32 = 19;

/// At its first instruction: stops it.
#[inline(always)]
pub(crate) fn run() {
    if is_target(bpf_get_current_pid_tgid()) {
        stop();
    }
}

/// It has become another program: stops it, if user space asked for that.
#[inline(always)]
pub(crate) fn stop_if_held(process: u32) {
    let Some(state) = TARGETS.get_ptr(&process) else { return };
    // SAFETY: a live map value.
    if unsafe { (*state).state } == HELD {
        stop();
    }
}

#[inline(always)]
fn stop() {
    // SAFETY: no precondition. It fails for a process that is ending, and then is not needed.
    let _ = unsafe { bpf_send_signal(SIGSTOP) };
}
