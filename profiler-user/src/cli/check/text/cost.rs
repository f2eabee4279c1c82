//! What the plan would cost, for people.

use std::io::{self, Write};

use super::short;
use crate::cli::check::cost::Costing;
use crate::plan::{CallCost, PlannedProbe, ProbePlan};
use crate::symbols::without_arguments;
use crate::ui::{count, duration, percent};

use profiler_common::ProbeId;

/// How many functions the table has.
const ROWS: usize = 10;

/// What all calls would cost together.
pub(super) fn head(costing: &Costing, plan: &ProbePlan, out: &mut impl Write) -> io::Result<()> {
    let cpus = cpus(costing.cpus);
    match costing.whole() {
        Some(share) => {
            let more =
                if share > 1.0 { ": more than there is, it would be slowed down" } else { "" };
            writeln!(out, "cost    {} of the {cpus} it may use{more}", percent(share))?;
        }
        None => writeln!(
            out,
            "cost    {}; as a share of the {cpus} it may use: --rate N, or --observe 1s",
            a_call(costing)
        )?,
    }
    if !costing.calibrated {
        writeln!(
            out,
            "        reckoned with high numbers: nothing was measured on this machine since it was \
             started; `sudo qprof doctor` does that"
        )?;
    }
    let Some(observed) = &costing.observed else { return Ok(()) };
    let called = costing.rates.iter().flatten().filter(|rate| **rate > 0.0).count();
    writeln!(
        out,
        "        calls were counted: counters were attached to {} functions for {:.2} s, and took \
         {} of processor time",
        observed.functions,
        observed.attached.as_secs_f64(),
        duration(u64::try_from(observed.spent.as_nanos()).unwrap_or(u64::MAX))
    )?;
    if called == 0 {
        writeln!(out, "        none of them was called: send queries meanwhile, or count longer")?;
    }
    let name = |id: &ProbeId| plan.probes.get(id.index()).map(name);
    let floods: Vec<String> = observed.floods.iter().filter_map(name).collect();
    if !floods.is_empty() {
        writeln!(
            out,
            "        called so often that it was counted for a moment only, and reckoned over the time the \
             counters left it: {}",
            floods.join(", ")
        )?;
    }
    Ok(())
}

/// `0.92–2.60 µs a call`.
fn a_call(costing: &Costing) -> String {
    let order = costing.dearest_first();
    let call = |probe: Option<&usize>| costing.calls.get(*probe?).map(CallCost::call_ns);
    match (call(order.last()), call(order.first())) {
        (Some(least), Some(most)) if least < most => {
            format!("{} to {} a call", duration(least), duration(most))
        }
        (Some(each), _) => format!("{} a call", duration(each)),
        (None, _) => "no function is called".to_owned(),
    }
}

/// What the calls of one function would.
pub(super) fn line(costing: &Costing, probe: ProbeId, out: &mut impl Write) -> io::Result<()> {
    let Some(cost) = costing.calls.get(probe.index()) else { return Ok(()) };
    if cost.exit_ns == 0 {
        return writeln!(out, "  cost   {} a hit", duration(cost.enter_ns));
    }
    let rare = costing.rare.get(probe.index()).map_or(0, CallCost::call_ns);
    let rare = if rare > cost.call_ns() {
        format!("; {} where calls are rare", duration(rare))
    } else {
        String::new()
    };
    let early = if cost.early_call_ns() > cost.call_ns() {
        format!("; {} until its landings stand", duration(cost.early_call_ns()))
    } else {
        String::new()
    };
    let load = match (costing.rates.get(probe.index()), costing.share(probe.index())) {
        (Some(Some(rate)), Some(share)) => {
            format!("; at {} calls a second {} of its CPUs", calls(*rate), percent(share))
        }
        _ => String::new(),
    };
    writeln!(
        out,
        "  cost   {} a call: enter {} + landing {}{rare}{early}{load}",
        duration(cost.call_ns()),
        duration(cost.enter_ns),
        duration(cost.exit_ns)
    )
}

/// The functions that would take most.
pub(super) fn dearest(costing: &Costing, plan: &ProbePlan, out: &mut impl Write) -> io::Result<()> {
    let order = costing.dearest_first();
    if order.is_empty() {
        return Ok(());
    }
    let rated = costing.whole().is_some();
    writeln!(out, "\ndearest first")?;
    for probe in order.iter().filter_map(|at| plan.probes.get(*at)).take(ROWS) {
        let at = probe.id.index();
        let cost = costing.calls.get(at).copied().unwrap_or_default();
        let load = match (costing.rates.get(at), costing.share(at)) {
            (Some(Some(rate)), Some(share)) => {
                format!("  {:>12} calls/s  {:>7}", calls(*rate), percent(share))
            }
            _ if rated => format!("  {:>12}          {:>7}", "?", "?"),
            _ => String::new(),
        };
        writeln!(out, "  {:>8} a call{load}  {}", duration(cost.call_ns()), name(probe))?;
    }
    match order.len().saturating_sub(ROWS) {
        0 => Ok(()),
        more => writeln!(out, "  and {more} more"),
    }
}

fn name(probe: &PlannedProbe) -> String {
    short(&without_arguments(&probe.function))
}

/// `2 CPUs`, `0.50 CPUs`.
fn cpus(cpus: f64) -> String {
    match cpus {
        _ if (cpus - 1.0).abs() < 1e-9 => "1 CPU".to_owned(),
        _ if cpus.fract() == 0.0 => format!("{cpus:.0} CPUs"),
        _ => format!("{cpus:.2} CPUs"),
    }
}

fn calls(rate: f64) -> String {
    #[expect(clippy::cast_sign_loss, reason = "a rate is not negative, and a cast saturates")]
    let whole = rate.round() as u64;
    if rate < 10.0 { format!("{rate:.1}") } else { count(whole) }
}
