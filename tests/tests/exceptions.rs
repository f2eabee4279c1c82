//! Calls that never return: exceptions, `longjmp`, panics. The target must not notice, the calls
//! must end, and what comes after them must be right.

use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, can_probe, scratch, soak};
use profiler_tests::fixture::build;
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::tree::from_otlp;
use profiler_tests::truth::{Leave, Truth};
use profiler_tests::twice::{Twice, twice};

const ROUNDS: &str = "200";

/// What the exits of a fixture that leaves every other round must be.
trait CheckExits {
    fn check_exits(&self, left: &[&str], as_: &[&str]) -> Result<()>;
}

impl CheckExits for Twice {
    /// In every other trace the calls of these names were left without returning, and end as `as_`;
    /// all others returned.
    fn check_exits(&self, left: &[&str], as_: &[&str]) -> Result<()> {
        for trace in &self.traces {
            for span in &trace.spans {
                let exit = span.ended()?;
                if exit != "returned" {
                    ensure!(as_.contains(&exit), "{} is {exit}, not {as_:?}", span.name);
                    ensure!(left.contains(&span.name.as_str()), "{} is {exit}", span.name);
                }
            }
            let returned = |name: &&&str| {
                trace.named(name).all(|span| span.ended().is_ok_and(|end| end == "returned"))
            };
            let all = left.iter().filter(returned).count();
            ensure!(all == 0 || all == left.len(), "half a trace returned: {}", trace.outline());
        }
        let broken = self.traces.iter().filter(|trace| {
            trace.spans.iter().any(|span| span.ended().is_ok_and(|end| end != "returned"))
        });
        let (broken, all) = (broken.count(), self.traces.len());
        ensure!(broken * 2 == all, "{broken} of {all} traces hold calls that did not return");
        Ok(())
    }
}

#[test]
fn a_c_plus_plus_exception_through_five_frames() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in ["-O0", "-O2"] {
        let binary = build("throws.cc", &[level])?;
        let told = scratch("truth")?.join("calls");
        let inner = ["throws::one", "throws::two", "throws::three", "throws::four", "throws::five"];
        let map =
            symbol_map::of(&["throws::root"], &[inner.as_slice(), &["throws::calm"]].concat(), "");
        let twice = twice(&binary, &[ROUNDS, &told.to_string_lossy()], &map)?;
        twice.check()?;
        Truth::read(&told)?.compare(&twice.traces, Leave::default())?;
        twice.check_exits(&["one", "two", "three", "four", "five"], &["unwound"])?;
    }
    Ok(())
}

#[test]
fn a_longjmp_over_three_frames() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in ["-O0", "-O2"] {
        let binary = build("leaps.c", &[level])?;
        let told = scratch("truth")?.join("calls");
        let map = symbol_map::of(&["root"], &["one", "two", "three", "calm"], "");
        let twice = twice(&binary, &["long", ROUNDS, &told.to_string_lossy()], &map)?;
        twice.check()?;
        Truth::read(&told)?.compare(&twice.traces, Leave::default())?;
        twice.check_exits(&["one", "two", "three"], &["unwound"])?;
    }
    Ok(())
}

#[test]
fn a_rust_panic_that_is_caught() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in ["-Copt-level=0", "-Copt-level=3"] {
        let binary = build("panics.rs", &[level])?;
        let map = symbol_map::of(
            &["panics::root"],
            &["panics::one", "panics::two", "panics::three", "panics::calm"],
            "",
        );
        let twice = twice(&binary, &[ROUNDS], &map)?;
        twice.check()?;
        ensure!(twice.traces.len() == 200, "{} traces", twice.traces.len());
        for trace in &twice.traces {
            let outline = trace.outline();
            ensure!(outline == "root(one(two(three(calm))),calm)", "{outline}");
        }
        // The catch itself makes a call before the witness: what it was in the place of is inferred.
        twice.check_exits(&["one", "two", "three"], &["unwound", "inferred"])?;
    }
    Ok(())
}

/// Clients send filters that the server answers by throwing, on the thread of the request and on
/// those of the pool, among searches that must not suffer.
#[test]
fn malformed_filters_during_load() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = MilvusLite::start()?;
    server.set_up("one", 20_000)?;
    let run = Run::on(server.pid())?.map("milvus-lite").output("json").start()?;
    let load = server.load("one", Duration::from_secs(u64::from(soak(30).max(5))), 5)?;
    let (good, bad) = load.finish()?;
    ensure!(good.errors == 0, "good searches failed: {:?}", good.error_texts);
    ensure!(bad.ok == 0 && bad.errors > 20, "bad searches did not fail: {bad:?}");
    // And when all that is over, one after the other.
    let after = server.search("one", 20, &["--filter", "number < 50"])?;
    ensure!(after.ok == 20, "the server does not answer any more: {after:?}");
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(server.alive(), "the server is gone: {}", server.stderr());
    done.summary.check_nothing_lost()?;

    let traces = from_otlp(&done.finished.stdout)?;
    let sent = good.sent + bad.sent + after.sent;
    ensure!(traces.len() as u64 == sent, "{sent} requests became {} traces", traces.len());
    let mut whole = 0;
    for trace in &traces {
        trace.check()?;
        ensure!(trace.root()?.name == "search_request", "{}", trace.outline());
        for span in &trace.spans {
            ensure!(span.exit()? != "open", "{} never ended: {}", span.name, trace.outline());
        }
        if trace.count("brute_force") == 1 && trace.count("merge_results") == 1 {
            whole += 1;
        }
        ensure!(trace.count("brute_force") <= 1, "two searches in one: {}", trace.outline());
    }
    ensure!(
        whole == good.sent + after.sent,
        "{whole} whole searches of {}",
        good.sent + after.sent
    );
    let after = traces.iter().rev().take(20);
    ensure!(after.clone().count() == 20);
    for trace in after {
        ensure!(trace.count("parse_request") >= 1, "no parsing: {}", trace.outline());
        for span in &trace.spans {
            ensure!(span.ended()? == "returned", "{} ended as {}", span.name, span.ended()?);
        }
    }
    Ok(())
}
