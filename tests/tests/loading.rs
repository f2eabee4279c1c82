//! Objects that a target loads while it is profiled.

use std::fs;

use anyhow::{Result, ensure};
use profiler_tests::environment::can_probe;
use profiler_tests::family::{self, Family, binary, copy, library};
use profiler_tests::fixture::build;
use profiler_tests::qprof::{Run, check_code, read_summary, verb};

/// Loaded, unloaded, loaded again, and from another place.
#[test]
fn a_library_comes_and_goes_and_comes_back() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let library = copy(&library()?, "library.so")?;
    let mut family = Family::start(&binary()?)?;
    let (mut run, file) = family::start(Run::on(family.pid())?)?;
    family.tell(&format!("load 0 {}", library.display()))?;
    run.until_said("attached: more", 1)?;
    family.tell("plug 0 10")?;
    family.tell("unload 0")?;
    // The same file: it is probed from its first call on.
    family.tell(&format!("load 1 {}", library.display()))?;
    family.tell("plug 1 20")?;
    // Other code under another name, while the first is still there.
    let other = copy(&build("library.c", &["-O1", "-g", "-shared", "-fPIC"])?, "other.so")?;
    family.tell(&format!("load 2 {}", other.display()))?;
    run.until_said("attached: more", 2)?;
    family.tell("plug 2 40")?;
    family.tell("plug 1 80")?;
    family.tell("call 160")?;
    let done = run.stop()?;
    done.check_ok()?;
    let pid = family.pid();
    family.end()?;
    family::check(&done, &file, &[(pid, 310)])
}

/// Two files of one content, both loaded, before and during the run: each call counts once.
#[test]
fn copies_of_a_library_are_told_apart() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let copies = ["one.so", "two.so", "three.so"].map(|name| copy(&library()?, name));
    let mut family = Family::start(&binary()?)?;
    let load = |family: &mut Family, slot: usize| -> Result<()> {
        let path = copies[slot].as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
        family.tell(&format!("load {slot} {}", path.display()))
    };
    load(&mut family, 0)?;
    load(&mut family, 1)?;
    let (mut run, file) = family::start(Run::on(family.pid())?)?;
    family.tell("plug 0 3")?;
    family.tell("plug 1 5")?;
    load(&mut family, 2)?;
    run.until_said("attached: more", 1)?;
    family.tell("plug 2 7")?;
    family.tell("plug 1 11")?;
    let done = run.stop()?;
    done.check_ok()?;
    let pid = family.pid();
    family.end()?;
    family::check(&done, &file, &[(pid, 26)])
}

/// A child loads it: it is probed there, and in whoever of the family loads it next.
#[test]
fn a_child_loads_a_library() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let library = copy(&library()?, "library.so")?;
    let load = format!("load 0 {}", library.display());
    let mut family = Family::start(&binary()?)?;
    let before = family.fork("")?;
    let arguments = ["-p", &family.pid().to_string(), "--children"];
    let (mut run, file) = family::start(Run::with(&arguments)?)?;
    let after = family.fork("")?;
    let sibling = family.fork("")?;
    family.tell(&format!("@1 {load}"))?;
    run.until_said("attached: more", 1)?;
    family.tell("@1 plug 0 3")?;
    family.tell(&format!("@2 {load}"))?;
    family.tell("@2 plug 0 5")?;
    family.tell(&format!("@0 {load}"))?;
    family.tell("@0 plug 0 7")?;
    family.tell(&load)?;
    family.tell("plug 0 9")?;
    // Made with it loaded.
    let last = family.fork("")?;
    family.tell("@3 plug 0 11")?;
    let done = run.stop()?;
    done.check_ok()?;
    let made = [(family.pid(), 9), (before, 7), (after, 3), (sibling, 5), (last, 11)];
    family.end()?;
    family::check(&done, &file, &made)
}

/// Of a map of nothing but the library: a program that has not loaded it yet is refused with -p,
/// and waited for where qprof starts it.
#[test]
fn before_its_library_is_there() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let map = family::map()?;
    let text = fs::read_to_string(&map)?;
    let only = text
        .split("\n[[span]]")
        .filter(|part| !part.contains("function = ") || part.contains("plugin_query"));
    fs::write(&map, only.collect::<Vec<_>>().join("\n[[span]]"))?;
    let family = Family::start(&binary()?)?;
    let finished = Run::on(family.pid())?.map(&map).fail()?;
    check_code(&finished, 4)?;
    ensure!(!finished.stderr.contains("attached"), "{}", finished.stderr);
    family.end()?;

    let run = Run::command(binary()?, &[])?.map(&map).output("none");
    let file = run.directory().join("traces.jsonl");
    let (mut qprof, summary) = run.arg("-o").arg(&file).spawn()?;
    ensure!(qprof.hear()? == "ready");
    let pid = qprof.ask("pid")?.parse()?;
    ensure!(qprof.ask(&format!("load 0 {}", library()?.display()))? == "ok");
    profiler_tests::timeout::until(profiler_tests::timeout::PATIENCE, "the library", || {
        Ok(qprof.stderr().contains("attached").then_some(()))
    })?;
    ensure!(qprof.ask("plug 0 12")? == "ok");
    qprof.close_stdin();
    let finished = qprof.wait(profiler_tests::timeout::PATIENCE)?;
    check_code(&finished, 0)?;
    let traces = family::whole(&read_summary(&summary)?, &file)?;
    ensure!(family::roots(&traces)? == [(pid, 12)].into(), "{:?}", family::roots(&traces)?);
    Ok(())
}

/// A recording of a run that grew: children, a program they became, a library they loaded.
#[test]
fn a_run_that_grew_is_replayed() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let other = build("family.c", &["-O2", "-ldl", "-DQUERY=other_query"])?;
    let library = copy(&library()?, "library.so")?;
    let mut family = Family::start(&binary()?)?;
    let before = family.fork("")?;
    let arguments = ["-p", &family.pid().to_string(), "--children"];
    let (run, file) = family::traced(Run::with(&arguments)?)?;
    let recording = run.directory().join("events.qprof");
    let replayed = run.directory().join("replayed.jsonl");
    let resummed = run.directory().join("replayed.json");
    let mut run = run.arg("--record").arg(&recording).start()?;
    let after = family.fork("")?;
    family.tell("call 1")?;
    family.tell("each call 2")?;
    family.tell(&format!("@0 load 0 {}", library.display()))?;
    run.until_said("attached: more", 1)?;
    family.tell("@0 plug 0 4")?;
    ensure!(family.ask(&format!("@1 exec {}", other.display()))? == "ready");
    run.until_said("attached: more", 2)?;
    family.tell("@1 call 8")?;
    family.tell("storm 16")?;
    let pid = family.pid();
    family.end()?;
    let done = run.wait()?;
    done.check_ok()?;
    let live = family::traces(&done, &file)?;
    let roots = family::roots(&live)?;
    ensure!(roots.len() == 19, "{roots:?}");
    ensure!(roots.iter().all(|(of, count)| match *of {
        of if of == pid => *count == 1,
        of if of == before => *count == 6,
        of if of == after => *count == 10,
        _ => *count == 1,
    }));

    let finished = verb(&[
        "replay",
        &recording.to_string_lossy(),
        "--output",
        "none",
        "-o",
        &replayed.to_string_lossy(),
        "--summary-json",
        &resummed.to_string_lossy(),
    ])?;
    check_code(&finished, 0)?;
    let again = family::whole(&read_summary(&resummed)?, &replayed)?;
    ensure!(family::roots(&again)? == roots, "replayed: {:?}", family::roots(&again)?);
    let plain = |traces: &[profiler_tests::tree::Trace]| {
        let mut all: Vec<String> = traces
            .iter()
            .map(|trace| {
                let spans = trace
                    .spans
                    .iter()
                    .map(|span| format!("{} {:?} {:?}", span.name, span.tags, span.process));
                format!("{}: {}", trace.outline(), spans.collect::<Vec<_>>().join("; "))
            })
            .collect();
        all.sort();
        all
    };
    ensure!(plain(&live) == plain(&again), "the replay is not the run");
    Ok(())
}
