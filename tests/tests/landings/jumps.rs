//! Errors of PostgreSQL: they leave calls by `siglongjmp`, in the backend and in parallel workers.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::bpftrace::{Bpftrace, ClockOffset, Watched};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::postgres::{Postgres, Session};
use profiler_tests::qprof::Run;
use profiler_tests::tree::{Span, from_otlp};

use crate::left::{Left, not_returned};

/// Statements that the leader fails, and how.
const FAILING: &[(&str, &str)] = &[
    ("selec", "42601"),
    ("select * from missing", "42P01"),
    ("select 1 / 0", "22012"),
    ("select cast('x' as integer)", "22P02"),
    ("select 1 / (id - 70000) from numbers", "22012"),
    ("do $$ begin perform 1 / (id - 70000) from numbers; end $$", "22012"),
    (
        "do $$ begin perform 1 / (id - 70000) from numbers; \
         exception when division_by_zero then perform 1 / 0; end $$",
        "22012",
    ),
];

/// One that its workers fail.
const FAILING_IN_WORKERS: &str = "select sum(1 / (id - 70000)) from numbers";
const PARALLEL: &str = "set max_parallel_workers_per_gather = 3; set parallel_setup_cost = 0; \
     set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0; \
     set parallel_leader_participation = off";

const WARM_ROUNDS: usize = 3;

/// The C library's jumps, of which one may have several names, and the function that the server
/// calls where an error has landed or when a process of its own ends.
const JUMPS: &[&str] = &["siglongjmp", "__longjmp_chk"];
const LANDED: &[(&str, &str)] = &[("landed", "EmitErrorReport"), ("end", "proc_exit")];

fn watch_jumps(server: u32) -> Result<Bpftrace> {
    let maps = fs::read_to_string(format!("/proc/{server}/maps"))?;
    let libc = maps.lines().find(|line| line.contains("/libc.so") || line.contains("/libc-"));
    let libc = libc.and_then(|line| line.get(line.find('/')?..)).context("no C library")?;
    let program = fs::read_link(format!("/proc/{server}/exe"))?;
    let jumps = JUMPS.iter().map(|function| ("jump", PathBuf::from(libc), *function));
    let landed = LANDED.iter().map(|(kind, function)| (*kind, program.clone(), *function));
    let watched: Vec<Watched<'_>> = jumps
        .chain(landed)
        .map(|(kind, file, function)| Watched { kind, file, function })
        .collect();
    // Every process has the C library.
    Bpftrace::calls(None, Some("postgres"), &watched)
}

fn fail(leader: &mut Session, parallel: &mut Session, count: usize) -> Result<()> {
    for _ in 0..count {
        for (statement, state) in FAILING {
            ensure!(leader.simple(statement)?.state()? == *state, "{statement}");
        }
        ensure!(parallel.simple(FAILING_IN_WORKERS)?.state()? == "22012");
    }
    Ok(())
}

#[test]
fn failing_statements_end_when_they_jump() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let rounds = usize::try_from(soak(100).max(10))?;
    let mut server = Postgres::start()?;
    let (mut leader, mut parallel) = (server.session()?, server.session()?);
    parallel.simple(PARALLEL)?.rows()?;
    let run = Run::on(server.pid())?.arg("--children").map("postgres").output("json").start()?;
    for _ in 0..WARM_ROUNDS {
        fail(&mut leader, &mut parallel, 2)?;
        // A worker that does not fail comes to places where the others never come.
        parallel.simple("select sum(id) from numbers")?.rows()?;
        // Until exit sites that are not needed any more are gone.
        sleep(Duration::from_millis(1500));
    }
    let other = watch_jumps(server.pid())?;
    let clocks = ClockOffset::measured();
    let warm = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    fail(&mut leader, &mut parallel, rounds)?;
    let left = Left::of(other, clocks, &["jump"], None)?;
    let done = run.stop()?;
    done.check_ok()?;
    server.check_unharmed()?;
    ensure!(done.summary.number(&["lost"])? == 0, "{}", done.summary.0);

    let mut traces = from_otlp(&done.finished.stdout)?;
    traces.retain(|trace| trace.spans.first().is_some_and(|span| span.start >= warm));
    // A worker that is not needed any more is ended where it is. If it does not fail, its last calls
    // come back where there is no time to learn of it before it is gone.
    let leaders = BTreeSet::from([leader.pid(), parallel.pid()]);
    let failed = |thread: u32| leaders.contains(&thread) || left.has(thread, "jump");
    let gone = not_returned(&traces, |thread| !failed(thread))?;
    let jumped = |span: &&&Span| span.thread().is_ok_and(failed);
    let checked = left.check(gone.iter().filter(jumped).copied())?;
    let ended = gone.iter().filter(|span| !jumped(span));
    for span in ended.clone() {
        ensure!(left.has(span.thread()?, "end"), "{} ended for nothing", span.name);
    }
    let statements = rounds * (FAILING.len() + 1);
    let roots = traces.iter().filter(|trace| {
        let root = trace.root();
        root.is_ok_and(|root| {
            root.name == "simple_query" && root.exit().is_ok_and(|e| e == "unwound")
        })
    });
    ensure!(roots.clone().count() == statements, "{} of {statements}", roots.count());
    let in_workers = gone
        .iter()
        .filter(jumped)
        .filter(|span| span.thread().is_ok_and(|thread| !leaders.contains(&thread)));
    ensure!(in_workers.count() > 0, "no worker was left by a jump");
    ensure!(checked >= statements, "{checked} calls of {statements} statements were left");
    Ok(())
}
