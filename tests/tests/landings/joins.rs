//! Calls whose callers catch what they throw, and go on as if they had returned.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, not_applicable, scratch, soak};
use profiler_tests::fixture::build;
use profiler_tests::symbol_map;
use profiler_tests::truth::Truth;
use profiler_tests::twice::twice;

fn joins(flags: &[&str]) -> Result<()> {
    check(&build("joins.cc", flags)?).with_context(|| format!("{flags:?}"))
}

fn check(binary: &Path) -> Result<()> {
    let _alone = alone();
    // Long enough for exit sites to go once landings stand.
    let rounds = soak(300).max(60);
    let told = scratch("truth")?.join("calls");
    let map = symbol_map::of(&["joins::root"], &["joins::thrower", "joins::between"], "");
    let twice = twice(binary, &[&rounds.to_string(), &told.to_string_lossy()], &map)?;
    twice.check()?;
    Truth::read(&told)?.check_ends(&twice.traces)?;
    let late = twice.traces.iter().rev().take(twice.traces.len() / 10);
    let returned = || {
        let spans = late.clone().flat_map(|trace| &trace.spans);
        spans.filter(|span| span.returned().unwrap_or(false))
    };
    let all = returned().count();
    let at_landing = returned().filter(|span| span.exit().is_ok_and(|exit| exit == "landing"));
    let at_landing = at_landing.count();
    ensure!(at_landing * 100 >= all * 99, "{at_landing} of {all} returns seen at landings");
    Ok(())
}

/// Of 320 callers every one is thrown at and returned to, in turns: no call that was left is taken
/// for one that returned, from the first one on.
#[test]
fn handlers_that_join_before_the_landing() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    joins(&["-O0"])?;
    joins(&["-O2"])
}

/// The same with a runtime of its own, that only its symbols tell of.
#[test]
fn handlers_of_a_static_runtime() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    joins(&["-O2", "-static-libgcc", "-static-libstdc++"])
}

/// The same stripped: of its runtime only markers are left.
#[test]
fn handlers_of_a_stripped_static_runtime() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let stripped =
        ["-static-libgcc", "-static-libstdc++", "-rdynamic", "-Wl,--exclude-libs,ALL", "-s"];
    let binary = build("joins.cc", &[&["-O2"], &stripped[..]].concat())?;
    if contains(&fs::read(&binary)?, b"libstdcxx\0catch\0") {
        check(&binary)
    } else {
        not_applicable("this compiler's static C++ runtime has no markers")
    }
}

/// Panics of a program that names none of its runtime: the unwinder tells.
#[test]
fn panics_of_a_stripped_program() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let rounds = soak(300).max(60);
    for level in ["-Copt-level=0", "-Copt-level=3"] {
        let exported =
            "-Clink-args=-Wl,--export-dynamic-symbol=root,--export-dynamic-symbol=thrower";
        let binary = build("joins.rs", &[level, "-Cstrip=symbols", exported])?;
        let twice =
            twice(&binary, &[&rounds.to_string()], &symbol_map::of(&["root"], &["thrower"], ""))?;
        twice.check()?;
        ensure!(twice.traces.len() == rounds as usize * 100, "{} traces", twice.traces.len());
        for (number, trace) in twice.traces.iter().enumerate() {
            ensure!(trace.outline() == "root(thrower)", "{}", trace.outline());
            for span in &trace.spans {
                let left = span.name == "thrower" && number % 2 == 1;
                let expected = if left { "unwound" } else { "returned" };
                let end = span.ended()?;
                ensure!(end == expected, "{level}: {} of call {number}: {end}", span.name);
            }
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
