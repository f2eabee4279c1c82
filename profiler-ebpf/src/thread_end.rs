//! A thread ends, and its lane with it.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use profiler_common::{EventKind, EventRecord, MAX_WORDS};

use crate::hit::{is_target, now, thread_header};
use crate::{emit, lane};

/// `sched_process_exit` runs on the thread that ends, for every thread of every process. One that
/// never had an event has no lane, and nothing to say.
#[inline(always)]
pub(crate) fn run() {
    let time = now();
    let thread = bpf_get_current_pid_tgid();
    if !is_target(thread) {
        return;
    }
    let Some(sequence) = lane::end(thread) else { return };
    let mut header = thread_header(time, thread, EventKind::LaneEnd);
    header.sequence = sequence;
    emit::send(&EventRecord { header, words: [0; MAX_WORDS] }, None);
}
