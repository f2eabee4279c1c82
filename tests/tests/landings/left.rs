//! When calls that do not return were left, as another tracer saw it.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};
use profiler_tests::bpftrace::{Bpftrace, ClockOffset, Seen};
use profiler_tests::tree::{Span, Trace};

/// What the conversion of times may be wrong by, and how far apart two tracers' probes on one
/// instruction are as a rule, nanoseconds.
const SLACK_NS: u64 = 10_000;

/// What bpftrace saw.
pub(crate) struct Left {
    by_thread: BTreeMap<u32, Vec<Seen>>,
    clocks: ClockOffset,
    leaves: &'static [&'static str],
    /// What ends the way from there, if it takes a while.
    lands: Option<&'static str>,
}

impl Left {
    /// Takes what bpftrace has seen. A call of one of `leaves` leaves others, until one of `lands`.
    pub(crate) fn of(
        other: Bpftrace,
        clocks: ClockOffset,
        leaves: &'static [&'static str],
        lands: Option<&'static str>,
    ) -> Result<Self> {
        let mut by_thread: BTreeMap<u32, Vec<Seen>> = BTreeMap::new();
        for seen in other.stop()? {
            by_thread.entry(seen.thread).or_default().push(seen);
        }
        Ok(Self { by_thread, clocks: clocks.again(), leaves, lands })
    }

    /// How often something was called on any thread.
    pub(crate) fn count(&self, kind: &str) -> usize {
        self.by_thread.values().flatten().filter(|seen| seen.kind == kind).count()
    }

    /// Whether something was called on a thread.
    pub(crate) fn has(&self, thread: u32, kind: &str) -> bool {
        let on = self.by_thread.get(&thread);
        on.into_iter().flatten().any(|seen| seen.kind == kind)
    }

    /// All calls that did not return are `unwound`, at a time when something left them.
    pub(crate) fn check<'a>(&self, spans: impl Iterator<Item = &'a Span>) -> Result<usize> {
        let mut all = 0;
        for span in spans {
            ensure!(span.exit()? == "unwound", "{} ended as {}", span.name, span.exit()?);
            ensure!(self.was_left_then(span)?, self.odd(span));
            all += 1;
        }
        Ok(all)
    }

    /// Whether a call ended between something that left it and whatever its thread did after it had
    /// landed. How long that is depends on how long the thread had to wait.
    fn was_left_then(&self, span: &Span) -> Result<bool> {
        let Some(on_thread) = self.by_thread.get(&span.thread()?) else { return Ok(false) };
        let (begun, _) = self.clocks.since_boot(span.start, SLACK_NS)?;
        let (least, most) = self.clocks.since_boot(span.end, SLACK_NS)?;
        for (number, leave) in on_thread.iter().enumerate() {
            if leave.at < begun || leave.at > most || !self.leaves.contains(&leave.kind.as_str()) {
                continue;
            }
            let mut after = on_thread.iter().skip(number);
            let lands = |seen: &&Seen| self.lands.is_none_or(|kind| seen.kind == kind);
            if after.find(lands).is_some() && after.next().is_none_or(|next| least <= next.at) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to say of a call that ended when nothing left it.
    fn odd(&self, span: &Span) -> anyhow::Error {
        let at = |wall| self.clocks.since_boot(wall, 0).map_or(0, |(least, _)| least);
        let (begin, end) = (at(span.start), at(span.end));
        let thread = span.thread().unwrap_or(0);
        let on_thread = self.by_thread.get(&thread).into_iter().flatten();
        let around = on_thread.filter(|seen| seen.at.abs_diff(end) < 5_000_000);
        let around: Vec<String> = around
            .map(|seen| format!("{} {:+} ns", seen.kind, i128::from(seen.at) - i128::from(end)))
            .collect();
        let lasted = end.saturating_sub(begin);
        anyhow!("{}, {lasted} ns long on thread {thread}; from its end: {around:?}", span.name)
    }
}

/// The calls of traces that did not return. Of all others the ends were seen, and none is later than
/// that of the call it was made by; but of those on threads that `may_end` unseen.
pub(crate) fn not_returned(traces: &[Trace], may_end: impl Fn(u32) -> bool) -> Result<Vec<&Span>> {
    let mut left = Vec::new();
    for trace in traces {
        trace.check_parents()?;
        for span in &trace.spans {
            // Waits are no calls.
            if span.tags.contains_key("code.function.name") && !span.returned()? {
                let exit = span.exit()?;
                if exit == "inferred" && may_end(span.thread()?) {
                    continue;
                }
                ensure!(exit == "unwound", "{} is {exit}: {}", span.name, trace.outline());
                left.push(span);
            }
        }
    }
    Ok(left)
}
