//! A call begins.

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{
    Ahead, Cookie, Counter, EventHeader, EventKind, EventRecord, MAX_WORDS, Role,
};

use crate::count::OfProbe;
use crate::hit::{Hit, On};
use crate::maps::{Awaited, LaneState, OpenCall, SILENCED};
use crate::returns::{self, Call, Outlook};
use crate::{born, capture, cgo, context, count, emit, fold, in_trace, lane, open, twin};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext, on: On) {
    let Some(hit) = Hit::begin(ctx, on) else { return };
    let (cookie, probe) = (hit.cookie, hit.cookie.probe());
    let counts = OfProbe::new(probe);
    counts.enter();
    let slot = hit.frame();
    // SAFETY: a live map value.
    let silenced = SILENCED.get(u32::from(probe.0)).is_some_and(|silenced| *silenced != 0);
    if silenced {
        counts.quiet();
        return;
    }
    let only_in_trace = cookie.has(Cookie::ONLY_IN_TRACE);
    let key = hit.lane.key;
    let mut state = if only_in_trace { lane::known(key) } else { lane::of(key) };
    match &mut state {
        Some(state) => {
            if twin::is_twin(state, &hit, slot) {
                return;
            }
            if only_in_trace && !in_trace::is_open(state, &hit.lane, slot) {
                counts.quiet();
                return;
            }
        }
        None if only_in_trace => {
            counts.quiet();
            return;
        }
        None => {}
    }
    let folds = cookie.has(Cookie::FOLD);
    if folds && state.as_deref().is_some_and(|state| state.inner.is_none()) {
        counts.quiet();
        return;
    }
    if let Some(state) = &mut state
        && matches!(on, On::Goroutine)
    {
        born::first(state, &hit);
    }
    // SAFETY: the helper checks the address and fails where it cannot read.
    let return_address = unsafe { bpf_probe_read_user(hit.slot() as *const u64) };
    if return_address.is_err() {
        count::count(Counter::ReturnSlotFault);
    }
    let return_address = return_address.unwrap_or(0);
    // Each kind goes its own way to the end: the verifier follows all combinations of what comes
    // one after the other.
    if matches!(on, On::Thread) && cookie.has(Cookie::NO_EXIT) {
        if cookie.has(Cookie::UNWINDS) || cookie.has(Cookie::JUMPS) {
            before_unwinding(&mut state, &hit, slot);
        }
        let mut record = record(&hit, slot, return_address);
        record.header.sequence = lane::next(&mut state);
        if cookie.has(Cookie::HAS_CAPTURE) {
            capture::run(&hit, probe, Role::Enter, &mut record);
            if let Some(state) = &mut state
                && cookie.has(Cookie::JUMPS)
            {
                in_trace::jump(state, &hit.lane, slot, record.words[0]);
            }
        }
        emit::send(&record, Some(counts));
        return;
    }
    let outlook = outlook(&hit, return_address);
    if !matches!(outlook.ahead, Ahead::Landing) {
        counts.unlanded();
    }
    if folds {
        let call = fold::Call { time: hit.time, lane: &hit.lane, probe, slot };
        if let Some(outer) = fold::begin(&mut state, &call) {
            let awaited = awaited(&hit, &outlook, Awaited::FOLD, hit.time, outer);
            open::remember_folded(&hit.lane, slot, outlook.slot, &awaited);
            ask(&hit, &outlook, return_address, &mut state);
            return;
        }
        count::count(Counter::NotFolded);
    }
    let mut record = record(&hit, slot, return_address);
    if let Some(state) = &mut state
        && matches!(on, On::Thread)
    {
        cgo::before(state, &hit, slot, &mut record);
    }
    record.header.sequence = lane::next(&mut state);
    await_exit(&hit, &outlook, &mut record, &mut state);
    if cookie.has(Cookie::HAS_CAPTURE) {
        let own = capture::run(&hit, probe, Role::Enter, &mut record);
        if matches!(on, On::Goroutine) {
            context::find(&hit, own, outlook.slot, &mut record);
        }
    }
    if matches!(on, On::Thread) {
        debug!(
            ctx,
            "enter probe {} slot {:x} from {:x} number {}",
            record.header.probe,
            slot,
            record.header.return_address,
            record.header.sequence
        );
    }
    emit::send(&record, Some(counts));
}

/// Calls are gone, or are about to be.
#[inline(always)]
fn before_unwinding(state: &mut Option<&mut LaneState>, hit: &Hit<'_>, slot: u64) {
    let Some(state) = state else { return };
    if state.folds != 0 {
        fold::flush(state, hit.time, &hit.lane);
    }
    if hit.cookie.has(Cookie::UNWINDS) {
        in_trace::close(state, &hit.lane, slot);
    }
}

/// Finds where the call will end.
#[inline(always)]
fn outlook(hit: &Hit<'_>, return_address: u64) -> Outlook {
    let cookie = hit.cookie;
    let outlook = returns::follow(&Call {
        space: hit.space,
        slot: hit.slot(),
        return_address,
        frame_pointer: cookie.has(Cookie::KEEPS_FRAME_POINTER).then_some(hit.regs.rbp),
        wants_value: cookie.has(Cookie::WANTS_VALUE),
    });
    let slot = hit.lane.named(outlook.slot);
    match outlook.ahead {
        Ahead::Landing => Outlook { slot, awaited: slot, ..outlook },
        _ => Outlook { slot, ..outlook },
    }
}

/// What is remembered of the call.
#[inline(always)]
fn awaited(hit: &Hit<'_>, outlook: &Outlook, flags: u16, began: u64, outer: OpenCall) -> Awaited {
    Awaited {
        landing: outlook.landing,
        probe: hit.cookie.probe().0,
        flags,
        pad: 0,
        began,
        outer,
        with: 0,
        folds: 0,
        fold_slot: 0,
        fold_probe: 0,
        context: 0,
    }
}

/// Remembers the call as open.
#[inline(always)]
fn await_exit(
    hit: &Hit<'_>,
    outlook: &Outlook,
    record: &mut EventRecord,
    state: &mut Option<&mut LaneState>,
) {
    let slot = record.header.frame;
    let flags = if hit.cookie.has(Cookie::WANTS_VALUE) { Awaited::VALUE } else { 0 };
    let began = u64::from(record.header.sequence);
    let awaited = awaited(hit, outlook, flags, began, OpenCall::NONE);
    let opens_trace = hit.cookie.has(Cookie::OPENS_TRACE);
    if open::remember(state, &hit.lane, slot, outlook.slot, awaited, opens_trace) {
        record.header.ahead = outlook.ahead as u8;
        record.header.awaited = outlook.awaited;
    } else {
        record.header.ahead = Ahead::Nothing as u8;
    }
}

/// The event of a call, as far as it is known at once.
#[inline(always)]
fn record(hit: &Hit<'_>, slot: u64, return_address: u64) -> EventRecord {
    let header = hit.header(EventKind::Enter);
    EventRecord {
        header: EventHeader { frame: slot, return_address, ..header },
        words: [0; MAX_WORDS],
    }
}

/// A call that is folded asks for its landing by itself.
#[inline(always)]
fn ask(hit: &Hit<'_>, outlook: &Outlook, return_address: u64, state: &mut Option<&mut LaneState>) {
    match outlook.ahead {
        Ahead::Landing | Ahead::Nothing => {}
        Ahead::Unknown | Ahead::WantsPoint | Ahead::WantsValue => {
            let mut record = record(hit, hit.frame(), return_address);
            record.header.kind = EventKind::Asks as u8;
            record.header.ahead = outlook.ahead as u8;
            record.header.awaited = outlook.awaited;
            record.header.sequence = lane::next(state);
            emit::send(&record, Some(OfProbe::new(hit.cookie.probe())));
        }
    }
}
