//! Calls end where they come back: on real servers, exactly, from the first query on.

mod exceptions;
mod joins;
mod jumps;
mod left;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::functions;
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::tree::{Trace, from_otlp};

/// How many functions of the server are probed.
const FUNCTIONS: usize = 220;
const SEARCHES: u32 = 200;
/// Rounds of searches before what is counted.
const WARM: u32 = 5;

/// How the calls of traces ended; waits between calls are none.
fn exits<'a>(traces: impl Iterator<Item = &'a Trace>) -> Result<BTreeMap<(String, String), u64>> {
    let mut exits = BTreeMap::new();
    for span in traces.flat_map(|trace| &trace.spans) {
        if span.tags.contains_key("code.function.name") {
            let function = span.tag("code.function.name")?.to_owned();
            *exits.entry((span.exit()?.to_owned(), function)).or_default() += 1;
        }
    }
    Ok(exits)
}

fn of_kind(exits: &BTreeMap<(String, String), u64>, kind: &str) -> u64 {
    exits.iter().filter(|((exit, _), _)| exit == kind).map(|(_, count)| count).sum()
}

#[test]
fn nearly_all_calls_of_a_busy_server_end_at_landings() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let server = MilvusLite::start()?;
    server.set_up("one", 5_000)?;
    // What it does only once is done before.
    server.search("one", 5, &[])?;

    let names = functions::of(Path::new(&format!("/proc/{}/exe", server.pid())))?;
    let root = names
        .iter()
        .find(|name| name.starts_with("_ZN6milvus5local17MilvusServiceImpl6SearchE"))
        .context("the server has no Search")?
        .clone();
    let of_search: BTreeSet<String> = names
        .into_iter()
        .filter(|name| {
            let parts = ["6milvus5local", "6milvus7segcore", "6milvus5query", "8knowhere"];
            (name.starts_with("_ZN") && parts.iter().any(|part| name.contains(part)))
                || *name == root
        })
        .collect();
    let chosen = functions::choose(&of_search, FUNCTIONS, &["Search", "Retrieve", "Plan", &root]);
    let map = symbol_map::file(&functions::map("milvus", &root, &chosen))?;

    let run = Run::on(server.pid())?
        .map(map)
        .output("json")
        .arg("--kernel-log")
        .env("QPROF_LOG", "debug")
        .env("RUST_LOG", "debug")
        .start()?;
    // Until all ways back are known, and the exit sites that are needed no more are gone.
    for _ in 0..WARM {
        server.search("one", SEARCHES / 4, &[])?;
        sleep(Duration::from_millis(1500));
    }
    server.search("one", SEARCHES, &[])?;
    let attached = run.attached().to_owned();
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(done.summary.number(&["lost"])? == 0, "events were lost");
    ensure!(attached.contains("functions"), "{attached}");

    let mut traces = from_otlp(&done.finished.stdout)?;
    traces.sort_by_key(|trace| trace.spans.first().map(|root| root.start));
    let searches = SEARCHES / 4 * WARM + SEARCHES;
    ensure!(traces.len() == searches as usize, "{} traces", traces.len());
    let names: BTreeSet<&str> =
        traces.iter().flat_map(|trace| &trace.spans).map(|span| span.name.as_str()).collect();
    ensure!(names.len() > 20, "only {} of the functions were called", names.len());

    let first = exits(traces.iter().take(1))?;
    let inferred: Vec<_> = first.keys().filter(|(exit, _)| exit == "inferred").collect();
    ensure!(inferred.is_empty(), "in the first query after attaching: {inferred:?}");
    let warm = exits(traces.iter().rev().take(SEARCHES as usize))?;
    let (landing, all) = (of_kind(&warm, "landing"), warm.values().sum::<u64>());
    let rest: Vec<_> = warm.iter().filter(|((exit, _), _)| exit != "landing").collect();
    ensure!(landing * 100 >= all * 99, "{landing} of {all} calls ended at a landing: {rest:?}");
    for trace in &traces {
        trace.check()?;
        let open = trace.spans.iter().filter(|span| span.exit().is_ok_and(|exit| exit == "open"));
        ensure!(open.map(|span| &span.name).next().is_none(), "{}", trace.outline());
    }
    let retired = done.summary.number(&["landings", "functions_without_ret_sites"])?;
    ensure!(retired > 20, "{retired} functions lost their exit sites");
    Ok(())
}
