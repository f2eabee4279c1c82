//! What the hits of a probe have cost the target: what was counted, times what was calibrated.

use profiler_common::{ProbeCount, Role};

use super::{CostClass, Costs, PlannedProbe};

/// What the hits of one probe cost, nanoseconds each.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Price {
    /// To come to an enter site and back.
    enter: f64,
    /// To record a call there.
    entered: f64,
    /// To come to an exit site and back.
    exit: f64,
    /// To come to a landing and back.
    landing: f64,
    /// To record that a call has ended.
    ended: f64,
}

impl Price {
    /// Of a probe, by its dearest sites.
    #[must_use]
    pub fn of(probe: &PlannedProbe, costs: &Costs) -> Self {
        let dearest = |roles: &[Role]| {
            let sites = probe.sites.iter().filter(|site| roles.contains(&site.role));
            sites.map(|site| site.cost).max().map_or(0.0, |class| costs.trap_of(class))
        };
        Self {
            // What the runtime of Go tells is counted as an enter, and no probe has both.
            enter: dearest(&[Role::Enter, Role::GoRuntime]),
            entered: costs.event_of(probe.at_enter.len),
            exit: dearest(&[Role::Ret]),
            landing: costs.trap_of(CostClass::Emulated),
            ended: costs.landing + costs.event_of(probe.at_ret.len) - costs.event_of(0),
        }
    }

    /// What so many hits have cost, nanoseconds. Calls that are folded take as long as if they were
    /// recorded: they are kept in tables instead.
    #[must_use]
    pub fn ns(&self, count: &ProbeCount) -> f64 {
        self.with_exits_at(self.exit, count)
    }

    /// What they would have cost if all calls had come back to landings, as they do once these are known.
    #[must_use]
    pub fn settled_ns(&self, count: &ProbeCount) -> f64 {
        self.with_exits_at(self.landing.min(self.exit), count)
    }

    fn with_exits_at(&self, exit: f64, count: &ProbeCount) -> f64 {
        let recorded = count.enters.saturating_sub(count.quiet);
        let exits = count.exits as f64 * (exit + self.ended);
        count.enters as f64 * self.enter
            + recorded as f64 * self.entered
            + exits
            + count.landed as f64 * (self.landing + self.ended)
    }
}

/// What has been counted since `before`.
#[must_use]
pub const fn since(before: &ProbeCount, now: &ProbeCount) -> ProbeCount {
    ProbeCount {
        enters: now.enters.saturating_sub(before.enters),
        quiet: now.quiet.saturating_sub(before.quiet),
        unlanded: now.unlanded.saturating_sub(before.unlanded),
        exits: now.exits.saturating_sub(before.exits),
        landed: now.landed.saturating_sub(before.landed),
        sent: now.sent.saturating_sub(before.sent),
        lost: now.lost.saturating_sub(before.lost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRICE: Price =
        Price { enter: 100.0, entered: 50.0, exit: 1_000.0, landing: 90.0, ended: 40.0 };

    fn ns(count: ProbeCount) -> f64 {
        PRICE.ns(&count)
    }

    #[test]
    fn each_hit_has_its_price() {
        let none = ProbeCount::default();
        let is = |ns: f64, expected: f64| assert!((ns - expected).abs() < 1e-6, "{ns}");
        is(ns(none), 0.0);
        is(ns(ProbeCount { enters: 2, landed: 1, ..none }), 2.0 * 150.0 + 130.0);
        is(ns(ProbeCount { enters: 10, quiet: 10, ..none }), 1_000.0);
        is(ns(ProbeCount { exits: 1, ..none }), 1_040.0);
        is(PRICE.settled_ns(&ProbeCount { enters: 1, exits: 1, ..none }), 150.0 + 130.0);
        let (before, now) = (
            ProbeCount { enters: 3, quiet: 1, ..none },
            ProbeCount { enters: 5, quiet: 2, ..none },
        );
        assert_eq!(since(&before, &now), ProbeCount { enters: 2, quiet: 1, ..none });
    }
}
