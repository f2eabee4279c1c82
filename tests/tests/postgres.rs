//! PostgreSQL: both protocols, errors that leave by `longjmp`, HNSW search, and a tree of processes.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Result, anyhow, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::postgres::{Postgres, Session};
use profiler_tests::qprof::{Done, Run, check};
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::{Span, Trace, from_otlp};
use qprof::config::load_map;

/// A query of one table, and what becomes of it in the simple protocol, …
const GOOD: &str = "select count(*) from numbers where id <= 3";
const GOOD_TREE: &str =
    "simple_query(parse,analyze,rewrite,plan,portal_start,portal_run(executor_run),commit)";
/// … of a statement that is a utility, …
const UTILITY: &str = "simple_query(parse,analyze,portal_start,portal_run(utility),commit)";
/// … the same in a transaction block, …
const IN_BLOCK: &str = "simple_query(parse,analyze,portal_start,portal_run(utility))";
/// … and of a query that fails while it runs.
const FAILED: &str =
    "simple_query(parse,analyze,rewrite,plan,portal_start,portal_run(executor_run))";

const NEAREST: &str = "select id from vectors order by place <-> '[0.5, 0.5, 0.5]' limit 5";

fn outlines(traces: &[Trace]) -> Vec<String> {
    traces.iter().map(Trace::outline).collect()
}

/// The traces, each whole, and nothing lost.
fn whole(done: &Done) -> Result<Vec<Trace>> {
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let traces = from_otlp(&done.finished.stdout)?;
    for trace in &traces {
        trace.check()?;
    }
    Ok(traces)
}

/// The traces whose top span has that name.
fn rooted<'a>(traces: &'a [Trace], name: &'a str) -> impl Iterator<Item = &'a Trace> {
    traces.iter().filter(move |trace| trace.root().is_ok_and(|root| root.name == name))
}

fn roots(done: &Done, name: &str) -> Result<u64> {
    done.summary.number(&["roots", name, "count"])
}

fn check_roots(done: &Done, expected: &[(&str, u64)]) -> Result<()> {
    for &(name, count) in expected {
        let seen = roots(done, name)?;
        ensure!(seen == count, "{seen} of {name}, not {count}: {}", done.summary.0);
    }
    Ok(())
}

#[test]
fn every_function_of_the_map_is_in_the_server() -> Result<()> {
    let server = Postgres::start()?;
    let mut session = server.session()?;
    session.simple("load 'vector'")?.rows()?;
    let plan = check(session.pid(), "postgres")?;
    ensure!(plan.skipped.is_empty(), "not probed: {:?}", plan.skipped);
    for span in load_map("postgres")?.spans {
        let found = plan.functions.iter().any(|found| found.span.as_deref() == Some(&*span.name));
        ensure!(found, "nothing makes {}", span.name);
    }
    Ok(())
}

/// One message of the simple protocol is one trace; in the extended one each step is.
#[test]
fn both_protocols_are_counted_exactly() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let mut session = server.session()?;
    let run = Run::on(session.pid())?.map("postgres").output("json").start()?;
    for number in 0..20 {
        ensure!(session.simple(GOOD)?.rows()?[0][0] == 3);
        let rows = session.extended("select count(*) from numbers where id <= %s", &[number])?;
        ensure!(rows.rows()?[0][0] == number);
        ensure!(session.prepared("select %s::int + 1", &[number])?.rows()?[0][0] == number + 1);
    }
    session.simple("select 1; select 2; select 3")?.rows()?;
    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;

    // 20 statements are parsed, bound and executed, and one more is parsed once for all.
    check_roots(
        &done,
        &[
            ("simple_query", 21),
            ("parse", 21),
            ("analyze", 21),
            ("bind", 40),
            ("portal_start", 40),
            ("portal_run", 40),
            ("finish_command", 41),
        ],
    )?;
    let sum = 21 + 21 + 21 + 40 * 3 + 41;
    ensure!(done.summary.number(&["traces"])? == sum, "other roots: {}", done.summary.0);

    let like = |tree: &str| traces.iter().filter(|trace| trace.outline() == tree).count();
    ensure!(like(GOOD_TREE) == 20, "simple: {:?}", outlines(&traces));
    ensure!(like("parse") == 21 && like("analyze(rewrite)") == 21);
    // The server tries five plans for the parameters it got, and then makes one for all.
    ensure!(like("bind(plan)") == 20 + 6, "{} binds with a plan", like("bind(plan)"));
    ensure!(like("bind") == 14 && like("portal_run(executor_run)") == 40);
    // The Sync after the prepared statement's Parse ends a transaction as well.
    ensure!(like("finish_command(commit)") == 41, "syncs: {:?}", outlines(&traces));
    let three = rooted(&traces, "simple_query")
        .find(|trace| trace.count("portal_run") == 3)
        .ok_or_else(|| anyhow!("no trace of three statements"))?;
    for (name, count) in [("parse", 1), ("analyze", 3), ("plan", 3), ("executor_run", 3)] {
        ensure!(three.count(name) == count, "three statements: {}", three.outline());
    }
    for trace in &traces {
        for span in &trace.spans {
            ensure!(span.exit()? == "ret", "{} ended as {}", span.name, span.exit()?);
            ensure!(span.thread()? == session.pid(), "{} ran elsewhere", span.name);
        }
        ensure!(trace.root()?.tag("db.system.name")? == "postgresql");
    }
    Ok(())
}

/// A statement, how the server refuses it, and what is seen.
type Refused<'a> = (&'a str, &'a str, &'a [&'a str]);

/// By the simple protocol.
const REFUSED: &[Refused<'_>] = &[
    ("select 1 / 0", "22012", &["simple_query(parse,analyze,rewrite,plan)", "abort"]),
    ("select * from missing", "42P01", &["simple_query(parse,analyze)", "abort"]),
    ("selec", "42601", &["simple_query(parse)", "abort"]),
    ("select 1 / (id - 70000) from numbers", "22012", &[FAILED, "abort"]),
];

/// By the extended protocol, with a parameter.
const REFUSED_STEPS: &[Refused<'_>] = &[
    (
        "select * from missing where id = %s",
        "42P01",
        &["parse", "analyze", "abort", "finish_command"],
    ),
    ("selec %s", "42601", &["parse", "abort", "finish_command"]),
    (
        "select 1 / (id - %s) from numbers",
        "22012",
        &[
            "parse",
            "analyze(rewrite)",
            "bind(plan)",
            "portal_start",
            "portal_run(executor_run)",
            "abort",
            "finish_command",
        ],
    ),
];

/// A PL/pgSQL block that catches an error of its first statement, and then goes on.
const CATCHING: &str = "do $$ begin \
    begin perform 1 / (id - 70000) from numbers; exception when division_by_zero then null; end; \
    perform count(*) from numbers; \
    end $$";
const CAUGHT: &str = "simple_query(parse,analyze,portal_start,portal_run(utility(\
    analyze,rewrite,bind(plan),executor_run,abort_block,\
    analyze,rewrite,bind(plan),executor_run)),commit)";

/// What a failed call left open ended before the server began to clean up, and all else returned.
fn check_ends(traces: &[Trace]) -> Result<()> {
    for (number, trace) in traces.iter().enumerate() {
        let next = traces.get(number + 1);
        let failed = next.is_some_and(|next| next.outline().starts_with("abort"));
        let left: Vec<&Span> =
            trace.spans.iter().filter(|span| span.exit().is_ok_and(|exit| exit != "ret")).collect();
        for span in &left {
            ensure!(span.exit()? == "inferred", "{} ended as {}", span.name, span.exit()?);
        }
        if let Some(abort) = next.filter(|_| failed) {
            let root = trace.root()?;
            ensure!(left.iter().any(|span| span.id == root.id), "{} returned", trace.outline());
            ensure!(root.end <= abort.root()?.start, "{} ended too late", trace.outline());
        } else if trace.count("abort_block") == 1 && trace.count("utility") == 1 {
            let names: Vec<&str> = left.iter().map(|span| span.name.as_str()).collect();
            ensure!(names == ["executor_run"], "left by the caught error: {names:?}");
        } else {
            ensure!(left.is_empty(), "{} did not return", trace.outline());
        }
    }
    Ok(())
}

/// An ERROR leaves by `longjmp`: its trace ends then and there, and the next ones are right.
#[test]
fn errors_leave_later_trees_right() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let mut session = server.session()?;
    let run = Run::on(session.pid())?.map("postgres").output("json").start()?;
    let mut expected = Vec::new();

    for (statement, state, trees) in REFUSED {
        let answer = session.simple(statement)?;
        ensure!(answer.state()? == *state, "{statement}: {:?}", answer.0);
        session.simple(GOOD)?.rows()?;
        expected.extend_from_slice(trees);
        expected.push(GOOD_TREE);
    }
    for (statement, state, trees) in REFUSED_STEPS {
        let answer = session.extended(statement, &[70_000])?;
        ensure!(answer.state()? == *state, "{statement}: {:?}", answer.0);
        session.simple(GOOD)?.rows()?;
        expected.extend_from_slice(trees);
        expected.push(GOOD_TREE);
    }

    session.simple("set statement_timeout = '2s'")?.rows()?;
    ensure!(session.simple("select pg_sleep(600)")?.state()? == "57014");
    session.simple("set statement_timeout = 0")?.rows()?;
    expected.extend([UTILITY, FAILED, "abort", UTILITY]);
    ensure!(session.cancelled("select pg_sleep(600)")?.state()? == "57014");
    session.simple(GOOD)?.rows()?;
    expected.extend([FAILED, "abort", GOOD_TREE]);

    session.simple(CATCHING)?.rows()?;
    session.simple(GOOD)?.rows()?;
    expected.extend([CAUGHT, GOOD_TREE]);

    for statement in ["begin", "savepoint here"] {
        session.simple(statement)?.rows()?;
    }
    ensure!(session.simple("select 1 / 0")?.state()? == "22012");
    for statement in ["rollback to here", "commit"] {
        session.simple(statement)?.rows()?;
    }
    session.simple(GOOD)?.rows()?;
    expected.extend([IN_BLOCK, IN_BLOCK, "simple_query(parse,analyze,rewrite,plan)"]);
    expected.extend(["abort(abort_block)", IN_BLOCK, UTILITY, GOOD_TREE]);

    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;
    let seen = outlines(&traces);
    ensure!(seen == expected, "seen: {seen:#?}\nexpected: {expected:#?}");
    check_ends(&traces)
}

/// How many layers a search went through; the same for each, as it is the same index.
fn check_searches(traces: &[Trace], count: usize) -> Result<()> {
    let searches: Vec<&Trace> =
        traces.iter().filter(|trace| trace.count("hnsw_begin_scan") > 0).collect();
    ensure!(searches.len() == count, "{} searches, not {count}", searches.len());
    let layers = searches.first().map_or(0, |trace| trace.count("hnsw_search_layer"));
    ensure!(layers >= 1, "nothing was searched: {:?}", outlines(traces));
    for trace in searches {
        ensure!(trace.count("hnsw_begin_scan") == 1, "{}", trace.outline());
        ensure!(trace.count("hnsw_search_layer") == layers, "{}", trace.outline());
        for span in trace.named("hnsw_begin_scan").chain(trace.named("hnsw_search_layer")) {
            let parent = trace.parent(span)?.ok_or_else(|| anyhow!("{} is a root", span.name))?;
            ensure!(parent.name == "executor_run", "{} is below {}", span.name, parent.name);
        }
    }
    Ok(())
}

#[test]
fn a_vector_search_shows_its_layers() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let mut session = server.session()?;
    // Else the index is only used when that is cheaper than to read 2,000 rows.
    session.simple("set enable_seqscan = off")?.rows()?;
    session.simple("load 'vector'")?.rows()?;
    let run = Run::on(session.pid())?.map("postgres").output("json").start()?;
    for _ in 0..10 {
        ensure!(session.simple(NEAREST)?.rows()?.as_array().is_some_and(|rows| rows.len() == 5));
        let near = "select id from vectors where id <> %s \
                    order by place <-> '[0.5, 0.5, 0.5]' limit 5";
        session.extended(near, &[7])?.rows()?;
    }
    session.simple(GOOD)?.rows()?;
    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;
    check_roots(&done, &[("simple_query", 11), ("portal_run", 10)])?;
    check_searches(&traces, 20)
}

// ---- The whole server: the postmaster and all that it forks --------------------------------------

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
        ensure!(worker.exit()? == "ret", "a worker ended as {}", worker.exit()?);
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
        .partition(|trace| trace.root().and_then(Span::exit).is_ok_and(|exit| exit != "ret"));
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
