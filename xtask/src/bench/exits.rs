//! What a probed call costs the one who calls, by what the function begins with: enter, exit, and
//! a record of each.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::goal::Goal;
use super::median;
use super::report::Section;
use super::talker::{Talker, compile};
use super::tracer::{Bpftrace, Build, Run, Tracer, probe};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::json::Json;
use crate::{say, sys};

/// What functions begin with: as `calls.c` prints it, as people say it, and whether the kernel
/// emulates something there, so that the exit is what costs.
const KINDS: [(&str, &str, bool); 4] = [
    ("push", "`push`", true),
    ("endbr64", "`endbr64`, then `push`", true),
    ("nop5", "a 5-byte nop", true),
    ("single_step", "nothing but what is single-stepped", false),
];
/// Bursts, and calls a burst: to learn the return addresses, and to measure.
const WARM: &str = "10 500";
const MEASURE: &str = "40 500";
const BPFTRACE_LIMIT: Duration = Duration::from_secs(60);

const MOST_OF_PAIR: f64 = 1.5;
const LEAST_BELOW_RET: f64 = 4.0;

/// Nanoseconds a call, by kind, one list a round.
type Rounds = Vec<[f64; KINDS.len()]>;

struct Bench<'a> {
    build: &'a Build,
    map: &'a Path,
    scratch: &'a Scratch,
    rival: &'a Path,
    target: &'a Path,
    calls: Talker,
    /// File offsets of the functions.
    offsets: Vec<u64>,
}

/// The section and its goals.
///
/// # Errors
/// When a program does not build or run, or qprof loses anything.
pub(super) fn run(context: &Context, build: &Build, rounds: usize) -> Result<(Section, Vec<Goal>)> {
    let scratch = Scratch::new(context.root.join("target/bench-exits"))?;
    let target = compile(context, scratch.path(), "calls")?;
    let rival = compile(context, scratch.path(), "probe")?;
    let map = context.root.join("xtask/bench/calls.toml");
    let calls = Talker::start("the target", &mut Command::new(&target), "")?;
    let names = KINDS.map(|(kind, ..)| format!("call_{kind}"));
    let offsets = build.offsets(&target, &names)?;
    let mut bench = Bench {
        build,
        map: &map,
        scratch: &scratch,
        rival: &rival,
        target: &target,
        calls,
        offsets,
    };
    let mut tracers = vec![Tracer::Off];
    tracers.extend(build.variants());
    tracers.extend([Tracer::Pair, Tracer::Bpftrace]);
    let mut taken: Vec<(Tracer, Rounds)> =
        tracers.into_iter().map(|tracer| (tracer, Vec::new())).collect();
    let mut landed = Vec::new();
    for round in 1..=rounds {
        say::step("bench", &format!("exits, round {round} of {rounds}"));
        for (tracer, rounds) in &mut taken {
            sys::check_stop()?;
            rounds.push(bench.measure(*tracer, &mut landed)?);
        }
    }
    Ok(section(build, &taken, median(&landed)))
}

impl Bench<'_> {
    fn measure(&mut self, tracer: Tracer, landed: &mut Vec<f64>) -> Result<[f64; KINDS.len()]> {
        let pid = self.calls.pid();
        match tracer {
            Tracer::Off => self.take(tracer),
            Tracer::Qprof | Tracer::Ret => {
                let run = Run::start(self.build, tracer, pid, self.map, self.scratch.path(), &[])?;
                let taken = self.take(tracer)?;
                let outcome = run.finish_whole()?;
                if tracer == Tracer::Qprof {
                    landed.push(outcome.landed);
                }
                Ok(taken)
            }
            Tracer::Pair => {
                let sites: Vec<_> = self.offsets.iter().map(|&at| (self.target, at)).collect();
                let rival = probe(self.rival, "pair", pid, &sites)?;
                let taken = self.take(tracer)?;
                let said = rival.end()?;
                let outcome = Json::parse(said.first().context("the probe printed nothing")?)?;
                if outcome.number("lost")? > 0.0 {
                    bail!("the return-probe pair lost events, so its cost is not comparable");
                }
                Ok(taken)
            }
            Tracer::Bpftrace => {
                let Some(_attached) =
                    Bpftrace::start(self.scratch.path(), &self.script(), pid, BPFTRACE_LIMIT)?
                else {
                    bail!("bpftrace was not attached within {}", say::seconds(BPFTRACE_LIMIT));
                };
                self.take(tracer)
            }
        }
    }

    /// A histogram of durations, the way bpftrace's manual makes one.
    fn script(&self) -> String {
        let list = |kind: &str| {
            let probes =
                KINDS.map(|(name, ..)| format!("{kind}:{}:call_{name}", self.target.display()));
            probes.join(", ")
        };
        format!(
            "{} {{ @start[tid] = nsecs; }} {} /@start[tid]/ \
             {{ @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }}",
            list("uprobe"),
            list("uretprobe")
        )
    }

    fn take(&mut self, tracer: Tracer) -> Result<[f64; KINDS.len()]> {
        self.calls.ask(WARM)?;
        std::thread::sleep(tracer.settling());
        let answer = Json::parse(&self.calls.ask(MEASURE)?)?;
        let mut taken = [0.0; KINDS.len()];
        for (slot, (kind, ..)) in taken.iter_mut().zip(KINDS) {
            *slot = answer.number(kind)?;
        }
        Ok(taken)
    }
}

/// What a tracer adds to a call of a kind: the median of the rounds, each against `off` beside it.
fn added(taken: &[(Tracer, Rounds)], tracer: Tracer, kind: usize) -> f64 {
    let of = |wanted: Tracer| taken.iter().find(|(tracer, _)| *tracer == wanted);
    let (Some((_, off)), Some((_, rounds))) = (of(Tracer::Off), of(tracer)) else {
        return f64::NAN;
    };
    median(&rounds.iter().zip(off).map(|(with, off)| with[kind] - off[kind]).collect::<Vec<_>>())
}

fn section(build: &Build, taken: &[(Tracer, Rounds)], landed: f64) -> (Section, Vec<Goal>) {
    let mut goals = Vec::new();
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for (at, (kind, begins, emulated)) in KINDS.into_iter().enumerate() {
        let of = |tracer| added(taken, tracer, at);
        let (ours, pair, bpftrace) = (of(Tracer::Qprof), of(Tracer::Pair), of(Tracer::Bpftrace));
        let ret = if build.lands { of(Tracer::Ret) } else { ours };
        rows.push(vec![
            begins.to_owned(),
            nanoseconds(ours),
            nanoseconds(pair),
            nanoseconds(ret),
            nanoseconds(bpftrace),
            format!("{:.2}", ours / pair),
            format!("{:.2}", ret / ours),
        ]);
        for (who, value) in
            [("qprof", ours), ("return_probe_pair", pair), ("ret", ret), ("bpftrace", bpftrace)]
        {
            numbers.push((format!("{kind}_{who}_added_ns"), value));
        }
        numbers.push((format!("{kind}_ratio_to_pair"), ours / pair));
        numbers.push((format!("{kind}_ret_ratio"), ret / ours));
        if build.lands {
            let what =
                format!("enter + landing over a return-probe pair, function begins with {begins}");
            goals.push(Goal::at_most(what, MOST_OF_PAIR, ours / pair));
        }
        if build.lands && emulated {
            let what = format!("enter + `ret` over enter + landing, function begins with {begins}");
            goals.push(Goal::at_least(what, LEAST_BELOW_RET, ret / ours));
        }
    }
    numbers.push(("landed_share".to_owned(), landed));
    let notes = if build.lands {
        let mut notes = vec![format!(
            "{:.1} % of Qprof's frames ended by a landing, those before it stood included.",
            landed * 100.0
        )];
        notes.extend(goals.iter().map(Goal::line));
        notes
    } else {
        vec!["This build has no landings: its numbers are those of `ret` sites.".to_owned()]
    };
    let rounds = taken.first().map_or(0, |(_, rounds)| rounds.len());
    let section = Section {
        name: "exits",
        title: format!(
            "One call, enter and exit, each with its record: added time, {rounds} rounds in turn"
        ),
        columns: vec![
            "the function begins with",
            build.own_column(),
            "return-probe pair",
            "`ret` sites",
            "bpftrace",
            "qprof / pair",
            "`ret` / qprof",
        ],
        rows,
        numbers,
        notes,
    };
    (section, goals)
}

fn nanoseconds(value: f64) -> String {
    format!("{value:.0} ns")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_compared_with_their_own_off() {
        let taken = vec![
            (Tracer::Off, vec![[1.0; 4], [11.0; 4], [1.0; 4]]),
            (Tracer::Qprof, vec![[101.0; 4], [111.0; 4], [901.0; 4]]),
        ];
        assert!((added(&taken, Tracer::Qprof, 0) - 100.0).abs() < 1e-9);
        assert!(added(&taken, Tracer::Pair, 0).is_nan());
    }

    #[test]
    fn goals_only_where_there_are_landings() {
        let rounds = |ns| vec![[ns; 4]];
        let taken = vec![
            (Tracer::Off, rounds(0.0)),
            (Tracer::Qprof, rounds(100.0)),
            (Tracer::Ret, rounds(500.0)),
            (Tracer::Pair, rounds(80.0)),
            (Tracer::Bpftrace, rounds(200.0)),
        ];
        let build = |lands| Build { program: "qprof".into(), lands, budgets: false };
        let (table, goals) = section(&build(true), &taken, 1.0);
        assert_eq!(goals.len(), 7);
        assert!(goals.iter().all(|goal| goal.failure().is_none()));
        assert_eq!(table.rows[0][5..], ["1.25", "5.00"]);
        assert!(section(&build(false), &taken, 0.0).1.is_empty());
    }
}
