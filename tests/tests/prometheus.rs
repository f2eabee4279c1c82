//! Prometheus, in Go: a query is one tree, with a span for each block, over several goroutines.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use profiler_tests::clients::{at_once, counts_of_ranges, range_of};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::jaeger::Jaeger;
use profiler_tests::prometheus::{BLOCKS, Client, HEAD, Prometheus, SERIES};
use profiler_tests::qprof::Run;
use profiler_tests::served::{counts_by_connection, functions_named, functions_seen, whole_traces};
use profiler_tests::symbol_map;
use profiler_tests::tree::{Span, Trace, from_otlp};
use serde_json::Value;

const QUERY: &str = "sum by (host) (load)";

/// What holds of every query that succeeds: so many selectors, each over so many blocks.
fn check_query(trace: &Trace, root: &str, selectors: usize, blocks: usize) -> Result<()> {
    let outline = || trace.outline();
    ensure!(trace.root()?.name == root, "the root is no {root}: {}", outline());
    for name in ["parse", "execute", "queue_wait", "prepare", "evaluate"] {
        ensure!(trace.count(name) == 1, "not one {name}: {}", outline());
    }
    ensure!(trace.count("merge_series") == selectors, "{}", outline());
    // One for the selector, and in it one for the local storage and one for the remote ones.
    ensure!(trace.count("select") == 3 * selectors, "{}", outline());
    let blocks = selectors * blocks;
    ensure!(trace.count("select_block") == blocks, "not {blocks} blocks: {}", outline());
    let prepare = trace.named("prepare").next().ok_or_else(|| anyhow!("no prepare"))?;
    let home = prepare.goroutine()?;
    for select in trace.children(prepare) {
        ensure!(select.evidence()? == "stack" && select.goroutine()? == home, "{}", outline());
        let inner: Vec<&Span> = trace.children(select).collect();
        ensure!(inner.len() == 2, "{}", outline());
        for span in inner {
            ensure!(span.name == "select" && span.evidence()? == "spawn", "{}", outline());
            ensure!(span.goroutine()? != home, "it was made on another goroutine");
            for block in trace.children(span) {
                ensure!(block.name == "select_block", "{}", outline());
                ensure!(block.goroutine()? == span.goroutine()?, "{}", outline());
                ensure!(block.evidence()? == "stack", "{}", block.evidence()?);
            }
        }
    }
    for block in trace.named("select_block") {
        let above = trace.parent(block)?.map(|span| span.name.as_str());
        ensure!(above == Some("select"), "a block under {above:?}: {}", outline());
        let below: Vec<&str> = trace.children(block).map(|span| span.name.as_str()).collect();
        ensure!(below == ["find_postings"], "{below:?}");
    }
    let goroutines: BTreeSet<u64> =
        trace.spans.iter().map(Span::goroutine).collect::<Result<_>>()?;
    // That of the connection, and two for each selector.
    ensure!(goroutines.len() == 1 + 2 * selectors, "goroutines {goroutines:?}: {}", outline());
    Ok(())
}

/// Queries over all blocks, one after the other, by a client that keeps its connection: so many
/// trees, each with a span for each block and for the head.
#[test]
fn a_query_is_a_tree_with_a_span_a_block() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Prometheus::start()?;
    let mut client = server.client()?;
    let before = client.range(QUERY, 0, HEAD)?;
    ensure!(before["result"].as_array().map(Vec::len) == Some(SERIES as usize), "{before}");
    let run = Run::on(server.pid())?.map("prometheus").output("json").start()?;
    let queries = soak(100);
    for _ in 0..queries {
        ensure!(client.range(QUERY, 0, HEAD)? == before, "another answer");
    }
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    ensure!(client.range(QUERY, 0, HEAD)? == before, "another answer afterwards");
    ensure!(traces.len() == queries as usize, "{} traces", traces.len());
    for trace in &traces {
        check_query(trace, "query_range", 1, BLOCKS as usize + 1)?;
        let root = trace.root()?;
        ensure!(root.tag("db.system.name")? == "prometheus", "the system is not named");
        ensure!(root.tag("db.operation.name")? == "query_range", "nor the operation");
        ensure!(
            root.goroutine()? == traces[0].root()?.goroutine()?,
            "one connection, one goroutine"
        );
    }
    Ok(())
}

/// Eight clients at once, whose queries cover other numbers of blocks: no block is under the query
/// of another, and none is missing. Which client a tree belongs to is told by its goroutine, which
/// is that of the connection, and which query of it by their order.
#[test]
fn no_block_is_under_the_query_of_another() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Prometheus::start()?;
    let queries = soak(100);
    let ask = |client: &mut Client, number: u32| -> Result<Vec<Value>> {
        (0..queries)
            .map(|n| {
                let (first, last) = range_of(number, n, HEAD + 1);
                client.range(QUERY, first, last)
            })
            .collect()
    };
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect::<Result<_>>()?;
    let mut before = Vec::new();
    for (client, place) in clients.iter_mut().zip(0..) {
        before.push(ask(client, place)?);
    }
    let run = Run::on(server.pid())?.map("prometheus").output("json").start()?;
    let answers = at_once(&mut clients, ask)?;
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    ensure!(answers == before, "other answers than before");

    for trace in &traces {
        check_query(trace, "query_range", 1, trace.count("select_block"))?;
    }
    let seen = counts_by_connection(&traces, |trace| trace.count("select_block"))?;
    let expected = counts_of_ranges(8, queries, HEAD + 1);
    ensure!(seen == expected, "{seen:?}\ninstead of\n{expected:?}");
    Ok(())
}

/// Nothing in the map is a name without a function, nor a function that is never called.
#[test]
fn every_function_of_the_map_is_there_and_fires() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Prometheus::start()?;
    let named = functions_named(server.pid(), "prometheus")?;
    // Without `-m`: the map is found by what is mapped.
    let run = Run::on(server.pid())?.output("json").start()?;
    let mut client = server.client()?;
    client.instant("load + on (host) rate(load[10m])", 3)?;
    client.range(QUERY, 2, 3)?;
    let series = client.about("series?match[]=load", 2, 3)?;
    ensure!(series.as_array().map(Vec::len) == Some(SERIES as usize), "{series}");
    client.about("labels?", 2, 4)?;
    client.about("label/host/values?", 1, 4)?;
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    let seen = functions_seen(&traces);
    ensure!(named == seen, "named {named:?}\nseen {seen:?}");

    let [instant, range, series, names, values] = traces.as_slice() else {
        return Err(anyhow!("{} traces", traces.len()));
    };
    check_query(instant, "query", 2, 1)?;
    check_query(range, "query_range", 1, 2)?;
    for (trace, root, block, count) in [
        (series, "series", "select_block", 2),
        (names, "label_names", "label_names_block", 3),
        (values, "label_values", "label_values_block", 4),
    ] {
        ensure!(trace.root()?.name == root, "no {root}: {}", trace.outline());
        ensure!(trace.count(block) == count, "not {count} blocks: {}", trace.outline());
    }
    Ok(())
}

/// A query that is refused is parsed, and nothing is executed.
#[test]
fn a_refused_query_is_a_parse_alone() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Prometheus::start()?;
    let run = Run::on(server.pid())?.map("prometheus").output("json").start()?;
    let mut client = server.client()?;
    let (status, error) = client.refused("sum(load")?;
    ensure!(status == 400 && error.contains("parse error"), "{status}: {error}");
    // Found while it is evaluated, by a panic that the evaluator recovers from.
    let (status, error) = client.refused("load + on () load")?;
    ensure!(status == 422 && error.contains("many-to-many"), "{status}: {error}");
    client.instant(QUERY, 3)?;
    let done = run.stop()?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let traces = from_otlp(&done.finished.stdout)?;
    let [parse, matching, good] = traces.as_slice() else {
        return Err(anyhow!("{} traces", traces.len()));
    };
    ensure!(parse.outline() == "query(parse)", "{}", parse.outline());
    matching.check()?;
    // The call that recovers returns.
    for name in ["query", "execute", "evaluate"] {
        let ends: Vec<&str> = matching.named(name).map(Span::ended).collect::<Result<_>>()?;
        ensure!(ends == ["returned"], "{name} ended by {ends:?}");
    }
    good.check()?;
    check_query(good, "query", 1, 1)
}

/// A map that was made for another version: what it requires and is not there is named with the
/// nearest name that is, and nothing is attached; what it does not require is left out.
#[test]
fn a_map_for_another_version_says_what_is_missing() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Prometheus::start()?;
    let built_in = include_str!("../../symbol-maps/prometheus.toml");
    let other = |from: &str, to: &str| -> Result<PathBuf> {
        let text =
            built_in.replace(&format!("function = \"{from}\""), &format!("function = \"{to}\""));
        ensure!(text != built_in, "the map has no {from}");
        symbol_map::file(&text)
    };
    let map = other("promql.(*Engine).exec", "promql.(*Engine).executes")?;
    let refused = Run::on(server.pid())?.map(map).fail()?;
    for said in ["promql.(*Engine).executes", "prometheus/promql.(*Engine).exec"] {
        ensure!(refused.stderr.contains(said), "{said} is not in: {}", refused.stderr);
    }
    ensure!(refused.code == Some(4), "exit code {:?}: {}", refused.code, refused.stderr);

    let map = other("promql.expandSeriesSet", "promql.expandSeriesSets")?;
    let run = Run::on(server.pid())?.map(map).output("json").start()?;
    server.client()?.range(QUERY, 4, HEAD)?;
    let said = run.stderr();
    for name in ["merge_series", "prometheus/promql.expandSeriesSet"] {
        ensure!(said.contains(name), "{name} is not in: {said}");
    }
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    ensure!(traces.len() == 1, "{} traces", traces.len());
    ensure!(traces[0].count("merge_series") == 0, "{}", traces[0].outline());
    ensure!(traces[0].count("select_block") == 3, "{}", traces[0].outline());
    Ok(())
}

/// The same tree, as Jaeger shows it.
#[test]
fn a_query_reaches_jaeger() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let jaeger = Jaeger::start()?;
    let mut server = Prometheus::start()?;
    let run = Run::on(server.pid())?.map("prometheus").arg("--otlp").arg(jaeger.grpc());
    let run = run.arg("--service").arg("prometheus").start()?;
    server.client()?.range(QUERY, 1, HEAD)?;
    run.stop()?.check_ok()?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    let traces = jaeger.traces_once("prometheus", 1)?;
    ensure!(traces.len() == 1, "{} traces", traces.len());
    traces[0].check()?;
    check_query(&traces[0], "query_range", 1, BLOCKS as usize)
}
