//! InfluxDB, in Go: a query is one tree, with a span for each shard, over several goroutines.

use std::collections::BTreeSet;

use anyhow::{Result, anyhow, ensure};
use profiler_tests::clients::{at_once, counts_of_ranges, range_of};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::influxdb::{Client, InfluxDb, READERS, SERIES, SHARDS};
use profiler_tests::jaeger::Jaeger;
use profiler_tests::qprof::{Done, Run};
use profiler_tests::served::{
    check_returned, counts_by_connection, functions_named, functions_seen, traces,
};
use profiler_tests::tree::Trace;
use serde_json::Value;

/// All series of a shard come together, so that several goroutines read it.
const GROUPED: &str = "GROUP BY time(10m)";

/// The traces, each whole; nothing lost, nothing left out.
fn whole_traces(done: &Done) -> Result<Vec<Trace>> {
    let traces = traces(done)?;
    for trace in &traces {
        // The goroutine that executes may end a moment after it was answered.
        trace.check_parents()?;
        ensure!(!trace.root()?.tags.contains_key("qprof.incomplete"), "{}", trace.outline());
        check_returned(trace)?;
    }
    Ok(traces)
}

/// What holds of every `SELECT` of a mean that is [`GROUPED`], over so many shards.
fn check_query(trace: &Trace, shards: usize) -> Result<()> {
    let outline = || trace.outline();
    let root = trace.root()?;
    ensure!(root.name == "query", "the root is no query: {}", outline());
    for (name, count) in [
        ("parse", 1),
        ("execute", 1),
        ("compile", 1),
        ("prepare", 1),
        ("select", 1),
        ("create_iterator", shards),
        // One a shard, one over all shards, and one over all measurements.
        ("merge_iterators", shards + 2),
        ("open_series", shards * READERS as usize),
        ("read_series", shards * READERS as usize),
        // In each of both.
        ("read_blocks", 2 * shards * READERS as usize),
        // The row, and that there is none after it.
        ("emit_row", 2),
        ("write_response", 1),
    ] {
        ensure!(trace.count(name) == count, "not {count} of {name}: {}", outline());
    }
    let mut goroutines = BTreeSet::from([root.goroutine()?]);
    for span in &trace.spans {
        let Some(parent) = trace.parent(span)? else { continue };
        let (above, evidence) = match span.name.as_str() {
            "parse" | "write_response" => ("query", "stack"),
            "execute" => ("query", "spawn"),
            "create_iterator" => ("select", "stack"),
            "open_series" => ("create_iterator", "spawn"),
            "read_series" => ("create_iterator", "handoff:read_ahead"),
            "read_blocks" if parent.name == "open_series" => ("open_series", "stack"),
            "read_blocks" => ("read_series", "stack"),
            "merge_iterators" if parent.name == "select" => ("select", "stack"),
            "merge_iterators" => ("create_iterator", "stack"),
            _ => ("execute", "stack"),
        };
        ensure!(parent.name == above, "{} under {}: {}", span.name, parent.name, outline());
        // The shard's context, which these are handed, proves as much.
        let by_context = span.name == "open_series" && span.evidence()? == "context";
        ensure!(by_context || span.evidence()? == evidence, "{}: {}", span.name, span.evidence()?);
        let same = span.goroutine()? == parent.goroutine()?;
        ensure!(same == (evidence == "stack"), "the goroutine of {}: {}", span.name, outline());
        goroutines.insert(span.goroutine()?);
    }
    for shard in trace.named("create_iterator") {
        for name in ["open_series", "read_series"] {
            let count = trace.children(shard).filter(|span| span.name == name).count();
            ensure!(count == READERS as usize, "{count} of {name} in a shard: {}", outline());
        }
    }
    for blocks in trace.named("read_blocks") {
        // A block of each series, and later that there is none after it.
        let calls = (SERIES / READERS).to_string();
        ensure!(blocks.tag("qprof.calls")? == calls, "{:?}", blocks.tags);
    }
    // That of the connection, that of the query, and two kinds in every shard.
    let expected = 2 + 2 * shards * READERS as usize;
    ensure!(goroutines.len() == expected, "goroutines {goroutines:?}: {}", outline());
    Ok(())
}

/// Queries over all shards, one after the other, by a client that keeps its connection: so many
/// trees, each with a span for each shard.
#[test]
fn a_query_is_a_tree_with_a_span_a_shard() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = InfluxDb::start()?;
    let mut client = server.client()?;
    let before = client.select("mean(v)", 0, SHARDS - 1, GROUPED)?;
    let rows = before[0]["series"][0]["values"].as_array().map(Vec::len);
    ensure!(rows == Some(SHARDS as usize * 6), "{before}");
    let run = Run::on(server.pid())?.map("influxdb").output("json").start()?;
    let queries = soak(100);
    for _ in 0..queries {
        ensure!(client.select("mean(v)", 0, SHARDS - 1, GROUPED)? == before, "another answer");
    }
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    let after = client.select("mean(v)", 0, SHARDS - 1, GROUPED)?;
    ensure!(after == before, "another answer afterwards");
    ensure!(traces.len() == queries as usize, "{} traces", traces.len());
    for trace in &traces {
        check_query(trace, SHARDS as usize)?;
        let root = trace.root()?;
        ensure!(root.tag("db.system.name")? == "influxdb", "the system is not named");
        ensure!(root.tag("db.operation.name")? == "query", "nor the operation");
        ensure!(
            root.goroutine()? == traces[0].root()?.goroutine()?,
            "one connection, one goroutine"
        );
    }
    Ok(())
}

/// Eight clients at once, whose queries cover other numbers of shards: no shard is under the query
/// of another, and none is missing. Which client a tree belongs to is told by its goroutine, which
/// is that of the connection, and which query of it by their order.
#[test]
fn no_shard_is_under_the_query_of_another() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = InfluxDb::start()?;
    let queries = soak(100);
    let ask = |client: &mut Client, number: u32| -> Result<Vec<Value>> {
        (0..queries)
            .map(|n| {
                let (first, last) = range_of(number, n, SHARDS);
                client.select("mean(v)", first, last, GROUPED)
            })
            .collect()
    };
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect::<Result<_>>()?;
    let mut before = Vec::new();
    for (client, place) in clients.iter_mut().zip(0..) {
        before.push(ask(client, place)?);
    }
    let run = Run::on(server.pid())?.map("influxdb").output("json").start()?;
    let answers = at_once(&mut clients, ask)?;
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    ensure!(answers == before, "other answers than before");

    for trace in &traces {
        check_query(trace, trace.count("create_iterator"))?;
    }
    let seen = counts_by_connection(&traces, |trace| trace.count("create_iterator"))?;
    let expected = counts_of_ranges(8, queries, SHARDS);
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
    let mut server = InfluxDb::start()?;
    // Fields of that type are for a server that was built for them, and Debian's was not.
    let mut named = functions_named(server.pid(), "influxdb")?;
    named.retain(|function| !function.to_lowercase().contains("unsigned"));
    // Without `-m`: the map is found by what is mapped.
    let run = Run::on(server.pid())?.output("json").start()?;
    let mut client = server.client()?;
    for what in ["mean(v)", "count(i)", "last(b)", "last(s)"] {
        client.select(what, 2, 3, GROUPED)?;
    }
    client.select("mean(v)", 2, 3, "GROUP BY time(10m), host")?;
    let points = client.select("v", 5, 5, "")?;
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    let rows = points[0]["series"][0]["values"].as_array().map(Vec::len);
    ensure!(rows == Some(360 * SERIES as usize), "{rows:?} rows");
    let seen = functions_seen(&traces);
    ensure!(named == seen, "named {named:?}\nseen {seen:?}");

    let [grouped @ .., by_host, plain] = traces.as_slice() else {
        return Err(anyhow!("{} traces", traces.len()));
    };
    ensure!(grouped.len() == 4, "{} traces", traces.len());
    for trace in grouped {
        check_query(trace, 2)?;
    }
    // A series is a group of its own, which nothing is read ahead of.
    for (trace, shards, open, emit) in [(by_host, 2, 2 * SERIES, SERIES + 1), (plain, 1, 2, 2)] {
        for (name, count) in [
            ("create_iterator", shards),
            ("open_series", open as usize),
            ("read_series", 0),
            ("emit_row", emit as usize),
        ] {
            ensure!(trace.count(name) == count, "not {count} of {name}: {}", trace.outline());
        }
    }
    Ok(())
}

/// A query that is refused is parsed, and nothing is executed; one over a database that is not there
/// is executed, and no shard is asked.
#[test]
fn a_refused_query_asks_no_shard() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = InfluxDb::start()?;
    let run = Run::on(server.pid())?.map("influxdb").output("json").start()?;
    let mut client = server.client()?;
    let refused = client.answer("SELECT mean(v FROM load")?;
    ensure!(refused["error"].as_str().is_some(), "{refused}");
    let missing = client.answer("SELECT mean(v) FROM nowhere.hours.load")?;
    ensure!(missing["results"][0]["error"].as_str().is_some(), "{missing}");
    client.select("mean(v)", 3, 3, GROUPED)?;
    let traces = whole_traces(&run.stop()?)?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    let [refused, missing, good] = traces.as_slice() else {
        return Err(anyhow!("{} traces", traces.len()));
    };
    ensure!(refused.count("parse") == 1, "{}", refused.outline());
    ensure!(refused.count("execute") == 0, "{}", refused.outline());
    ensure!(missing.count("execute") == 1, "{}", missing.outline());
    ensure!(missing.count("create_iterator") == 0, "{}", missing.outline());
    check_query(good, 1)
}

/// The same tree, as Jaeger shows it.
#[test]
fn a_query_reaches_jaeger() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let jaeger = Jaeger::start()?;
    let mut server = InfluxDb::start()?;
    let run = Run::on(server.pid())?.map("influxdb").arg("--otlp").arg(jaeger.grpc());
    let run = run.arg("--service").arg("influxdb").start()?;
    server.client()?.select("mean(v)", 1, SHARDS - 1, GROUPED)?;
    run.stop()?.check_ok()?;
    ensure!(server.alive(), "the server is gone: {}", server.log());
    let traces = jaeger.traces_once("influxdb", 1)?;
    ensure!(traces.len() == 1, "{} traces", traces.len());
    traces[0].check_parents()?;
    check_query(&traces[0], SHARDS as usize - 1)
}
