//! `qprof check`: the map and the plan for a process, without attaching.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::settings::{self, ConfigArg};
use super::units;
use crate::agent::{Prepared, prepare};
use crate::model::Watches;
use crate::plan::{CostClass, PlannedProbe, ProbePlan, Site};
use crate::target::Target;

use profiler_common::Role;

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    /// The process.
    #[arg(short, long, required_unless_present = "config")]
    pid: Option<u32>,

    #[command(flatten)]
    config: ConfigArg,

    /// Symbol map: a name (`qprof maps`) or a file; default: the one that fits.
    #[arg(short, long, value_name = "NAME|FILE")]
    map: Vec<String>,

    /// How many functions one pattern of the map may match [default: 256].
    #[arg(long, value_name = "N", value_parser = units::count)]
    max_functions: Option<usize>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let settings = args.config.load()?;
    let aim = settings::aim(args.pid, &args.map, args.max_functions, &settings)?;
    let prepared = prepare(&aim)?;
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &Report::new(&prepared))?;
        writeln!(out)?;
    } else {
        print(&prepared, out)?;
    }
    Ok(())
}

fn print(prepared: &Prepared, out: &mut impl Write) -> std::io::Result<()> {
    let Prepared { target, map, plan, took } = prepared;
    writeln!(out, "target  {} ({}), {} objects", target.pid, target.name, target.objects.len())?;
    writeln!(out, "map     {} ({})", map.name, map.origin)?;
    writeln!(
        out,
        "plan    {} functions, {}; read and planned in {:.2} s; nothing is attached",
        plan.probes.len(),
        classes(plan),
        took.as_secs_f64()
    )?;
    for probe in &plan.probes {
        writeln!(out)?;
        print_probe(target, probe, watches(plan, probe), out)?;
    }
    if !plan.skipped.is_empty() {
        writeln!(out, "\nnot probed")?;
        for skipped in &plan.skipped {
            writeln!(
                out,
                "  {} (line {}): {}\n    {}",
                skipped.wanted_by, skipped.line, skipped.what, skipped.why
            )?;
        }
    }
    Ok(())
}

/// What the calls of a probed function tell.
fn watches(plan: &ProbePlan, probe: &PlannedProbe) -> Watches {
    plan.rules.probes.get(probe.id.index()).map_or(Watches::Calls, |rule| rule.watches)
}

fn print_probe(
    target: &Target,
    probe: &PlannedProbe,
    watches: Watches,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let role = match (&probe.span, watches) {
        (Some(span), _) => span,
        (None, Watches::Calls) => "(hand-off)",
        (None, Watches::Unwinding | Watches::Jumping) => "(witness)",
        (None, Watches::Loading) => "(loader)",
    };
    let object = target
        .object(probe.object)
        .map_or_else(String::new, crate::target::MappedObject::file_name);
    writeln!(out, "{role}  {}", probe.function)?;
    let copies =
        if probe.copies > 1 { format!(", {} copies", probe.copies) } else { String::new() };
    writeln!(out, "  in {object}{copies}")?;
    for site in &probe.sites {
        writeln!(
            out,
            "  {:<6} {:>12}  {:<14} {}",
            role_word(site),
            site.address.to_string(),
            class_word(site.cost),
            site.instruction
        )?;
    }
    for note in &probe.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

/// `31 sites: 9 emulated, 22 single-stepped`.
pub(super) fn classes(plan: &ProbePlan) -> String {
    let sites = || plan.probes.iter().flat_map(|probe| &probe.sites);
    let parts: Vec<String> = [CostClass::Optimised, CostClass::Emulated, CostClass::SingleStepped]
        .into_iter()
        .map(|class| (class, sites().filter(|site| site.cost == class).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(class, count)| format!("{count} {}", class_word(class)))
        .collect();
    format!("{} sites: {}", sites().count(), parts.join(", "))
}

const fn role_word(site: &Site) -> &'static str {
    match site.role {
        Role::Enter => "enter",
        Role::Ret => "ret",
        Role::Landing => "landing",
    }
}

const fn class_word(class: CostClass) -> &'static str {
    match class {
        CostClass::Optimised => "optimised",
        CostClass::Emulated => "emulated",
        CostClass::SingleStepped => "single-stepped",
    }
}

/// The shape of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    pid: u32,
    name: &'a str,
    map: &'a str,
    seconds: f64,
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
    copies: usize,
    sites: Vec<SiteReport<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct SiteReport<'a> {
    role: &'static str,
    cost: &'static str,
    address: u64,
    offset: u64,
    slot_offset: i32,
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
    fn new(prepared: &'a Prepared) -> Self {
        let Prepared { target, map, plan, took } = prepared;
        let probes = plan.probes.iter().map(|probe| {
            let object = target.object(probe.object);
            ProbeReport {
                watches: watches(plan, probe),
                span: probe.span.as_deref(),
                function: &probe.function,
                object: object.map_or_else(String::new, crate::target::MappedObject::file_name),
                path: object.map_or_else(String::new, |o| o.path.display().to_string()),
                copies: probe.copies,
                sites: probe.sites.iter().map(SiteReport::new).collect(),
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
            probes: probes.collect(),
            skipped: skipped.collect(),
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
            instruction: &site.instruction,
        }
    }
}
