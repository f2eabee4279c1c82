//! DuckDB inside Python: its statements as trees, with the pipelines of each and no other's.

use std::collections::BTreeSet;

use anyhow::{Result, bail, ensure};
use profiler_tests::duckdb::{DuckDb, Task};
use profiler_tests::engine::Engine;
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::qprof::{Done, Run, check, check_code};
use profiler_tests::served::{self, functions_named, functions_seen};
use profiler_tests::symbol_map;
use profiler_tests::tree::Trace;

/// Called once for each row group that a statement scans; no span of the built-in map.
const ROW_GROUP: &str = "duckdb::RowGroupCollection::InitializeScanInRowGroup";
const SCAN: &str = "InitializeScanInRowGroup";

const AGGREGATE: &str = "select sum(v), count(*) from large";
const JOIN: &str = "select a.g, sum(b.v) from small a join other b on a.i = b.i group by a.g";
const FAILS_LATE: &str =
    "select sum(cast(s || case when i = 1500000 then 'x' else '' end as bigint)) from large";

/// Attached, with the row groups seen.
fn counting(database: &DuckDb) -> Result<Run> {
    let root = "duckdb::ClientContext::SubmitStatement";
    let map = symbol_map::file(&symbol_map::of(&[root], &[ROW_GROUP], ""))?;
    Ok(Run::on(database.pid())?.map("duckdb").map(map).output("json"))
}

/// The traces, by the start of their roots; nothing lost, nothing left out.
fn traces(done: &Done) -> Result<Vec<Trace>> {
    let traces = served::traces(done)?;
    for trace in &traces {
        trace.check_parents()?;
        ensure!(!trace.root()?.tags.contains_key("qprof.incomplete"), "{}", trace.outline());
    }
    let spans: usize = traces.iter().map(|trace| trace.spans.len()).sum();
    ensure!(done.summary.number(&["traces"])? == traces.len() as u64);
    ensure!(done.summary.number(&["spans"])? == spans as u64);
    Ok(traces)
}

/// What holds of every statement that succeeds.
fn check_statement(trace: &Trace, row_groups: usize) -> Result<()> {
    for name in ["create_plan", "optimize", "physical_plan"] {
        ensure!(trace.count(name) == 1, "not one {name}: {}", trace.outline());
    }
    ensure!(trace.count(SCAN) == row_groups, "not {row_groups} scans: {}", trace.outline());
    ensure!(trace.count("pipeline_task") > 0, "no task: {}", trace.outline());
    for span in &trace.spans {
        ensure!(span.ended()? == "returned", "{} ended by {}", span.name, span.exit()?);
        if span.name == "pipeline_task" {
            ensure!(span.evidence()? == "handoff:executor", "evidence: {}", span.evidence()?);
        }
    }
    Ok(())
}

/// Two connections at the same time, one on a table of 17 row groups, the other on two of 3 and 2,
/// ten statements each. Which statement a tree belongs to is told by its thread, and what it must
/// hold by its tables: it has as many scans as they have row groups, and the operators of its plan.
fn two_connections(how: &'static str, root: &str) -> Result<()> {
    let mut database = DuckDb::start(&[("large", 17), ("small", 3), ("other", 2)])?;
    let run = counting(&database)?.start()?;
    let tasks = [AGGREGATE, JOIN].map(|sql| Task { how, ..Task::new(10, sql) });
    let answers = database.at_once(&tasks)?;
    let traces = traces(&run.stop()?)?;
    ensure!(database.alive(), "the target is gone");
    let [large, small] = answers.as_slice() else { bail!("{answers:?}") };
    ensure!(large.errors.is_empty() && small.errors.is_empty(), "{answers:?}");
    ensure!((large.rows, small.rows) == (10, 100), "{answers:?}");

    let threads = [large.thread, small.thread];
    let trees: Vec<&Trace> =
        traces.iter().filter(|trace| trace.spans.iter().any(|s| s.name == root)).collect();
    ensure!(trees.len() == 20, "{} statements", trees.len());
    let mut scans = 0;
    for (answer, row_groups, join) in [(large, 17, false), (small, 5, true)] {
        let mine: Vec<&&Trace> = trees
            .iter()
            .filter(|trace| {
                trace.root().is_ok_and(|r| r.thread().is_ok_and(|t| t == answer.thread))
            })
            .collect();
        ensure!(mine.len() == 10, "{} statements of thread {}", mine.len(), answer.thread);
        let mut workers = BTreeSet::new();
        for trace in mine {
            ensure!(trace.root()?.name == root, "the root is {}", trace.root()?.name);
            check_statement(trace, row_groups)?;
            scans += trace.count(SCAN);
            ensure!(trace.count("combine_aggregate") > 0, "{}", trace.outline());
            ensure!((trace.count("combine_join") > 0) == join, "{}", trace.outline());
            ensure!(trace.count("finalize_join") == usize::from(join), "{}", trace.outline());
            for task in trace.named("pipeline_task") {
                let thread = task.thread()?;
                ensure!(
                    thread == answer.thread || !threads.contains(&thread),
                    "a task of one connection on the thread of the other"
                );
                workers.extend((thread != answer.thread).then_some(thread));
            }
        }
        ensure!(!workers.is_empty(), "no task on a worker");
    }
    ensure!(scans == 10 * 17 + 10 * 5, "{scans} row groups");
    Ok(())
}

#[test]
fn two_connections_have_their_own_pipeline_tasks() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    two_connections("execute", "execute")
}

/// `con.sql()` submits nothing before its rows are asked for.
#[test]
fn relations_have_their_own_pipeline_tasks() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    two_connections("relation", "submit")
}

/// A large result is fetched while its pipeline still runs: all of it is in the tree.
#[test]
fn a_streamed_result_stays_one_tree() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut database = DuckDb::start(&[("small", 3)])?;
    let run = counting(&database)?.start()?;
    let answer = database.one(Task::new(2, "select i from small where v >= 0"))?;
    ensure!(answer.rows == 2 * 3 * 122_880, "{answer:?}");
    let traces = traces(&run.stop()?)?;
    ensure!(traces.len() == 2, "{} traces", traces.len());
    for trace in &traces {
        check_statement(trace, 3)?;
    }
    Ok(())
}

/// Statements that fail, before their pipelines run and in the middle of one, and then good ones.
#[test]
fn a_failing_statement_ends_with_its_spans_closed() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut database = DuckDb::start(&[("large", 17), ("small", 3), ("other", 2)])?;
    let run = counting(&database)?.start()?;
    for (sql, error) in
        [("select * from no_such_table", "no_such_table"), (FAILS_LATE, "Could not convert")]
    {
        let answers = database.at_once(&[Task::new(3, sql)])?;
        let errors = &answers[0].errors;
        ensure!(errors.len() == 3 && errors[0].contains(error), "{sql}: {errors:?}");
    }
    database.one(Task::new(5, JOIN))?;
    // And at the same time as good ones.
    let answers = database.at_once(&[Task::new(5, FAILS_LATE), Task::new(5, JOIN)])?;
    ensure!(answers[0].errors.len() == 5 && answers[1].errors.is_empty(), "{answers:?}");
    let traces = traces(&run.stop()?)?;
    ensure!(database.alive(), "the target is gone");
    ensure!(traces.len() == 21, "{} traces", traces.len());

    let (missing, rest) = traces.split_at(3);
    for trace in missing {
        for name in ["execute", "submit", "create_plan"] {
            let exits: Vec<_> = trace.named(name).map(|span| span.ended()).collect();
            let [Ok(exit)] = exits.as_slice() else { bail!("not one {name}: {}", trace.outline()) };
            // The exception is caught in `submit`, and thrown anew by what called it.
            let good = *exit == "unwound" || (name == "submit" && *exit == "returned");
            ensure!(good, "{name} ended by {exit}");
        }
        ensure!(trace.count("pipeline_task") == 0, "{}", trace.outline());
    }
    let (late, rest) = rest.split_at(3);
    for trace in late {
        check_failed_late(trace)?;
    }
    let (good, mixed) = rest.split_at(5);
    for trace in good {
        check_statement(trace, 5)?;
    }
    let mut counts = (0, 0);
    for trace in mixed {
        if trace.root()?.thread()? == answers[0].thread {
            check_failed_late(trace)?;
            counts.0 += 1;
        } else {
            check_statement(trace, 5)?;
            counts.1 += 1;
        }
    }
    ensure!(counts == (5, 5), "{counts:?}");
    Ok(())
}

/// What holds of a statement that an exception in a pipeline has ended.
fn check_failed_late(trace: &Trace) -> Result<()> {
    ensure!(trace.root()?.exit()? == "unwound", "the root ended by {}", trace.root()?.exit()?);
    let mut unwound = 0;
    for span in &trace.spans {
        let exit = span.ended()?;
        ensure!(["returned", "unwound"].contains(&exit), "{} ended by {exit}", span.name);
        unwound += usize::from(span.name == "pipeline_task" && exit == "unwound");
    }
    ensure!(unwound > 0, "no task was left by the exception: {}", trace.outline());
    ensure!(trace.count(SCAN) <= 17, "more scans than row groups: {}", trace.outline());
    ensure!(trace.count("combine_join") == 0, "{}", trace.outline());
    Ok(())
}

/// Nothing in the map is a name without a function, nor a function that is never called.
#[test]
fn every_function_of_the_map_is_there_and_fires() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut database = DuckDb::start(&[("small", 3)])?;
    let named = functions_named(database.pid(), "duckdb")?;

    // Without `-m`: the map is found by what is mapped.
    let run = Run::on(database.pid())?.output("json").start()?;
    for sql in [
        "select sum(v) from small",
        "select g, sum(v) from small group by g",
        "select distinct i from small",
        "select a.g from small a join small b on a.i = b.i + 1 limit 5",
        "select i, v from small order by v desc",
        "select i, s from small order by s limit 3",
        "select row_number() over (order by v) from small",
        "create or replace table copied as select * from small",
        "create or replace table keyed (i integer primary key)",
        "insert into keyed select * from range(10)",
        "update copied set v = 0 where g = 3",
        "delete from copied where g = 1",
    ] {
        database.one(Task::new(1, sql))?;
    }
    let many = "insert into copied values (?, ?, ?, ?)";
    database.one(Task { how: "many", ..Task::new(1, many) })?;
    let some = "select g from small where i = 5";
    database.one(Task { how: "relation", ..Task::new(1, some) })?;
    let traces = traces(&run.stop()?)?;
    let seen = functions_seen(&traces);
    // A span says no parameters.
    let named: BTreeSet<String> =
        named.iter().filter_map(|name| name.split('(').next()).map(str::to_owned).collect();
    ensure!(named == seen, "named {named:?}\nseen {seen:?}");
    Ok(())
}

/// Which of two engines in one process is meant, nobody can know.
#[test]
fn a_process_with_two_engines_needs_a_choice() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let both = Engine::start("both_client.py", &[])?;
    let finished = Run::on(both.pid())?.fail()?;
    check_code(&finished, 4)?;
    ensure!(
        finished.stderr.contains("several symbol maps fit")
            && finished.stderr.contains("duckdb")
            && finished.stderr.contains("tantivy"),
        "{}",
        finished.stderr
    );
    for map in ["duckdb", "tantivy"] {
        let checked = check(both.pid(), map)?;
        ensure!(checked.skipped.is_empty(), "{map}: skipped: {:?}", checked.skipped);
        let object = format!("{map}.");
        ensure!(
            checked
                .functions
                .iter()
                .filter(|f| f.span.is_some())
                .all(|f| { f.object.trim_start_matches('_').starts_with(&object) })
        );
    }
    Ok(())
}
