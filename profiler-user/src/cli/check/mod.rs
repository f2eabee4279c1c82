//! `qprof check`: the map and the plan for a process, without attaching.

use std::io::Write;

use clap::Args;

use super::settings::{self, ConfigArg};
use super::units;
use crate::agent::prepare;
use crate::doctor::known_kernel;
use crate::model::Watches;
use crate::plan::{CostClass, PlannedProbe, ProbePlan, Site};

use profiler_common::{Cookie, Role};

mod endings;
mod json;
mod text;

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
    let forms = known_kernel().forms;
    let aim = settings::aim(args.pid, &args.map, args.max_functions, &settings, forms)?;
    let prepared = prepare(&aim)?;
    let endings = endings::predict_endings(&prepared, forms);
    if args.json {
        json::write(&prepared, &endings, out)?;
    } else {
        text::print(&prepared, &endings, out)?;
    }
    Ok(())
}

/// What the calls of a probed function tell.
fn watches(plan: &ProbePlan, probe: &PlannedProbe) -> Watches {
    plan.rules.probes.get(probe.id.index()).map_or(Watches::Calls, |rule| rule.watches)
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
        Role::Ret if site.flags & Cookie::JUMP != 0 => "jump",
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
