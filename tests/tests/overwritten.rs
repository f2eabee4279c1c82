//! A probed file is overwritten in place while it is probed: its probes are gone at once, the rest of
//! the target is traced on, and nothing is hurt.

use std::fs::{self, OpenOptions};
use std::io::Write as _;

use anyhow::{Result, ensure};
use profiler_tests::environment::{can_probe, scratch};
use profiler_tests::family::{self, Family};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::from_otlp;

const ROUNDS: usize = 20;

#[test]
fn its_probes_are_removed_and_the_rest_goes_on() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let machine = build("machine.c", &["-O2", "-rdynamic", "-ldl"])?;
    let directory = scratch("overwritten")?;
    let plugin = directory.join("plugin.so");
    fs::copy(build("plugin.c", &["-O2", "-shared", "-fPIC"])?, &plugin)?;
    let told = directory.join("calls");
    let arguments =
        ["plugin", &ROUNDS.to_string(), &told.to_string_lossy(), &plugin.to_string_lossy()]
            .map(str::to_owned);
    let mut fixture = Fixture::start(&machine, &arguments.each_ref().map(String::as_str))?;
    let map = symbol_map::file(&symbol_map::of(&["plugin_root"], &["plugin_work", "leaf"], ""))?;
    let mut run = Run::on(fixture.pid())?.map(map).output("json").start()?;

    // What lies in it stays as it is, so that the machine can go on: that it was written to counts.
    OpenOptions::new().append(true).open(&plugin)?.write_all(b"\n")?;
    until(PATIENCE, "qprof to notice", || {
        ensure!(run.alive(), "it ended");
        Ok(run.stderr().contains("was overwritten in place").then_some(()))
    })?;
    fixture.work()?;
    fixture.finish()?;
    let done = run.wait()?;
    done.check_ok()?;
    ensure!(done.finished.stderr.contains("plugin.so"), "{}", done.finished.stderr);
    ensure!(done.summary.number(&["stitch", "files_overwritten"])? == 1, "{}", done.summary.0);
    done.summary.check_nothing_lost()?;
    let traces = from_otlp(&done.finished.stdout)?;
    ensure!(traces.len() == ROUNDS, "{} traces", traces.len());
    for trace in traces {
        ensure!(trace.spans.iter().any(|span| span.name == "leaf"), "the program is not traced on");
        let of_the_file = trace.spans.iter().filter(|span| span.name == "plugin_work").count();
        ensure!(of_the_file == 0, "a call in the file that was overwritten is traced");
    }
    Ok(())
}

/// Written through a mapping, which nobody is told of: whoever maps the file next shows that it is
/// another one, by its build id.
#[test]
fn another_build_id_is_another_file() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let library = family::copy(&family::library()?, "library.so")?;
    let mut family = Family::start(&family::binary()?)?;
    family.tell(&format!("load 0 {}", library.display()))?;
    let (mut run, file) = family::start(Run::on(family.pid())?)?;
    family.tell("plug 0 3")?;
    family.tell("unload 0")?;
    family.tell(&format!("rebrand {}", library.display()))?;
    family.tell(&format!("load 1 {}", library.display()))?;
    run.until_said("was overwritten in place", 1)?;
    // The code is as it was, so that it can be called; and is not probed any more.
    family.tell("plug 1 5")?;
    family.tell("call 7")?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(done.summary.number(&["stitch", "files_overwritten"])? == 1, "{}", done.summary.0);
    let pid = family.pid();
    family.end()?;
    family::check(&done, &file, &[(pid, 10)])
}
