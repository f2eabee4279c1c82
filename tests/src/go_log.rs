//! What the Go fixture `calls` says of its own calls, against what was made of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::tree::{Span, Trace};

/// How far the program's clock and a span's may be apart, nanoseconds: a span's time was taken from
/// the monotonic clock, too, but converted to Unix time since.
const CLOCKS_NS: u64 = 2_000_000;

/// How many differences of one scenario are told.
const TOLD: usize = 4;

/// A call, as the fixture tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub id: u32,
    /// The call it was made for; none for a request.
    pub up: Option<u32>,
    /// What proves that: the evidence that the span must carry; `none` where nothing does.
    pub proof: String,
    /// The function.
    pub function: String,
    /// The goroutine; none for C on a thread that C made.
    pub goroutine: Option<u64>,
    /// The thread it began on.
    pub thread: u32,
    /// Nanoseconds of the monotonic clock, as the function itself took it after it had begun.
    pub begin: u64,
    /// When it was about to return, or to be unwound.
    pub end: u64,
    /// Whether it returned; otherwise it was unwound.
    pub returned: bool,
    /// The request that it serves.
    pub request: u32,
    /// What the program did.
    pub scenario: String,
    /// The times are its caller's: it lies between them.
    pub around: bool,
    /// Whether it is C.
    pub c: bool,
    /// Whether it ended on another thread than it began on.
    pub moved: bool,
}

/// All calls of the program.
#[derive(Clone, Debug, Default)]
pub struct GoLog {
    calls: BTreeMap<u32, Call>,
}

/// How the spans differ from the calls.
#[derive(Clone, Debug, Default)]
pub struct Differences {
    of: BTreeMap<String, Vec<String>>,
    /// How long before its own log a span begins, and how long after it ends, nanoseconds.
    early: Vec<i64>,
    late: Vec<i64>,
}

impl GoLog {
    /// Reads what the program wrote, and checks that it is whole.
    ///
    /// # Errors
    /// When it cannot be read, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("the fixture left no {}", path.display()))?;
        let mut log = Self::default();
        for line in text.lines() {
            let call = call(line).with_context(|| format!("in the line {line:?}"))?;
            log.calls.insert(call.id, call);
        }
        log.check()?;
        Ok(log)
    }

    /// Of each scenario, how many calls it made.
    #[must_use]
    pub fn scenarios(&self) -> BTreeMap<&str, usize> {
        let mut counts = BTreeMap::new();
        for call in self.calls.values() {
            *counts.entry(call.scenario.as_str()).or_default() += 1;
        }
        counts
    }

    /// The calls.
    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.calls.values()
    }

    fn check(&self) -> Result<()> {
        for call in self.calls.values() {
            ensure!(call.begin <= call.end, "it ends before it begins: {call:?}");
            let Some(up) = call.up else {
                ensure!(call.proof.is_empty(), "proven by nothing: {call:?}");
                continue;
            };
            let up = self.calls.get(&up).ok_or_else(|| anyhow!("no such caller: {call:?}"))?;
            ensure!(call.request == up.request, "of another request than its caller: {call:?}");
            ensure!(up.begin <= call.begin, "before its caller: {call:?}");
            if call.proof == "stack" {
                ensure!(call.end <= up.end, "longer than its caller: {call:?}, {up:?}");
                ensure!(call.goroutine == up.goroutine, "on two goroutines: {call:?}, {up:?}");
            }
        }
        Ok(())
    }

    /// The spans against the calls: each call is one span, on its goroutine, under the span of the
    /// call it was made for, and ends as it ended; and there is nothing more. Where nothing proves for
    /// whom a call was made, its span has no parent or one of the same request.
    ///
    /// # Errors
    /// When a span lacks what every span has.
    pub fn compare(&self, traces: &[Trace]) -> Result<Differences> {
        let spans: BTreeMap<&str, &Span> = traces
            .iter()
            .flat_map(|trace| &trace.spans)
            .map(|span| (span.id.as_str(), span))
            .collect();
        let mut differences = Differences::default();
        let of_call = self.matched(&spans, &mut differences)?;
        let of_span: BTreeMap<&str, &Call> = of_call
            .iter()
            .filter_map(|(id, span)| Some((span.id.as_str(), self.calls.get(id)?)))
            .collect();
        let next = self.next_begins();
        let unix = unix_minus_monotonic()?;
        for (id, span) in &of_call {
            let Some(call) = self.calls.get(id) else { continue };
            let mut wrong = Vec::new();
            self.compare_parents(call, span, &spans, &of_call, &of_span, &mut wrong)?;
            let expected = if call.returned { "returned" } else { "unwound" };
            if span.ended()? != expected {
                wrong.push(format!("it {expected}, and ends as {}", span.exit()?));
            }
            if !call.c && span.thread()? != call.thread {
                wrong.push(format!("it began on thread {}, not {}", call.thread, span.thread()?));
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
        match (call.up.and_then(|up| self.calls.get(&up)), found) {
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
        for call in self.calls.values() {
            let lane = call.goroutine.filter(|_| !call.c).unwrap_or(call.thread.into());
            calls.entry((&call.function, lane)).or_default().push(call);
        }
        let c: BTreeSet<&str> =
            self.calls.values().filter(|call| call.c).map(|call| call.function.as_str()).collect();
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
        let goroutines = || {
            self.calls.values().filter_map(|call| Some((call.goroutine.filter(|_| !call.c)?, call)))
        };
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

fn call(line: &str) -> Result<Call> {
    let line: Value = serde_json::from_str(line)?;
    let number =
        |key: &str| line[key].as_u64().ok_or_else(|| anyhow!("{key} is no number: {}", line[key]));
    let small = |key: &str| Ok::<_, anyhow::Error>(u32::try_from(number(key)?)?);
    let text = |key: &str| {
        let text = line[key].as_str().ok_or_else(|| anyhow!("{key} is no text: {}", line[key]))?;
        Ok::<_, anyhow::Error>(text.to_owned())
    };
    let flag = |key: &str| line[key] == true;
    let how = text("how")?;
    ensure!(["return", "unwound"].contains(&how.as_str()), "it is {how} to the end");
    Ok(Call {
        id: small("call")?,
        up: Some(small("up")?).filter(|up| *up != 0),
        proof: text("proof")?,
        function: text("function")?,
        goroutine: Some(number("goroutine")?).filter(|goroutine| *goroutine != 0),
        thread: small("thread")?,
        begin: number("begin")?,
        end: number("end")?,
        returned: how == "return",
        request: small("request")?,
        scenario: text("scenario")?,
        around: flag("around"),
        c: flag("c"),
        moved: flag("moved"),
    })
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
