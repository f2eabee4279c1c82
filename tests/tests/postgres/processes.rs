//! The whole server: the postmaster, and all that it forks.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::postgres::{Postgres, Session};
use profiler_tests::qprof::Run;
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::{Span, Trace, from_otlp};

use crate::{GOOD_TREE, NEAREST, check_roots, rooted, whole};

/// Attached to the postmaster before its clients come, and without being told the map.
#[test]
fn twenty_connections_are_twenty_backends() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let crowd = server.crowd(20, 10)?;
    let run = Run::on(server.pid())?.arg("--children").output("json").start()?;
    let (mut pids, simple, extended) = crowd.go()?;
    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;

    ensure!((simple, extended) == (100, 100), "the client sent {simple} and {extended}");
    check_roots(
        &done,
        &[("connect", 20), ("simple_query", simple), ("portal_run", extended), ("bind", extended)],
    )?;
    pids.sort_unstable();
    ensure!(pids.windows(2).all(|two| two[0] < two[1]), "backends: {pids:?}");
    for (name, each) in [("connect", 1), ("simple_query", 5), ("portal_run", 5)] {
        let mut by_backend = BTreeMap::<u32, usize>::new();
        for trace in rooted(&traces, name) {
            *by_backend.entry(trace.root()?.thread()?).or_default() += 1;
        }
        let expected = pids.iter().map(|pid| (*pid, each)).collect();
        ensure!(by_backend == expected, "{name} by backend: {by_backend:?} of {pids:?}");
    }
    for trace in rooted(&traces, "simple_query") {
        ensure!(trace.outline() == GOOD_TREE, "{}", trace.outline());
    }
    Ok(())
}

/// As many workers as there may be, also for small tables.
fn go_parallel(session: &mut Session) -> Result<()> {
    for setting in [
        "max_parallel_workers_per_gather = 3",
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "min_parallel_table_scan_size = 0",
    ] {
        session.simple(&format!("set {setting}"))?.rows()?;
    }
    Ok(())
}

/// The workers of a trace are processes of their own, proven to work for the leader.
fn check_workers(trace: &Trace, launched: u64) -> Result<()> {
    let workers: Vec<&Span> = trace.named("parallel_worker").collect();
    let outline = trace.outline();
    ensure!(workers.len() as u64 == launched, "{launched} workers were launched: {outline}");
    ensure!(trace.count("worker_start") == workers.len(), "waits of the workers: {outline}");
    let mut threads = vec![trace.root()?.thread()?];
    for worker in workers {
        ensure!(worker.evidence()? == "handoff:parallel_worker", "{}", worker.evidence()?);
        let leader = trace.parent(worker)?.ok_or_else(|| anyhow!("a worker without a leader"))?;
        ensure!(leader.name == "executor_run", "a worker below {}", leader.name);
        ensure!(leader.thread()? == trace.root()?.thread()?, "its leader is another process");
        let runs = trace.children(worker).filter(|span| span.name == "executor_run").count();
        ensure!(runs == 1, "a worker runs its plan once: {outline}");
        ensure!(worker.ended()? == "returned", "a worker ended as {}", worker.exit()?);
        threads.push(worker.thread()?);
    }
    threads.sort_unstable();
    ensure!(threads.windows(2).all(|two| two[0] < two[1]), "leader and workers: {threads:?}");
    Ok(())
}

/// The traces of a backend that have workers.
fn led_by(traces: &[Trace], pid: u32) -> impl Iterator<Item = &Trace> {
    rooted(traces, "simple_query").filter(move |trace| {
        trace.count("parallel_setup") > 0
            && trace.root().and_then(Span::thread).is_ok_and(|thread| thread == pid)
    })
}

/// Two leaders at once, one forked before Qprof came and one after: `EXPLAIN (ANALYZE)` knows how
/// many workers each of their queries had.
#[test]
fn parallel_workers_hang_under_their_leader() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let early = server.session()?;
    let run = Run::on(server.pid())?.arg("--children").map("postgres").output("json").start()?;
    let late = server.session()?;
    let leaders = [early, late].map(|mut session| {
        thread::spawn(move || -> Result<(u32, Vec<u64>)> {
            go_parallel(&mut session)?;
            let mut launched = Vec::new();
            for _ in 0..10 {
                let (planned, started) =
                    session.workers("select part, count(*) from numbers group by part")?;
                ensure!(planned >= 2 && started >= 1, "{planned} planned, {started} launched");
                launched.push(started);
            }
            // A plan that would have no workers, made to have one.
            session.simple("set max_parallel_workers_per_gather = 0")?.rows()?;
            session
                .simple("set max_parallel_workers_per_gather = 2; set debug_parallel_query = on")?
                .rows()?;
            let (planned, started) =
                session.workers("select id from numbers where id = 4711 limit 1")?;
            ensure!(planned >= 1 && started >= 1, "{planned} planned, {started} launched");
            launched.push(started);
            Ok((session.pid(), launched))
        })
    });
    let mut counted = Vec::new();
    for leader in leaders {
        counted.push(leader.join().map_err(|_panic| anyhow!("a client panicked"))??);
    }
    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;
    for (pid, launched) in counted {
        let led: Vec<&Trace> = led_by(&traces, pid).collect();
        ensure!(led.len() == launched.len(), "{} of {} queries", led.len(), launched.len());
        for (trace, launched) in led.into_iter().zip(launched) {
            check_workers(trace, launched)?;
        }
    }
    Ok(())
}

/// A worker's error is its leader's: the query ends, and the next one has workers of its own.
#[test]
fn an_error_in_a_worker_ends_its_query_alone() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let run = Run::on(server.pid())?.arg("--children").map("postgres").output("json").start()?;
    let mut session = server.session()?;
    go_parallel(&mut session)?;
    // Without the leader's help: the division is a worker's.
    session.simple("set parallel_leader_participation = off")?.rows()?;
    let mut launched = Vec::new();
    for _ in 0..5 {
        ensure!(session.simple("select sum(1 / (id - 70000)) from numbers")?.state()? == "22012");
        launched.push(session.workers("select sum(id) from numbers")?.1);
    }
    let done = run.stop()?;
    done.check_ok()?;
    server.check_unharmed()?;
    ensure!(done.summary.number(&["lost"])? == 0, "{}", done.summary.0);
    // A worker may come to life when its query has failed already: it works for nobody.
    let late = done.summary.number(&["stitch", "not_given"])?;
    ensure!(done.summary.number(&["orphans"])? == late, "{}", done.summary.0);
    let traces = from_otlp(&done.finished.stdout)?;
    check_roots(&done, &[("abort", 5), ("simple_query", 5 + 5 + 5)])?;
    let (failed, good): (Vec<&Trace>, Vec<&Trace>) = led_by(&traces, session.pid())
        .partition(|trace| trace.root().and_then(Span::ended).is_ok_and(|end| end != "returned"));
    ensure!((failed.len(), good.len()) == (5, 5), "{} failed, {} good", failed.len(), good.len());
    for trace in failed {
        ensure!(trace.count("parallel_worker") >= 1, "no worker: {}", trace.outline());
    }
    for (trace, launched) in good.into_iter().zip(launched) {
        trace.check()?;
        check_workers(trace, launched)?;
    }
    Ok(())
}

/// A backend loads `vector.so` when it first needs it; from a moment later on it is seen.
#[test]
fn an_extension_is_seen_once_it_is_loaded() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let run = Run::on(server.pid())?.arg("--children").map("postgres").output("json").start()?;
    let mut session = server.session()?;
    session.simple("set enable_seqscan = off")?.rows()?;
    until(PATIENCE, "a search in the extension to be seen", || {
        session.simple(NEAREST)?.rows()?;
        Ok(run.stdout().contains("hnsw_search_layer").then_some(()))
    })?;
    // What is on stdout by now may end in the middle of a line.
    let before = run.stdout().matches("\"hnsw_begin_scan\"").count();
    for _ in 0..10 {
        session.simple(NEAREST)?.rows()?;
    }
    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;
    let searches = traces.iter().filter(|trace| trace.count("hnsw_begin_scan") > 0).count();
    ensure!(searches >= before + 10, "{before} searches before, {searches} after ten more");
    Ok(())
}
