//! How many events a second come through end to end, and what that takes of the agent.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::Result;

use super::attach::{MOST_MEGABYTES, peak_kib};
use super::goal::Goal;
use super::report::Section;
use super::talker::{Talker, compile};
use super::tracer::{Build, Run, Tracer};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::json::Json;
use crate::{say, sys};

/// What must come through without loss, in spans a second, and for how long.
const MUST: (u64, u64) = (20_000, 10);
/// What that may take of the agent, percent of a core.
const MOST_OF_A_CORE: f64 = 10.0;
/// Then ever more, until something is lost or the target makes no more; 0 is as fast as it can.
const LADDER: [u64; 6] = [50_000, 100_000, 200_000, 400_000, 800_000, 0];
const LADDER_SECONDS: u64 = 4;
/// A target that makes less than this share of what it was asked for cannot make more.
const SATURATED: f64 = 0.95;

/// What came of one load.
struct Load {
    asked: u64,
    made: f64,
    /// Spans.
    per_second: f64,
    seen: f64,
    events: f64,
    lost: f64,
    /// CPU time of the agent, as a share of one core.
    agent_share: f64,
    agent_peak_kib: f64,
}

impl Load {
    fn is_whole(&self) -> bool {
        self.lost == 0.0 && self.seen >= self.made
    }
}

/// The sections `loss` and `agent`, this one with its goals, and whether anything was lost at the rate
/// that must come through.
///
/// # Errors
/// When the target does not build or run, or qprof fails.
pub(super) fn run(
    context: &Context,
    build: &Build,
) -> Result<(Section, (Section, Vec<Goal>), bool)> {
    let scratch = Scratch::new(context.root.join("target/bench-load"))?;
    let bench = Bench {
        build,
        program: compile(context, scratch.path(), "load")?,
        map: context.root.join("xtask/bench/load.toml"),
        scratch: &scratch,
    };
    let must = bench.load(MUST.0, MUST.1)?;
    let (lost, agent) = (!must.is_whole(), agent_section(&must));
    let mut loads = vec![must];
    for asked in LADDER {
        sys::check_stop()?;
        let load = bench.load(asked, LADDER_SECONDS)?;
        let saturated = asked > 0 && load.per_second < asked as f64 * SATURATED;
        let over = saturated || !load.is_whole();
        loads.push(load);
        if over {
            break;
        }
    }
    Ok((loss_section(&loads), agent, lost))
}

struct Bench<'a> {
    build: &'a Build,
    program: PathBuf,
    map: PathBuf,
    scratch: &'a Scratch,
}

impl Bench<'_> {
    fn load(&self, asked: u64, seconds: u64) -> Result<Load> {
        say::step("bench", &format!("loss: {}", name(asked)));
        let mut target = Talker::start(
            "the load",
            Command::new(&self.program).args([seconds.to_string(), asked.to_string()]),
            "",
        )?;
        let pid = target.pid();
        let run = Run::start(self.build, Tracer::Qprof, pid, &self.map, self.scratch.path(), &[])?;
        let (used, started) = (sys::cpu_time(run.pid())?, Instant::now());
        let made = Json::parse(&target.ask("go")?)?;
        let used = sys::cpu_time(run.pid())?.saturating_sub(used);
        let agent_share = used.as_secs_f64() / started.elapsed().as_secs_f64();
        let agent_peak_kib = peak_kib(run.pid())?;
        target.end()?;
        let outcome = run.finish()?;
        Ok(Load {
            asked,
            made: made.number("spans")?,
            per_second: made.number("spans")? / made.number("seconds")?,
            seen: outcome.spans,
            events: outcome.events,
            lost: outcome.lost,
            agent_share,
            agent_peak_kib,
        })
    }
}

fn name(asked: u64) -> String {
    if asked == 0 { "as fast as it can".to_owned() } else { format!("{asked} spans a second") }
}

fn loss_section(loads: &[Load]) -> Section {
    let mut numbers = Vec::new();
    let mut rows = Vec::new();
    for load in loads {
        let Load { asked, made, per_second, seen, events, lost, .. } = *load;
        // Each span is two events; of what was lost it is known how much.
        let events_per_s = per_second * (events + lost) / made.max(1.0);
        rows.push(vec![
            name(asked),
            format!("{per_second:.0}"),
            format!("{events_per_s:.0}"),
            format!("{made:.0}"),
            format!("{seen:.0}"),
            format!("{lost:.0}"),
            format!("{:.4}", seen / made),
        ]);
        let key = if asked == 0 { "unpaced".to_owned() } else { format!("at_{asked}") };
        numbers.extend([
            (format!("{key}_spans_per_s"), per_second),
            (format!("{key}_events_per_s"), events_per_s),
            (format!("{key}_made"), made),
            (format!("{key}_seen"), seen),
            (format!("{key}_lost"), lost),
        ]);
    }
    let most = |whole: bool| {
        loads.iter().filter(move |load| load.is_whole() == whole).map(|load| load.per_second)
    };
    let carried = most(true).fold(0.0, f64::max);
    let first_lost = most(false).fold(f64::INFINITY, f64::min);
    numbers.push(("carried_spans_per_s".to_owned(), carried));
    numbers.push(("first_lost_spans_per_s".to_owned(), first_lost));
    let note = if first_lost.is_finite() {
        format!(
            "Nothing is lost up to {carried:.0} spans a second; at {first_lost:.0} something is."
        )
    } else {
        format!(
            "Nothing is lost up to {carried:.0} spans a second, more than which the target does not make."
        )
    };
    Section {
        name: "loss",
        title: "Events end to end until loss, default ring, four threads".to_owned(),
        columns: vec![
            "load",
            "spans a second",
            "events a second",
            "made",
            "seen",
            "events lost",
            "seen / made",
        ],
        rows,
        numbers,
        notes: vec![note],
    }
}

fn agent_section(load: &Load) -> (Section, Vec<Goal>) {
    let at = format!("at {} spans a second", load.asked);
    let goals = vec![
        Goal::at_most(format!("percent of a core {at}"), MOST_OF_A_CORE, load.agent_share * 100.0),
        Goal::megabytes(format!("peak memory {at}"), MOST_MEGABYTES, load.agent_peak_kib),
    ];
    let section = Section {
        name: "agent",
        title: format!("The agent {at}, for {} s", MUST.1),
        columns: vec!["spans a second", "CPU, share of a core", "peak memory"],
        rows: vec![vec![
            format!("{:.0}", load.per_second),
            format!("{:.1} %", load.agent_share * 100.0),
            format!("{:.0} MiB", load.agent_peak_kib / 1024.0),
        ]],
        numbers: vec![
            ("spans_per_s".to_owned(), load.per_second),
            ("core_share".to_owned(), load.agent_share),
            ("peak_kib".to_owned(), load.agent_peak_kib),
        ],
        notes: goals.iter().map(Goal::line).collect(),
    };
    (section, goals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(asked: u64, lost: f64) -> Load {
        Load {
            asked,
            made: 1000.0,
            per_second: 100.0 + lost,
            seen: 1000.0 - lost,
            events: 2000.0 - lost,
            lost,
            agent_share: 0.1,
            agent_peak_kib: 2048.0,
        }
    }

    #[test]
    fn where_loss_begins_is_said() {
        let section = loss_section(&[load(20_000, 0.0), load(50_000, 4.0)]);
        assert_eq!(
            section.notes,
            ["Nothing is lost up to 100 spans a second; at 104 something is."]
        );
        assert_eq!(section.rows[1][2], "208");
        let section = loss_section(&[load(20_000, 0.0)]);
        assert!(section.notes[0].ends_with("the target does not make."));
        let (agent, goals) = agent_section(&load(20_000, 0.0));
        assert_eq!(agent.rows[0], ["100", "10.0 %", "2 MiB"]);
        assert!(goals.iter().all(|goal| goal.failure().is_none()));
    }
}
