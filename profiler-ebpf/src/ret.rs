//! A `ret` is about to execute, or a jump that leaves the function.

use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{Cookie, Counter, EventKind, EventRecord, LandingId, MAX_WORDS, Role};

use crate::count::OfProbe;
use crate::hit::{Hit, On};
use crate::maps::Awaited;
use crate::{capture, context, count, emit, lane, open};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx, On::Either) else { return };
    let counts = OfProbe::new(hit.cookie.probe());
    counts.exit();
    let slot = hit.frame();
    let jumps = hit.cookie.has(Cookie::JUMP);
    let awaited = if jumps { open::get(&hit.lane, slot) } else { open::take(&hit.lane, slot) };
    let Some(awaited) = awaited else {
        count::count(Counter::UnmatchedExit);
        return;
    };
    let mut state = lane::known(hit.lane.key);
    if jumps {
        if awaited.flags & Awaited::FOLD != 0 {
            return;
        }
    } else {
        if awaited.landing != LandingId::NONE {
            // It will be run into, and the frame be gone by then.
            count::landed(awaited.landing);
        }
        if !open::ended(&mut state, hit.time, &hit.lane, slot, &awaited) {
            return;
        }
    }
    let kind = if jumps { EventKind::Jump } else { EventKind::Ret };
    context::end(hit.space, awaited.context);
    let mut record = EventRecord { header: hit.header(kind), words: [0; MAX_WORDS] };
    record.header.frame = slot;
    if hit.cookie.has(Cookie::HAS_CAPTURE) {
        capture::run(&hit, hit.cookie.probe(), Role::Ret, &mut record);
    }
    record.header.sequence = lane::next(&mut state);
    debug!(
        ctx,
        "ret probe {} slot {:x} number {}", record.header.probe, slot, record.header.sequence
    );
    emit::send(&record, Some(counts));
}
