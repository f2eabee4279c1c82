//! A call begins.

use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::debug;
use profiler_common::{Ahead, Cookie, Counter, EventKind, EventRecord, MAX_WORDS, Role};

use crate::count::OfProbe;
use crate::hit::Hit;
use crate::maps::{Awaited, LaneState, OpenCall, SILENCED};
use crate::returns::{self, Call, Outlook};
use crate::{capture, count, emit, fold, in_trace, lane, open, twin};

#[inline(always)]
pub(crate) fn run(ctx: &ProbeContext) {
    let Some(hit) = Hit::begin(ctx) else { return };
    let (cookie, probe) = (hit.cookie, hit.cookie.probe());
    let counts = OfProbe::new(probe);
    counts.enter();
    let slot = hit.slot();
    // SAFETY: a live map value.
    let silenced = SILENCED.get(u32::from(probe.0)).is_some_and(|silenced| *silenced != 0);
    if silenced {
        counts.quiet();
        return;
    }
    let only_in_trace = cookie.has(Cookie::ONLY_IN_TRACE);
    let mut lane = if only_in_trace { lane::known(hit.thread) } else { lane::of(hit.thread) };
    match &mut lane {
        Some(lane) => {
            if twin::is_twin(lane, &hit, slot) {
                return;
            }
            if only_in_trace && !in_trace::is_open(lane, slot) {
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
    if folds && lane.as_deref().is_some_and(|lane| lane.inner.is_none()) {
        counts.quiet();
        return;
    }
    let mut record = EventRecord { header: hit.header(EventKind::Enter), words: [0; MAX_WORDS] };
    record.header.frame = slot;
    // SAFETY: the helper checks the address and fails where it cannot read.
    match unsafe { bpf_probe_read_user(slot as *const u64) } {
        Ok(address) => record.header.return_address = address,
        Err(_) => count::count(Counter::ReturnSlotFault),
    }
    // Each kind goes its own way to the end: the verifier follows all combinations of what comes
    // one after the other.
    if cookie.has(Cookie::NO_EXIT) {
        if cookie.has(Cookie::UNWINDS) || cookie.has(Cookie::JUMPS) {
            before_unwinding(&mut lane, &hit, slot);
        }
        record.header.sequence = lane::next(&mut lane);
        if cookie.has(Cookie::HAS_CAPTURE) {
            capture::run(&hit, probe, Role::Enter, &mut record);
            if let Some(lane) = &mut lane
                && cookie.has(Cookie::JUMPS)
            {
                in_trace::jump(lane, hit.thread, slot, record.words[0]);
            }
        }
        emit::send(&record, Some(counts));
        return;
    }
    let outlook = outlook(&hit, &record);
    if !matches!(outlook.ahead, Ahead::Landing) {
        counts.unlanded();
    }
    if folds {
        let call = fold::Call { time: hit.time, thread: hit.thread, probe, slot };
        if let Some(outer) = fold::begin(&mut lane, &call) {
            let awaited = awaited(&hit, &outlook, Awaited::FOLD, hit.time, outer);
            open::remember_folded(hit.thread, slot, outlook.slot, &awaited);
            ask(&outlook, counts, &mut record, &mut lane);
            return;
        }
        count::count(Counter::NotFolded);
    }
    record.header.sequence = lane::next(&mut lane);
    await_exit(&hit, &outlook, &mut record, &mut lane);
    if cookie.has(Cookie::HAS_CAPTURE) {
        capture::run(&hit, probe, Role::Enter, &mut record);
    }
    debug!(
        ctx,
        "enter probe {} slot {:x} from {:x} number {}",
        record.header.probe,
        slot,
        record.header.return_address,
        record.header.sequence
    );
    emit::send(&record, Some(counts));
}

/// Calls are gone, or are about to be.
#[inline(always)]
fn before_unwinding(lane: &mut Option<&mut LaneState>, hit: &Hit<'_>, slot: u64) {
    let Some(lane) = lane else { return };
    if lane.folds != 0 {
        fold::flush(lane, hit.time, hit.thread);
    }
    if hit.cookie.has(Cookie::UNWINDS) {
        in_trace::close(lane, slot);
    }
}

/// Finds where the call will end.
#[inline(always)]
fn outlook(hit: &Hit<'_>, record: &EventRecord) -> Outlook {
    let cookie = hit.cookie;
    returns::follow(&Call {
        space: hit.space,
        slot: record.header.frame,
        return_address: record.header.return_address,
        frame_pointer: cookie.has(Cookie::KEEPS_FRAME_POINTER).then_some(hit.regs.rbp),
        wants_value: cookie.has(Cookie::WANTS_VALUE),
    })
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
    }
}

/// Remembers the call as open.
#[inline(always)]
fn await_exit(
    hit: &Hit<'_>,
    outlook: &Outlook,
    record: &mut EventRecord,
    lane: &mut Option<&mut LaneState>,
) {
    let slot = record.header.frame;
    let flags = if hit.cookie.has(Cookie::WANTS_VALUE) { Awaited::VALUE } else { 0 };
    let began = u64::from(record.header.sequence);
    let awaited = awaited(hit, outlook, flags, began, OpenCall::NONE);
    let opens_trace = hit.cookie.has(Cookie::OPENS_TRACE);
    if open::remember(lane, hit.thread, slot, outlook.slot, awaited, opens_trace) {
        record.header.ahead = outlook.ahead as u8;
        record.header.awaited = outlook.awaited;
    } else {
        record.header.ahead = Ahead::Nothing as u8;
    }
}

/// A call that is folded asks for its landing by itself.
#[inline(always)]
fn ask(
    outlook: &Outlook,
    counts: OfProbe,
    record: &mut EventRecord,
    lane: &mut Option<&mut LaneState>,
) {
    match outlook.ahead {
        Ahead::Landing | Ahead::Nothing => {}
        Ahead::Unknown | Ahead::WantsPoint | Ahead::WantsValue => {
            record.header.kind = EventKind::Asks as u8;
            record.header.ahead = outlook.ahead as u8;
            record.header.awaited = outlook.awaited;
            record.header.sequence = lane::next(lane);
            emit::send(record, Some(counts));
        }
    }
}
