//! Which traces go out: `--sample`, `--slow`.

use std::collections::VecDeque;

use crate::model::{Trace, TraceEnd, TraceId};

/// How many kept traces are remembered for spans that come late.
const REMEMBERED: usize = 4096;

/// Keeps a share of the traces, chosen by their ids: the same id is always kept or never, in every
/// process that samples by this rule (`TraceIdRatioBased` of the OpenTelemetry SDKs: the last 8
/// bytes of the id without their lowest bit, as a number below the share of 2⁶³).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Ids whose number lies below are kept.
    bound: u64,
}

impl Sample {
    /// Keeps `share` of the traces, from 0 (none) to 1 (all).
    #[must_use]
    #[expect(clippy::cast_sign_loss, reason = "a negative share is none: the cast makes it 0")]
    pub fn new(share: f64) -> Self {
        Self { bound: (share * (1_u64 << 63) as f64) as u64 }
    }

    /// Whether to keep the traces of an id.
    #[must_use]
    pub const fn keeps(self, id: TraceId) -> bool {
        (id.0 as u64 >> 1) < self.bound
    }
}

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
    use crate::stitch::IdSource;

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
    fn a_share_is_kept_by_id() {
        let mut ids = IdSource::new(7);
        let ids: Vec<_> = (0..10_000).map(|_| ids.trace()).collect();
        let kept = |share| {
            let sample = Sample::new(share);
            ids.iter().filter(|id| sample.keeps(**id)).copied().collect::<Vec<_>>()
        };
        assert_eq!(kept(0.0).len(), 0);
        assert_eq!(kept(1.0).len(), ids.len());
        let (tenth, half) = (kept(0.1), kept(0.5));
        assert!((900..1100).contains(&tenth.len()), "{}", tenth.len());
        assert!(tenth.iter().all(|id| half.contains(id)), "a larger share keeps the smaller one's");
        // What the SDKs decide for these ids.
        assert!(Sample::new(0.5).keeps(TraceId(0x7fff_ffff_ffff_ffff)));
        assert!(!Sample::new(0.5).keeps(TraceId(0x8000_0000_0000_0000)));
        assert!(!Sample::new(0.5).keeps(TraceId(u128::MAX)));
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
