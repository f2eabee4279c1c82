//! What the tests of real servers ask of a run alike: its traces, and which functions of the map are seen.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};

use crate::qprof::{Done, check};
use crate::tree::{Trace, from_otlp};

/// The traces of a run, by the start of their roots; nothing lost.
///
/// # Errors
/// When the run failed or lost something, or what it printed is no trace.
pub fn traces(done: &Done) -> Result<Vec<Trace>> {
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let mut traces = from_otlp(&done.finished.stdout)?;
    traces.sort_by_key(|trace| trace.spans.first().map(|root| root.start));
    Ok(traces)
}

/// The same, each whole, and all of its calls seen to return.
///
/// # Errors
/// Besides those of [`traces`]: what is not so.
pub fn whole_traces(done: &Done) -> Result<Vec<Trace>> {
    let traces = traces(done)?;
    for trace in &traces {
        trace.check()?;
        check_returned(trace)?;
    }
    Ok(traces)
}

/// That every call of a trace was seen to return.
///
/// # Errors
/// The first that was not.
pub fn check_returned(trace: &Trace) -> Result<()> {
    for span in &trace.spans {
        ensure!(span.ended()? == "returned", "{} ended by {}", span.name, span.exit()?);
    }
    Ok(())
}

/// The functions that are spans by a built-in map in a process; nothing of the map is left out.
///
/// # Errors
/// When something is.
pub fn functions_named(pid: u32, map: &str) -> Result<BTreeSet<String>> {
    let checked = check(pid, map)?;
    ensure!(checked.skipped.is_empty(), "skipped: {:?}", checked.skipped);
    let spans = checked.functions.into_iter().filter(|function| function.span.is_some());
    Ok(spans.map(|function| function.function).collect())
}

/// The functions that are seen in traces.
#[must_use]
pub fn functions_seen(traces: &[Trace]) -> BTreeSet<String> {
    let spans = traces.iter().flat_map(|trace| &trace.spans);
    spans.filter_map(|span| span.tags.get("code.function.name").cloned()).collect()
}

/// How many of something each trace has, by the goroutine of its root (that of a client's connection) and
/// in the order of the queries: the lists in order, since which client is which is not told.
///
/// # Errors
/// When a root says no goroutine.
pub fn counts_by_connection(
    traces: &[Trace],
    count: impl Fn(&Trace) -> usize,
) -> Result<Vec<Vec<usize>>> {
    let mut counts: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
    for trace in traces {
        counts.entry(trace.root()?.goroutine()?).or_default().push(count(trace));
    }
    let mut counts: Vec<Vec<usize>> = counts.into_values().collect();
    counts.sort();
    Ok(counts)
}
