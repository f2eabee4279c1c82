//! What Go's runtime does to goroutines: it makes them, ends them, and lets them go on after a panic.

use aya_ebpf::programs::ProbeContext;
use profiler_common::{Cookie, EventKind, EventRecord, GoRuntime, LaneKey, MAX_WORDS, Role};

use crate::count::OfProbe;
use crate::goroutine::{self, word};
use crate::hit::{Hit, On};
use crate::{born, capture, emit, fold, in_trace, lane};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx, On::Goroutine) else { return };
    let counts = OfProbe::new(hit.cookie.probe());
    counts.enter();
    if hit.cookie.has(Cookie::ENDS_LANE) {
        ends(&hit, counts);
    } else if hit.cookie.has(Cookie::SPAWNS) {
        spawns(&hit, counts);
    } else if hit.cookie.has(Cookie::UNWINDS) {
        recovers(&hit, counts);
    }
}

/// `runtime.goexit1`: on the goroutine, when it has returned, or run its deferred calls after
/// `runtime.Goexit`. One that had no event is not known, and has nothing to say.
#[inline(always)]
fn ends(hit: &Hit<'_>, counts: OfProbe) {
    born::ended(hit.lane.key);
    let Some(state) = lane::known(hit.lane.key) else {
        counts.quiet();
        return;
    };
    if state.folds != 0 {
        fold::flush(state, hit.time, &hit.lane);
    }
    let Some(sequence) = lane::end(hit.lane.key) else { return };
    let mut record = EventRecord { header: hit.header(EventKind::LaneEnd), words: [0; MAX_WORDS] };
    record.header.sequence = sequence;
    emit::send(&record, Some(counts));
}

/// `runtime.newproc1` has returned: on the scheduler's stack, for the goroutine that makes another. It
/// matters only where that is in a call.
#[inline(always)]
fn spawns(hit: &Hit<'_>, counts: OfProbe) {
    let state = lane::known(hit.lane.key).filter(|state| !state.inner.is_none());
    let Some(state) = state else {
        counts.quiet();
        return;
    };
    let Some(runtime) = goroutine::runtime(hit.space) else { return };
    let mut record = EventRecord { header: hit.header(EventKind::Spawn), words: [0; MAX_WORDS] };
    capture::run(hit, hit.cookie.probe(), Role::Enter, &mut record);
    let Some(child) = word(record.words[0], runtime.g_goid) else { return };
    born::made(LaneKey::of_goroutine(hit.lane.key.pid(), child));
    record.words[0] = child;
    record.header.words = 1;
    record.header.sequence = lane::next(&mut Some(state));
    emit::send(&record, Some(counts));
}

/// `runtime.recovery(gp)`: on the scheduler's stack; what the goroutine had called beyond where it goes on
/// is gone.
#[inline(always)]
fn recovers(hit: &Hit<'_>, counts: OfProbe) {
    let Some(runtime) = goroutine::runtime(hit.space) else { return };
    let g = hit.regs.rax;
    let Some(lane) = goroutine::by_g(hit.lane.thread, &runtime, g) else { return };
    let Some(state) = lane::known(lane.key) else {
        counts.quiet();
        return;
    };
    let Some(sp) = goes_on_at(&runtime, g) else { return };
    let frame = lane.named(sp);
    if state.folds != 0 {
        fold::flush(state, hit.time, &lane);
    }
    in_trace::close(state, &lane, frame);
    let mut record =
        EventRecord { header: lane.header(hit.time, EventKind::Enter), words: [0; MAX_WORDS] };
    record.header.probe = hit.cookie.probe().0;
    record.header.frame = frame;
    record.header.sequence = lane::next(&mut Some(state));
    emit::send(&record, Some(counts));
}

/// The stack pointer at which a goroutine goes on after a panic: up to Go 1.21 the g has it, since then
/// the panic.
#[inline(always)]
fn goes_on_at(runtime: &GoRuntime, g: u64) -> Option<u64> {
    let word_of_g = word(g, runtime.g_recovery)?;
    if runtime.panic_sp == GoRuntime::NONE {
        Some(word_of_g)
    } else {
        word(word_of_g, runtime.panic_sp)
    }
}
