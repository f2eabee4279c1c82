//! What a call of a Go function, and a goroutine, cost the program: with Qprof, and with bpftrace on
//! the entry and every `ret`, since a return probe kills a Go program as soon as its stack moves.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::goal::Goal;
use super::median;
use super::report::Section;
use super::talker::Talker;
use super::tracer::{Bpftrace, Build, Run, Tracer};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::command::{self, stdout_of};
use crate::json::Json;
use crate::{say, sys};

/// Functions of `gocalls`: as it prints them, and as people say it.
const KINDS: [(&str, &str); 2] = [("oneRet", "one `ret`"), ("fourRets", "four `ret`s")];
/// Where a goroutine is made, and where it ends.
const OF_RUNTIME: [&str; 2] = ["runtime.newproc1", "runtime.goexit1"];
const WARM: &str = "calls 10 500";
const MEASURE: &str = "calls 40 500";
/// Requests, goroutines each, and microseconds from one to the next: 100,000 goroutines a second, for
/// two seconds.
const SPAWN: &str = "spawn 400 500 5000";
const BPFTRACE_LIMIT: Duration = Duration::from_secs(60);

const LEAST_BELOW_BPFTRACE: f64 = 4.0;

/// What one tracer in one round gave.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    /// Nanoseconds a call, by kind.
    calls: [f64; KINDS.len()],
    /// Nanoseconds a goroutine: the processor's, and the request's.
    cpu: f64,
    took: f64,
    /// Goroutines a second.
    rate: f64,
}

type Rounds = Vec<(Tracer, Vec<Taken>)>;

/// The sections `go_calls` and `goroutines`, and the goals of the first.
///
/// # Errors
/// When a program does not build or run, or qprof loses anything.
pub(super) fn run(
    context: &Context,
    go: &Path,
    qprof: &Build,
    rounds: usize,
) -> Result<([Section; 2], Vec<Goal>)> {
    let scratch = Scratch::new(context.root.join("target/bench-go"))?;
    let with_names = build(context, go, scratch.path(), "gocalls")?;
    // As servers are; and of a program with names bpftrace takes no places within functions.
    let target = scratch.join("target");
    command::run(Command::new("strip").arg("-o").arg(&target).arg(&with_names))?;
    let map = context.root.join("xtask/bench/gocalls.toml");
    let calls = Talker::start("the Go target", &mut Command::new(&target), "")?;
    let script = script(qprof, &target, &with_names)?;
    let mut bench = Bench { qprof, map: &map, scratch: &scratch, script, calls };
    let mut tracers = vec![Tracer::Off];
    tracers.extend(qprof.variants());
    tracers.push(Tracer::Bpftrace);
    let mut taken: Rounds = tracers.into_iter().map(|tracer| (tracer, Vec::new())).collect();
    let mut landed = Vec::new();
    for round in 1..=rounds {
        say::step("bench", &format!("go, round {round} of {rounds}"));
        for (tracer, rounds) in &mut taken {
            sys::check_stop()?;
            rounds.push(bench.measure(*tracer, &mut landed)?);
        }
    }
    let (calls, goals) = calls_section(qprof, &taken, median(&landed));
    Ok(([calls, goroutines_section(&taken)], goals))
}

/// Builds the module `xtask/bench/NAME` into `dir`, without C in it.
///
/// # Errors
/// When Go refuses it.
pub(super) fn build(context: &Context, go: &Path, dir: &Path, name: &str) -> Result<PathBuf> {
    let program = dir.join(name);
    let mut command = Command::new(go);
    // The Go that is there builds it, and no settings made for other modules concern it.
    command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
    command.env("CGO_ENABLED", "0").current_dir(context.root.join("xtask/bench").join(name));
    command.args(["build", "-trimpath", "-buildvcs=false", "-o"]).arg(&program).arg(".");
    command::run(&mut command)?;
    Ok(program)
}

/// A histogram of durations, the way bpftrace's manual makes one, but with a probe at each `ret`;
/// and a count of goroutines. By thread, as the target's calls stay on theirs: by goroutine it would
/// have to be read from memory.
fn script(qprof: &Build, target: &Path, with_names: &Path) -> Result<String> {
    let names = KINDS.map(|(name, _)| format!("main.{name}"));
    let enters = qprof.offsets(target, &names)?;
    let mut rets = Vec::new();
    for (name, enter) in names.iter().zip(&enters) {
        let mut objdump = Command::new("objdump");
        objdump.args(["-d", "--no-show-raw-insn", &format!("--disassemble={name}")]);
        let behind = rets_behind(&stdout_of(objdump.arg(with_names))?)
            .with_context(|| format!("objdump does not find {name} and its `ret`s"))?;
        rets.extend(behind.into_iter().map(|behind| enter + behind));
    }
    let of_runtime = qprof.offsets(target, &OF_RUNTIME.map(str::to_owned))?;
    let list = |sites: &[u64]| {
        let probes: Vec<_> =
            sites.iter().map(|at| format!("uprobe:{}:{at:#x}", target.display())).collect();
        probes.join(", ")
    };
    Ok(format!(
        "{} {{ @start[tid] = nsecs; }} {} /@start[tid]/ \
         {{ @ns = hist(nsecs - @start[tid]); delete(@start[tid]); }} \
         {} {{ @goroutines = count(); }}",
        list(&enters),
        list(&rets),
        list(&of_runtime)
    ))
}

/// How far behind a function's begin its `ret`s are, of what objdump prints.
fn rets_behind(listing: &str) -> Option<Vec<u64>> {
    let mut instructions = listing.lines().filter_map(|line| {
        let (address, instruction) = line.trim_start().split_once(":\t")?;
        Some((u64::from_str_radix(address, 16).ok()?, instruction.trim()))
    });
    let (begin, _) = instructions.next()?;
    let rets = instructions.filter(|(_, instruction)| *instruction == "ret");
    let behind: Vec<_> = rets.map(|(at, _)| at - begin).collect();
    (!behind.is_empty()).then_some(behind)
}

struct Bench<'a> {
    qprof: &'a Build,
    map: &'a Path,
    scratch: &'a Scratch,
    script: String,
    calls: Talker,
}

impl Bench<'_> {
    fn measure(&mut self, tracer: Tracer, landed: &mut Vec<f64>) -> Result<Taken> {
        let pid = self.calls.pid();
        match tracer {
            Tracer::Qprof | Tracer::Ret => {
                let run = Run::start(self.qprof, tracer, pid, self.map, self.scratch.path(), &[])?;
                let taken = self.take(tracer)?;
                let outcome = run.finish_whole()?;
                if tracer == Tracer::Qprof {
                    landed.push(outcome.landed);
                }
                Ok(taken)
            }
            Tracer::Bpftrace => {
                let Some(_attached) =
                    Bpftrace::start(self.scratch.path(), &self.script, pid, BPFTRACE_LIMIT)?
                else {
                    bail!("bpftrace was not attached within {}", say::seconds(BPFTRACE_LIMIT));
                };
                self.take(tracer)
            }
            Tracer::Off | Tracer::Pair => self.take(tracer),
        }
    }

    fn take(&mut self, tracer: Tracer) -> Result<Taken> {
        self.calls.ask(WARM)?;
        std::thread::sleep(tracer.settling());
        let answer = Json::parse(&self.calls.ask(MEASURE)?)?;
        let mut taken = Taken::default();
        for (slot, (kind, _)) in taken.calls.iter_mut().zip(KINDS) {
            *slot = answer.number(kind)?;
        }
        let answer = Json::parse(&self.calls.ask(SPAWN)?)?;
        taken.cpu = answer.number("cpu")?;
        taken.took = answer.number("took")?;
        taken.rate = answer.number("rate")?;
        Ok(taken)
    }
}

/// The median of a number over the rounds of a tracer, each with that of nothing attached beside it.
fn middle(taken: &Rounds, tracer: Tracer, number: impl Fn(&Taken, &Taken) -> f64) -> f64 {
    let of = |wanted: Tracer| taken.iter().find(|(tracer, _)| *tracer == wanted);
    let (Some((_, off)), Some((_, rounds))) = (of(Tracer::Off), of(tracer)) else {
        return f64::NAN;
    };
    median(&rounds.iter().zip(off).map(|(with, off)| number(with, off)).collect::<Vec<_>>())
}

fn calls_section(build: &Build, taken: &Rounds, landed: f64) -> (Section, Vec<Goal>) {
    let (mut rows, mut numbers, mut goals) = (Vec::new(), Vec::new(), Vec::new());
    for (at, (kind, has)) in KINDS.into_iter().enumerate() {
        let of = |tracer| middle(taken, tracer, |with, off| with.calls[at] - off.calls[at]);
        let (ours, bpftrace) = (of(Tracer::Qprof), of(Tracer::Bpftrace));
        let ret = if build.lands { of(Tracer::Ret) } else { ours };
        let nanoseconds = |value: f64| format!("{value:.0} ns");
        rows.push(vec![
            has.to_owned(),
            nanoseconds(ours),
            nanoseconds(ret),
            nanoseconds(bpftrace),
            format!("{:.2}", bpftrace / ours),
        ]);
        for (who, value) in [("qprof", ours), ("ret", ret), ("bpftrace", bpftrace)] {
            numbers.push((format!("{kind}_{who}_added_ns"), value));
        }
        numbers.push((format!("{kind}_ratio"), bpftrace / ours));
        let what = format!("bpftrace over Qprof, a Go function with {has}");
        goals.push(Goal::at_least(what, LEAST_BELOW_BPFTRACE, bpftrace / ours));
    }
    numbers.push(("landed_share".to_owned(), landed));
    let mut notes = vec![format!(
        "{:.1} % of Qprof's frames ended by a landing, those before it stood included.",
        landed * 100.0
    )];
    notes.extend(goals.iter().map(Goal::line));
    let rounds = taken.first().map_or(0, |(_, rounds)| rounds.len());
    let section = Section {
        name: "go_calls",
        title: format!("One call of a Go function: added time, {rounds} rounds in turn"),
        columns: vec![
            "the function has",
            build.own_column(),
            "`ret` sites",
            "bpftrace, entry and every `ret`",
            "bpftrace / qprof",
        ],
        rows,
        numbers,
        notes,
    };
    (section, goals)
}

fn goroutines_section(taken: &Rounds) -> Section {
    let (mut rows, mut numbers) = (Vec::new(), Vec::new());
    for (tracer, name, key) in [
        (Tracer::Off, "nothing", "off"),
        (Tracer::Qprof, "qprof", "qprof"),
        (Tracer::Bpftrace, "bpftrace, counting them", "bpftrace"),
    ] {
        let of = |number: &dyn Fn(&Taken, &Taken) -> f64| middle(taken, tracer, number);
        let cpu = of(&|with, _| with.cpu);
        let added = of(&|with, off| with.cpu - off.cpu);
        let cpu_ratio = of(&|with, off| with.cpu / off.cpu);
        let took_ratio = of(&|with, off| with.took / off.took);
        let rate = of(&|with, _| with.rate);
        rows.push(vec![
            name.to_owned(),
            format!("{rate:.0}"),
            format!("{cpu:.0} ns"),
            format!("{added:.0} ns"),
            format!("{cpu_ratio:.2}"),
            format!("{took_ratio:.2}"),
        ]);
        for (what, value) in [
            ("rate", rate),
            ("cpu_ns", cpu),
            ("added_ns", added),
            ("cpu_ratio", cpu_ratio),
            ("took_ratio", took_ratio),
        ] {
            numbers.push((format!("{key}_{what}"), value));
        }
    }
    let rounds = taken.first().map_or(0, |(_, rounds)| rounds.len());
    Section {
        name: "goroutines",
        title: format!("100,000 goroutines a second that do nothing, {rounds} rounds in turn"),
        columns: vec![
            "attached",
            "goroutines a second",
            "CPU time of one",
            "added",
            "CPU time, ratio to nothing attached",
            "time of the request that waits for them, ratio",
        ],
        rows,
        numbers,
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_in_what_objdump_prints() {
        let listing = "\n00000000004ae860 <main.f>:\n  4ae860:\tcmp    0x10(%r14),%rsp\n  \
                       4ae864:\tret\n  4ae868:\tret    \n  4ae869:\tjmp    4ae860 <main.f>\n";
        assert_eq!(rets_behind(listing), Some(vec![4, 8]));
        assert_eq!(rets_behind("no such function\n"), None);
    }

    #[test]
    fn each_round_against_its_own_off() {
        let calls = |ns| Taken { calls: [ns; 2], cpu: ns, took: ns, rate: 1e5 };
        let taken = vec![
            (Tracer::Off, vec![calls(5.0), calls(50.0)]),
            (Tracer::Qprof, vec![calls(105.0), calls(150.0)]),
            (Tracer::Ret, vec![calls(305.0), calls(350.0)]),
            (Tracer::Bpftrace, vec![calls(505.0), calls(550.0)]),
        ];
        let build = Build { program: "qprof".into(), lands: true, budgets: true };
        let (table, goals) = calls_section(&build, &taken, 1.0);
        assert_eq!(table.rows[0][1..], ["100 ns", "300 ns", "500 ns", "5.00"]);
        assert!(goals.iter().all(|goal| goal.failure().is_none()));
        assert_eq!(goroutines_section(&taken).rows[1][4], "12.00");
    }
}
