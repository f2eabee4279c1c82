//! Spans against the calls that a Go program says it made.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::go_log::{Call, GoLog};
use crate::tree::{Span, Trace};

/// How far the program's clock and a span's may be apart, nanoseconds: a span's time was taken from
/// the monotonic clock, too, but converted to Unix time since.
const CLOCKS_NS: u64 = 2_000_000;

/// How many differences of one scenario are told.
const TOLD: usize = 4;

/// How the spans differ from the calls.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    of: BTreeMap<String, Vec<String>>,
    /// How long before its own log a span begins, and how long after it ends, nanoseconds.
    early: Vec<i64>,
    late: Vec<i64>,
}

impl GoLog {
    /// The spans against the calls: each call is one span, on its goroutine, under the span of the
    /// call it was made for, and ends as it ended; and there is nothing more. Where nothing proves for
    /// whom a call was made, its span has no parent or one of the same request.
    ///
    /// # Errors
    /// When a span lacks what every span has.
    pub fn compare(&self, traces: &[Trace]) -> Result<Differences> {
        self.compare_at(traces, unix_minus_monotonic()?)
    }

    /// As [`GoLog::compare`], where Unix time is so much more than the program's.
    fn compare_at(&self, traces: &[Trace], unix: u64) -> Result<Differences> {
        let spans: BTreeMap<&str, &Span> = traces
            .iter()
            .flat_map(|trace| &trace.spans)
            .map(|span| (span.id.as_str(), span))
            .collect();
        let mut differences = Differences::default();
        let of_call = self.matched(&spans, &mut differences)?;
        let of_span: BTreeMap<&str, &Call> = of_call
            .iter()
            .filter_map(|(id, span)| Some((span.id.as_str(), self.call(*id)?)))
            .collect();
        let next = self.next_begins();
        for trace in traces {
            let roots = trace.spans.iter().filter(|span| span.parent.is_none()).count();
            if roots > 1 {
                let what = format!("trace {} has {roots} roots: {}", trace.id, trace.outline());
                differences.of.entry("none".to_owned()).or_default().push(what);
            }
        }
        for (id, span) in &of_call {
            let Some(call) = self.call(*id) else { continue };
            let mut wrong = Vec::new();
            self.compare_parents(call, span, &spans, &of_call, &of_span, &mut wrong)?;
            let expected = if call.returned { "returned" } else { "unwound" };
            if span.ended()? != expected {
                wrong.push(format!("it {expected}, and ends as {}", span.exit()?));
            }
            if call.locked && span.thread()? != call.thread {
                wrong.push(format!("it began on thread {}, not {}", call.thread, span.thread()?));
            }
            // Of C it need not be told.
            let told = span.tags.get("go.goroutine.id").map(|id| id.parse()).transpose()?;
            if told.is_some() && told != call.goroutine {
                wrong.push(format!("it is told to be on goroutine {told:?}"));
            }
            let name = span.tag("code.function.name")?;
            // Which type arguments a generic function has is not the same word in all versions.
            if name != call.function && !name.contains('[') {
                wrong.push(format!("it is told as {name}"));
            }
            let times = Times::of(call, span, unix, next.get(id).copied());
            if let Some(what) = times.disorder(call) {
                wrong.push(what);
            }
            differences.early.push(times.early);
            if call.returned {
                differences.late.push(times.late);
            }
            for what in wrong {
                differences.tell(call, &what);
            }
        }
        Ok(differences)
    }

    fn compare_parents(
        &self,
        call: &Call,
        span: &Span,
        spans: &BTreeMap<&str, &Span>,
        of_call: &BTreeMap<u32, &Span>,
        of_span: &BTreeMap<&str, &Call>,
        wrong: &mut Vec<String>,
    ) -> Result<()> {
        let above = span.parent.as_deref();
        let found = above.and_then(|id| of_span.get(id)).copied();
        let evidence = span.evidence()?;
        let name =
            |call: &Call| format!("call {} ({}, request {})", call.id, call.function, call.request);
        if above.is_some_and(|id| !spans.contains_key(id)) {
            wrong.push("its parent is no span".to_owned());
            return Ok(());
        }
        if call.proof == "none" {
            if let Some(found) = found.filter(|found| found.request != call.request) {
                wrong.push(format!("it is under {} by {evidence}", name(found)));
            }
            return Ok(());
        }
        match (call.up.and_then(|up| self.call(up)), found) {
            (None, None) => {}
            (None, Some(found)) => {
                wrong
                    .push(format!("it begins a trace, and is under {} by {evidence}", name(found)));
            }
            (Some(up), None) => wrong.push(format!("it is under {}, and has no parent", name(up))),
            (Some(up), Some(found)) if up != found => wrong.push(format!(
                "it is under {} by {}, not {} by {evidence}",
                name(up),
                call.proof,
                name(found)
            )),
            (Some(up), Some(_)) => {
                let same = of_call.get(&up.id).is_some_and(|up| up.trace == span.trace);
                if !same {
                    wrong.push("it is in another trace than its parent".to_owned());
                }
                if evidence.split(':').next() != Some(&call.proof) {
                    wrong.push(format!("it is proven by {}, not {evidence}", call.proof));
                }
            }
        }
        Ok(())
    }

    /// The span of each call. On one lane the calls of one function begin one after the other, and so
    /// do their spans: the first belongs to the first. A lane is a goroutine, or for C a thread.
    fn matched<'a>(
        &self,
        spans: &BTreeMap<&str, &'a Span>,
        differences: &mut Differences,
    ) -> Result<BTreeMap<u32, &'a Span>> {
        type Key<'a> = (&'a str, u64);
        let mut calls: BTreeMap<Key<'_>, Vec<&Call>> = BTreeMap::new();
        for call in self.calls() {
            let lane = call.goroutine.filter(|_| !call.c).unwrap_or(call.thread.into());
            calls.entry((&call.function, lane)).or_default().push(call);
        }
        let c: BTreeSet<&str> =
            self.calls().filter(|call| call.c).map(|call| call.function.as_str()).collect();
        let mut found: BTreeMap<Key<'_>, Vec<&'a Span>> = BTreeMap::new();
        for span in spans.values() {
            let lane = if c.contains(span.name.as_str()) {
                span.thread()?.into()
            } else {
                span.tag("go.goroutine.id")?.parse()?
            };
            found.entry((&span.name, lane)).or_default().push(span);
        }
        let mut matched = BTreeMap::new();
        for (key, mut calls) in calls {
            let mut spans = found.remove(&key).unwrap_or_default();
            calls.sort_by_key(|call| call.begin);
            spans.sort_by_key(|span| span.start);
            if let Some(call) = calls.first().filter(|_| calls.len() != spans.len()) {
                let what = format!("{} calls on this lane became {}", calls.len(), spans.len());
                differences.tell(call, &what);
            } else {
                matched.extend(calls.iter().zip(&spans).map(|(call, span)| (call.id, *span)));
            }
        }
        for ((name, lane), spans) in found {
            let what = format!("{} spans {name} on lane {lane}: nobody made them", spans.len());
            differences.of.entry("none".to_owned()).or_default().push(what);
        }
        Ok(matched)
    }

    /// Of each call, when the next begins on its goroutine that begins after its end.
    fn next_begins(&self) -> BTreeMap<u32, u64> {
        let mut begins: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        let goroutines =
            || self.calls().filter_map(|call| Some((call.goroutine.filter(|_| !call.c)?, call)));
        for (goroutine, call) in goroutines() {
            begins.entry(goroutine).or_default().insert(call.begin);
        }
        goroutines()
            .filter_map(|(goroutine, call)| {
                let next = begins.get(&goroutine)?.range(call.end..).next()?;
                Some((call.id, *next))
            })
            .collect()
    }
}

/// A span's times in the program's clock, against the call's.
struct Times {
    start: u64,
    end: u64,
    early: i64,
    late: i64,
    next: Option<u64>,
}

impl Times {
    fn of(call: &Call, span: &Span, unix: u64, next: Option<u64>) -> Self {
        let (start, end) = (span.start.saturating_sub(unix), span.end.saturating_sub(unix));
        let early = call.begin.cast_signed().wrapping_sub(start.cast_signed());
        let late = end.cast_signed().wrapping_sub(call.end.cast_signed());
        Self { start, end, early, late, next }
    }

    /// What contradicts the order in which things happened.
    fn disorder(&self, call: &Call) -> Option<String> {
        let (outer, inner) = ((self.start, self.end), (call.begin, call.end));
        let (outer, inner) = if call.around { (inner, outer) } else { (outer, inner) };
        let around = outer.0 <= inner.0 + CLOCKS_NS && inner.1 <= outer.1 + CLOCKS_NS;
        let before = self.next.is_none_or(|next| self.end <= next + CLOCKS_NS);
        if around && before {
            return None;
        }
        Some(format!(
            "it was there from {} to {}, before {:?}, and its span is from {} to {}",
            call.begin, call.end, self.next, self.start, self.end
        ))
    }
}

impl Differences {
    fn tell(&mut self, call: &Call, what: &str) {
        let Call { id, function, request, .. } = call;
        let lane = match call.goroutine {
            Some(goroutine) => format!("goroutine {goroutine}"),
            None => format!("thread {}", call.thread),
        };
        self.of
            .entry(call.scenario.clone())
            .or_default()
            .push(format!("call {id} of {function} ({lane}, request {request}): {what}"));
    }

    /// How long spans last beyond what the calls say themselves, in the median.
    #[must_use]
    pub fn times(&self) -> String {
        let median = |times: &[i64]| {
            let mut times = times.to_vec();
            times.sort_unstable();
            times.get(times.len() / 2).copied().unwrap_or_default()
        };
        format!("begins {} ns before, ends {} ns after", median(&self.early), median(&self.late))
    }

    /// That there is none.
    ///
    /// # Errors
    /// The first few of each scenario.
    pub fn check(&self) -> Result<()> {
        let mut text = String::new();
        for (scenario, all) in &self.of {
            writeln!(text, "{scenario}: {} differences", all.len())?;
            for what in all.iter().take(TOLD) {
                writeln!(text, "  {what}")?;
            }
        }
        ensure!(text.is_empty(), "the spans are not the calls:\n{text}");
        Ok(())
    }
}

/// What is to be added to the monotonic clock to have Unix time, nanoseconds.
fn unix_minus_monotonic() -> Result<u64> {
    let now = |clock| {
        let time = clock_gettime(clock);
        let seconds = u64::try_from(time.tv_sec)?;
        Ok::<_, anyhow::Error>(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec)?)
    };
    let (before, unix, after) =
        (now(ClockId::Monotonic)?, now(ClockId::Realtime)?, now(ClockId::Monotonic)?);
    Ok(unix - before.midpoint(after))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: Option<&str>, name: &str, about: [&str; 4], times: [u64; 2]) -> Span {
        let [goroutine, thread, evidence, exit] = about;
        let tags = [
            ("go.goroutine.id", goroutine),
            ("thread.id", thread),
            ("qprof.parent.evidence", evidence),
            ("qprof.exit", exit),
            ("code.function.name", name),
        ];
        Span {
            trace: "t".to_owned(),
            id: id.to_owned(),
            parent: parent.map(str::to_owned),
            name: name.to_owned(),
            kind: "internal".to_owned(),
            start: times[0] * CLOCKS_NS * 10,
            end: times[1] * CLOCKS_NS * 10,
            tags: tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            service: String::new(),
            process: None,
        }
    }

    fn line(ids: [u32; 2], name: &str, about: [&str; 3], times: [u64; 2]) -> String {
        let ([id, up], [goroutine, how, proof]) = (ids, about);
        let [begin, end] = times.map(|time| time * CLOCKS_NS * 10);
        format!(
            r#"{{"call":{id},"up":{up},"function":"{name}","goroutine":{goroutine},"thread":3,"begin":{begin},"end":{end},"how":"{how}","proof":"{proof}","request":1,"scenario":"s","locked":true}}"#
        )
    }

    fn log() -> GoLog {
        let lines = [
            line([1, 0], "main.root", ["7", "return", ""], [10, 20]),
            line([2, 1], "main.inner", ["7", "unwound", "stack"], [11, 12]),
            line([3, 1], "main.child", ["8", "return", "spawn"], [13, 14]),
            line([4, 1], "main.late", ["8", "return", "none"], [15, 16]),
        ];
        GoLog::parse(&lines.join("\n")).expect("of that form")
    }

    fn spans() -> Vec<Span> {
        let mut late = span("d", None, "main.late", ["8", "3", "none", "landing"], [15, 16]);
        late.trace = "u".to_owned();
        vec![
            span("a", None, "main.root", ["7", "3", "none", "ret"], [10, 20]),
            span("b", Some("a"), "main.inner", ["7", "3", "stack", "unwound"], [11, 12]),
            span("c", Some("a"), "main.child", ["8", "3", "spawn", "landing"], [13, 14]),
            late,
        ]
    }

    fn compared(spans: Vec<Span>) -> Result<()> {
        let (late, spans) = spans.into_iter().partition(|span| span.trace == "u");
        let traces =
            [("t", spans), ("u", late)].map(|(id, spans)| Trace { id: id.to_owned(), spans });
        log().compare_at(&traces, 0)?.check()
    }

    #[test]
    fn the_same_calls_are_the_same() {
        compared(spans()).expect("the same");
        // What nothing proves may be known all the same.
        let mut spans = spans();
        (spans[3].parent, spans[3].trace) = (Some("a".to_owned()), "t".to_owned());
        compared(spans).expect("the same request");
    }

    type Change = fn(&mut Vec<Span>);

    #[test]
    fn every_kind_of_difference_is_told() {
        let changes: [(&str, Change); 9] = [
            ("became 0", |spans| drop(spans.pop())),
            ("nobody made", |spans| spans[3].name = "main.other".to_owned()),
            ("not call 2 (main.inner", |spans| spans[2].parent = Some("b".to_owned())),
            ("trace t has 2 roots", |spans| spans[3].trace = "t".to_owned()),
            ("has no parent", |spans| spans[2].parent = None),
            ("proven by spawn, not context", |spans| {
                tag(spans, 2, "qprof.parent.evidence", "context");
            }),
            ("unwound, and ends as inferred", |spans| tag(spans, 1, "qprof.exit", "inferred")),
            ("began on thread 3, not 4", |spans| tag(spans, 2, "thread.id", "4")),
            ("and its span is from", |spans| spans[3].start += 2 * CLOCKS_NS),
        ];
        for (expected, change) in changes {
            let mut spans = spans();
            change(&mut spans);
            let told = compared(spans).expect_err(expected).to_string();
            assert!(told.contains(expected), "{expected}: {told}");
        }
    }

    fn tag(spans: &mut [Span], at: usize, key: &str, value: &str) {
        spans[at].tags.insert(key.to_owned(), value.to_owned());
    }
}
