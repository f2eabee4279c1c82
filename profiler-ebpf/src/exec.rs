//! A target becomes another program.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::{EventKind, EventRecord, LaneKey, MAX_WORDS};

use crate::hit::{is_target, now};
use crate::lane::Lane;
use crate::maps::{GUARDS, TARGETS};
use crate::{emit, entry, lane};

/// `sched_process_exec(task, old_pid, bprm)`: on the one thread that is left, which has taken over
/// the process's number; `old_pid` is the number it had before.
#[inline(always)]
pub(crate) fn run(ctx: &RawTracePointContext) {
    let time = now();
    let thread = bpf_get_current_pid_tgid();
    if !is_target(thread) {
        return;
    }
    begin_space((thread >> 32) as u32, time);
    // User space finds the new program's.
    let _ = GUARDS.remove(&((thread >> 32) as u32));
    let old_tid: u32 = ctx.arg(1);
    if old_tid != thread as u32 {
        // That number is no thread's any more, and no end of it will be seen.
        let _ = lane::end(LaneKey::of_thread(thread & !u64::from(u32::MAX) | u64::from(old_tid)));
    }
    let mut header = Lane::of_thread(thread).header(time, EventKind::Exec);
    // Under its own number it may have had no event, and then has no lane.
    header.sequence = lane::end(LaneKey::of_thread(thread)).unwrap_or(0);
    // Who did it, by the number it had.
    (header.lane, header.tid) = (u64::from(old_tid), old_tid);
    emit::send(&EventRecord { header, words: [0; MAX_WORDS] }, None);
    entry::stop_if_held((thread >> 32) as u32);
}

/// Nothing that is known of its addresses holds any more.
#[inline(always)]
fn begin_space(process: u32, time: u64) {
    if let Some(state) = TARGETS.get_ptr_mut(&process) {
        // Process ids are what user space begins with; the time since boot has outgrown them.
        // SAFETY: a live map value; the process has this one thread now.
        unsafe { (*state).space = time };
    }
}
