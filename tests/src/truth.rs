//! What a fixture says of its own calls (`fixtures/truth.h`), against what was made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::tree::{Span, Trace};

/// How far the fixture's clock and the span's may be apart, nanoseconds.
///
/// Both are wall clocks, but a span's time was taken from the monotonic one and converted.
const CLOCKS_NS: u64 = 2_000_000;

/// A call, as the fixture tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number, from 1.
    pub id: u32,
    /// The call it was made under; none for the outermost.
    pub parent: Option<u32>,
    /// The function.
    pub name: String,
    /// The thread.
    pub tid: u32,
    /// When it began, nanoseconds of Unix time.
    pub begin: u64,
    /// When it was about to return; none if it was unwound.
    pub end: Option<u64>,
}

/// All calls of a fixture, by number.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    calls: BTreeMap<u32, Call>,
}

/// What is not asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leave<'a> {
    /// Spans that are no calls: waits between the two sides of a hand-off.
    pub waits: &'a [&'a str],
    /// Calls of which only the trace is asked for, not the parent in it.
    pub any_parent: &'a [&'a str],
}

impl Truth {
    /// Reads what a fixture wrote.
    ///
    /// # Errors
    /// When it cannot be read, or is not of that form.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("the fixture left no {}", path.display()))?;
        let mut truth = Self::default();
        for line in text.lines() {
            truth.record(line).with_context(|| format!("in the line {line:?}"))?;
        }
        Ok(truth)
    }

    fn record(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match *words.as_slice() {
            ["B", id, parent, name, tid, ns] => {
                let call = Call {
                    id: id.parse()?,
                    parent: Some(parent.parse()?).filter(|parent| *parent != 0),
                    name: name.to_owned(),
                    tid: tid.parse()?,
                    begin: ns.parse()?,
                    end: None,
                };
                self.calls.insert(call.id, call);
            }
            ["E", id, ns] => {
                let call = self.calls.get_mut(&id.parse()?).ok_or_else(|| anyhow!("unbegun"))?;
                call.end = Some(ns.parse()?);
            }
            _ => bail!("neither a beginning nor an end"),
        }
        Ok(())
    }

    /// How often a function was called.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.calls.values().filter(|call| call.name == name).count()
    }

    /// The spans against the calls: each call is one span, on its thread, under the span of the
    /// call it was made under, around the time the fixture noted; and there is nothing more.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, traces: &[Trace], leave: Leave<'_>) -> Result<()> {
        let spans: BTreeMap<&str, &Span> = traces
            .iter()
            .flat_map(|trace| &trace.spans)
            .map(|span| (span.id.as_str(), span))
            .collect();
        let of_call = self.matched(&spans, leave)?;
        for (id, span) in &of_call {
            let call = &self.calls[id];
            let told = call.parent.map(|parent| of_call[&parent]);
            let found = parent_call(span, &spans, leave);
            let who = || format!("{} (call {id}, thread {})", call.name, call.tid);
            match (told, found) {
                (None, None) => {}
                (Some(told), Some(_)) if leave.any_parent.contains(&call.name.as_str()) => {
                    ensure!(told.trace == span.trace, "{} is in another trace", who());
                }
                (Some(told), Some(found)) => ensure!(
                    told.id == found.id,
                    "{} hangs under a {} and was called by a {} ({})",
                    who(),
                    found.name,
                    told.name,
                    if told.name == found.name { "another one" } else { "not that" }
                ),
                (Some(told), None) => bail!("{} has no parent, but {} called it", who(), told.name),
                (None, Some(found)) => bail!("{} hangs under {}: nobody", who(), found.name),
            }
            ensure!(
                span.start <= call.begin + CLOCKS_NS && call.begin <= span.end + CLOCKS_NS,
                "{} began at {} and its span lasts from {} to {}",
                who(),
                call.begin,
                span.start,
                span.end
            );
            if let Some(end) = call.end {
                ensure!(
                    end <= span.end + CLOCKS_NS,
                    "{} was there at {end} and its span ends at {}",
                    who(),
                    span.end
                );
            }
        }
        Ok(())
    }

    /// How the spans end: calls that returned as seen to return, all others as `unwound`.
    ///
    /// # Errors
    /// How many do not, and the first of them.
    pub fn check_ends(&self, traces: &[Trace]) -> Result<()> {
        let spans: BTreeMap<&str, &Span> = traces
            .iter()
            .flat_map(|trace| &trace.spans)
            .map(|span| (span.id.as_str(), span))
            .collect();
        let mut wrong = Vec::new();
        for (id, span) in self.matched(&spans, Leave::default())? {
            let call = &self.calls[&id];
            let expected = if call.end.is_some() { "returned" } else { "unwound" };
            if span.ended()? != expected {
                wrong.push(format!("{} (call {id}) {expected}, told: {}", call.name, span.exit()?));
            }
        }
        let all = self.calls.len();
        ensure!(wrong.is_empty(), "{} of {all} calls ended otherwise: {}", wrong.len(), wrong[0]);
        Ok(())
    }

    /// The span of each call. On one thread the calls of one function begin one after the other,
    /// and so do their spans: the first belongs to the first.
    fn matched<'a>(
        &self,
        spans: &BTreeMap<&str, &'a Span>,
        leave: Leave<'_>,
    ) -> Result<BTreeMap<u32, &'a Span>> {
        let mut calls: BTreeMap<(u32, &str), Vec<&Call>> = BTreeMap::new();
        for call in self.calls.values() {
            calls.entry((call.tid, &call.name)).or_default().push(call);
        }
        let mut found: BTreeMap<(u32, &str), Vec<&'a Span>> = BTreeMap::new();
        for span in spans.values().filter(|span| !leave.waits.contains(&span.name.as_str())) {
            found.entry((span.thread()?, &span.name)).or_default().push(span);
        }
        let keys: BTreeSet<_> = calls.keys().chain(found.keys()).copied().collect();
        let mut matched = BTreeMap::new();
        for key in keys {
            let calls = calls.entry(key).or_default();
            let spans = found.entry(key).or_default();
            ensure!(
                calls.len() == spans.len(),
                "{} calls of {} on thread {} became {} spans",
                calls.len(),
                key.1,
                key.0,
                spans.len()
            );
            calls.sort_by_key(|call| call.begin);
            spans.sort_by_key(|span| span.start);
            matched.extend(calls.iter().zip(spans.iter()).map(|(call, span)| (call.id, *span)));
        }
        Ok(matched)
    }
}

/// The span above that is a call.
fn parent_call<'a>(
    span: &Span,
    spans: &BTreeMap<&str, &'a Span>,
    leave: Leave<'_>,
) -> Option<&'a Span> {
    let mut up = spans.get(span.parent.as_deref()?).copied();
    while let Some(wait) = up.filter(|up| leave.waits.contains(&up.name.as_str())) {
        up = spans.get(wait.parent.as_deref()?).copied();
    }
    up
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, name: &str, start: u64, end: u64) -> Span {
        Span {
            trace: "t".to_owned(),
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            name: name.to_owned(),
            kind: "internal".to_owned(),
            start: start * 100_000_000,
            end: end * 100_000_000,
            tags: BTreeMap::from([("thread.id".to_owned(), "7".to_owned())]),
            service: String::new(),
            process: None,
        }
    }

    fn truth(lines: &[&str]) -> Truth {
        let mut truth = Truth::default();
        for line in lines {
            truth.record(line).expect("of that form");
        }
        truth
    }

    fn compare(truth: &Truth, spans: Vec<Span>, leave: Leave<'_>) -> Result<()> {
        truth.compare(&[Trace { id: "t".to_owned(), spans }], leave)
    }

    const TRUTH: &[&str] = &[
        "B 1 0 root 7 1000000000",
        "B 2 1 inner 7 1100000000",
        "E 2 1200000000",
        "B 3 1 inner 7 1300000000",
        "E 1 1500000000",
    ];

    #[test]
    fn the_same_tree_is_the_same() {
        let spans = vec![
            span("a", None, "root", 10, 15),
            span("b", Some("a"), "inner", 11, 12),
            span("c", Some("a"), "inner", 13, 14),
        ];
        compare(&truth(TRUTH), spans, Leave::default()).expect("the same");
    }

    #[test]
    fn a_wait_between_is_no_call() {
        let spans = vec![
            span("a", None, "root", 10, 15),
            span("w", Some("a"), "wait", 10, 11),
            span("b", Some("w"), "inner", 11, 12),
            span("c", Some("a"), "inner", 13, 14),
        ];
        let leave = Leave { waits: &["wait"], ..Leave::default() };
        compare(&truth(TRUTH), spans.clone(), leave).expect("the same");
        assert!(compare(&truth(TRUTH), spans, Leave::default()).is_err());
    }

    #[test]
    fn a_wrong_parent_a_missing_call_and_a_short_span_are_told() {
        let root = span("a", None, "root", 10, 15);
        let inner = span("b", Some("a"), "inner", 11, 12);
        for second in [
            vec![span("c", Some("b"), "inner", 13, 14)],
            vec![span("c", None, "inner", 13, 14)],
            vec![span("c", Some("a"), "other", 13, 14)],
            vec![span("c", Some("a"), "inner", 14, 15)],
            vec![],
        ] {
            let spans = [vec![root.clone(), inner.clone()], second].concat();
            assert!(compare(&truth(TRUTH), spans, Leave::default()).is_err());
        }
        let short =
            vec![span("a", None, "root", 10, 14), inner, span("c", Some("a"), "inner", 13, 14)];
        assert!(compare(&truth(TRUTH), short, Leave::default()).is_err());
    }
}
