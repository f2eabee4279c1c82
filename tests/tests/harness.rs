//! The harness without the profiler: where this fails, whatever else fails is not its fault.

use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::jaeger::Jaeger;
use profiler_tests::memory::altered;
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::tree::from_otlp;
use profiler_tests::truth::Truth;

const LINE: &str = concat!(
    r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":"#,
    r#"{"stringValue":"harness"}}]},"scopeSpans":[{"scope":{"name":"qprof"},"spans":["#,
    r#"{"traceId":"00112233445566778899aabbccddeeff","spanId":"0011223344556677","#,
    r#""name":"root","kind":2,"startTimeUnixNano":"1763694000000000000","#,
    r#""endTimeUnixNano":"1763694000000100000","attributes":[{"key":"thread.id","#,
    r#""value":{"intValue":"12"}}]},"#,
    r#"{"traceId":"00112233445566778899aabbccddeeff","spanId":"0011223344556678","#,
    r#""parentSpanId":"0011223344556677","name":"inner","kind":1,"#,
    r#""startTimeUnixNano":"1763694000000020000","endTimeUnixNano":"1763694000000040000","#,
    r#""attributes":[{"key":"qprof.parent.evidence","value":{"stringValue":"stack"}}]}]}]}]}"#,
);

#[test]
fn jaeger_reads_a_line_as_the_harness_does() -> Result<()> {
    let jaeger = Jaeger::start()?;
    let (mine, jaegers) = (from_otlp(LINE)?, jaeger.upload(LINE)?);
    for trace in mine.iter().chain(&jaegers) {
        trace.check()?;
        ensure!(trace.outline() == "root(inner)", "{}", trace.outline());
        ensure!(trace.root()?.thread()? == 12 && trace.root()?.service == "harness");
    }
    ensure!(mine.len() == 1 && jaegers.len() == 1);
    ensure!(jaeger.services()?.is_empty(), "it traces itself: {:?}", jaeger.services()?);
    Ok(())
}

#[test]
fn milvus_lite_answers() -> Result<()> {
    let _alone = alone();
    let mut server = MilvusLite::with_collections()?;
    let load = server.load("one", Duration::from_secs(1), 3)?;
    let tally = server.search_two("one", "four", 20)?;
    ensure!(tally.ok == 40 && tally.errors == 0 && tally.hits == 400, "{tally:?}");
    let (good, bad) = load.finish()?;
    ensure!(good.errors == 0 && good.ok > 0 && bad.ok == 0 && bad.errors > 0, "{good:?} {bad:?}");
    ensure!(server.malformed("four", 10)?.errors == 10);
    ensure!(server.crud("one")?["upsert"] == 1);
    ensure!(altered(server.pid())?.is_empty(), "its code is not that of its files");
    ensure!(server.alive(), "{}", server.stderr());
    Ok(())
}

#[test]
fn fixtures_tell_the_truth() -> Result<()> {
    let directory = scratch("truth")?;
    for level in ["-O0", "-O2"] {
        let machine = build("machine.c", &[level, "-rdynamic", "-ldl"])?;
        let plugin = build("plugin.c", &[level, "-shared", "-fPIC"])?;
        for (scenario, root, roots) in [
            ("recursion", "recursion_root", 3),
            ("tail", "tail_root", 3),
            ("switch", "switch_root", 3),
            ("coroutines", "co_root", 3),
            ("signal", "signal_root", 3),
            ("plugin", "plugin_root", 3),
            ("queue", "queue_root", 12),
            ("threads", "thread_root", 24),
        ] {
            let told = directory.join(scenario);
            let arguments = [scenario, "3", &told.to_string_lossy(), &plugin.to_string_lossy()];
            let mut fixture = Fixture::start(&machine, &arguments)?;
            ensure!(altered(fixture.pid())?.is_empty(), "{scenario}");
            fixture.work()?;
            ensure!(fixture.finish()?.code == Some(0), "{scenario}");
            let count = Truth::read(&told)?.count(root);
            ensure!(count == roots, "{count} calls of {root}");
        }
        for (source, kind, calm) in [("throws.cc", None, 20), ("leaps.c", Some("long"), 16)] {
            let told = directory.join(source);
            let binary = build(source, &[level])?;
            let path = told.to_string_lossy();
            let arguments: Vec<&str> = kind.into_iter().chain(["8", &path]).collect();
            let mut fixture = Fixture::start(&binary, &arguments)?;
            fixture.work()?;
            let finished = fixture.finish()?;
            ensure!(finished.code == Some(0) && finished.stderr.lines().count() == 8);
            ensure!(Truth::read(&told)?.count("calm") == calm, "{source}");
        }
    }
    Ok(())
}
