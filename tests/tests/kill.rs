//! Sudden ends: of the profiler, and of its target.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::memory::{Altered, altered};
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::qprof::{CheckedFunction, Run, check};
use profiler_tests::restored::{Leaks, until_restored};
use profiler_tests::symbol_map;
use profiler_tests::tree::from_otlp;

const KILLS: u32 = 20;

fn places(altered: &BTreeSet<Altered>) -> BTreeSet<(String, u64)> {
    altered.iter().map(|byte| (byte.object.clone(), byte.offset)).collect()
}

/// Twenty times: attached under load, then gone without a word. The server answers on, and its
/// code is afterwards, byte by byte, what its files say.
#[test]
fn kill_9_under_load_leaves_the_target_as_it_was() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = MilvusLite::start()?;
    server.set_up("one", 20_000)?;
    ensure!(altered(server.pid())?.is_empty(), "its code is not that of its files to begin with");
    for turn in 0..KILLS {
        let leaks = Leaks::so_far()?;
        let load = server.load("one", Duration::from_secs(2), 0)?;
        let run = Run::on(server.pid())?.map("milvus-lite").start()?;
        ensure!(!altered(server.pid())?.is_empty(), "nothing is attached in turn {turn}");
        std::thread::sleep(Duration::from_millis(u64::from(turn) * 50 % 700));
        run.kill()?;
        let again = || {
            let run = Run::on(server.pid())?.map("milvus-lite").start()?;
            server.search("one", 100, &[])?;
            run.stop()?.check_ok()
        };
        leaks.until_restored(server.pid(), again).with_context(|| format!("turn {turn}"))?;
        let (good, _) = load.finish()?;
        ensure!(good.errors == 0 && good.ok > 0, "turn {turn}: {good:?}");
        ensure!(server.alive(), "turn {turn}: the server is gone: {}", server.stderr());
    }
    ensure!(server.search("one", 10, &[])?.ok == 10, "the server does not answer any more");
    Ok(())
}

/// While attached, exactly those bytes differ that `check` names; after Ctrl-C none.
#[test]
fn check_names_exactly_what_run_probes() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let server = MilvusLite::start()?;
    let functions = check(server.pid(), "milvus-lite")?.functions;
    let places_of = |offsets: fn(&CheckedFunction) -> Vec<u64>| -> BTreeSet<(String, u64)> {
        let of = |f: &CheckedFunction| {
            offsets(f).into_iter().map(|offset| (f.object.clone(), offset)).collect::<Vec<_>>()
        };
        functions.iter().flat_map(of).collect()
    };
    let planned = places_of(|function| function.sites.iter().map(|site| site.offset).collect());
    // Of these, as far as few call a function; no call is learned of while the server is idle.
    let landings = places_of(|function| function.landings.clone());
    ensure!(altered(server.pid())?.is_empty(), "check alone altered the target");
    let run = Run::on(server.pid())?.map("milvus-lite").start()?;
    let probed = altered(server.pid())?;
    run.stop()?.check_ok()?;
    until_restored(server.pid())?;
    // A breakpoint is one byte; a nop of five that the kernel rewrote to a call is more.
    let first: BTreeSet<(String, u64)> = places(&probed).intersection(&planned).cloned().collect();
    ensure!(first == planned, "not probed: {:?}", planned.difference(&first));
    for byte in &probed {
        let near = (byte.offset.saturating_sub(4)..=byte.offset)
            .map(|offset| (byte.object.clone(), offset))
            .any(|place| planned.contains(&place) || landings.contains(&place));
        ensure!(near, "probed and not in the plan: {byte:?}");
    }
    Ok(())
}

/// The target dies under the profiler: it says so, and ends by itself with what it has seen.
#[test]
fn the_target_ends_under_it() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let machine = build("machine.c", &["-O2", "-rdynamic", "-ldl"])?;
    let told = scratch("truth")?.join("calls");
    let map = symbol_map::of(&["recursion_root"], &["descend", "leaf"], "");
    for killed in [false, true] {
        let mut fixture = Fixture::start(&machine, &["recursion", "20", &told.to_string_lossy()])?;
        let run = Run::on(fixture.pid())?.map(symbol_map::file(&map)?).output("json").start()?;
        fixture.work()?;
        if killed {
            fixture.kill()?;
        } else {
            fixture.finish()?;
        }
        let done = run.wait()?;
        done.check_ok()?;
        ensure!(
            done.finished.stderr.contains("exited") || done.finished.stderr.contains("ended"),
            "it does not say that the target is gone: {}",
            done.finished.stderr
        );
        ensure!(from_otlp(&done.finished.stdout)?.len() == 20, "not all traces came out");
        ensure!(done.summary.number(&["traces"])? == 20);
    }
    Ok(())
}

/// Calls that are open when the target dies are told as such, not left out.
#[test]
fn the_server_dies_under_load() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = MilvusLite::start()?;
    server.set_up("one", 20_000)?;
    let run = Run::on(server.pid())?.map("milvus-lite").output("json").start()?;
    let load = server.load("one", Duration::from_secs(3), 0)?;
    std::thread::sleep(Duration::from_millis(1_500));
    server.kill()?;
    let done = run.wait()?;
    done.check_ok()?;
    ensure!(done.summary.number(&["lost"])? == 0, "lost: {}", done.summary.0);
    let traces = from_otlp(&done.finished.stdout)?;
    ensure!(traces.len() > 10, "{} traces", traces.len());
    for trace in traces {
        trace.root()?;
        for span in &trace.spans {
            ensure!(["returned", "inferred", "unwound", "jump", "open"].contains(&span.ended()?));
        }
    }
    drop(load);
    Ok(())
}
