//! Many short calls as one span: `--min-span`.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::critical::critical_path;
use crate::model::{Evidence, ExitKind, Folded, ProbeId, Span, SpanId, Trace};

/// What calls must have in common to become one span.
#[derive(PartialEq, Eq, Hash)]
struct Likeness {
    parent: SpanId,
    name: Arc<str>,
    probe: Option<ProbeId>,
    evidence: Evidence,
    exit: ExitKind,
}

/// Folds calls shorter than `min` nanoseconds with their like: same parent, name, function,
/// evidence and kind of exit.
///
/// The folded span reaches from the first of them to the end of the last; it has the id, thread
/// and lane of the first, their self times and lost events in sum, and says how many calls it
/// stands for and how long they took. Their children become its children, and are folded in turn.
/// A short call without its like stays as it is, and so do top spans and the critical path.
#[must_use]
pub fn fold_short(mut trace: Trace, min: u64) -> Trace {
    if trace.spans.iter().all(|span| span.duration() >= min) {
        return trace;
    }
    let critical = critical_path(&trace);
    let ids: FxHashSet<SpanId> = trace.spans.iter().map(|span| span.id).collect();
    let mut kept: Vec<Span> = Vec::with_capacity(trace.spans.len());
    let mut first_of: FxHashMap<Likeness, usize> = FxHashMap::default();
    let mut folded_into: FxHashMap<SpanId, SpanId> = FxHashMap::default();
    // Parents come before their children: a parent's new place is known when its children come.
    for mut span in trace.spans {
        if let Some(into) = span.parent.and_then(|parent| folded_into.get(&parent)) {
            span.parent = Some(*into);
        }
        let parent = span.parent.filter(|parent| ids.contains(parent));
        let short = span.duration() < min && !critical.contains(&span.id);
        let Some(parent) = parent.filter(|_| short) else {
            kept.push(span);
            continue;
        };
        let likeness = Likeness {
            parent,
            name: Arc::clone(&span.name),
            probe: span.probe,
            evidence: span.evidence.clone(),
            exit: span.exit,
        };
        if let Some(first) = first_of.get(&likeness) {
            folded_into.insert(span.id, kept[*first].id);
            absorb(&mut kept[*first], span);
        } else {
            first_of.insert(likeness, kept.len());
            kept.push(span);
        }
    }
    trace.spans = kept;
    trace
}

fn absorb(into: &mut Span, span: Span) {
    let folded = |span: &Span| {
        let duration = span.duration();
        span.folded.unwrap_or(Folded { sum: duration, min: duration, max: duration })
    };
    let (a, b) = (folded(into), folded(&span));
    into.folded = Some(Folded {
        sum: a.sum.saturating_add(b.sum),
        min: a.min.min(b.min),
        max: a.max.max(b.max),
    });
    into.calls = into.calls.saturating_add(span.calls);
    into.start = into.start.min(span.start);
    into.end = into.end.max(span.end);
    into.self_time = into.self_time.saturating_add(span.self_time);
    into.lost = into.lost.saturating_add(span.lost);
    into.shared = into.shared.max(span.shared);
    into.links.extend(span.links);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{span, trace};
    use crate::model::MonoNs;

    /// name, parent, calls of each span.
    fn shape(trace: &Trace) -> Vec<(&str, u64, u64)> {
        let parent = |span: &Span| span.parent.map_or(0, |parent| parent.0);
        trace.spans.iter().map(|span| (&*span.name, parent(span), span.calls)).collect()
    }

    #[test]
    fn short_calls_of_one_parent_become_one_span() {
        let folded = fold_short(
            trace(vec![
                span(1, 0, "root", 0, 1000),
                span(2, 1, "long", 0, 1000),
                span(3, 1, "read", 10, 20),
                span(4, 1, "read", 30, 35),
                span(5, 1, "read", 300, 500),
                span(6, 1, "read", 600, 620),
                span(7, 1, "other", 700, 701),
            ]),
            100,
        );
        let expected =
            [("root", 0, 1), ("long", 1, 1), ("read", 1, 3), ("read", 1, 1), ("other", 1, 1)];
        assert_eq!(shape(&folded), expected);
        let read = &folded.spans[2];
        assert_eq!((read.start, read.end), (MonoNs(10), MonoNs(620)));
        assert_eq!(read.folded, Some(Folded { sum: 35, min: 5, max: 20 }));
    }

    #[test]
    fn children_follow_and_are_folded_in_turn() {
        let folded = fold_short(
            trace(vec![
                span(1, 0, "root", 0, 1000),
                span(2, 1, "long", 0, 1000),
                span(3, 1, "read", 10, 20),
                span(4, 3, "seek", 11, 12),
                span(5, 1, "read", 30, 35),
                span(6, 5, "seek", 31, 33),
                span(7, 5, "task", 33, 900),
            ]),
            100,
        );
        let expected =
            [("root", 0, 1), ("long", 1, 1), ("read", 1, 2), ("seek", 3, 2), ("task", 3, 1)];
        assert_eq!(shape(&folded), expected);
    }

    #[test]
    fn the_critical_path_stays() {
        let spans = vec![
            span(1, 0, "root", 0, 100),
            span(2, 1, "read", 0, 10),
            span(3, 1, "read", 10, 20),
            span(4, 1, "read", 90, 100),
        ];
        assert_eq!(fold_short(trace(spans.clone()), 50).spans, spans);
    }

    #[test]
    fn other_evidence_or_exit_is_no_likeness() {
        let mut spans = vec![span(1, 0, "root", 0, 100), span(2, 1, "long", 0, 100)];
        spans.extend((3..6).map(|id| span(id, 1, "read", id, id + 1)));
        spans[3].exit = ExitKind::Unwound;
        spans[4].evidence = Evidence::Handoff("plan".into());
        assert_eq!(fold_short(trace(spans.clone()), 50).spans, spans);
    }

    #[test]
    fn spans_folded_before_are_counted_with_their_calls() {
        let mut spans = vec![span(1, 0, "root", 0, 100), span(2, 1, "long", 0, 100)];
        spans.extend((3..5).map(|id| span(id, 1, "read", id, id + 1)));
        spans[2].calls = 7;
        spans[2].folded = Some(Folded { sum: 7, min: 1, max: 1 });
        let folded = fold_short(trace(spans), 50);
        assert_eq!(folded.spans[2].calls, 8);
        assert_eq!(folded.spans[2].folded, Some(Folded { sum: 8, min: 1, max: 1 }));
    }

    #[test]
    fn a_late_part_keeps_its_tops() {
        let spans = vec![span(7, 99, "late", 0, 10), span(8, 99, "late", 20, 30)];
        assert_eq!(fold_short(trace(spans.clone()), 50).spans, spans);
    }
}
