//! A `ret` is about to execute.

use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{Cookie, Counter, EventKind, EventRecord, MAX_WORDS, Role};

use crate::hit::Hit;
use crate::{capture, count, emit, lane, open};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx) else { return };
    count::hit(hit.cookie.probe());
    let slot = hit.slot();
    if open::returns(hit.thread, slot).is_none() {
        count::count(Counter::UnmatchedExit);
        return;
    }
    let mut record = EventRecord { header: hit.header(EventKind::Ret), words: [0; MAX_WORDS] };
    record.header.frame = slot;
    if hit.cookie.has(Cookie::HAS_CAPTURE) {
        capture::run(&hit, hit.cookie.probe(), Role::Ret, &mut record);
    }
    record.header.sequence = lane::next(hit.thread);
    debug!(
        ctx,
        "ret probe {} slot {:x} number {}", record.header.probe, slot, record.header.sequence
    );
    emit::send(&record, Some(hit.cookie.probe()));
}
