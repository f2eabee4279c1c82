//! A target makes a child process: it becomes a target before its first instruction.

use aya_ebpf::bindings::BPF_ANY;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::programs::RawTracePointContext;
use profiler_common::target_state::OBSERVED;
use profiler_common::{Counter, EventKind, EventRecord, MAX_WORDS, TargetState};

use crate::hit::{now, space_of};
use crate::lane::Lane;
use crate::maps::{GUARDS, TARGETS};
use crate::task::Task;
use crate::{count, emit};

/// `sched_process_fork(parent, child)`: on the thread that forks, before the child may run. A new
/// thread comes this way too, and is of its parent's process.
#[inline(always)]
pub(crate) fn run(ctx: &RawTracePointContext) {
    let time = now();
    let thread = bpf_get_current_pid_tgid();
    let Some(space) = space_of(thread) else { return };
    let parent = (thread >> 32) as u32;
    let Some(child) = Task::new(ctx.arg(1)).process() else { return };
    if child == parent {
        return;
    }
    // What its parent has mapped it has at the same addresses.
    let state = TargetState { space, state: OBSERVED, pad: [0; 7] };
    if TARGETS.insert(&child, &state, u64::from(BPF_ANY)).is_err() {
        count::count(Counter::TargetTableFull);
        return;
    }
    if let Some(guard) = GUARDS.get_ptr(&parent) {
        // SAFETY: a live map value. A child whose guard is not known is recorded in too much.
        let _ = GUARDS.insert(&child, unsafe { &*guard }, u64::from(BPF_ANY));
    }
    let mut record = EventRecord {
        header: Lane::of_thread(thread).header(time, EventKind::Fork),
        words: [0; MAX_WORDS],
    };
    record.header.words = 1;
    record.words[0] = u64::from(child);
    emit::send(&record, None);
}
