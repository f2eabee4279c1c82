//! Statements of DuckDB that fail: they leave calls by exceptions, on the thread of the connection
//! and on those of the workers.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::bpftrace::{Bpftrace, ClockOffset, Watched};
use profiler_tests::duckdb::{DuckDb, Task};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::functions;
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::tree::{Trace, from_otlp};

use crate::left::{Left, not_returned};

/// What each says when it fails.
const FAILING: &[(&str, &str)] = &[
    ("selec 1", "Parser Error"),
    ("select * from missing", "Catalog Error"),
    ("select missing from small", "Binder Error"),
    ("select i from small group by g", "Binder Error"),
    ("select no_such_function(i) from small", "Catalog Error"),
    ("create table small (i integer)", "Catalog Error"),
    ("select cast('x' as integer)", "Conversion Error"),
    ("select error('as told') from small", "Invalid Input Error"),
    (
        "select sum(cast(s || case when i = 1000000 then 'x' else '' end as bigint)) from large",
        "Conversion Error",
    ),
    (
        "select g, max(cast(s || 'x' as bigint)) from large group by g order by g",
        "Conversion Error",
    ),
];

/// How many functions of DuckDB are probed besides those of its map.
const FUNCTIONS: usize = 150;
const WARM_ROUNDS: usize = 3;

/// The functions that leave calls by an exception, and the ones around its being caught.
const THROWS: &[(&str, &str)] = &[
    ("throw", "__cxa_throw"),
    ("rethrow", "__cxa_rethrow"),
    ("exception_ptr", "_ZSt17rethrow_exceptionNSt15__exception_ptr13exception_ptrE"),
    ("catch", "__cxa_begin_catch"),
    // What it calls first: wherever in it our probe is, it is before that.
    ("inside", "__cxa_get_globals"),
    ("caught", "__cxa_end_catch"),
];

/// The files of a process's code whose names contain one of these.
fn mapped(pid: u32, parts: &[&str]) -> Result<BTreeSet<PathBuf>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let files = maps.lines().filter(|line| line.contains("r-xp"));
    let files = files.filter_map(|line| Some(line.get(line.find('/')?..)?.trim_end()));
    Ok(files
        .filter(|file| parts.iter().any(|part| file.contains(part)))
        .map(PathBuf::from)
        .collect())
}

/// Has bpftrace note each exception of a process, in whichever objects have the runtime's functions.
fn watch_exceptions(pid: u32) -> Result<Bpftrace> {
    let mut watched = Vec::new();
    for file in mapped(pid, &["libstdc++", "_duckdb"])? {
        let names = functions::of(&file)?;
        for (kind, name) in THROWS.iter().filter(|(_, name)| names.contains(*name)) {
            watched.push(Watched { kind, file: file.clone(), function: name });
        }
    }
    ensure!(watched.len() >= THROWS.len(), "no functions that throw: {watched:?}");
    Bpftrace::calls(Some(pid), None, &watched)
}

/// A map of functions on the way of statements, from text to pipelines.
fn many_functions(pid: u32) -> Result<PathBuf> {
    let files = mapped(pid, &["_duckdb"])?;
    let names = functions::of(files.first().context("no DuckDB")?)?;
    let parts = ["6Binder", "11Transformer", "8Executor", "12BoundCast", "7Catalog", "9Optimizer"];
    let of_statements: BTreeSet<String> = names
        .iter()
        .filter(|name| name.starts_with("_ZN6duckdb") && parts.iter().any(|p| name.contains(p)))
        .cloned()
        .collect();
    let root = names
        .iter()
        .find(|name| name.starts_with("_ZN6duckdb13ClientContext15SubmitStatementE"))
        .context("DuckDB submits no statements")?;
    let favourites = ["ExpressionExecutor7Execute", "PipelineExecutor7Execute", "Binder4Bind"];
    let chosen = functions::choose(&of_statements, FUNCTIONS, &favourites);
    symbol_map::file(&functions::map("_duckdb*", root, &chosen))
}

/// Each statement so many times, one after the other; none succeeds.
fn fail(database: &mut DuckDb, count: usize) -> Result<()> {
    for (sql, error) in FAILING {
        let answers = database.at_once(&[Task::new(count, sql)])?;
        let errors = answers.first().map(|answer| answer.errors.as_slice()).unwrap_or_default();
        ensure!(errors.len() == count, "{sql} did not fail: {answers:?}");
        ensure!(errors.iter().all(|said| said.starts_with(error)), "{sql}: {errors:?}");
    }
    Ok(())
}

#[test]
fn failing_statements_end_when_their_exceptions_land() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let rounds = usize::try_from(soak(300).max(60))? / FAILING.len();
    let mut database = DuckDb::start(&[("large", 17), ("small", 1)])?;
    fail(&mut database, 1)?;
    let map = many_functions(database.pid())?;
    let run = Run::on(database.pid())?.map("duckdb").map(map).output("json").start()?;
    for _ in 0..WARM_ROUNDS {
        fail(&mut database, 2)?;
        // Until exit sites that are not needed any more are gone.
        sleep(Duration::from_millis(1500));
    }
    let other = watch_exceptions(database.pid())?;
    let clocks = ClockOffset::measured();
    let warm = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    fail(&mut database, rounds)?;
    let left = Left::of(other, clocks, &["throw", "rethrow", "exception_ptr"], Some("catch"))?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(database.alive(), "the target is gone");
    ensure!(done.summary.number(&["lost"])? == 0, "{}", done.summary.0);

    let mut traces = from_otlp(&done.finished.stdout)?;
    traces.retain(|trace| trace.spans.first().is_some_and(|span| span.start >= warm));
    let statements = rounds * FAILING.len();
    let of_statements = |trace: &&Trace| trace.root().is_ok_and(|root| root.name == "execute");
    let seen = traces.iter().filter(of_statements).count();
    ensure!(seen == statements, "{seen} of {statements} statements");
    let gone = not_returned(&traces, |_| false)?;
    let checked = left.check(gone.iter().copied())?;
    for trace in traces.iter().filter(of_statements) {
        let any = trace.spans.iter().any(|span| span.exit().is_ok_and(|exit| exit == "unwound"));
        ensure!(any, "nothing of it was left: {}", trace.outline());
    }
    let roots: BTreeSet<u32> =
        traces.iter().filter_map(|trace| trace.root().ok()?.thread().ok()).collect();
    let on_workers = gone.iter().filter(|span| span.thread().is_ok_and(|t| !roots.contains(&t)));
    ensure!(on_workers.count() > 0, "no worker was left by an exception");
    ensure!(checked >= statements * 2, "{checked} calls of {statements} statements were left");
    ensure!(left.count("throw") >= statements, "{} exceptions", left.count("throw"));
    Ok(())
}
