//! What is to be reached: printed beside what was measured, and where it is a ratio, enforced.

/// How much worse than its goal a ratio may be: machines differ, and so do runs.
const TOLERANCE: f64 = 1.2;

/// One goal, and what was measured.
#[derive(Debug, Clone)]
pub(super) struct Goal {
    what: String,
    bound: Bound,
    measured: f64,
    unit: &'static str,
    enforced: bool,
}

#[derive(Debug, Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    /// A ratio that must not be higher.
    pub(super) fn at_most(what: String, bound: f64, measured: f64) -> Self {
        Self { what, bound: Bound::AtMost(bound), measured, unit: "", enforced: true }
    }

    /// A ratio that must not be lower.
    pub(super) fn at_least(what: String, bound: f64, measured: f64) -> Self {
        Self { what, bound: Bound::AtLeast(bound), measured, unit: "", enforced: true }
    }

    /// A rate to reach, in millions a second; it belongs to a machine, so it is only printed.
    pub(super) fn millions(what: String, bound: f64, measured: f64) -> Self {
        let (bound, unit) = (Bound::AtLeast(bound), " million");
        Self { what, bound, measured, unit, enforced: false }
    }

    /// Memory, in megabytes, that must not be more.
    pub(super) fn megabytes(what: String, bound: f64, measured_kib: f64) -> Self {
        let (bound, measured) = (Bound::AtMost(bound), measured_kib * 1024.0 / 1e6);
        Self { what, bound, measured, unit: " MB", enforced: true }
    }

    /// A time in seconds to stay below; absolute times belong to a machine, so it is only printed.
    pub(super) fn seconds(what: String, bound: f64, measured: f64) -> Self {
        Self { what, bound: Bound::AtMost(bound), measured, unit: " s", enforced: false }
    }

    fn reached_within(&self, tolerance: f64) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.measured <= bound * tolerance,
            Bound::AtLeast(bound) => self.measured >= bound / tolerance,
        }
    }

    /// A line for the report.
    pub(super) fn line(&self) -> String {
        let Self { what, measured, unit, .. } = self;
        let bound = match self.bound {
            Bound::AtMost(bound) => format!("at most {bound}{unit}"),
            Bound::AtLeast(bound) => format!("at least {bound}{unit}"),
        };
        let verdict = if self.reached_within(1.0) { "reached" } else { "**missed**" };
        format!("Goal: {what}: {bound}; measured {measured:.2}{unit}, {verdict}.")
    }

    /// Why the bench fails, if it does.
    pub(super) fn failure(&self) -> Option<String> {
        // What could not be measured is no number, and reaches nothing.
        (self.enforced && !self.reached_within(TOLERANCE)).then(|| {
            format!("missed by more than {:.0} %: {}", (TOLERANCE - 1.0) * 100.0, self.line())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_missed_or_fails() {
        let ratio = |measured| Goal::at_most("a".to_owned(), 1.5, measured);
        assert!(ratio(1.4).line().ends_with("at most 1.5; measured 1.40, reached."));
        assert!(ratio(1.7).line().ends_with("**missed**.") && ratio(1.7).failure().is_none());
        assert!(ratio(1.9).failure().unwrap().starts_with("missed by more than 20 %: Goal: a"));
        assert!(ratio(f64::NAN).failure().is_some());
        assert!(Goal::at_least("b".to_owned(), 4.0, 3.4).failure().is_none());
        assert!(Goal::at_least("b".to_owned(), 4.0, 3.0).failure().is_some());
        assert!(Goal::seconds("c".to_owned(), 1.0, 9.0).failure().is_none());
        assert!(Goal::millions("d".to_owned(), 1.0, 0.1).failure().is_none());
        let memory = Goal::megabytes("e".to_owned(), 50.0, 50_000.0);
        assert!(memory.line().ends_with("at most 50 MB; measured 51.20 MB, **missed**."));
    }
}
