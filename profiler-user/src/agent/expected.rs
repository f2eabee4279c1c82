//! The line on what calls will cost, before anything of a plan is attached.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use profiler_common::ProbeId;

use super::Prepared;
use super::endings::ends_foreseen;
use super::live::Exits;
use crate::model::Watches;
use crate::plan::{Costs, Ends, ProbePlan, call_costs};
use crate::symbols::without_arguments;
use crate::ui::duration;

/// How many functions are named with their cost, and how long their names may be.
const COSTED: usize = 3;
const NAME: usize = 60;

/// What a call of each function will cost.
#[derive(Debug, Default)]
pub(super) struct Expected(BTreeMap<String, Call>);

/// Nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Call {
    /// Once its landings stand, of many.
    many: u64,
    /// The same of few.
    rare: u64,
    /// Until its landings stand.
    early: u64,
}

impl Expected {
    /// Adds a prepared plan, with what is known of its symbols; the same functions of several
    /// processes count once.
    pub(super) fn add_prepared(&mut self, prepared: &Prepared, costs: &Costs, exits: Exits) {
        let foreseen = ends_foreseen(prepared);
        let ends = |id| foreseen.get(&id).copied().unwrap_or_default();
        self.add(&prepared.plan, costs, exits, &ends);
    }

    /// Of a plan of which it is not looked up where its calls come back.
    pub(super) fn of_plan(plan: &ProbePlan, costs: &Costs, exits: Exits) -> Self {
        let mut expected = Self::default();
        expected.add(plan, costs, exits, &|_| Ends::default());
        expected
    }

    fn add(
        &mut self,
        plan: &ProbePlan,
        costs: &Costs,
        exits: Exits,
        ends: &dyn Fn(ProbeId) -> Ends,
    ) {
        let ends = |id| match exits {
            Exits::Landings => ends(id),
            Exits::Rets => Ends::RETS,
        };
        let (calls, rare) =
            (call_costs(plan, costs, &ends), call_costs(plan, &costs.at(0.0), &ends));
        for ((probe, cost), rare) in plan.probes.iter().zip(&calls).zip(&rare) {
            let rule = plan.rules.probes.get(probe.id.index());
            if rule.is_none_or(|rule| rule.watches == Watches::Calls) {
                let name = without_arguments(&probe.function);
                let call = self.0.entry(name).or_default();
                call.many = cost.call_ns().max(call.many);
                call.rare = rare.call_ns().max(call.rare);
                call.early = cost.early_call_ns().max(call.early);
            }
        }
    }

    /// As a line; none where nothing is called. `measured`: on this machine.
    pub(super) fn line(&self, measured: bool) -> Option<String> {
        let mut dearest: Vec<(u64, &str)> =
            self.0.iter().map(|(name, call)| (call.many, name.as_str())).collect();
        dearest.sort_by_key(|(call, _)| Reverse(*call));
        let ((most, _), (least, _)) = (dearest.first()?, dearest.last()?);
        let calls = if most == least {
            duration(*most)
        } else {
            format!("{} to {}", duration(*least), duration(*most))
        };
        let most_of = |of: fn(&Call) -> u64| self.0.values().map(of).max().filter(|ns| ns > most);
        let rare = most_of(|call| call.rare);
        let rare = rare.map(|ns| format!("{} where calls are rare", duration(ns)));
        let early = most_of(|call| call.early);
        let early = early
            .map(|ns| format!("up to {} until it is known where calls come back", duration(ns)));
        let more: Vec<String> = rare.into_iter().chain(early).collect();
        let early = if more.is_empty() { String::new() } else { format!(" ({})", more.join(", ")) };
        let named = dearest.iter().take(COSTED).map(|(ns, name)| {
            let name: String = name.chars().take(NAME).collect();
            format!("{name} {}", duration(*ns))
        });
        let named: Vec<String> = named.collect();
        let more = match dearest.len().saturating_sub(COSTED) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let assumed = if measured { "" } else { "; assumed, not measured here" };
        let named = named.join(", ");
        Some(format!("cost: {calls} a call{early}, dearest first: {named}{more}{assumed}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dearest_are_named() {
        let mut expected = Expected::default();
        assert_eq!(expected.line(true), None);
        let call = |many, rare, early| Call { many, rare, early };
        expected.0.insert("f".to_owned(), call(2_500, 2_500, 2_500));
        let line = expected.line(true).unwrap();
        assert_eq!(line, "cost: 2.50 µs a call, dearest first: f 2.50 µs\n");
        for name in ["g", "h", "i"] {
            expected.0.insert(name.to_owned(), call(1_000, 6_000, 11_000));
        }
        let line = expected.line(false).unwrap();
        assert_eq!(
            line,
            "cost: 1.00 µs to 2.50 µs a call (6.00 µs where calls are rare, up to 11.0 µs until it is known \
             where calls come back), dearest first: f 2.50 µs, g 1.00 µs, h 1.00 µs, and 1 more; assumed, not measured here\n"
        );
    }
}
