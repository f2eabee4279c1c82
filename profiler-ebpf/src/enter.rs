//! A call begins.

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{Cookie, Counter, EventKind, EventRecord, MAX_WORDS, Role};

use crate::hit::Hit;
use crate::{capture, count, emit, lane, open};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx) else { return };
    let slot = hit.slot();
    let mut record = EventRecord { header: hit.header(EventKind::Enter), words: [0; MAX_WORDS] };
    record.header.frame = slot;
    // SAFETY: the helper checks the address and fails where it cannot read.
    match unsafe { bpf_probe_read_user(slot as *const u64) } {
        Ok(address) => record.header.return_address = address,
        Err(_) => count::count(Counter::ReturnSlotFault),
    }
    if hit.cookie.has(Cookie::TRACK_OPEN) {
        open::remember(hit.thread, slot);
    }
    capture::run(&hit, Role::Enter, &mut record);
    record.header.sequence = lane::next(hit.thread);
    debug!(
        ctx,
        "enter probe {} slot {:x} from {:x} number {}",
        record.header.probe,
        slot,
        record.header.return_address,
        record.header.sequence
    );
    emit::send(&record, Some(hit.cookie.probe()));
}
