//! What the traces of a run tell together.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::histogram::Histogram;
use crate::model::{MonoNs, Span, Trace, TraceEnd};

/// How many of the slowest traces are kept whole.
const SLOWEST: usize = 3;

/// Sums up traces as they come. Memory grows with the map's names, not with the traces.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Traces, without late parts.
    pub traces: u64,
    /// Late parts of traces.
    pub late: u64,
    /// Traces that went out before they were complete.
    pub incomplete: u64,
    /// Spans.
    pub spans: u64,
    /// Events lost under spans, summed over spans: one event may count for several.
    pub lost_under_spans: u64,
    /// Durations of traces in nanoseconds, by the name of their top span.
    pub roots: BTreeMap<Arc<str>, Histogram>,
    /// Durations of all traces together.
    pub durations: Histogram,
    /// Stages by name.
    pub stages: BTreeMap<Arc<str>, StageSummary>,
    /// How many spans have which evidence; tops that the map declares roots need none.
    pub evidence: BTreeMap<String, u64>,
    /// How many spans ended in which way.
    pub exits: BTreeMap<&'static str, u64>,
    /// The slowest traces, the slowest first.
    pub slowest: Vec<Trace>,
}

/// One stage over all traces.
#[derive(Clone, Debug, Default)]
pub struct StageSummary {
    /// The time a trace spent in the stage (the union of its spans), nanoseconds; one value for
    /// each trace that has the stage.
    pub per_trace: Histogram,
    /// The self time of its spans in sum, nanoseconds; parallel spans count each.
    pub self_time: u128,
    /// How many spans.
    pub spans: u64,
}

impl StageSummary {
    /// Which share of `total` was spent in the stage, other stages within it included.
    #[must_use]
    pub fn share(&self, total: u128) -> f64 {
        if total == 0 { 0.0 } else { self.per_trace.sum() as f64 / total as f64 }
    }

    /// Which share of `total` was spent in the stage's own spans; more than 1 if parallel.
    #[must_use]
    pub fn self_share(&self, total: u128) -> f64 {
        if total == 0 { 0.0 } else { self.self_time as f64 / total as f64 }
    }
}

impl Summary {
    /// Adds a trace, or a late part of one.
    pub fn add(&mut self, trace: &Trace) {
        self.spans += trace.spans.len() as u64;
        let late = trace.end == TraceEnd::Late;
        if late {
            self.late += 1;
        } else {
            self.traces += 1;
            self.incomplete += u64::from(trace.end == TraceEnd::Incomplete);
        }
        let mut stages: BTreeMap<&Arc<str>, Vec<&Span>> = BTreeMap::new();
        for span in &trace.spans {
            self.lost_under_spans += span.lost;
            *self.exits.entry(span.exit.as_str()).or_default() += 1;
            if !(span.root && span.parent.is_none()) {
                *self.evidence.entry(span.evidence.to_string()).or_default() += 1;
            }
            if let Some(stage) = &span.stage {
                stages.entry(stage).or_default().push(span);
            }
        }
        let top = trace.root().filter(|_| !late);
        for (stage, spans) in stages {
            let entry = self.stages.entry(Arc::clone(stage)).or_default();
            entry.spans += spans.len() as u64;
            entry.self_time += spans.iter().map(|span| u128::from(span.self_time)).sum::<u128>();
            // A late part's time would count as a trace of its own: it stays out of the times.
            if let Some(top) = top {
                entry.per_trace.add(time_in(spans, top));
            }
        }
        if let Some(top) = top {
            let duration = top.duration();
            self.roots.entry(Arc::clone(&top.name)).or_default().add(duration);
            self.durations.add(duration);
            self.keep_if_slow(trace, duration);
        }
    }

    fn keep_if_slow(&mut self, trace: &Trace, duration: u64) {
        let duration_of = |trace: &Trace| trace.root().map_or(0, Span::duration);
        // Of equals the earlier stays before the later.
        let place = self.slowest.partition_point(|other| duration_of(other) >= duration);
        if place < SLOWEST {
            self.slowest.truncate(SLOWEST - 1);
            self.slowest.insert(place, trace.clone());
        }
    }
}

/// The time within `top` in which at least one of the spans was open.
fn time_in(mut spans: Vec<&Span>, top: &Span) -> u64 {
    spans.sort_unstable_by_key(|span| span.start);
    let mut time = 0;
    let mut covered: MonoNs = top.start;
    for span in spans {
        let end = span.end.min(top.end);
        time += end.since(span.start.max(covered));
        covered = covered.max(end);
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{span, trace};
    use crate::model::{Evidence, ExitKind};

    fn staged(mut span: Span, stage: &str) -> Span {
        span.stage = Some(stage.into());
        span
    }

    fn query(duration: u64) -> Trace {
        trace(vec![span(1, 0, "search", 0, duration)])
    }

    #[test]
    fn traces_by_root() {
        let mut summary = Summary::default();
        for duration in 1..=100 {
            summary.add(&query(duration));
        }
        summary.add(&trace(vec![span(1, 0, "insert", 0, 7)]));
        assert_eq!((summary.traces, summary.spans, summary.durations.sum()), (101, 101, 5057));
        let search = &summary.roots["search"];
        assert_eq!((search.count(), search.percentile(50), search.max()), (100, 50, 100));
        assert_eq!(summary.roots["insert"].count(), 1);
    }

    #[test]
    fn time_in_a_stage_is_the_union_within_the_trace() {
        let mut summary = Summary::default();
        summary.add(&trace(vec![
            span(1, 0, "search", 100, 200),
            staged(span(2, 1, "a", 110, 150), "segment"),
            staged(span(3, 1, "b", 120, 160), "segment"),
            staged(span(4, 1, "c", 170, 230), "segment"),
            staged(span(5, 1, "d", 90, 105), "segment"),
            staged(span(6, 1, "e", 300, 310), "late"),
        ]));
        let segment = &summary.stages["segment"];
        // 100–105, 110–160, 170–200.
        assert_eq!(segment.per_trace.sum(), 85);
        assert_eq!((segment.spans, segment.share(summary.durations.sum())), (4, 0.85));
        assert_eq!(summary.stages["late"].per_trace.sum(), 0);
    }

    #[test]
    fn evidence_and_exits() {
        let mut spans =
            vec![span(1, 0, "search", 0, 9), span(2, 1, "a", 1, 2), span(3, 1, "b", 2, 3)];
        spans[1].evidence = Evidence::Handoff("plan".into());
        spans[2].exit = ExitKind::Inferred;
        spans[2].lost = 3;
        let mut summary = Summary::default();
        summary.add(&trace(spans));
        let evidence: Vec<_> = summary.evidence.into_iter().collect();
        assert_eq!(evidence, [("handoff:plan".to_owned(), 1), ("stack".to_owned(), 1)]);
        assert_eq!(summary.exits.into_iter().collect::<Vec<_>>(), [("inferred", 1), ("ret", 2)]);
        assert_eq!(summary.lost_under_spans, 3);
    }

    #[test]
    fn orphans_show_as_none() {
        let mut orphan = span(1, 0, "plan", 0, 9);
        orphan.root = false;
        let mut summary = Summary::default();
        summary.add(&trace(vec![orphan]));
        assert_eq!(summary.evidence.into_iter().collect::<Vec<_>>(), [("none".to_owned(), 1)]);
    }

    #[test]
    fn the_three_slowest() {
        let mut summary = Summary::default();
        for duration in [5, 1, 9, 3, 9, 2, 8] {
            summary.add(&query(duration));
        }
        let durations: Vec<u64> =
            summary.slowest.iter().map(|trace| trace.spans[0].duration()).collect();
        assert_eq!(durations, [9, 9, 8]);
    }

    #[test]
    fn late_parts_and_incomplete_traces() {
        let mut summary = Summary::default();
        let late = staged(span(7, 9, "late", 0, 1000), "segment");
        summary.add(&Trace { end: TraceEnd::Late, ..trace(vec![late]) });
        summary.add(&Trace { end: TraceEnd::Incomplete, ..query(5) });
        assert_eq!((summary.traces, summary.late, summary.incomplete), (1, 1, 1));
        assert_eq!((summary.spans, summary.durations.sum()), (2, 5));
        assert_eq!(summary.stages["segment"].per_trace.count(), 0);
        assert_eq!(summary.slowest.len(), 1);
    }
}
