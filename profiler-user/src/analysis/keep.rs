//! Which traces go out: `--slow`.

use std::collections::VecDeque;

use crate::model::{Trace, TraceEnd, TraceId};

/// How many kept traces are remembered for spans that come late.
const REMEMBERED: usize = 4096;

/// Keeps traces of at least some duration, and the late parts of those it kept.
///
/// A part that comes after another 4096 kept traces is taken for one of a trace that was not kept.
#[derive(Clone, Debug)]
pub struct SlowOnly {
    min: u64,
    kept: VecDeque<TraceId>,
}

impl SlowOnly {
    /// Keeps traces whose top span took at least `min` nanoseconds; 0 keeps all.
    #[must_use]
    pub const fn new(min: u64) -> Self {
        Self { min, kept: VecDeque::new() }
    }

    /// Whether to keep it.
    pub fn keep(&mut self, trace: &Trace) -> bool {
        if self.min == 0 {
            return true;
        }
        if trace.end == TraceEnd::Late {
            return self.kept.contains(&trace.id);
        }
        let slow = trace.root().is_some_and(|root| root.duration() >= self.min);
        if slow {
            if self.kept.len() == REMEMBERED {
                self.kept.pop_front();
            }
            self.kept.push_back(trace.id);
        }
        slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::testing::{span, trace};

    fn part(id: u128, end: TraceEnd, duration: u64) -> Trace {
        let spans = vec![span(1, u64::from(end == TraceEnd::Late), "s", 0, duration)];
        Trace { id: TraceId(id), end, ..trace(spans) }
    }

    #[test]
    fn slow_traces_and_their_late_parts() {
        let mut filter = SlowOnly::new(100);
        assert!(filter.keep(&part(1, TraceEnd::Complete, 100)));
        assert!(!filter.keep(&part(2, TraceEnd::Incomplete, 99)));
        assert!(filter.keep(&part(1, TraceEnd::Late, 1)));
        assert!(!filter.keep(&part(2, TraceEnd::Late, 500)));
        assert!(SlowOnly::new(0).keep(&part(2, TraceEnd::Late, 1)));
    }

    #[test]
    fn memory_is_bounded() {
        let mut filter = SlowOnly::new(1);
        for id in 0..2 * REMEMBERED as u128 {
            filter.keep(&part(id, TraceEnd::Complete, 5));
        }
        assert_eq!(filter.kept.len(), REMEMBERED);
        assert!(!filter.keep(&part(0, TraceEnd::Late, 5)));
    }
}
