//! PostgreSQL: both protocols, HNSW search, errors that leave by `longjmp`, and many processes.

mod processes;
mod refusals;

use anyhow::{Result, anyhow, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::postgres::Postgres;
use profiler_tests::qprof::{Done, Run, check};
use profiler_tests::tree::{Trace, from_otlp};
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
    for span in load_map("postgres", &[])?.map.spans {
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
            ensure!(span.ended()? == "returned", "{} ended as {}", span.name, span.exit()?);
            ensure!(span.thread()? == session.pid(), "{} ran elsewhere", span.name);
        }
        ensure!(trace.root()?.tag("db.system.name")? == "postgresql");
    }
    Ok(())
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
