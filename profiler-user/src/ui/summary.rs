//! The report as text: the last thing a run says.

use std::fmt;

use super::format::{clean, count, duration, percent, plural};
use super::line::{Line, Style};
use super::report::{Cost, ExportReport, ProbeCost, RunReport};
use super::tree::{TreeStyle, stage_style, write_tree};
use crate::analysis::Histogram;

/// Of each of the slowest traces, at most so many spans are shown.
const MAX_SPANS: usize = 40;
/// Silent probes are named up to this many.
const MAX_SILENT: usize = 12;
/// So many of the dearest functions are named.
const DEAREST: usize = 4;
/// Where the text of a fact begins.
const LABEL: usize = 12;

/// Writes the final summary: traces by root, stages, the slowest trees, and what was lost, sent,
/// spent, and never seen.
///
/// # Errors
///
/// Only those of `out`.
pub fn write_summary(
    out: &mut dyn fmt::Write,
    report: &RunReport,
    style: TreeStyle,
) -> fmt::Result {
    let mut text = Text { out, style };
    head(&mut text, report)?;
    roots(&mut text, report)?;
    stages(&mut text, report)?;
    slowest(&mut text, report)?;
    facts(&mut text, report)?;
    silent(&mut text, report)
}

struct Text<'a> {
    out: &'a mut dyn fmt::Write,
    style: TreeStyle,
}

impl Text<'_> {
    fn line(&mut self, line: &Line) -> fmt::Result {
        line.end(self.out, self.style.colour, self.style.width)
    }

    fn blank(&mut self) -> fmt::Result {
        self.out.write_char('\n')
    }

    fn fact(&mut self, label: &str, text: &str, style: Style) -> fmt::Result {
        let mut line = Line::default();
        line.left(label, LABEL, Style::Dim).add(clean(text), style);
        self.line(&line)
    }
}

fn head(text: &mut Text<'_>, report: &RunReport) -> fmt::Result {
    let summary = &report.summary;
    let mut line = Line::default();
    line.add(clean(&report.target), Style::Bold);
    line.add(format!(" · map {}", clean(&report.map)), Style::Dim);
    line.add(format!(" · {:.1} s observed", report.observed.as_secs_f64()), Style::Dim);
    if let Some(attach) = report.attach {
        line.add(format!(" · attached in {:.2} s", attach.as_secs_f64()), Style::Dim);
    }
    text.line(&line)?;

    let mut line = Line::default();
    line.add(plural(summary.traces, "trace"), Style::Bold);
    let seconds = report.observed.as_secs_f64();
    if summary.traces > 0 && seconds > 0.0 {
        line.add(format!(" ({:.1}/s)", summary.traces as f64 / seconds), Style::Dim);
    }
    line.add(format!(" · {}", plural(summary.spans, "span")), Style::Plain);
    let bad = |number: u64| if number == 0 { Style::Green } else { Style::Red };
    line.add(" · ", Style::Plain).add(format!("{} lost", count(report.lost)), bad(report.lost));
    line.add(" · ", Style::Plain);
    line.add(plural(report.orphans, "orphan"), bad(report.orphans));
    if summary.incomplete > 0 {
        line.add(format!(" · {} incomplete", count(summary.incomplete)), Style::Yellow);
    }
    if summary.late > 0 {
        line.add(format!(" · {}", plural(summary.late, "late part")), Style::Yellow);
    }
    text.line(&line)
}

fn roots(text: &mut Text<'_>, report: &RunReport) -> fmt::Result {
    let summary = &report.summary;
    if summary.roots.is_empty() {
        return Ok(());
    }
    let width = widest(summary.roots.keys().map(|name| &**name), "traces");
    text.blank()?;
    let mut line = Line::default();
    line.left("traces", width, Style::Bold).right("count", 10, Style::Dim);
    times_head(&mut line);
    line.right("max", 10, Style::Dim);
    text.line(&line)?;
    for (name, histogram) in &summary.roots {
        let mut line = Line::default();
        line.left(&clean(name), width, Style::Plain);
        line.right(&count(histogram.count()), 10, Style::Plain);
        times(&mut line, histogram);
        line.right(&duration(histogram.max()), 10, Style::Plain);
        text.line(&line)?;
    }
    Ok(())
}

fn stages(text: &mut Text<'_>, report: &RunReport) -> fmt::Result {
    let summary = &report.summary;
    let mut stages: Vec<_> = summary.stages.iter().collect();
    if stages.is_empty() {
        return Ok(());
    }
    // By self time: what a stage took itself, not what it waited for within it.
    stages.sort_by_key(|(_, stage)| std::cmp::Reverse(stage.self_time));
    let width = widest(summary.stages.keys().map(|name| &**name), "stages");
    text.blank()?;
    let mut line = Line::default();
    line.left("stages", width, Style::Bold).right("spans", 10, Style::Dim);
    times_head(&mut line);
    line.right("share", 10, Style::Dim).right("self", 8, Style::Dim);
    text.line(&line)?;
    for (name, stage) in stages {
        let self_share = stage.self_share(summary.durations.sum());
        let mut line = Line::default();
        line.left(&clean(name), width, stage_style(name));
        line.right(&count(stage.spans), 10, Style::Plain);
        times(&mut line, &stage.per_trace);
        line.right(&percent(stage.share(summary.durations.sum())), 10, Style::Plain);
        line.right(&percent(self_share), 8, Style::Plain).blanks(2);
        line.add(gauge(self_share), stage_style(name));
        text.line(&line)?;
    }
    Ok(())
}

fn slowest(text: &mut Text<'_>, report: &RunReport) -> fmt::Result {
    for (index, trace) in report.summary.slowest.iter().enumerate() {
        text.blank()?;
        if index == 0 {
            let mut line = Line::default();
            line.add("slowest", Style::Bold);
            line.add("  ━ on the critical path, ─ beside it", Style::Dim);
            text.line(&line)?;
        }
        let style = TreeStyle { max_spans: Some(MAX_SPANS), ..text.style };
        write_tree(text.out, trace, &report.threads, style)?;
    }
    Ok(())
}

fn facts(text: &mut Text<'_>, report: &RunReport) -> fmt::Result {
    let summary = &report.summary;
    text.blank()?;
    if !summary.evidence.is_empty() {
        text.fact("evidence", &counters(summary.evidence.iter()), Style::Plain)?;
    }
    if !summary.exits.is_empty() {
        text.fact("exits", &counters(summary.exits.iter()), Style::Plain)?;
    }
    let lists =
        [("stitch", &report.stitch), ("kernel", &report.kernel), ("landings", &report.landings)];
    for (label, list) in lists {
        let told = list.iter().filter(|(_, count)| *count > 0).map(|(name, count)| (name, count));
        let told = counters(told);
        if !told.is_empty() {
            text.fact(label, &told, Style::Plain)?;
        }
    }
    for (label, export) in [("exported", &report.otlp), ("written", &report.file)] {
        if let Some(export) = export {
            exported(text, label, export)?;
        }
    }
    report.cost.as_ref().map_or(Ok(()), |cost| spent(text, cost))
}

fn spent(text: &mut Text<'_>, cost: &Cost) -> fmt::Result {
    let mut told = Vec::new();
    if let Some(share) = cost.target_share {
        let cpus = format!("{:.3}", cost.cpus);
        let cpus = cpus.trim_end_matches('0').trim_end_matches('.');
        let assumed = if cost.calibrated { "" } else { ", by assumed costs" };
        let programs = cost.bpf_share.map(|bpf| format!(", {} in programs", percent(bpf)));
        told.push(format!(
            "{} of the {cpus} CPUs the target may use{}{assumed}",
            percent(share),
            programs.unwrap_or_default()
        ));
    }
    told.push(plural(cost.hits, "probe hit"));
    told.push(format!("qprof itself {} of one core", percent(cost.agent_share)));
    text.fact("cost", &told.join(" · "), Style::Plain)?;
    let of = |probe: &ProbeCost| format!("{} {}", probe.span, percent(probe.share));
    let dearest: Vec<String> = cost.probes.iter().take(DEAREST).map(of).collect();
    if !dearest.is_empty() {
        text.fact("dearest", &dearest.join(" · "), Style::Plain)?;
    }
    for probe in &cost.detached {
        let ProbeCost { span, function, share, rate } = probe;
        let told = format!("{span} ({function}) at {}, {rate:.0} calls/s", percent(*share));
        text.fact("detached", &told, Style::Yellow)?;
    }
    Ok(())
}

fn exported(text: &mut Text<'_>, label: &str, export: &ExportReport) -> fmt::Result {
    let stats = &export.stats;
    let failed = stats.failed + stats.dropped;
    let mut told = vec![format!("{} to {}", plural(stats.sent, "span"), export.to)];
    if stats.failed > 0 {
        told.push(format!("{} failed", count(stats.failed)));
    }
    if stats.dropped > 0 {
        told.push(format!("{} dropped (queue full)", count(stats.dropped)));
    }
    let told = told.join(" · ");
    text.fact(label, &told, if failed == 0 { Style::Plain } else { Style::Red })?;
    match &stats.last_error {
        Some(error) if failed > 0 => text.fact("", error, Style::Red),
        _ => Ok(()),
    }
}

/// Which probes never fired, and what to try.
fn silent(text: &mut Text<'_>, report: &RunReport) -> fmt::Result {
    let silent: Vec<_> = report.silent().collect();
    if silent.is_empty() {
        return Ok(());
    }
    let none_fired = silent.len() == report.probes.len();
    text.blank()?;
    let mut line = Line::default();
    if none_fired {
        line.add("nothing fired", Style::Red);
        line.add(
            format!(": none of {} was called", plural(silent.len() as u64, "function")),
            Style::Plain,
        );
    } else {
        line.add("never called", Style::Yellow);
    }
    text.line(&line)?;
    let name = |probe: &super::ProbeHits| {
        probe
            .span
            .as_deref()
            .map_or_else(|| "(hand-off)".to_owned(), |span| clean(span).into_owned())
    };
    let names: Vec<String> = silent.iter().take(MAX_SILENT).map(|probe| name(probe)).collect();
    let width = widest(names.iter().map(String::as_str), "");
    for (probe, name) in silent.iter().zip(&names) {
        let mut line = Line::default();
        line.blanks(2).left(name, width + 2, Style::Plain);
        line.add(format!("{} in {}", clean(&probe.function), clean(&probe.object)), Style::Dim);
        text.line(&line)?;
    }
    if silent.len() > names.len() {
        let mut line = Line::default();
        line.add(format!("  … and {} more", silent.len() - names.len()), Style::Dim);
        text.line(&line)?;
    }
    let root_fired = report.summary.traces > 0;
    let hints: &[&str] = if none_fired {
        &[
            "send the server a query while qprof is attached, or observe longer: --duration 60s",
            "if it answers queries, another process may do it: pgrep -a NAME, then -p that pid",
            "see which functions this process has: qprof symbols PID PATTERN",
            "see what the map found in it: qprof check -p PID -m MAP",
        ]
    } else if !root_fired {
        &[
            "functions were called but no root: queries may take a way that the map does not name",
            "or set orphans = \"keep\" in the map to see what was called",
        ]
    } else {
        &["these functions may serve other requests than those that came"]
    };
    for hint in hints {
        let mut line = Line::default();
        line.add("  → ", Style::Cyan).add(*hint, Style::Plain);
        text.line(&line)?;
    }
    Ok(())
}

fn times_head(line: &mut Line) {
    for name in ["p50", "p95", "p99"] {
        line.right(name, 10, Style::Dim);
    }
}

fn times(line: &mut Line, histogram: &Histogram) {
    for percent in [50, 95, 99] {
        line.right(&duration(histogram.percentile(percent)), 10, Style::Plain);
    }
}

/// `stack 2,400 · handoff:plan 800`.
fn counters<'a, N: fmt::Display>(list: impl Iterator<Item = (N, &'a u64)>) -> String {
    let told: Vec<String> =
        list.map(|(name, number)| format!("{name} {}", count(*number))).collect();
    told.join(" · ")
}

fn widest<'a>(names: impl Iterator<Item = &'a str>, least: &str) -> usize {
    names.map(|name| name.chars().count()).max().unwrap_or(0).max(least.len())
}

/// A share as a bar of up to ten cells, eighths of a cell exactly.
fn gauge(share: f64) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    #[expect(clippy::cast_sign_loss, reason = "clamped to 0..=1 before")]
    let eighths = (share.clamp(0.0, 1.0) * 80.0).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

#[cfg(test)]
mod tests;
