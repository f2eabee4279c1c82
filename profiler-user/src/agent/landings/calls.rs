//! How the calls of one probe are seen to end.

use std::time::{Duration, Instant};

use profiler_common::ProbeCount;

/// For so long all calls of a function must have had landings before its exit sites go.
const SETTLED: Duration = Duration::from_secs(1);

/// How the calls of one probe are seen to end.
#[derive(Clone, Copy, Default)]
pub(super) struct Calls {
    /// When they were looked at last.
    before: ProbeCount,
    /// Since when all have had a landing; none if none was made since the last one without.
    with_landing: Option<Instant>,
    last_without: Option<Instant>,
    /// Without one, since its exit sites were removed.
    pub(super) missed: u64,
}

impl Calls {
    /// Looks at what the kernel side has counted.
    pub(super) fn look(&mut self, counts: ProbeCount, now: Instant) {
        let recorded = |of: &ProbeCount| of.enters.saturating_sub(of.quiet);
        let calls = recorded(&counts).saturating_sub(recorded(&self.before));
        let without = counts.unlanded.saturating_sub(self.before.unlanded);
        self.before = counts;
        if without > 0 {
            self.with_landing = None;
            self.last_without = Some(now);
            self.missed = self.missed.saturating_add(without);
        } else if calls > 0 {
            self.with_landing.get_or_insert(now);
        }
    }

    /// Whether every way back is known, as far as can be told.
    pub(super) fn are_settled(&self, now: Instant) -> bool {
        let is_long = |at: Instant| now - at >= SETTLED;
        self.with_landing.is_some_and(is_long) && self.last_without.is_none_or(is_long)
    }

    /// Whether it was never called.
    pub(super) const fn are_none(&self) -> bool {
        self.with_landing.is_none() && self.last_without.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn counts(enters: u64, quiet: u64, unlanded: u64) -> ProbeCount {
        ProbeCount { enters, quiet, unlanded, exits: 0, landed: 0, sent: 0, lost: 0 }
    }

    #[test]
    fn settled_is_what_has_had_landings_for_a_while() {
        let (mut calls, begun) = (Calls::default(), Instant::now());
        let at = |tenths: u64| begun + Duration::from_millis(100 * tenths);
        calls.look(counts(0, 0, 0), at(0));
        assert!(calls.are_none());
        calls.look(counts(5, 0, 3), at(1));
        assert!(!calls.are_none() && calls.missed == 3);
        calls.look(counts(9, 0, 3), at(2));
        assert!(!calls.are_settled(at(11)));
        assert!(calls.are_settled(at(12)));
        // One without, and it begins anew.
        calls.look(counts(10, 0, 4), at(13));
        assert!(!calls.are_settled(at(30)));
        calls.look(counts(11, 0, 4), at(31));
        assert!(calls.are_settled(at(41)));
    }

    #[test]
    fn calls_that_are_turned_away_say_nothing() {
        let (mut calls, begun) = (Calls::default(), Instant::now());
        calls.look(counts(100, 100, 0), begun);
        assert!(calls.are_none());
    }
}
