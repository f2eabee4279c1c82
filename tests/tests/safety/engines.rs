//! Whole database engines with 2,000 of their functions probed, the busiest among them: every row
//! and every error of fixed scripts is what it is without probes.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::engine::Engine;
use profiler_tests::environment::{alone, can_probe, repository};
use profiler_tests::functions;
use profiler_tests::postgres::{Postgres, Session};
use profiler_tests::process::tail;
use profiler_tests::qprof::Run;
use profiler_tests::restored::until_restored;
use profiler_tests::symbol_map;
use serde_json::Value;

/// How many functions are asked for; a few of them may not carry a probe.
const FUNCTIONS: usize = 2_000;
const FEW: u64 = 100;

/// `duckdb::ClientContext::SubmitStatement`
const SUBMIT_STATEMENT: &str = "_ZN6duckdb13ClientContext15SubmitStatementERNS_17ClientContextLockENS_10unique_ptrINS_12SQLStatementESt14default_deleteIS4_ELb1EEERKNS_15QueryParametersEbNS0_9RetentionE";

/// The statements of scripts, in order.
fn statements(scripts: &[&str]) -> Result<Vec<String>> {
    let mut statements = Vec::new();
    for script in scripts {
        let path = repository().join("tests/fixtures/sql").join(script);
        let text = fs::read_to_string(&path)?;
        statements.extend(text.lines().map(|line| line.trim_end_matches(';').to_owned()));
    }
    Ok(statements)
}

/// A file that a process has mapped.
fn mapped(pid: u32, end: &str) -> Result<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let path = maps.lines().filter_map(|line| line.split_once('/')).find(|(_, path)| {
        path.ends_with(end) || path.rsplit('/').next().is_some_and(|file| file.starts_with(end))
    });
    Ok(Path::new("/").join(path.with_context(|| format!("no {end} is mapped"))?.1))
}

/// What is probed of an engine.
struct Choice<'a> {
    /// The file, by the end or the beginning of its name.
    file: &'a str,
    root: &'a str,
    /// Parts of the names of functions that are surely wanted.
    favourites: &'a [&'a str],
}

/// Asks the same without probes, with them, and after them.
fn the_same(
    mut run: Run,
    (pid, probed): (u32, u32),
    choice: &Choice<'_>,
    statements: &[String],
    mut ask: impl FnMut(&str) -> Result<Value>,
) -> Result<()> {
    let file = mapped(probed, choice.file)?;
    let names = functions::of(&file)?;
    ensure!(names.contains(choice.root), "{} has no {}", file.display(), choice.root);
    let chosen = functions::choose(&names, FUNCTIONS, choice.favourites);
    ensure!(chosen.len() == FUNCTIONS, "{} has {} functions", file.display(), names.len());
    let object = file.file_name().context("a file without a name")?.to_string_lossy();
    let map = functions::map(&object, choice.root, &chosen);

    let mut all = || -> Result<Vec<Value>> { statements.iter().map(|one| ask(one)).collect() };
    let before = all()?;
    // Twice without probes: what differs by itself would prove nothing.
    check(statements, &before, &all()?).context("without probes")?;
    run = run.map(symbol_map::file(&map)?).output("none");
    let mut running = run.start()?;
    let attached = running.attached().to_owned();
    let during = all();
    let said = running.stderr();
    ensure!(running.alive(), "qprof ended by itself: {}", tail(&said));
    let done = running.stop()?;
    done.check_ok()?;
    check(statements, &before, &during?).with_context(|| attached.clone())?;
    until_restored(probed)?;
    check(statements, &before, &all()?).context("after the probes")?;

    let functions = attached.split(' ').nth(1).unwrap_or_default().parse::<u64>()?;
    ensure!(functions + FEW >= FUNCTIONS as u64, "process {pid}: {attached}");
    let events = done.summary.number(&["kernel", "emitted"])?;
    ensure!(events > 100_000, "hardly anything was called: {}", done.summary.0);
    Ok(())
}

/// Row by row.
fn check(statements: &[String], before: &[Value], now: &[Value]) -> Result<()> {
    for ((statement, before), now) in statements.iter().zip(before).zip(now) {
        if before == now {
            continue;
        }
        let rows = |answer: &Value| answer["rows"].as_array().cloned().unwrap_or_default();
        let row = rows(before).iter().zip(&rows(now)).position(|(before, now)| before != now);
        let shown = |answer: &Value| match row {
            Some(row) => answer["rows"][row].to_string(),
            None => answer.to_string().chars().take(500).collect(),
        };
        anyhow::bail!("{statement}: row {row:?} was {} and is {}", shown(before), shown(now));
    }
    Ok(())
}

#[test]
fn duckdb_answers_the_same_with_2000_functions_probed() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut engine = Engine::start_in("engines", "statements.py", &Value::from("duckdb"))?;
    let pid = engine.pid();
    let choice = Choice {
        file: "_duckdb.",
        root: SUBMIT_STATEMENT,
        favourites: &[
            "JoinHashTable",
            "GroupedAggregateHashTable",
            "ExpressionExecutor",
            "9DataChunk",
            "6VectorC",
            "10StringHeap",
            "8RowGroup",
            "10ColumnData",
            "13ColumnSegment",
            "8Pipeline",
            "Window",
            "6Binder",
            "11Transformer",
            "9Optimizer",
        ],
    };
    let statements = statements(&["common.sql", "duckdb.sql"])?;
    the_same(Run::on(pid)?, (pid, pid), &choice, &statements, |sql| engine.ask(&Value::from(sql)))?;
    ensure!(engine.alive());
    Ok(())
}

#[test]
fn sqlite_answers_the_same_with_2000_functions_probed() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut engine = Engine::start_in("sqlite", "statements.py", &Value::from("sqlite"))?;
    let pid = engine.pid();
    let choice = Choice {
        file: "__init__.cpython",
        root: "sqlite3_step",
        favourites: &["sqlite3", "pcache", "btree", "vdbe", "pager", "fts"],
    };
    let statements = statements(&["common.sql"])?;
    the_same(Run::on(pid)?, (pid, pid), &choice, &statements, |sql| engine.ask(&Value::from(sql)))?;
    ensure!(engine.alive());
    Ok(())
}

#[test]
fn postgres_answers_the_same_with_2000_functions_probed() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let mut session: Session = server.session()?;
    let choice = Choice {
        file: "/postgres",
        root: "exec_simple_query",
        favourites: &["Exec", "heap", "index_", "_bt_", "tuple", "slot", "palloc", "transform"],
    };
    let arguments = ["-p", &server.pid().to_string(), "--children"];
    let pids = (server.pid(), session.pid());
    let statements = statements(&["common.sql", "postgres.sql"])?;
    the_same(Run::with(&arguments)?, pids, &choice, &statements, |sql| {
        let mut answer = session.simple(sql)?.0;
        // Who of a parallel query comes to the row that fails is a race.
        if let Some(error) = answer["error"].as_str() {
            let error = error.lines().next().unwrap_or_default();
            answer["error"] = Value::from(error);
        }
        Ok(answer)
    })?;
    server.check_unharmed()
}
