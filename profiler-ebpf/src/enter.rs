//! A call begins.

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{Ahead, Cookie, Counter, EventKind, EventRecord, MAX_WORDS, Role};

use crate::hit::Hit;
use crate::maps::Awaited;
use crate::returns::{self, Call};
use crate::{capture, count, emit, lane, open};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx) else { return };
    count::hit(hit.cookie.probe());
    let slot = hit.slot();
    let mut record = EventRecord { header: hit.header(EventKind::Enter), words: [0; MAX_WORDS] };
    record.header.frame = slot;
    // SAFETY: the helper checks the address and fails where it cannot read.
    match unsafe { bpf_probe_read_user(slot as *const u64) } {
        Ok(address) => record.header.return_address = address,
        Err(_) => count::count(Counter::ReturnSlotFault),
    }
    if !hit.cookie.has(Cookie::NO_EXIT) {
        await_exit(&hit, &mut record);
    }
    if hit.cookie.has(Cookie::HAS_CAPTURE) {
        capture::run(&hit, hit.cookie.probe(), Role::Enter, &mut record);
    }
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

/// Finds where the call will end, and remembers it as open.
#[inline(always)]
fn await_exit(hit: &Hit<'_>, record: &mut EventRecord) {
    let cookie = hit.cookie;
    let slot = record.header.frame;
    let wants_value = cookie.has(Cookie::WANTS_VALUE);
    let outlook = returns::follow(&Call {
        space: hit.space,
        slot,
        return_address: record.header.return_address,
        frame_pointer: cookie.has(Cookie::KEEPS_FRAME_POINTER).then_some(hit.regs.rbp),
        wants_value,
    });
    let awaited = Awaited {
        landing: outlook.landing,
        probe: cookie.probe().0,
        value: u32::from(wants_value),
    };
    if open::remember(hit.thread, outlook.slot, awaited, outlook.slot != slot) {
        record.header.ahead = outlook.ahead as u8;
        record.header.awaited = outlook.awaited;
    } else {
        record.header.ahead = Ahead::Nothing as u8;
    }
}
