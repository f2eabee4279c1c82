//! The main job: a Milvus Lite server under load, and what a real Jaeger knows afterwards.

use std::fs;

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::jaeger::Jaeger;
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::qprof::Run;
use profiler_tests::tree::{Trace, from_otlp};

/// Traces by the number of chunks they searched.
fn by_chunks(traces: &[Trace], chunks: usize) -> usize {
    traces.iter().filter(|trace| trace.count("brute_force") == chunks).count()
}

/// What must hold of every search, whoever else was searching.
fn check_search(trace: &Trace) -> Result<()> {
    trace.check()?;
    let root = trace.root()?;
    ensure!(root.name == "search_request", "the root is {}", root.name);
    ensure!(root.tag("db.system.name")? == "milvus", "the system is not named");
    let segments: Vec<_> = trace.named("search_segment").collect();
    ensure!(segments.len() == 1, "one segment a collection: {}", trace.outline());
    let segment = segments[0];
    ensure!(
        segment.thread()? != root.thread()?,
        "the segment was searched on the thread of the request"
    );
    ensure!(segment.evidence()?.starts_with("handoff:"), "evidence: {}", segment.evidence()?);
    let merges: Vec<_> = trace.named("merge_results").collect();
    ensure!(merges.len() == 1, "one merge: {}", trace.outline());
    ensure!(
        merges[0].start + 2_000 >= segment.end,
        "the merge began before its segment was searched"
    );
    // Under the root: whatever else of the map lies between the two ran on the root's thread.
    let mut above = trace.parent(merges[0])?;
    while let Some(span) = above.filter(|span| span.id != root.id) {
        ensure!(span.thread()? == root.thread()?, "the merge hangs under {}", span.name);
        above = trace.parent(span)?;
    }
    for name in ["create_plan", "vector_search"] {
        ensure!(trace.count(name) >= 1, "no {name}: {}", trace.outline());
    }
    Ok(())
}

/// Two collections, of one and of four chunks, searched at the same time by four clients, 200
/// searches each.
#[test]
fn four_hundred_searches_become_four_hundred_trees() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let jaeger = Jaeger::start()?;
    let mut server = MilvusLite::with_collections()?;
    let run = Run::on(server.pid())?
        .map("milvus-lite")
        .arg("--otlp")
        .arg(jaeger.grpc())
        .arg("--service")
        .arg("main-job")
        .start()?;
    let tally = server.search_two("one", "four", 200)?;
    ensure!(tally.ok == 400 && tally.errors == 0, "the server did not answer well: {tally:?}");
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(server.alive(), "the server is gone: {}", server.stderr());

    done.summary.check_nothing_lost()?;
    ensure!(done.summary.number(&["traces"])? == 400, "traces: {}", done.summary.0);
    ensure!(done.summary.number(&["roots", "search_request", "count"])? == 400);
    ensure!(done.summary.number(&["export", "dropped"])? == 0);
    ensure!(done.summary.number(&["export", "failed"])? == 0);
    ensure!(
        done.summary.number(&["export", "sent"])? == done.summary.number(&["spans"])?,
        "not all spans were sent: {}",
        done.summary.0
    );

    ensure!(jaeger.services()?.contains(&"main-job".to_owned()), "{:?}", jaeger.services()?);
    let traces = jaeger.traces_once("main-job", 400)?;
    ensure!(traces.len() == 400, "Jaeger has {} traces", traces.len());
    for trace in &traces {
        check_search(trace)?;
    }
    ensure!(by_chunks(&traces, 1) == 200, "{} of one chunk", by_chunks(&traces, 1));
    ensure!(by_chunks(&traces, 4) == 200, "{} of four chunks", by_chunks(&traces, 4));
    let spans: usize = traces.iter().map(|trace| trace.spans.len()).sum();
    ensure!(spans as u64 == done.summary.number(&["spans"])?, "Jaeger has {spans} spans");
    Ok(())
}

/// The same over HTTP, compressed, and told by the standard environment alone.
#[test]
fn the_standard_environment_is_enough() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let jaeger = Jaeger::start()?;
    let server = MilvusLite::start()?;
    server.set_up("one", 2_000)?;
    let run = Run::on(server.pid())?
        .map("milvus-lite")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &jaeger.http())
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-team=search")
        .env("OTEL_SERVICE_NAME", "from-environment")
        .start()?;
    let tally = server.search("one", 40, &["--threads", "2"])?;
    ensure!(tally.ok == 40, "the server did not answer well: {tally:?}");
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let traces = jaeger.traces_once("from-environment", 40)?;
    ensure!(traces.len() == 40, "Jaeger has {} traces", traces.len());
    for trace in &traces {
        check_search(trace)?;
    }
    Ok(())
}

/// A flag wins over the environment.
#[test]
fn a_flag_wins_over_the_environment() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let jaeger = Jaeger::start()?;
    let server = MilvusLite::start()?;
    server.set_up("one", 2_000)?;
    let run = Run::on(server.pid())?
        .map("milvus-lite")
        .arg("--otlp")
        .arg(jaeger.http())
        .arg("--protocol")
        .arg("http/protobuf")
        .arg("--service")
        .arg("from-flag")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
        .env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        .env("OTEL_SERVICE_NAME", "from-environment")
        .start()?;
    server.search("one", 5, &[])?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(jaeger.traces_once("from-flag", 5)?.len() == 5);
    ensure!(jaeger.traces("from-environment")?.is_empty());
    Ok(())
}

/// `-o FILE`: each line is what an exporter would have sent, and Jaeger's page takes it.
#[test]
fn jaeger_reads_the_file() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let jaeger = Jaeger::start()?;
    let server = MilvusLite::start()?;
    server.set_up("one", 2_000)?;
    let run = Run::on(server.pid())?.map("milvus-lite");
    let file = run.directory().join("traces.otlp.jsonl");
    let run = run.arg("-o").arg(&file).start()?;
    let tally = server.search("one", 100, &["--threads", "4"])?;
    ensure!(tally.ok == 100, "the server did not answer well: {tally:?}");
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    ensure!(
        done.finished.stdout.contains("search_request"),
        "the summary names the root: {}",
        done.finished.stdout
    );

    let text = fs::read_to_string(&file)?;
    let mut spans = 0;
    for line in text.lines() {
        let mine: usize = from_otlp(line)?.iter().map(|trace| trace.spans.len()).sum();
        let jaegers: usize = jaeger.upload(line)?.iter().map(|trace| trace.spans.len()).sum();
        ensure!(mine > 0, "a line without spans");
        ensure!(mine == jaegers, "of {mine} spans in a line Jaeger shows {jaegers}");
        spans += mine as u64;
    }
    ensure!(spans == done.summary.number(&["spans"])?, "{spans} spans in the file");
    let traces = from_otlp(&text)?;
    ensure!(traces.len() == 100, "{} traces in the file", traces.len());
    for trace in &traces {
        check_search(trace)?;
    }
    Ok(())
}

/// What is not a search is a trace of its own kind.
#[test]
fn every_request_has_its_root() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let server = MilvusLite::start()?;
    server.set_up("one", 2_000)?;
    let run = Run::on(server.pid())?.map("milvus-lite").output("json").start()?;
    let counts = server.crud("one")?;
    ensure!(counts["query"] == 2 && counts["delete"] == 2, "the server did not answer well");
    let done = run.stop()?;
    done.check_ok()?;
    let traces = from_otlp(&done.finished.stdout)?;
    for trace in &traces {
        trace.check()?;
    }
    for root in ["insert_request", "upsert_request", "query_request", "delete_request"] {
        let named = traces.iter().filter(|trace| trace.count(root) > 0).count();
        ensure!(named == 1, "{named} traces of {root}");
    }
    Ok(())
}

/// As in a container: namespaces of its own, a file system seen from nowhere else, and a program that
/// has been deleted meanwhile.
#[test]
fn a_server_apart_whose_program_is_gone() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = MilvusLite::start_apart()?;
    server.set_up("one", 20_000)?;
    let run = Run::on(server.pid())?.output("json").start()?;
    let tally = server.search("one", 50, &[])?;
    ensure!(tally.ok == 50, "{tally:?}");
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let traces = from_otlp(&done.finished.stdout)?;
    ensure!(traces.len() == 50, "{} traces", traces.len());
    traces.iter().try_for_each(check_search)?;
    ensure!(server.alive(), "the server ended: {}", server.stderr());
    Ok(())
}
