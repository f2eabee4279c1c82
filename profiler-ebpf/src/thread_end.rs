//! A thread ends, and its lane with it; and with the last one its process.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::{EventKind, EventRecord, MAX_WORDS};

use crate::hit::{is_target, now};
use crate::lane::Lane;
use crate::maps::{GUARDS, TARGET_PID, TARGETS};
use crate::task::Task;
use crate::{emit, fold, lane};

/// `sched_process_exit(task, …)` runs on the thread that ends, for every thread of every process.
/// One that never had an event has no lane, and nothing to say.
#[inline(always)]
pub(crate) fn run(ctx: &RawTracePointContext) {
    let time = now();
    let thread = bpf_get_current_pid_tgid();
    let lane = Lane::of_thread(thread);
    if let Some(state) = lane::known(lane.key)
        && state.folds != 0
    {
        fold::flush(state, time, &lane);
    }
    // Whoever it is: of the threads that end together with the last one, some come after it, when
    // their process is no target any more. Their number must not be left behind.
    let ended = lane::end(lane.key);
    if !is_target(thread) {
        return;
    }
    if let Some(sequence) = ended {
        let mut header = lane.header(time, EventKind::LaneEnd);
        header.sequence = sequence;
        emit::send(&EventRecord { header, words: [0; MAX_WORDS] }, None);
    }
    // The number may soon be another process's, which is none of ours.
    if TARGET_PID.load() == 0
        && Task::new(ctx.arg(0)).is_last()
        && TARGETS.remove(&((thread >> 32) as u32)).is_ok()
    {
        let _ = GUARDS.remove(&((thread >> 32) as u32));
        let header = lane.header(time, EventKind::ProcessEnd);
        emit::send(&EventRecord { header, words: [0; MAX_WORDS] }, None);
    }
}
