//! Reading the functions and types of a large stripped Go program, against Go's own library.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use super::go;
use super::goal::Goal;
use super::report::Section;
use crate::cache::Scratch;
use crate::cli::Context;
use crate::command::stdout_of;
use crate::json::Json;
use crate::toolchain::Toolchain;
use crate::{say, sys};

/// Both find it by its name, among all.
const FUNCTION: &str = "internal/querynodev2.(*QueryNode).Search";
/// Within which the functions are to be read.
const MOST_SECONDS: f64 = 0.2;

/// The least time and memory of the rounds of one program: what else runs on the machine only adds.
struct Taken {
    seconds: f64,
    peak_kib: f64,
    said: Json,
}

/// The section `go_tables` and its goal. `program`: the Go program that is read.
///
/// # Errors
/// When a program does not build or run, or they do not find the same.
pub(super) fn run(
    context: &Context,
    toolchain: &Toolchain,
    go: &Path,
    program: &Path,
    rounds: usize,
) -> Result<(Section, Vec<Goal>)> {
    let scratch = Scratch::new(context.root.join("target/bench-go-tables"))?;
    let rival = go::build(context, go, scratch.path(), "gosym")?;
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--quiet", "--locked", "--release", "-p", "profiler-user"]);
    crate::command::run(cargo.args(["--example", "go_tables"]))?;
    let ours = context.root.join("target/release/examples/go_tables");

    let command = |words: &[&Path]| {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(FUNCTION);
        command
    };
    let asked = [
        command(&[&ours, Path::new("functions"), program]),
        command(&[&ours, Path::new("types"), program]),
        command(&[&rival, program]),
    ];
    // The first of them finds the file in memory as well.
    std::fs::read(program).with_context(|| format!("cannot read {}", program.display()))?;
    let mut best = [None, None, None];
    for round in 1..=rounds {
        say::step("bench", &format!("Go tables, round {round} of {rounds}"));
        for (mut command, best) in asked.iter().map(again).zip(&mut best) {
            sys::check_stop()?;
            take(&mut command, best)?;
        }
    }
    let [Some(functions), Some(types), Some(gosym)] = best else { bail!("no round was taken") };
    section(&functions, &types, &gosym, program, rounds)
}

/// The same command, once more.
fn again(command: &Command) -> Command {
    let mut copy = Command::new(command.get_program());
    copy.args(command.get_args());
    copy
}

fn take(command: &mut Command, best: &mut Option<Taken>) -> Result<()> {
    let started = Instant::now();
    let said = stdout_of(command)?;
    let seconds = started.elapsed().as_secs_f64();
    let said = Json::parse(&said)?;
    let peak_kib = said.number("peak_kib")?;
    *best = Some(match best.take() {
        Some(best) => Taken {
            seconds: best.seconds.min(seconds),
            peak_kib: best.peak_kib.min(peak_kib),
            said,
        },
        None => Taken { seconds, peak_kib, said },
    });
    Ok(())
}

fn section(
    functions: &Taken,
    types: &Taken,
    gosym: &Taken,
    program: &Path,
    rounds: usize,
) -> Result<(Section, Vec<Goal>)> {
    let found = |taken: &Taken| taken.said.number("found");
    let (ours, theirs) = (found(functions)?, found(gosym)?);
    if ours < 1.0 || (ours - theirs).abs() > 0.0 {
        bail!("{FUNCTION} is found {ours} times by Qprof, and {theirs} times by debug/gosym");
    }
    let size = std::fs::metadata(program)?.len() as f64 / 1e6;
    let (all, all_types) = (gosym.said.number("functions")?, types.said.number("types")?);
    let row = |who: &str, taken: &Taken| {
        vec![
            who.to_owned(),
            format!("{:.3} s", taken.seconds),
            format!("{:.2}", taken.seconds / functions.seconds),
            format!("{:.0} MiB", taken.peak_kib / 1024.0),
            format!("{:.2}", taken.peak_kib / functions.peak_kib),
        ]
    };
    let what = format!("one of {all} functions found by its name");
    let goal = Goal::seconds(what, MOST_SECONDS, functions.seconds);
    let section = Section {
        name: "go_tables",
        title: format!(
            "Functions and types of a stripped Go program of {size:.0} MB (Milvus 2.3.5), the best \
             of {rounds} rounds in turn"
        ),
        columns: vec!["program", "time", "ratio", "peak memory", "ratio"],
        rows: vec![
            row("qprof, functions", functions),
            row(&format!("qprof, functions and {all_types} types"), types),
            row("Go's debug/gosym, functions", gosym),
        ],
        numbers: vec![
            ("functions".to_owned(), all),
            ("types".to_owned(), all_types),
            ("qprof_s".to_owned(), functions.seconds),
            ("qprof_kib".to_owned(), functions.peak_kib),
            ("qprof_types_s".to_owned(), types.seconds),
            ("qprof_types_kib".to_owned(), types.peak_kib),
            ("gosym_s".to_owned(), gosym.seconds),
            ("gosym_kib".to_owned(), gosym.peak_kib),
            ("ratio".to_owned(), gosym.seconds / functions.seconds),
        ],
        notes: vec![goal.line()],
    };
    Ok((section, vec![goal]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(seconds: f64, text: &str) -> Taken {
        Taken { seconds, peak_kib: 1024.0, said: Json::parse(text).unwrap() }
    }

    #[test]
    fn both_must_find_the_same() {
        let ours = || taken(0.1, r#"{"found": 1, "types": 7}"#);
        let file = Path::new("Cargo.toml");
        let gosym = taken(0.2, r#"{"found": 1, "functions": 9}"#);
        let (table, goals) = section(&ours(), &ours(), &gosym, file, 1).unwrap();
        assert_eq!(table.rows[2][1..3], ["0.200 s", "2.00"]);
        assert!(goals[0].line().ends_with("reached."));
        let none = taken(0.2, r#"{"found": 0, "functions": 9}"#);
        assert!(section(&ours(), &ours(), &none, file, 1).is_err());
    }
}
