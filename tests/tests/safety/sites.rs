//! Registers, flags, vectors and the red zone, around every kind of instruction that carries a
//! probe or stands where a call comes back to (`fixtures/sites.h`).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::process;
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::timeout::PATIENCE;
use profiler_tests::tree::from_otlp;

/// The fixture, and the functions of it that are to be probed.
pub(crate) fn sites() -> Result<(PathBuf, Vec<String>)> {
    let binary = build("sites.c", &["-O1"])?;
    let mut command = Command::new(&binary);
    command.arg("names");
    let names = process::run("sites", command, PATIENCE)?;
    ensure!(names.code == Some(0), "{names:?}");
    Ok((binary, names.stdout.lines().map(str::to_owned).collect()))
}

/// Each is a root; those that may not carry a probe at all are among them.
pub(crate) fn map(names: &[String]) -> Result<PathBuf> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let map = symbol_map::of(&names, &[], "");
    symbol_map::file(&map.replace("required = true", "required = false"))
}

/// All that a CPU has is filled, a function called, and compared with what it left before there
/// were probes: on two threads at once, thousands of times.
#[test]
fn nothing_changes_around_any_kind_of_site() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let (binary, names) = sites()?;
    let map = map(&names)?;
    let rounds: u32 = 800;
    for _ in 0..soak(10) {
        let mut fixture = Fixture::start(&binary, &[&rounds.to_string(), "2"])?;
        let run = Run::on(fixture.pid())?.map(&map).output("none").start()?;
        let worked = fixture.work();
        let said = fixture.stdout();
        worked.with_context(|| said.clone())?;
        ensure!(said.contains(" 0 differences"), "probed, it is another program: {said}");
        let done = run.stop()?;
        done.check_ok()?;
        let roots = done.summary.number(&["traces"])?;
        ensure!(roots > u64::from(rounds), "nothing was probed: {}", done.summary.0);
        ensure!(fixture.finish()?.code == Some(0));
    }
    Ok(())
}

/// One thread, few rounds: each call is a span, and each return was seen.
#[test]
fn every_kind_of_return_is_seen() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let (binary, names) = sites()?;
    let rounds = 16;
    let mut fixture = Fixture::start(&binary, &[&rounds.to_string()])?;
    let run = Run::on(fixture.pid())?.map(map(&names)?).output("json").start()?;
    fixture.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let said = fixture.stdout();
    ensure!(fixture.finish()?.code == Some(0), "{said}");

    let traces = from_otlp(&done.finished.stdout)?;
    let mut calls: BTreeMap<&str, usize> = BTreeMap::new();
    for span in traces.iter().flat_map(|trace| &trace.spans) {
        *calls.entry(&span.name).or_default() += 1;
        ensure!(span.returned()?, "{} ended as {}", span.name, span.exit()?);
    }
    let leaf = said.lines().find_map(|line| line.strip_prefix("landing_leaf "));
    let leaf = leaf.unwrap_or_default().parse()?;
    // What begins with an instruction that may carry no probe, and has no other.
    let never = ["enter_lock", "enter_xchg"];
    for name in &names {
        let expected = match name.as_str() {
            "landing_leaf" => leaf,
            // By the caller that is about it, and by a wrapper.
            "landing_pops" => 2 * rounds,
            name if never.contains(&name) => 0,
            _ => rounds,
        };
        let seen = calls.get(name.as_str()).copied().unwrap_or_default();
        ensure!(seen == expected, "{expected} calls of {name} became {seen} spans");
    }
    // Who jumps to its last callee leaves its frame to it.
    for trace in &traces {
        let outline = trace.outline();
        if outline.starts_with("enter_tail(") || outline == "enter_tail" {
            ensure!(outline == "enter_tail(landing_leaf)", "{outline}");
        }
    }
    Ok(())
}
