//! Calls that are added up below the call they are made in instead of being recorded one by one.
//!
//! What has come together is sent when that call ends, and earlier when calls may be gone that nobody
//! sees end: each time what has come since the last.

use aya_ebpf::bindings::BPF_NOEXIST;
use profiler_common::{
    EventKind, EventRecord, Fold, FoldKey, FoldedCalls, MAX_FOLDS, MAX_WORDS, ProbeId,
};

use crate::lane::Lane;
use crate::maps::{Awaited, FOLDS, LaneState, OpenCall};
use crate::{count, emit, inner, lane};

/// Of how many open calls, and functions folded below them, what there is is sent at once.
const STEPS: usize = 24;

/// A call to be folded.
#[derive(Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) time: u64,
    pub(crate) lane: &'a Lane,
    pub(crate) probe: ProbeId,
    pub(crate) slot: u64,
}

/// A call begins: counts it below the one it is made in. None where that cannot be told, or there is no
/// room: it is to be recorded.
#[inline(always)]
pub(crate) fn begin(state: &mut Option<&mut LaneState>, call: &Call<'_>) -> Option<OpenCall> {
    let state = state.as_deref_mut()?;
    let outer = inner::around(state, call.lane, call.slot)?;
    let key = key(call.lane, &outer, call.probe.0);
    if let Some(fold) = FOLDS.get_ptr_mut(&key) {
        // SAFETY: a live map value; no other thread touches it.
        let fold = unsafe { &mut *fold };
        if fold.serial == outer.serial {
            fold.calls.begin(call.time);
            return Some(outer);
        }
        // Of a call that is gone, and that nobody has seen end.
        send(state, call.time, call.lane, key.slot, key.probe(), fold);
        forget(state, &key);
    }
    let entry = inner::entry(call.lane, &outer)?;
    // SAFETY: a live map value; no other thread touches it.
    let entry = unsafe { &mut *entry };
    if entry.folds >= MAX_FOLDS {
        return None;
    }
    let mut fold = Fold {
        serial: outer.serial,
        next_slot: entry.fold_slot,
        next_probe: entry.fold_probe,
        ..EMPTY
    };
    fold.calls.begin(call.time);
    if FOLDS.insert(&key, &fold, u64::from(BPF_NOEXIST)).is_err() {
        return None;
    }
    entry.fold_slot = key.slot;
    entry.fold_probe = key.probe + 1;
    entry.folds += 1;
    state.folds += 1;
    Some(outer)
}

/// A call has ended that began then.
#[inline(always)]
pub(crate) fn end(lane: &Lane, outer: &OpenCall, probe: u16, began: u64, time: u64) {
    if let Some(fold) = find(lane, outer, probe) {
        fold.calls.end(began, time);
    }
}

/// A call that began then ends with another one.
#[inline(always)]
pub(crate) fn ends_with_another(lane: &Lane, outer: &OpenCall, probe: u16, began: u64) {
    if let Some(fold) = find(lane, outer, probe) {
        fold.pending = began;
    }
}

/// That other one has ended.
#[inline(always)]
pub(crate) fn other_ended(lane: &Lane, outer: &OpenCall, probe: u16, time: u64) {
    if let Some(fold) = find(lane, outer, probe) {
        end_pending(fold, time);
    }
}

#[inline(always)]
fn find<'a>(lane: &Lane, outer: &OpenCall, probe: u16) -> Option<&'a mut Fold> {
    let fold = FOLDS.get_ptr_mut(&key(lane, outer, probe))?;
    // SAFETY: a live map value; no other thread touches it.
    let fold = unsafe { &mut *fold };
    (fold.serial == outer.serial).then_some(fold)
}

#[inline(always)]
fn end_pending(fold: &mut Fold, time: u64) {
    if fold.pending != 0 {
        fold.calls.end(fold.pending, time);
        fold.pending = 0;
    }
}

/// A call has ended: sends what is folded below it.
#[inline(always)]
pub(crate) fn close(state: &mut LaneState, time: u64, lane: &Lane, entry: &Awaited) {
    let (mut slot, mut probe) = (entry.fold_slot, entry.fold_probe);
    for _ in 0..MAX_FOLDS {
        if probe == 0 {
            return;
        }
        let key = FoldKey { lane: lane.key, slot, probe: probe - 1 };
        let Some(fold) = FOLDS.get_ptr_mut(&key) else { return };
        // SAFETY: a live map value; no other thread touches it.
        let fold = unsafe { &mut *fold };
        end_pending(fold, time);
        (slot, probe) = (fold.next_slot, fold.next_probe);
        send(state, time, lane, key.slot, key.probe(), fold);
        forget(state, &key);
    }
}

/// Calls may be gone of which nobody sees the end: sends what is folded below any that is open.
///
/// One loop, not one in another: the verifier follows it as often as it may go around.
#[inline(always)]
pub(crate) fn flush(state: &mut LaneState, time: u64, lane: &Lane) {
    let mut call = state.inner;
    let (mut slot, mut probe) = (0, 0);
    for _ in 0..STEPS {
        if probe == 0 {
            if call.is_none() {
                return;
            }
            let Some(entry) = inner::entry(lane, &call) else { return };
            // SAFETY: a live map value; no other thread touches it.
            let entry = unsafe { &*entry };
            (slot, probe) = (entry.fold_slot, entry.fold_probe);
            call = entry.outer;
            continue;
        }
        let key = FoldKey { lane: lane.key, slot, probe: probe - 1 };
        let Some(fold) = FOLDS.get_ptr_mut(&key) else { return };
        // SAFETY: a live map value; no other thread touches it.
        let fold = unsafe { &mut *fold };
        (slot, probe) = (fold.next_slot, fold.next_probe);
        send(state, time, lane, key.slot, key.probe(), fold);
    }
}

/// Sends what has come since the last time.
#[inline(always)]
fn send(state: &mut LaneState, time: u64, lane: &Lane, slot: u64, probe: ProbeId, fold: &mut Fold) {
    if fold.calls.count == 0 && fold.calls.ended == 0 {
        return;
    }
    let mut record =
        EventRecord { header: lane.header(time, EventKind::Folded), words: [0; MAX_WORDS] };
    record.header.probe = probe.0;
    record.header.frame = slot;
    record.header.awaited = fold.serial;
    record.header.words = FoldedCalls::WORDS as u8;
    let [count, ended, sum, min, max, first, last] = fold.calls.words();
    record.words = [count, ended, sum, min, max, first, last, 0];
    record.header.sequence = lane::next(&mut Some(&mut *state));
    fold.calls = EMPTY.calls;
    emit::send(&record, Some(count::OfProbe::new(probe)));
}

#[inline(always)]
fn forget(state: &mut LaneState, key: &FoldKey) {
    // It was there, and only this thread removes it.
    let _ = FOLDS.remove(key);
    state.folds = state.folds.saturating_sub(1);
}

#[inline(always)]
const fn key(lane: &Lane, outer: &OpenCall, probe: u16) -> FoldKey {
    FoldKey { lane: lane.key, slot: outer.slot, probe: probe as u64 }
}

const EMPTY: Fold = Fold {
    serial: 0,
    next_slot: 0,
    next_probe: 0,
    pending: 0,
    calls: FoldedCalls { count: 0, ended: 0, sum: 0, min: 0, max: 0, first: 0, last: 0 },
};
