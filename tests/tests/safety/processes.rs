//! Processes that share memory, make hardly any system call, or are traced by somebody else.
//! `storms.rs`, `children.rs` and `odd_targets.rs` have forks, `exec` and debuggers that let run.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, scratch, soak};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::tree::{Trace, from_otlp};
use profiler_tests::truth::{Leave, Truth};
use profiler_tests::twice::{twice, twice_with};

/// Children by `vfork`, `posix_spawn`, `fork` and `clone` call what is probed, some of them in the
/// parent's own memory and on its stack; the parent's calls are seen as they were.
#[test]
fn children_in_the_parents_memory() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let rounds = soak(200).to_string();
    for level in ["-O0", "-O2"] {
        for children in [false, true] {
            let binary = build("spawns.c", &[level])?;
            let told = scratch("truth")?.join("calls");
            let map = symbol_map::of(&["root", "work_twice"], &["work"], "");
            let arguments = [rounds.as_str(), &told.to_string_lossy()];
            let twice = twice_with(&binary, &arguments, &map, |run| {
                if children { run.arg("--children") } else { run }
            })?;
            twice.check_unharmed()?;
            ensure!(twice.done.summary.number(&["lost"])? == 0, "{}", twice.done.summary.0);
            let mut traces = twice.traces;
            for trace in &traces {
                trace.check_parents()?;
                for span in &trace.spans {
                    ensure!(span.returned()?, "{} ended as {}", span.name, span.exit()?);
                }
            }
            let whole = |outline: &str| outline == "work_twice(work,work)" || outline == "root";
            for outline in traces.iter().map(Trace::outline) {
                ensure!(whole(&outline), "{level}, children {children}: {outline}");
            }
            // The parent's own, and with its children four more.
            let twices = traces.iter().filter(|trace| trace.count("work_twice") > 0).count();
            let each = if children { 5 } else { 1 };
            let expected = rounds.parse::<usize>()? * each;
            ensure!(twices == expected, "{level}, children {children}: {twices} of {expected}");
            traces.retain(|trace| trace.count("root") > 0);
            Truth::read(&told)?.compare(&traces, Leave::default())?;
        }
    }
    Ok(())
}

/// The kernel's own system calls, by which a probe on a nop is reached, are none of the target's.
#[test]
fn a_sealed_thread() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let rounds: usize = 500;
    let binary = build("sealed.c", &["-O2"])?;
    let map = symbol_map::of(&["push_first", "stepped_first"], &["nop_first"], "");
    for mode in ["strict", "filter"] {
        let twice = twice(&binary, &[mode, &rounds.to_string()], &map)?;
        twice.check().context(mode)?;
        let count = |name: &str| twice.traces.iter().map(|trace| trace.count(name)).sum::<usize>();
        for name in ["push_first", "nop_first", "stepped_first"] {
            ensure!(count(name) == rounds, "{mode}: {} of {rounds} {name}", count(name));
        }
        for span in twice.traces.iter().flat_map(|trace| &trace.spans) {
            ensure!(span.returned()?, "{mode}: {} ended as {}", span.name, span.exit()?);
        }
    }
    Ok(())
}

/// Somebody has it stop at each instruction, or at each system call, while it plays its tricks.
#[test]
fn traced_step_by_step() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let tracer = build("tracer.c", &["-O1"])?;
    let binary = build("hostile.c", &["-O1"])?;
    let functions = ["honest", "honest_inner", "victim", "lie_elsewhere", "lie_leaves"];
    let map = symbol_map::file(&symbol_map::of(&functions, &[], ""))?;
    for (how, rounds) in [("step", 2), ("syscalls", 20)] {
        for first in [false, true] {
            let mut target = Fixture::start(&binary, &[&rounds.to_string()])?;
            let pid = target.pid().to_string();
            let mut before =
                if first { Some(Fixture::start(&tracer, &[&pid, how])?) } else { None };
            let run = Run::on(target.pid())?.map(&map).output("json").start()?;
            if before.is_none() {
                before = Some(Fixture::start(&tracer, &[&pid, how])?);
            }
            target.work().with_context(|| format!("{how}: {}", target.stdout()))?;
            let done = run.stop()?;
            done.check_ok()?;
            let said = target.stdout();
            let finished = target.finish()?;
            ensure!(finished.code == Some(0), "{how}: {finished:?} {said}");
            // It ends with what it traces.
            drop(before);
            let traces = from_otlp(&done.finished.stdout)?;
            let honest: Vec<_> = traces.iter().filter(|trace| trace.count("honest") > 0).collect();
            ensure!(honest.len() == rounds * 16, "{how}: {} honest calls", honest.len());
            for trace in honest {
                ensure!(trace.outline() == "honest(honest_inner)", "{}", trace.outline());
                for span in &trace.spans {
                    ensure!(span.returned()?, "{how}: {} ended as {}", span.name, span.exit()?);
                }
            }
        }
    }
    Ok(())
}
