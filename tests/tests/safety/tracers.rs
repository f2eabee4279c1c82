//! Another tracer with return probes on the same functions: its trampoline lies where the return
//! address was. It is the other's to answer for; ours must not make it worse, nor be misled.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::bpftrace::Bpftrace;
use profiler_tests::environment::{can_probe, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::from_otlp;
use profiler_tests::truth::{Leave, Truth};

/// bpftrace, with return probes on functions of a process; and entry probes, which are optimised
/// by other rules when there are return probes.
fn return_probes(pid: u32, binary: &Path, functions: &[&str]) -> Result<Bpftrace> {
    let mut script = String::new();
    let returned = "@out++; if (@out == 1) { printf(\"out\\n\"); }";
    for function in functions {
        let place = format!("{}:{function}", binary.display());
        // Writing to a String cannot fail.
        let _ = write!(script, " uprobe:{place} {{ @in = count(); }}");
        let _ = write!(script, " uretprobe:{place} {{ {returned} }}");
    }
    Bpftrace::start(Some(pid), &script)
}

#[test]
fn return_probes_of_another_tracer() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let functions = ["recursion_root", "descend", "leaf"];
    let map = symbol_map::of(&functions[..1], &functions[1..], "");
    for flags in [&["-O0"][..], &["-O2"], &["-O2", "-fcf-protection=full"]] {
        for first in [false, true] {
            let who = || format!("{flags:?}, the other {}", if first { "first" } else { "later" });
            let binary = build("machine.c", &[flags, &["-rdynamic", "-ldl"]].concat())?;
            let told = scratch("truth")?.join("calls");
            let mut target =
                Fixture::start(&binary, &["recursion", "50", &told.to_string_lossy()])?;
            let mut other = None;
            if first {
                other = Some(return_probes(target.pid(), &binary, &functions)?);
            }
            let run = Run::on(target.pid())?.map(symbol_map::file(&map)?).output("json").start()?;
            if other.is_none() {
                other = Some(return_probes(target.pid(), &binary, &functions)?);
            }
            target.work().with_context(who)?;
            let done = run.stop()?;
            done.check_ok()?;
            let mut other = other.context("no other tracer")?;
            until(PATIENCE, "the other to see a return", || {
                Ok(other.stdout().contains("out\n").then_some(()))
            })?;
            // It takes long to leave of itself, and is not what is tested.
            other.kill()?;
            ensure!(target.finish()?.code == Some(0), "{}", who());
            done.summary.check_nothing_lost()?;
            let traces = from_otlp(&done.finished.stdout)?;
            Truth::read(&told)?.compare(&traces, Leave::default()).with_context(who)?;
            for span in traces.iter().flat_map(|trace| &trace.spans) {
                let ends = ["ret", "landing", "inferred"];
                ensure!(ends.contains(&span.exit()?), "{}: {}", who(), span.exit()?);
            }
        }
    }
    Ok(())
}
