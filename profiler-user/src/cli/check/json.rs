//! `qprof check --json`: everything.

use std::collections::HashMap;
use std::io::Write;

use serde::Serialize;

use super::cost::Costing;
use super::{class_word, role_word, watches};
use crate::agent::{Ending, Endings, Observed, Prepared};
use crate::model::Watches;
use crate::plan::{CallCost, LandingSite, Predicted, ProbePlan, Return, ReturnNeeds, Site, Up};
use crate::target::MappedObject;

use profiler_common::{Cookie, LaneKind, ProbeId};

pub(super) fn write(
    prepared: &Prepared,
    endings: &HashMap<ProbeId, Endings>,
    costing: &Costing,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, &Report::new(prepared, endings, costing))?;
    writeln!(out)?;
    Ok(())
}

#[derive(Serialize)]
struct Report<'a> {
    pid: u32,
    name: &'a str,
    map: &'a str,
    seconds: f64,
    cost: WholeReport<'a>,
    probes: Vec<ProbeReport<'a>>,
    skipped: Vec<SkippedReport<'a>>,
}

#[derive(Serialize)]
struct ProbeReport<'a> {
    watches: Watches,
    span: Option<&'a str>,
    function: &'a str,
    object: String,
    path: String,
    /// What its calls are made on: `thread`, `goroutine`.
    lane: &'static str,
    copies: usize,
    sites: Vec<SiteReport<'a>>,
    cost: CostReport,
    ends: Option<EndsReport<'a>>,
    notes: &'a [String],
}

/// What all calls would cost.
#[derive(Serialize)]
struct WholeReport<'a> {
    /// How many CPUs the process may use.
    cpus: f64,
    /// The share of them that would be taken, where rates are known; 1 is all.
    share: Option<f64>,
    /// Whether costs were measured on this machine.
    calibrated: bool,
    observed: Option<ObservedReport<'a>>,
}

/// How calls were counted.
#[derive(Serialize)]
struct ObservedReport<'a> {
    functions: usize,
    /// How long counters were attached, all in all.
    attached_seconds: f64,
    /// The processor time they took from the target.
    spent_seconds: f64,
    /// What was called so often that it was counted for a moment only.
    floods: Vec<&'a str>,
}

/// What the calls of a function would cost.
#[derive(Serialize)]
struct CostReport {
    enter_ns: u64,
    /// Once it is known where its calls come back.
    exit_ns: u64,
    call_ns: u64,
    /// A whole call where calls are rare.
    rare_call_ns: u64,
    /// A call until then.
    early_call_ns: u64,
    calibrated: bool,
    /// Calls a second.
    rate: Option<f64>,
    /// Of the CPUs the process may use; 1 is all.
    share: Option<f64>,
}

#[derive(Serialize)]
struct SiteReport<'a> {
    role: &'static str,
    cost: &'static str,
    address: u64,
    offset: u64,
    slot_offset: i32,
    /// A jump back to the start of the function where the stack is to grow: taken, it is no call.
    restarts: bool,
    instruction: &'a str,
}

/// How its calls will be seen to end, as far as its direct callers tell.
#[derive(Serialize)]
struct EndsReport<'a> {
    /// What must be as the function left it: `nothing`, `value`, `pointee`.
    needs: &'static str,
    emulated: usize,
    single_stepped: usize,
    /// Seen as the return of their caller.
    chains: usize,
    impossible: usize,
    /// Direct calls that were not looked at.
    more: usize,
    calls: Vec<CallReport<'a>>,
}

#[derive(Serialize)]
struct CallReport<'a> {
    return_address: u64,
    /// The calling function's name in its symbol table.
    caller: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    landing: Option<LandingReport<'a>>,
    /// Bytes from the return slot of the call to that of its caller, or `rbp+8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    up: Option<String>,
    /// Why there is neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    impossible: Option<String>,
    /// Why no emulated instruction is come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    stop: Option<String>,
    /// The first instruction that may carry a probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    point: Option<LandingReport<'a>>,
}

#[derive(Serialize)]
struct LandingReport<'a> {
    cost: &'static str,
    address: u64,
    offset: u64,
    slot_offset: i32,
    keeps_value: bool,
    keeps_memory: bool,
    instruction: &'a str,
}

#[derive(Serialize)]
struct SkippedReport<'a> {
    wanted_by: &'a str,
    what: &'a str,
    why: &'a str,
    line: usize,
}

impl<'a> Report<'a> {
    fn new(
        prepared: &'a Prepared,
        endings: &'a HashMap<ProbeId, Endings>,
        costing: &'a Costing,
    ) -> Self {
        let Prepared { target, map, plan, took, .. } = prepared;
        let probes = plan.probes.iter().map(|probe| {
            let object = target.object(probe.object);
            ProbeReport {
                watches: watches(plan, probe),
                span: probe.span.as_deref(),
                function: &probe.function,
                object: object.map_or_else(String::new, MappedObject::file_name),
                path: object.map_or_else(String::new, |o| o.path.display().to_string()),
                lane: match probe.lane() {
                    LaneKind::Thread => "thread",
                    LaneKind::Goroutine => "goroutine",
                },
                copies: probe.copies,
                sites: probe.sites.iter().map(SiteReport::new).collect(),
                cost: CostReport::new(costing, probe.id.index()),
                ends: endings.get(&probe.id).map(EndsReport::new),
                notes: &probe.notes,
            }
        });
        let skipped = plan.skipped.iter().map(|skipped| SkippedReport {
            wanted_by: &skipped.wanted_by,
            what: &skipped.what,
            why: &skipped.why,
            line: skipped.line,
        });
        Self {
            pid: target.pid.0,
            name: &target.name,
            map: &map.name,
            seconds: took.as_secs_f64(),
            cost: WholeReport::new(costing, plan),
            probes: probes.collect(),
            skipped: skipped.collect(),
        }
    }
}

impl<'a> WholeReport<'a> {
    fn new(costing: &Costing, plan: &'a ProbePlan) -> Self {
        let name = |id: &ProbeId| plan.probes.get(id.index()).map(|probe| &*probe.function);
        let observed = |observed: &Observed| ObservedReport {
            functions: observed.functions,
            attached_seconds: observed.attached.as_secs_f64(),
            spent_seconds: observed.spent.as_secs_f64(),
            floods: observed.floods.iter().filter_map(name).collect(),
        };
        Self {
            cpus: costing.cpus,
            share: costing.whole(),
            calibrated: costing.calibrated,
            observed: costing.observed.as_ref().map(observed),
        }
    }
}

impl CostReport {
    fn new(costing: &Costing, probe: usize) -> Self {
        let cost = costing.calls.get(probe).copied().unwrap_or_default();
        Self {
            enter_ns: cost.enter_ns,
            exit_ns: cost.exit_ns,
            call_ns: cost.call_ns(),
            rare_call_ns: costing.rare.get(probe).map_or(0, CallCost::call_ns),
            early_call_ns: cost.early_call_ns(),
            calibrated: costing.calibrated,
            rate: costing.rates.get(probe).copied().flatten(),
            share: costing.share(probe),
        }
    }
}

impl<'a> SiteReport<'a> {
    fn new(site: &'a Site) -> Self {
        Self {
            role: role_word(site),
            cost: class_word(site.cost),
            address: site.address.0,
            offset: site.offset.0,
            slot_offset: site.slot_offset,
            restarts: site.flags & Cookie::RESTARTS != 0,
            instruction: &site.instruction,
        }
    }
}

impl<'a> EndsReport<'a> {
    fn new(endings: &'a Endings) -> Self {
        Self {
            needs: match endings.needs {
                ReturnNeeds::Nothing => "nothing",
                ReturnNeeds::Value => "value",
                ReturnNeeds::Pointee => "pointee",
            },
            emulated: endings.count(Ending::Emulated),
            single_stepped: endings.count(Ending::SingleStepped),
            chains: endings.count(Ending::Chain),
            impossible: endings.count(Ending::Impossible),
            more: endings.more,
            calls: endings.predicted.iter().map(CallReport::new).collect(),
        }
    }
}

impl<'a> CallReport<'a> {
    fn new(predicted: &'a Predicted) -> Self {
        let plan = &predicted.plan;
        let (landing, up, impossible) = match &plan.first {
            Return::Landing(site) => (Some(LandingReport::new(site)), None, None),
            Return::Caller(Up::Bytes(bytes)) => (None, Some(bytes.to_string()), None),
            Return::Caller(Up::FramePointer) => (None, Some("rbp+8".to_owned()), None),
            Return::None(why) => (None, None, Some(why.to_string())),
        };
        Self {
            return_address: predicted.return_address.0,
            caller: &predicted.caller,
            landing,
            up,
            impossible,
            stop: plan.stop.as_ref().map(ToString::to_string),
            point: plan.point.as_ref().map(LandingReport::new),
        }
    }
}

impl<'a> LandingReport<'a> {
    fn new(site: &'a LandingSite) -> Self {
        Self {
            cost: class_word(site.cost),
            address: site.address.0,
            offset: site.offset.0,
            slot_offset: site.slot_offset,
            keeps_value: site.keeps_value,
            keeps_memory: site.keeps_memory,
            instruction: &site.instruction,
        }
    }
}
