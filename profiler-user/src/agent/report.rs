//! The end of a run: the summary, on stdout and as a file.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use super::clock;
use super::landings::LandingStats;
use super::live::Stopped;
use super::meter::{Spent, Window};
use super::outputs::{OutputError, Print, SummaryFile, worth_a_word};
use super::spending::Spending;
use crate::model::{ProbeId, Rules, Watches};
use crate::stitch::StitchStats;
use crate::ui::{Cost, ProbeCost, RunReport, TreeStyle, percent, write_summary};

/// The stitcher's counters by name, and the records that were no events.
pub(super) fn stitch_rows(stats: &StitchStats, undecodable: u64) -> Vec<(String, u64)> {
    let mut rows: Vec<(String, u64)> =
        stats.rows().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    rows.push(("undecodable".to_owned(), undecodable));
    rows
}

/// What became of return addresses, by name.
pub(super) fn landing_rows(stats: &LandingStats) -> Vec<(String, u64)> {
    let rows = [
        ("learned", stats.learned),
        ("foreseen", stats.foreseen),
        ("callers_that_return_at_once", stats.callers),
        ("landings", stats.landings),
        ("landings_single_stepped", stats.dear),
        ("landings_moved", stats.moved),
        ("landings_dropped", stats.dropped),
        ("hits", stats.hits.hits),
        ("matched", stats.hits.matched),
        ("functions_without_ret_sites", stats.retired - stats.woken),
        ("functions_with_ret_sites_again", stats.woken),
        ("postponed", stats.postponed),
        ("unknown_births", stats.unknown_births),
    ];
    let rows = rows.map(|(name, count)| (name.to_owned(), count));
    let refused = stats.refused.iter().map(|(why, count)| (format!("refused: {why}"), *count));
    rows.into_iter().chain(refused).collect()
}

/// What a run has cost.
pub(super) fn cost(rules: &Rules, stopped: &Stopped, observed: Duration) -> Cost {
    let spending = &stopped.spending;
    let probes = (0..rules.probes.len()).filter_map(|probe| u16::try_from(probe).ok());
    let of_probes: u64 = probes.map(|probe| stopped.counts.hits(ProbeId(probe))).sum();
    let of_landings = stopped.landings.as_ref().map_or(0, |landings| landings.hits.hits);
    let hits = of_probes + of_landings;
    let available = observed.as_nanos() as f64 * spending.cpus();
    let of_available = |ns: f64| if available > 0.0 { ns / available } else { 0.0 };
    let detached = spending.given_up().iter().filter_map(|given_up| {
        let (span, function) = names(rules, given_up.probe)?;
        Some(ProbeCost { span, function, share: given_up.share, rate: given_up.rate })
    });
    Cost {
        hits,
        agent_share: clock::cpu_time().as_secs_f64() / observed.as_secs_f64().max(1e-3),
        cpus: spending.cpus(),
        calibrated: spending.costs().measured,
        target_share: spending.share(),
        bpf_share: stopped.run_time_ns.map(|ns| of_available(ns * hits as f64)),
        probes: dearest(spending.all(), spending.cpus(), rules, usize::MAX),
        detached: detached.collect(),
    }
}

/// One line on what the probes cost, by the calls seen so far; none as long as there were none.
pub(super) fn early_cost(spending: &Spending, rules: &Rules) -> Option<String> {
    let share = spending.share().filter(|share| *share > 0.0)?;
    let (all, cpus) = (spending.all(), spending.cpus());
    let dearest: Vec<String> = dearest(all, cpus, rules, 3)
        .iter()
        .map(|probe| format!("{} {} ({:.0} calls/s)", probe.span, percent(probe.share), probe.rate))
        .collect();
    let assumed =
        if spending.costs().measured { "" } else { "; by assumed costs: `qprof doctor` measures" };
    Some(format!(
        "cost: {} of the {cpus:.3} CPUs the target may use, in the first {:.1} s; dearest: {}{assumed}\n",
        percent(share),
        all.time.as_secs_f64(),
        dearest.join(", ")
    ))
}

/// The probes that cost something, the dearest first.
fn dearest(window: &Window, cpus: f64, rules: &Rules, most: usize) -> Vec<ProbeCost> {
    let (time, seconds) = (window.time.as_nanos() as f64 * cpus, window.time.as_secs_f64());
    let mut spent: Vec<(usize, Spent)> = window.probes.iter().copied().enumerate().collect();
    spent.retain(|(_, spent)| spent.ns > 0.0);
    spent.sort_by(|(_, a), (_, b)| b.ns.total_cmp(&a.ns));
    let of = |(probe, spent): (usize, Spent)| {
        let (span, function) = names(rules, ProbeId(u16::try_from(probe).ok()?))?;
        let (share, rate) = (spent.ns / time, spent.calls as f64 / seconds);
        Some(ProbeCost { span, function, share, rate })
    };
    spent.into_iter().filter_map(of).take(most).collect()
}

/// The span and the function of a probe.
fn names(rules: &Rules, probe: ProbeId) -> Option<(Arc<str>, Arc<str>)> {
    let rule = rules.probes.get(probe.index())?;
    let span = rule.span.and_then(|span| rules.spans.get(usize::from(span)));
    let other = match rule.watches {
        Watches::Calls => "hand-off",
        Watches::Unwinding | Watches::Jumping => "witness",
        Watches::Loading => "loader",
    };
    let span = span.map_or_else(|| Arc::from(other), |span| Arc::clone(&span.name));
    Some((span, Arc::clone(&rule.function)))
}

/// Spans that were to be exported and were not.
pub(super) fn unsent(report: &RunReport) -> u64 {
    let outputs = report.otlp.iter().chain(&report.file);
    outputs.map(|output| output.stats.failed + output.stats.dropped).sum()
}

/// Prints the summary where it is wanted, and says whether stdout could be written all along.
pub(super) fn print(
    report: &RunReport,
    print: Print,
    style: TreeStyle,
    file: Option<SummaryFile>,
    mut stdout_error: Option<io::Error>,
) -> Result<(), OutputError> {
    if matches!(print, Print::Summary | Print::Tree) {
        let mut text = String::new();
        if write_summary(&mut text, report, style).is_err() {
            tracing::error!("the summary could not be written as text");
        }
        let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        stdout_error = stdout_error.or(written.err().and_then(worth_a_word));
    }
    file.map_or(Ok(()), |file| file.write(report))?;
    stdout_error.map_or(Ok(()), |error| Err(OutputError::Stdout(error)))
}
