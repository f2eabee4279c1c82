//! Calls that are left in every way there is, on every kind of stack. `exceptions.rs` has the
//! plain ones: an exception, a `longjmp`, a panic.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, scratch, soak};
use profiler_tests::fixture::build;
use profiler_tests::symbol_map;
use profiler_tests::tree::Trace;
use profiler_tests::truth::{Leave, Truth};
use profiler_tests::twice::{Twice, twice, twice_with};

const ROUNDS: &str = "100";

/// Calls of these names ended as one of these in every other round; all others returned.
fn check_left(traces: &[Trace], left: &[&str], ends: &[&str]) -> Result<()> {
    let mut odd = 0;
    for trace in traces {
        let gone: BTreeSet<&str> = trace
            .spans
            .iter()
            .filter(|span| !span.returned().unwrap_or(false))
            .map(|span| span.name.as_str())
            .collect();
        for span in trace.spans.iter().filter(|span| gone.contains(span.name.as_str())) {
            ensure!(ends.contains(&span.exit()?), "{} ended as {}", span.name, span.exit()?);
        }
        let expected: BTreeSet<&str> = left.iter().copied().collect();
        ensure!(gone.is_empty() || gone == expected, "{gone:?} were left: {}", trace.outline());
        odd += usize::from(!gone.is_empty());
    }
    ensure!(odd * 2 == traces.len(), "{odd} of {} traces were left", traces.len());
    Ok(())
}

/// One kind of leap of `fixtures/leaps.c`, against what it says of its calls.
fn leap(kind: &str, left: &[&str], ends: &[&str]) -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in ["-O0", "-O2"] {
        let binary = build("leaps.c", &[level])?;
        let told = scratch("truth")?.join("calls");
        let map = symbol_map::of(&["root"], &["one", "two", "three", "calm", "on_signal"], "");
        let twice = twice(&binary, &[kind, ROUNDS, &told.to_string_lossy()], &map)?;
        let nested = ends.contains(&"open") || twice.traces.iter().all(|t| t.check().is_ok());
        twice.check_unharmed().with_context(|| format!("{kind} {level}"))?;
        twice.done.summary.check_nothing_lost()?;
        ensure!(nested, "{kind} {level}: a call reaches out of its caller");
        Truth::read(&told)?.compare(&twice.traces, Leave::default())?;
        check_left(&twice.traces, left, ends).with_context(|| format!("{kind} {level}"))?;
    }
    Ok(())
}

#[test]
fn a_siglongjmp() -> Result<()> {
    leap("sig", &["one", "two", "three"], &["unwound"])
}

#[test]
fn an_underscore_longjmp() -> Result<()> {
    leap("plain", &["one", "two", "three"], &["unwound"])
}

#[test]
fn a_checked_longjmp() -> Result<()> {
    leap("checked", &["one", "two", "three"], &["unwound"])
}

/// Out of a signal handler, whose stack is another than the one that is jumped to. Coroutines are
/// switched in the same way, and go on later: the handler is told as open.
#[test]
fn a_jump_out_of_a_signal_handler() -> Result<()> {
    leap("handler", &["one", "two", "three", "on_signal"], &["unwound", "inferred", "open"])
}

/// Nobody is told of this one.
#[test]
fn a_context_that_is_set_anew() -> Result<()> {
    leap("context", &["one", "two", "three"], &["inferred", "unwound"])
}

#[test]
fn a_thread_that_ends_in_the_middle() -> Result<()> {
    leap("exit", &["root", "one", "two", "three"], &["unwound"])
}

/// 100,000 calls deep, and back by returning or all at once.
#[test]
fn recursion_100_000_deep() -> Result<()> {
    const DEEP: usize = 100_000;
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let binary = build("leaps.c", &["-O2"])?;
    let map = symbol_map::of(&["deep_root"], &["down"], "");
    let rounds = 2;
    let twice = twice_with(&binary, &["deep", &rounds.to_string(), "/dev/null"], &map, |run| {
        run.arg("--ring").arg("64MiB")
    })?;
    twice.check_unharmed()?;
    twice.done.summary.check_nothing_lost()?;
    ensure!(twice.traces.len() == rounds, "{} traces", twice.traces.len());
    for (round, trace) in twice.traces.iter().enumerate() {
        // Each is the only child of the one before: they are sorted by start.
        for pair in trace.spans.windows(2) {
            ensure!(pair[1].parent.as_deref() == Some(&pair[0].id), "not under its caller");
            ensure!(pair[1].end <= pair[0].end, "it ends after its caller");
        }
        for span in &trace.spans {
            // Of so many calls that are open at once the kernel side may forget the oldest.
            let true_ends: &[&str] = if round == 0 || span.name == "deep_root" {
                &["ret", "landing", "inferred"]
            } else {
                &["unwound", "inferred"]
            };
            ensure!(
                true_ends.contains(&span.exit()?),
                "round {round}: {} ended as {} after {} ns of the trace's {}",
                span.name,
                span.exit()?,
                span.end - trace.root()?.start,
                trace.root()?.end - trace.root()?.start
            );
        }
    }
    // How deep a tree may be is limited; what is beyond that is counted.
    let spans: usize = twice.traces.iter().map(|trace| trace.spans.len()).sum();
    let beyond = twice.done.summary.number(&["stitch", "frames_full"])?;
    let calls = rounds * (DEEP + 2);
    ensure!(spans as u64 + beyond == calls as u64, "{spans} spans and {beyond} of {calls} calls");
    Ok(())
}

/// Runs a fixture whose results stand on its stderr: they are the same, and its roots are seen.
fn same(binary: &std::path::Path, map: &str, root: &str) -> Result<Twice> {
    let rounds = soak(2_000);
    let twice = twice(binary, &[&rounds.to_string()], map)?;
    twice.check_unharmed()?;
    ensure!(twice.done.summary.number(&["lost"])? == 0, "{}", twice.done.summary.0);
    let roots: Vec<_> = twice.traces.iter().filter_map(|trace| trace.root().ok()).collect();
    let roots: Vec<_> = roots.into_iter().filter(|span| span.name == root).collect();
    ensure!(roots.len() == rounds as usize, "{} of {rounds} roots", roots.len());
    for root in roots {
        ensure!(root.returned()?, "the root ended as {}", root.exit()?);
    }
    Ok(twice)
}

/// Panics that end a thread and are met where it is joined, that run destructors, are looked at,
/// and go on.
#[test]
fn panics_across_threads() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let inner = ["across::across::two", "across::across::three", "across::across::calm"];
    for level in ["-Copt-level=0", "-Copt-level=3"] {
        let binary = build("across.rs", &[level])?;
        let roots = ["across::across::root", "across::across::one"];
        let twice = same(&binary, &symbol_map::of(&roots, &inner, ""), "root")?;
        for trace in &twice.traces {
            trace.check()?;
            for span in &trace.spans {
                let left = ["one", "two", "three"].contains(&span.name.as_str());
                let ends: &[&str] = if left { &["unwound", "inferred"] } else { &[] };
                ensure!(
                    span.returned()? || ends.contains(&span.exit()?),
                    "{level}: {} ended as {}",
                    span.name,
                    span.exit()?
                );
            }
        }
    }
    Ok(())
}

/// C++20's: their frames lie on the heap, and whoever resumes them is their caller.
#[test]
fn coroutines_without_stacks() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in ["-O0", "-O2"] {
        let binary = build("coroutines.cc", &[level, "-std=c++20"])?;
        let roots = ["co::root", "co::step", "co::leaf", "co::thrower"];
        let twice = same(&binary, &symbol_map::of(&roots, &[], ""), "root")?;
        for trace in &twice.traces {
            trace.check()?;
            for span in &trace.spans {
                let left = ["step", "thrower"].contains(&span.name.as_str());
                ensure!(
                    span.returned()? || left && span.exit()? == "unwound",
                    "{level}: {} ended as {}",
                    span.name,
                    span.exit()?
                );
            }
        }
    }
    Ok(())
}
