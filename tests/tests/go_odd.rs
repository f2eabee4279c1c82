//! Go programs in places of their own: held before their runtime has begun, in a library.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, scratch};
use profiler_tests::fixture::{self, Fixture};
use profiler_tests::golang::build;
use profiler_tests::qprof::{Run, check_code};
use profiler_tests::tree::from_otlp;

/// A map of what the fixture calls.
fn map() -> Result<PathBuf> {
    let map = scratch("odd")?.join("odd.toml");
    fs::write(
        &map,
        "version = 1\nname = \"odd\"\nsystem = \"test\"\n\
         [[span]]\nname = \"early\"\nfunction = \"main.early\"\nroot = true\n\
         [[span]]\nname = \"late\"\nfunction = \"main.late\"\n",
    )?;
    Ok(map)
}

/// What the runtime has not set up yet is no sign of another version.
#[test]
fn a_program_that_is_started_is_followed_from_its_first_call_on() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for cgo in [true, false] {
        let program = build("odd", cgo, &["-ldflags=-s -w"])?;
        let run = Run::command(program, &[])?.map(map()?).output("json").start()?;
        let done = run.wait()?;
        check_code(&done.finished, 7)?;
        let traces = from_otlp(&done.finished.stdout)?;
        ensure!(traces.len() == 5, "5 calls, C: {cgo}; seen: {}", traces.len());
        for trace in traces {
            ensure!(trace.root()?.name == "early", "{}", trace.outline());
            ensure!(trace.count("late") == 1, "{}", trace.outline());
        }
    }
    Ok(())
}

/// Its program has no g where a Go program has it: that is said, not that another Go built it.
#[test]
fn a_library_in_a_program_that_is_not_gos_is_refused_as_one() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let library = build("odd", true, &["-buildmode=c-shared"])?;
    let library = library.to_str().context("no UTF-8")?;
    let mut host = Fixture::start(&fixture::build("loads.c", &["-ldl"])?, &[library, "Work"])?;
    let refused = Run::on(host.pid())?.map(map()?).fail()?;
    check_code(&refused, 4)?;
    ensure!(refused.stderr.contains("-buildmode=c-shared"), "{}", refused.stderr);
    host.work()?;
    let finished = host.finish()?;
    ensure!(finished.code == Some(0), "it died of it: {finished:?}");
    Ok(())
}
