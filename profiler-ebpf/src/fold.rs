//! Calls that are added up below the call they are made in instead of being recorded one by one.
//!
//! What has come together is sent when that call ends, and earlier when calls may be gone that nobody
//! sees end: each time what has come since the last.

use aya_ebpf::bindings::BPF_NOEXIST;
use profiler_common::{
    EventKind, EventRecord, Fold, FoldKey, FoldedCalls, MAX_FOLDS, MAX_WORDS, ProbeId,
};

use crate::hit::thread_header;
use crate::maps::{Awaited, FOLDS, LaneState, OpenCall};
use crate::{count, emit, inner, lane};

/// Of how many open calls, and functions folded below them, what there is is sent at once.
const STEPS: usize = 24;

/// A call to be folded.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub(crate) time: u64,
    pub(crate) thread: u64,
    pub(crate) probe: ProbeId,
    pub(crate) slot: u64,
}

/// A call begins: counts it below the one it is made in. None where that cannot be told, or there is no
/// room: it is to be recorded.
#[inline(always)]
pub(crate) fn begin(lane: &mut Option<&mut LaneState>, call: &Call) -> Option<OpenCall> {
    let lane = lane.as_deref_mut()?;
    let outer = inner::around(lane, call.thread, call.slot)?;
    let key = key(call.thread, &outer, call.probe.0);
    if let Some(fold) = FOLDS.get_ptr_mut(&key) {
        // SAFETY: a live map value; no other thread touches it.
        let fold = unsafe { &mut *fold };
        if fold.serial == outer.serial {
            fold.calls.begin(call.time);
            return Some(outer);
        }
        // Of a call that is gone, and that nobody has seen end.
        send(lane, call.time, call.thread, key.slot, key.probe(), fold);
        forget(lane, &key);
    }
    let entry = inner::entry(call.thread, &outer)?;
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
    lane.folds += 1;
    Some(outer)
}

/// A call has ended that began then.
#[inline(always)]
pub(crate) fn end(thread: u64, outer: &OpenCall, probe: u16, began: u64, time: u64) {
    if let Some(fold) = find(thread, outer, probe) {
        fold.calls.end(began, time);
    }
}

/// A call that began then ends with another one.
#[inline(always)]
pub(crate) fn ends_with_another(thread: u64, outer: &OpenCall, probe: u16, began: u64) {
    if let Some(fold) = find(thread, outer, probe) {
        fold.pending = began;
    }
}

/// That other one has ended.
#[inline(always)]
pub(crate) fn other_ended(thread: u64, outer: &OpenCall, probe: u16, time: u64) {
    if let Some(fold) = find(thread, outer, probe) {
        end_pending(fold, time);
    }
}

#[inline(always)]
fn find<'a>(thread: u64, outer: &OpenCall, probe: u16) -> Option<&'a mut Fold> {
    let fold = FOLDS.get_ptr_mut(&key(thread, outer, probe))?;
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
pub(crate) fn close(lane: &mut LaneState, time: u64, thread: u64, entry: &Awaited) {
    let (mut slot, mut probe) = (entry.fold_slot, entry.fold_probe);
    for _ in 0..MAX_FOLDS {
        if probe == 0 {
            return;
        }
        let key = FoldKey { thread, slot, probe: probe - 1 };
        let Some(fold) = FOLDS.get_ptr_mut(&key) else { return };
        // SAFETY: a live map value; no other thread touches it.
        let fold = unsafe { &mut *fold };
        end_pending(fold, time);
        (slot, probe) = (fold.next_slot, fold.next_probe);
        send(lane, time, thread, key.slot, key.probe(), fold);
        forget(lane, &key);
    }
}

/// Calls may be gone of which nobody sees the end: sends what is folded below any that is open.
///
/// One loop, not one in another: the verifier follows it as often as it may go around.
#[inline(always)]
pub(crate) fn flush(lane: &mut LaneState, time: u64, thread: u64) {
    let mut call = lane.inner;
    let (mut slot, mut probe) = (0, 0);
    for _ in 0..STEPS {
        if probe == 0 {
            if call.is_none() {
                return;
            }
            let Some(entry) = inner::entry(thread, &call) else { return };
            // SAFETY: a live map value; no other thread touches it.
            let entry = unsafe { &*entry };
            (slot, probe) = (entry.fold_slot, entry.fold_probe);
            call = entry.outer;
            continue;
        }
        let key = FoldKey { thread, slot, probe: probe - 1 };
        let Some(fold) = FOLDS.get_ptr_mut(&key) else { return };
        // SAFETY: a live map value; no other thread touches it.
        let fold = unsafe { &mut *fold };
        (slot, probe) = (fold.next_slot, fold.next_probe);
        send(lane, time, thread, key.slot, key.probe(), fold);
    }
}

/// Sends what has come since the last time.
#[inline(always)]
fn send(lane: &mut LaneState, time: u64, thread: u64, slot: u64, probe: ProbeId, fold: &mut Fold) {
    if fold.calls.count == 0 && fold.calls.ended == 0 {
        return;
    }
    let mut record = EventRecord {
        header: thread_header(time, thread, EventKind::Folded),
        words: [0; MAX_WORDS],
    };
    record.header.probe = probe.0;
    record.header.frame = slot;
    record.header.awaited = fold.serial;
    record.header.words = FoldedCalls::WORDS as u8;
    let [count, ended, sum, min, max, first, last] = fold.calls.words();
    record.words = [count, ended, sum, min, max, first, last, 0];
    record.header.sequence = lane::next(&mut Some(&mut *lane));
    fold.calls = EMPTY.calls;
    emit::send(&record, Some(count::OfProbe::new(probe)));
}

#[inline(always)]
fn forget(lane: &mut LaneState, key: &FoldKey) {
    // It was there, and only this thread removes it.
    let _ = FOLDS.remove(key);
    lane.folds = lane.folds.saturating_sub(1);
}

#[inline(always)]
const fn key(thread: u64, outer: &OpenCall, probe: u16) -> FoldKey {
    FoldKey { thread, slot: outer.slot, probe: probe as u64 }
}

const EMPTY: Fold = Fold {
    serial: 0,
    next_slot: 0,
    next_probe: 0,
    pending: 0,
    calls: FoldedCalls { count: 0, ended: 0, sum: 0, min: 0, max: 0, first: 0, last: 0 },
};
