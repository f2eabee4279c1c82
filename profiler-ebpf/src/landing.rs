//! A call may have come back.

use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{EventKind, EventRecord, MAX_WORDS, ProbeId, Role};

use crate::count::OfProbe;
use crate::hit::{Hit, On};
use crate::maps::Awaited;
use crate::{capture, context, count, emit, lane, open};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx, On::Either) else { return };
    let (slot, landing) = (hit.frame(), hit.cookie.landing());
    count::hit_landing(landing);
    let Some(awaited) = open::lands(&hit.lane, slot, landing) else { return };
    count::landed(landing);
    let probe = ProbeId(awaited.probe);
    let counts = OfProbe::new(probe);
    counts.landed();
    let mut state = lane::known(hit.lane.key);
    if !open::ended(&mut state, hit.time, &hit.lane, slot, &awaited) {
        return;
    }
    context::end(hit.space, awaited.context);
    let mut record = EventRecord { header: hit.header(EventKind::Landing), words: [0; MAX_WORDS] };
    record.header.probe = probe.0;
    record.header.frame = slot;
    if awaited.flags & Awaited::VALUE != 0 {
        capture::run(&hit, probe, Role::Landing, &mut record);
    }
    record.header.sequence = lane::next(&mut state);
    debug!(
        ctx,
        "landing {} probe {} slot {:x} number {}", landing.0, probe.0, slot, record.header.sequence
    );
    emit::send(&record, Some(counts));
}
