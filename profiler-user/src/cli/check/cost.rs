//! What the plan would cost: the calls of each function, and with their rates the shares.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

use super::watches;
use crate::agent::{Endings, Observed, Prepared, observe};
use crate::config::nearest;
use crate::model::Watches;
use crate::plan::{CallCost, Ends, Kernel, PlannedProbe, call_costs, dearest_first};
use crate::symbols::{glob, without_arguments};
use crate::target::allowed_cpus;
use crate::units;

use profiler_common::ProbeId;

/// How many names are offered for one that nothing is called.
const OFFERED: usize = 3;

/// `N` or `NAME=N`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RateArg {
    /// A span, or functions by a glob; none: all.
    name: Option<String>,
    per_second: f64,
}

impl FromStr for RateArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A function may be called `operator=`.
        match text.rsplit_once('=') {
            Some(("", _)) => Err(format!("`{text}` names no function: write NAME=N, or only N")),
            Some((name, rate)) => {
                Ok(Self { name: Some(name.to_owned()), per_second: units::rate(rate)? })
            }
            None => Ok(Self { name: None, per_second: units::rate(text)? }),
        }
    }
}

/// A rate is of nothing that would be probed.
#[derive(Debug, Error)]
#[error(
    "--rate {name}=…: no span and no function that would be probed is called `{name}`{}. A span's \
     name or a glob of function names is needed; `qprof check` without --rate lists them",
    offer(.offered)
)]
pub(in crate::cli) struct UnknownName {
    name: String,
    offered: Vec<String>,
}

fn offer(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" (like it: {})", names.join(", ")) }
}

/// What the plan would cost. By probe: their indices are those of the plan.
#[derive(Debug)]
pub(super) struct Costing {
    pub(super) calls: Vec<CallCost>,
    /// The same where calls are rare.
    pub(super) rare: Vec<CallCost>,
    /// Calls a second, where they were counted or told.
    pub(super) rates: Vec<Option<f64>>,
    /// Which probes are of functions, and not witnesses of what seldom happens.
    functions: Vec<bool>,
    /// How many CPUs the target may use.
    pub(super) cpus: f64,
    /// The costs were measured on this machine.
    pub(super) calibrated: bool,
    pub(super) observed: Option<Observed>,
}

impl Costing {
    /// Reckons, and counts calls first if that is wanted.
    pub(super) fn of(
        prepared: &Prepared,
        endings: &HashMap<ProbeId, Endings>,
        kernel: Kernel,
        rates: &[RateArg],
        observing: Option<Duration>,
    ) -> anyhow::Result<Self> {
        let plan = &prepared.plan;
        let is_function = |probe: &PlannedProbe| watches(plan, probe) == Watches::Calls;
        let functions: Vec<bool> = plan.probes.iter().map(is_function).collect();
        let told = told(&plan.probes, &functions, rates)?;
        let observed = match observing {
            Some(time) => Some(observe(plan, &prepared.target, kernel, time)?),
            None => None,
        };
        let usual = rates.iter().rev().find(|rate| rate.name.is_none()).map(|rate| rate.per_second);
        let counted = |at: usize| observed.as_ref()?.rates.get(at).copied()?;
        let rate = |(at, told): (usize, Option<f64>)| {
            told.or_else(|| counted(at))
                .or_else(|| usual.filter(|_| functions.get(at).copied().unwrap_or(false)))
        };
        let ends = |id| endings.get(&id).map_or_else(Ends::default, Endings::ends);
        let rates: Vec<Option<f64>> = told.into_iter().enumerate().map(rate).collect();
        // A call is two hits. Of a target that was not looked at: as if it kept one CPU busy.
        let busy = observed.as_ref().and_then(|observed| observed.busy).unwrap_or(1.0);
        let hits = rates.iter().flatten().map(|rate| 2.0 * rate / busy);
        let hits = hits.reduce(|sum, rate| sum + rate);
        let costs = hits.map_or(kernel.costs, |hits| kernel.costs.at(hits));
        Ok(Self {
            calls: call_costs(plan, &costs, &ends),
            rare: call_costs(plan, &kernel.costs.at(0.0), &ends),
            rates,
            functions,
            cpus: allowed_cpus(prepared.target.pid),
            calibrated: kernel.costs.measured,
            observed,
        })
    }

    /// What a probe would take, where its rate is known; 1 is all the CPUs.
    pub(super) fn share(&self, probe: usize) -> Option<f64> {
        let rate = self.rates.get(probe).copied()??;
        Some(self.calls.get(probe)?.share(rate, self.cpus))
    }

    /// The same of all together.
    pub(super) fn whole(&self) -> Option<f64> {
        (0..self.calls.len()).filter_map(|probe| self.share(probe)).reduce(|sum, share| sum + share)
    }

    /// The probes of functions, those that take most first.
    pub(super) fn dearest_first(&self) -> Vec<usize> {
        let mut order = dearest_first(&self.calls, &|probe| self.share(probe));
        order.retain(|probe| self.functions.get(*probe).copied().unwrap_or(false));
        order
    }
}

/// The rates that are told by name, by probe; the last one that fits counts.
fn told(
    probes: &[PlannedProbe],
    functions: &[bool],
    rates: &[RateArg],
) -> Result<Vec<Option<f64>>, UnknownName> {
    let mut told = vec![None; probes.len()];
    for RateArg { name, per_second } in rates {
        let Some(name) = name else { continue };
        let mut fits = false;
        for ((probe, told), _) in
            probes.iter().zip(&mut told).zip(functions).filter(|(_, is_function)| **is_function)
        {
            if probe.span.as_deref() == Some(name.as_str()) || is_called(probe, name) {
                fits = true;
                *told = Some(*per_second);
            }
        }
        if !fits {
            let known = probes.iter().zip(functions).filter(|(_, is_function)| **is_function);
            let names: Vec<String> = known
                .flat_map(|(probe, _)| {
                    let span = probe.span.as_deref().map(str::to_owned);
                    span.into_iter().chain([without_arguments(&probe.function)])
                })
                .collect();
            let mut offered: Vec<String> =
                nearest(name, names.iter().map(String::as_str), OFFERED * 2)
                    .into_iter()
                    .map(str::to_owned)
                    .collect();
            offered.dedup();
            offered.truncate(OFFERED);
            return Err(UnknownName { name: name.clone(), offered });
        }
    }
    Ok(told)
}

fn is_called(probe: &PlannedProbe, pattern: &str) -> bool {
    glob(pattern, &probe.function) || glob(pattern, &without_arguments(&probe.function))
}

#[cfg(test)]
mod tests {
    use profiler_common::CaptureProgram;

    use super::*;
    use crate::target::ObjectId;

    fn probe(id: u16, span: Option<&str>, function: &str) -> PlannedProbe {
        PlannedProbe {
            id: ProbeId(id),
            function: function.into(),
            object: ObjectId(0),
            span: span.map(Into::into),
            copies: 1,
            sites: Vec::new(),
            at_enter: CaptureProgram::default(),
            at_ret: CaptureProgram::default(),
            exits_with: ProbeId(id),
            notes: Vec::new(),
        }
    }

    fn args(texts: &[&str]) -> Vec<RateArg> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_rate_is_of_all_or_of_what_it_names() {
        let [all, one] = ["500k", "Engine::operator==1e6"].map(str::parse::<RateArg>);
        assert_eq!(all, Ok(RateArg { name: None, per_second: 5e5 }));
        let name = Some("Engine::operator=".to_owned());
        assert_eq!(one, Ok(RateArg { name, per_second: 1e6 }));
        for wrong in ["=5", "scan=", "scan", "scan=fast", ""] {
            assert!(wrong.parse::<RateArg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_spans_or_globs_of_functions() {
        let probes = [
            probe(0, Some("scan"), "Engine::Scan(int)"),
            probe(1, None, "Engine::Sort(int, int)"),
            probe(2, None, "Witness"),
        ];
        let functions = [true, true, false];
        let of = |texts: &[&str]| told(&probes, &functions, &args(texts));
        assert_eq!(of(&["scan=5", "9"]).unwrap(), [Some(5.0), None, None]);
        assert_eq!(of(&["Engine::S*=5", "*Sort=7"]).unwrap(), [Some(5.0), Some(7.0), None]);
        assert_eq!(of(&["Engine::Sort(int, int)=1"]).unwrap(), [None, Some(1.0), None]);
        let error = of(&["Engine::Sor=5"]).unwrap_err().to_string();
        assert!(error.contains("like it: Engine::Sort"), "{error}");
        let error = of(&["Witness=5"]).unwrap_err().to_string();
        assert!(!error.contains("like it"), "{error}");
    }
}
