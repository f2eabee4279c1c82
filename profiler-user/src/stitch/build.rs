//! A finished trace: its spans in order, with their self times.

use std::sync::Arc;

use crate::model::{ExitKind, MonoNs, Span, SpanId, Trace, TraceEnd};

use super::trace::OpenTrace;

use rustc_hash::FxHashMap;

/// Takes what there is of a trace. Spans that are still open are in it as such, ending with the root
/// if that has closed: that they went on is known no further than that. Else they end at `now`.
pub(super) fn finish(
    trace: &mut OpenTrace,
    end: TraceEnd,
    now: MonoNs,
    detached: &Arc<[Arc<str>]>,
) -> Trace {
    let now = trace.root_closed.unwrap_or(now);
    let mut spans = Vec::with_capacity(trace.spans.len());
    for open in trace.spans.iter_mut().filter(|open| !open.gone) {
        let mut span = open.span.clone();
        if !open.closed {
            span.exit = ExitKind::Open;
            span.end = now.max(span.start);
        }
        // What is sent is not sent again, though it may still be a parent.
        open.gone = true;
        spans.push(span);
    }
    trace.sent = true;
    Trace { id: trace.id, end, detached: Arc::clone(detached), spans: arrange(spans) }
}

/// Takes all there is of a trace that is over.
pub(super) fn finish_whole(trace: OpenTrace, detached: &Arc<[Arc<str>]>) -> Trace {
    let spans = trace.spans.into_iter().filter(|open| !open.gone).map(|open| open.span);
    Trace {
        id: trace.id,
        end: TraceEnd::Complete,
        detached: Arc::clone(detached),
        spans: arrange(spans.collect()),
    }
}

/// Puts parents before their children and siblings by start, and gives each its self time.
fn arrange(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable_by_key(|span| (span.start, span.id));
    let index: FxHashMap<SpanId, usize> =
        spans.iter().enumerate().map(|(index, span)| (span.id, index)).collect();
    let parents: Vec<Option<usize>> = spans
        .iter()
        .map(|span| span.parent.and_then(|parent| index.get(&parent).copied()))
        .collect();
    self_times(&mut spans, &parents);
    // Children as linked lists: the first child of each, and the next sibling of each. Linked from
    // the last, so that they come out by start.
    let (mut first, mut next) = (vec![None; spans.len()], vec![None; spans.len()]);
    let mut top = None;
    for (at, parent) in parents.iter().enumerate().rev() {
        let head = parent.map_or(&mut top, |parent| &mut first[parent]);
        next[at] = head.replace(at);
    }
    let mut slots: Vec<Option<Span>> = spans.into_iter().map(Some).collect();
    let mut ordered = Vec::with_capacity(slots.len());
    let mut pending: Vec<usize> = top.into_iter().collect();
    while let Some(at) = pending.pop() {
        ordered.extend(slots[at].take());
        pending.extend(next[at]);
        pending.extend(first[at]);
    }
    ordered
}

/// Duration less the union of the children's intervals, clipped to it. Of folded calls the sum of
/// their times counts.
fn self_times(spans: &mut [Span], parents: &[Option<usize>]) {
    // By start: each interval is compared with what its elder siblings cover.
    let mut covered: Vec<(u64, MonoNs)> = spans.iter().map(|span| (0, span.start)).collect();
    for (span, parent) in spans.iter().zip(parents) {
        let Some(parent) = *parent else { continue };
        let (sum, until) = &mut covered[parent];
        let from = span.start.max(*until);
        let to = span.end.min(spans[parent].end);
        if let Some(folded) = span.folded {
            // Between its calls it left room for others.
            *sum += folded.sum.min(span.duration());
        } else if to > from {
            *sum += to.since(from);
            *until = to;
        }
    }
    for (span, (sum, _)) in spans.iter_mut().zip(covered) {
        let time = span.folded.map_or_else(|| span.duration(), |folded| folded.sum);
        span.self_time = time.saturating_sub(sum);
    }
}
