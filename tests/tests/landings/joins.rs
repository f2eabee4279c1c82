//! Calls whose callers catch what they throw, and go on as if they had returned.

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, scratch, soak};
use profiler_tests::fixture::build;
use profiler_tests::symbol_map;
use profiler_tests::truth::Truth;
use profiler_tests::twice::twice;

fn joins(flags: &[&str]) -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    // Long enough for exit sites to go once landings stand.
    let rounds = soak(300).max(50);
    let binary = build("joins.cc", flags)?;
    let told = scratch("truth")?.join("calls");
    let map = symbol_map::of(&["joins::root"], &["joins::thrower", "joins::between"], "");
    let twice = twice(&binary, &[&rounds.to_string(), &told.to_string_lossy()], &map)?;
    twice.check()?;
    Truth::read(&told)?.check_ends(&twice.traces).with_context(|| format!("{flags:?}"))?;
    let late = twice.traces.iter().skip(twice.traces.len() / 2).flat_map(|trace| &trace.spans);
    let (at_landing, all) = late.fold((0, 0), |(at_landing, all), span| {
        let landing = span.exit().is_ok_and(|exit| exit == "landing");
        (at_landing + usize::from(landing), all + usize::from(span.returned().unwrap_or(false)))
    });
    ensure!(at_landing * 100 >= all * 99, "{at_landing} of {all} returns seen at landings");
    Ok(())
}

/// Of 320 callers every one is thrown at and returned to, in turns: no call that was left is taken
/// for one that returned, from the first one on.
#[test]
fn handlers_that_join_before_the_landing() -> Result<()> {
    joins(&["-O0"])?;
    joins(&["-O2"])
}

/// The same with a runtime of its own, that only its symbols tell of.
#[test]
fn handlers_of_a_static_runtime() -> Result<()> {
    joins(&["-O2", "-static-libgcc", "-static-libstdc++"])
}
