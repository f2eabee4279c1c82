//! Which spans a trace waited for.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::model::{MonoNs, Span, SpanId, Trace};

/// The spans on the trace's critical path: had one been shorter, the trace might have been.
///
/// From the end of the top span backwards: the child that finished last before the current time is
/// on the path, and the time before it began is looked at next; so within each child. A child that
/// outlives its parent counts as ending with it: a task often fulfils its promise just before it
/// returns.
///
/// A late part of a trace has no top; every span whose parent is not in it is looked at as one.
#[must_use]
pub fn critical_path(trace: &Trace) -> FxHashSet<SpanId> {
    let ids: FxHashSet<SpanId> = trace.spans.iter().map(|span| span.id).collect();
    let mut children: FxHashMap<SpanId, Vec<&Span>> = FxHashMap::default();
    let mut open: Vec<(&Span, MonoNs)> = Vec::new();
    for span in &trace.spans {
        match span.parent.filter(|parent| ids.contains(parent)) {
            Some(parent) => children.entry(parent).or_default().push(span),
            None => open.push((span, span.end)),
        }
    }
    let mut path = FxHashSet::default();
    while let Some((span, end)) = open.pop() {
        if !path.insert(span.id) {
            continue;
        }
        let Some(mut children) = children.remove(&span.id) else { continue };
        let end_of = |child: &Span| child.end.min(end);
        children.sort_by_key(|child| (end_of(child), child.start));
        let mut now = end;
        for child in children.into_iter().rev() {
            if end_of(child) <= now && child.start < end {
                open.push((child, end_of(child)));
                now = child.start;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{span, trace};

    fn path(spans: Vec<Span>) -> Vec<u64> {
        let mut path: Vec<u64> = critical_path(&trace(spans)).iter().map(|id| id.0).collect();
        path.sort_unstable();
        path
    }

    #[test]
    fn calls_one_after_the_other_are_all_on_it() {
        let spans = vec![
            span(1, 0, "root", 0, 100),
            span(2, 1, "a", 0, 40),
            span(3, 1, "b", 40, 90),
            span(4, 3, "c", 50, 60),
        ];
        assert_eq!(path(spans), [1, 2, 3, 4]);
    }

    #[test]
    fn of_parallel_calls_the_last_to_finish() {
        let spans = vec![
            span(1, 0, "root", 0, 100),
            span(2, 1, "before", 0, 10),
            span(3, 1, "fast", 10, 50),
            span(4, 1, "slow", 12, 80),
            span(5, 3, "in fast", 20, 30),
            span(6, 4, "in slow", 20, 30),
            span(7, 1, "merge", 82, 95),
        ];
        assert_eq!(path(spans), [1, 2, 4, 6, 7]);
    }

    #[test]
    fn a_child_that_outlives_its_parent_ends_with_it() {
        let spans = vec![
            span(1, 0, "root", 0, 100),
            span(2, 1, "task", 10, 103),
            span(3, 2, "inner", 20, 102),
            span(4, 2, "earlier", 11, 19),
            span(5, 1, "other", 5, 60),
        ];
        assert_eq!(path(spans), [1, 2, 3, 4]);
    }

    #[test]
    fn what_begins_after_its_parent_has_ended_is_not() {
        assert_eq!(path(vec![span(1, 0, "root", 0, 10), span(2, 1, "late", 10, 20)]), [1]);
    }

    #[test]
    fn calls_of_no_length_do_not_hide_others() {
        let spans = vec![
            span(1, 0, "root", 0, 10),
            span(2, 1, "long", 0, 5),
            span(3, 1, "empty", 5, 5),
            span(4, 1, "rest", 5, 9),
        ];
        assert_eq!(path(spans), [1, 2, 3, 4]);
    }

    #[test]
    fn a_late_part_and_a_loop_of_parents_end() {
        assert_eq!(path(vec![span(7, 99, "late", 0, 10), span(8, 7, "in it", 1, 2)]), [7, 8]);
        assert_eq!(path(vec![span(1, 2, "a", 0, 10), span(2, 1, "b", 0, 10)]), [0_u64; 0]);
    }
}
