//! `qprof check`: the map and the plan for a process, without attaching.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use self::cost::{Costing, RateArg};
use super::settings::{self, ConfigArg};
use super::units;
use crate::agent::{predict_endings, prepare};
use crate::doctor::{known_kernel, tried_kernel};
use crate::model::Watches;
use crate::plan::{CostClass, PlannedProbe, ProbePlan, Site};

use profiler_common::{Cookie, Role};

mod cost;
mod json;
mod text;

pub(super) use cost::UnknownName;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo qprof check -p 4711 -m milvus-lite                      what would be probed, and at what cost
  sudo qprof check -p 4711 -m my.toml --rate 2000 --rate scan=1e6   the share of the CPU that takes
  sudo qprof check -p 4711 -m my.toml --observe 1s             the same, with calls counted for 1 s

Without --observe nothing is attached.")]
pub(super) struct CheckArgs {
    /// The process.
    #[arg(short, long, required_unless_present = "config")]
    pid: Option<u32>,

    #[command(flatten)]
    config: ConfigArg,

    /// Symbol map: a name (`qprof maps`) or a file; default: the one that fits.
    #[arg(short, long, value_name = "NAME|FILE")]
    map: Vec<String>,

    #[command(flatten)]
    search: settings::SearchArgs,

    /// Reckon with so many calls a second (1200, 500k, 1e6): of every function whose rate is not known
    /// otherwise, or of a span or functions by a glob. May be given several times.
    #[arg(long, value_name = "[NAME=]N")]
    rate: Vec<RateArg>,

    /// Attach counters for this long, and reckon with the calls a second that were seen. It takes at
    /// most 2 % of a processor from the target; what is called too often is counted for
    /// milliseconds only.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    observe: Option<Duration>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let settings = args.config.load()?;
    // Whoever attaches something may as well find out what that costs.
    let kernel = if args.observe.is_some() { tried_kernel() } else { known_kernel() };
    let forms = kernel.forms;
    let aim = settings::aim(args.pid, &args.map, &args.search, &settings, forms)?;
    let prepared = prepare(&aim)?;
    let endings = predict_endings(&prepared, forms);
    let costing = Costing::of(&prepared, &endings, kernel, &args.rate, args.observe)?;
    if args.json {
        json::write(&prepared, &endings, &costing, out)?;
    } else {
        text::print(&prepared, &endings, &costing, out)?;
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
        Role::Enter | Role::GoEnter => "enter",
        Role::Ret if site.flags & Cookie::JUMP != 0 => "jump",
        Role::Ret => "ret",
        Role::Landing => "landing",
        Role::GoRuntime => "runtime",
    }
}

const fn class_word(class: CostClass) -> &'static str {
    match class {
        CostClass::Optimised => "optimised",
        CostClass::Emulated => "emulated",
        CostClass::SingleStepped => "single-stepped",
    }
}
