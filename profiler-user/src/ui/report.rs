//! All that is told at the end of a run, as one plain struct, and as JSON.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::analysis::{Histogram, Summary};
use crate::model::ThreadNames;
use crate::sink::ExportStats;

/// A run, told at its end.
#[derive(Clone, Debug, Default)]
pub struct RunReport {
    /// The target, for people: `milvus (pid 4711)`; of a replay, the recording.
    pub target: String,
    /// The symbol map's name.
    pub map: String,
    /// How long attaching took; none in a replay.
    pub attach: Option<Duration>,
    /// How long was observed.
    pub observed: Duration,
    /// What the traces tell.
    pub summary: Summary,
    /// Events lost between kernel and stitcher.
    pub lost: u64,
    /// Spans without a parent that are no roots.
    pub orphans: u64,
    /// The stitcher's counters by name.
    pub stitch: Vec<(String, u64)>,
    /// The kernel side's counters by name.
    pub kernel: Vec<(String, u64)>,
    /// What became of return addresses, by name; empty where exits are observed at `ret`s only.
    pub landings: Vec<(String, u64)>,
    /// What went out over OTLP, if asked for.
    pub otlp: Option<ExportReport>,
    /// What went into a file, if asked for.
    pub file: Option<ExportReport>,
    /// How often each probed function was entered.
    pub probes: Vec<ProbeHits>,
    /// What it cost, if known.
    pub cost: Option<Cost>,
    /// Thread names, for the slowest traces.
    pub threads: ThreadNames,
}

/// Where traces went, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportReport {
    /// The endpoint or file.
    pub to: String,
    /// What became of the spans.
    pub stats: ExportStats,
}

/// How often a probed function was entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeHits {
    /// The function.
    pub function: Arc<str>,
    /// The object it lives in.
    pub object: Arc<str>,
    /// Its span's name; none for a hand-off's side.
    pub span: Option<Arc<str>>,
    /// How often; 0: silent.
    pub hits: u64,
}

/// What it cost. Shares are of the CPU time the target may use: 1 is all of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// How often any site was hit.
    pub hits: u64,
    /// Which share of one core Qprof itself used while it ran.
    pub agent_share: f64,
    /// CPUs that the target may use.
    pub cpus: f64,
    /// By what was measured on this machine; false: by what is assumed.
    pub calibrated: bool,
    /// What all hits took from the target; none if it was not looked at.
    pub target_share: Option<f64>,
    /// What of it our programs in the kernel ran, if the kernel told.
    pub bpf_share: Option<f64>,
    /// By function, the dearest first.
    pub probes: Vec<ProbeCost>,
    /// What was detached because it cost too much, with what it cost then.
    pub detached: Vec<ProbeCost>,
}

/// What one function cost.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeCost {
    /// Its span's name, or what else it is probed for.
    pub span: Arc<str>,
    /// The function.
    pub function: Arc<str>,
    /// Of the CPU time the target may use.
    pub share: f64,
    /// Calls a second.
    pub rate: f64,
}

impl RunReport {
    /// The functions that were never entered.
    pub fn silent(&self) -> impl Iterator<Item = &ProbeHits> {
        self.probes.iter().filter(|probe| probe.hits == 0)
    }
}

/// Writes the report as JSON, one object and a line break. Times are microseconds unless the key
/// says otherwise.
///
/// # Errors
///
/// Only those of `out`.
pub fn write_json(mut out: impl io::Write, report: &RunReport) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut out, &Json::of(report))?;
    out.write_all(b"\n")
}

#[derive(Serialize)]
struct Json<'a> {
    target: &'a str,
    map: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attach_s: Option<f64>,
    observed_s: f64,
    traces: u64,
    incomplete: u64,
    late_parts: u64,
    spans: u64,
    lost: u64,
    orphans: u64,
    roots: BTreeMap<&'a str, Times>,
    stages: BTreeMap<&'a str, Stage>,
    evidence: &'a BTreeMap<String, u64>,
    exits: &'a BTreeMap<&'static str, u64>,
    stitch: BTreeMap<&'a str, u64>,
    kernel: BTreeMap<&'a str, u64>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    landings: BTreeMap<&'a str, u64>,
    export: Export<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<Export<'a>>,
    silent: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<CostJson<'a>>,
}

#[derive(Serialize)]
struct Times {
    count: u64,
    p50_us: f64,
    p95_us: f64,
    p99_us: f64,
    max_us: f64,
}

#[derive(Serialize)]
struct Stage {
    spans: u64,
    share: f64,
    self_share: f64,
    #[serde(flatten)]
    per_trace: Times,
}

#[derive(Default, Serialize)]
struct Export<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    to: &'a str,
    sent: u64,
    failed: u64,
    dropped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<&'a str>,
}

#[derive(Serialize)]
struct CostJson<'a> {
    hits: u64,
    agent_core_share: f64,
    cpus: f64,
    calibrated: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_share: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bpf_share: Option<f64>,
    probes: Vec<ProbeCostJson<'a>>,
    detached: Vec<ProbeCostJson<'a>>,
}

#[derive(Serialize)]
struct ProbeCostJson<'a> {
    span: &'a str,
    function: &'a str,
    share: f64,
    calls_per_s: f64,
}

impl<'a> CostJson<'a> {
    fn of(cost: &'a Cost) -> Self {
        let of = |probe: &'a ProbeCost| ProbeCostJson {
            span: &probe.span,
            function: &probe.function,
            share: probe.share,
            calls_per_s: probe.rate,
        };
        Self {
            hits: cost.hits,
            agent_core_share: cost.agent_share,
            cpus: cost.cpus,
            calibrated: cost.calibrated,
            target_share: cost.target_share,
            bpf_share: cost.bpf_share,
            probes: cost.probes.iter().map(of).collect(),
            detached: cost.detached.iter().map(of).collect(),
        }
    }
}

impl<'a> Json<'a> {
    fn of(report: &'a RunReport) -> Self {
        let summary = &report.summary;
        let counters = |list: &'a [(String, u64)]| {
            list.iter().map(|(name, count)| (name.as_str(), *count)).collect()
        };
        let stages = summary.stages.iter().map(|(name, stage)| {
            let (share, self_share) =
                (stage.share(summary.durations.sum()), stage.self_share(summary.durations.sum()));
            let per_trace = Times::of(&stage.per_trace);
            (&**name, Stage { spans: stage.spans, share, self_share, per_trace })
        });
        Self {
            target: &report.target,
            map: &report.map,
            attach_s: report.attach.map(|attach| attach.as_secs_f64()),
            observed_s: report.observed.as_secs_f64(),
            traces: summary.traces,
            incomplete: summary.incomplete,
            late_parts: summary.late,
            spans: summary.spans,
            lost: report.lost,
            orphans: report.orphans,
            roots: summary.roots.iter().map(|(name, root)| (&**name, Times::of(root))).collect(),
            stages: stages.collect(),
            evidence: &summary.evidence,
            exits: &summary.exits,
            stitch: counters(&report.stitch),
            kernel: counters(&report.kernel),
            landings: counters(&report.landings),
            export: report.otlp.as_ref().map(Export::of).unwrap_or_default(),
            file: report.file.as_ref().map(Export::of),
            silent: report.silent().map(|probe| &*probe.function).collect(),
            cost: report.cost.as_ref().map(CostJson::of),
        }
    }
}

impl Times {
    fn of(histogram: &Histogram) -> Self {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        Self {
            count: histogram.count(),
            p50_us: micros(histogram.percentile(50)),
            p95_us: micros(histogram.percentile(95)),
            p99_us: micros(histogram.percentile(99)),
            max_us: micros(histogram.max()),
        }
    }
}

impl<'a> Export<'a> {
    fn of(report: &'a ExportReport) -> Self {
        let ExportStats { sent, failed, dropped, last_error } = &report.stats;
        Self {
            to: &report.to,
            sent: *sent,
            failed: *failed,
            dropped: *dropped,
            last_error: last_error.as_deref(),
        }
    }
}
