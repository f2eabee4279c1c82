//! Calls of Go functions against the program's own log of them: the same calls, on the same
//! goroutines, under the same parents, ended the same way; as built by several releases of Go, and in
//! several ways.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, repository, scratch, soak};
use profiler_tests::fixture::Fixture;
use profiler_tests::go_log::GoLog;
use profiler_tests::golang::{build, build_by};
use profiler_tests::qprof::Run;
use profiler_tests::tree::from_otlp;

const STRIPPED: &str = "-ldflags=-s -w";
/// Scenarios that need C, and make no calls without.
const OF_C: [&str; 3] = ["cgo", "cgo-locked", "c-thread"];
const OF_GO: [&str; 22] = [
    "growth",
    "prologue",
    "recursion",
    "shrink",
    "frames",
    "panics",
    "goexit",
    "pool",
    "eager",
    "lazy",
    "late",
    "fanout",
    "errgroup",
    "locked",
    "migrate",
    "methods",
    "generics",
    "closures",
    "defers",
    "tails",
    "context",
    "handoff",
];

fn map() -> PathBuf {
    repository().join("tests/fixtures/calls/calls.toml")
}

/// What the log of some scenarios says, and that the program is not at fault.
fn alone_with_itself(program: &Path, scenarios: &str) -> Result<GoLog> {
    let log = scratch("calls")?.join("log");
    let path = log.to_string_lossy();
    let arguments: Vec<&str> = std::iter::once(&*path).chain(scenarios.split(' ')).collect();
    let mut fixture = Fixture::start(program, &arguments)?;
    fixture.work()?;
    let finished = fixture.finish()?;
    ensure!(finished.code == Some(0), "the fixture is at fault: {finished:?}");
    GoLog::read(&log)
}

/// Runs some scenarios watched, and compares.
#[expect(clippy::print_stdout, reason = "how near the times are is for whoever wants to know")]
fn watched(program: &Path, scenarios: &str) -> Result<GoLog> {
    let log = scratch("calls")?.join("log");
    let path = log.to_string_lossy();
    let arguments: Vec<&str> = std::iter::once(&*path).chain(scenarios.split(' ')).collect();
    let mut fixture = Fixture::start(program, &arguments)?;
    let run = Run::on(fixture.pid())?.map(map()).output("json").start()?;
    fixture.work()?;
    let done = run.stop()?;
    let finished = fixture.finish()?;
    ensure!(finished.code == Some(0), "it died of being watched: {finished:?}");
    ensure!(finished.stderr.is_empty(), "it says {}", finished.stderr);
    done.check_ok()?;
    let log = GoLog::read(&log)?;
    let differences = log.compare(&from_otlp(&done.finished.stdout)?)?;
    println!("{}, {scenarios}: {}", program.display(), differences.times());
    differences.check()?;
    done.summary.check_nothing_lost()?;
    Ok(log)
}

fn check(program: &Path, cgo: bool) -> Result<()> {
    // A few of them, for whoever looks for what is wrong.
    let scenario = std::env::var("QPROF_SCENARIO").unwrap_or_else(|_| "all".to_owned());
    let log = alone_with_itself(program, &scenario)?;
    if scenario == "all" {
        let scenarios = log.scenarios();
        let of_c: &[&str] = if cgo { &OF_C } else { &[] };
        for name in OF_GO.iter().chain(of_c) {
            ensure!(scenarios.contains_key(name), "no calls of {name}: {scenarios:?}");
        }
        ensure!(log.calls().any(|call| call.moved), "no call has changed its thread");
    }
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let seen = watched(program, &scenario)?;
    ensure!(seen.counts() == log.counts(), "it called other functions when watched");
    if scenario == "all" {
        watched(program, &format!("storm={}", soak(100_000))).context("a storm of goroutines")?;
    }
    Ok(())
}

#[test]
fn built_by_go_1_19() -> Result<()> {
    check(&build_by("1.19.13", "calls", true, &[STRIPPED])?, true)
}

#[test]
fn built_by_go_1_21() -> Result<()> {
    check(&build_by("1.21.13", "calls", true, &[STRIPPED])?, true)
}

#[test]
fn built_by_go_1_24() -> Result<()> {
    check(&build_by("1.24.13", "calls", true, &[STRIPPED])?, true)
}

#[test]
fn built_by_the_newest_go() -> Result<()> {
    check(&build_by("1.27.4", "calls", true, &[STRIPPED])?, true)
}

#[test]
fn built_by_the_go_that_is_here() -> Result<()> {
    check(&build("calls", true, &[STRIPPED])?, true)
}

#[test]
fn position_independent() -> Result<()> {
    check(&build("calls", true, &[STRIPPED, "-buildmode=pie"])?, true)
}

#[test]
fn without_c() -> Result<()> {
    check(&build("calls", false, &[STRIPPED])?, false)
}
