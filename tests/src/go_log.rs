//! What the Go fixture `calls` says of its own calls, by which its spans are judged.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

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
    /// The thread it was on once it had begun: before that, it may have been moved.
    pub thread: u32,
    /// Whether its goroutine could run on no other thread.
    pub locked: bool,
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

impl GoLog {
    /// Reads what the program wrote, and checks that it is whole.
    ///
    /// # Errors
    /// When it cannot be read, or contradicts itself.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("the fixture left no {}", path.display()))?;
        Self::parse(&text)
    }

    /// As [`GoLog::read`], of its text.
    ///
    /// # Errors
    /// As [`GoLog::read`].
    pub fn parse(text: &str) -> Result<Self> {
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

    /// Of each scenario and function, how often it was called, returned and what proves its caller:
    /// all of which the program decides by itself.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<(&str, &str, bool, &str), usize> {
        let mut counts = BTreeMap::new();
        for call in self.calls.values() {
            let key = (
                call.scenario.as_str(),
                call.function.as_str(),
                call.returned,
                call.proof.as_str(),
            );
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    /// A call by its number.
    #[must_use]
    pub fn call(&self, id: u32) -> Option<&Call> {
        self.calls.get(&id)
    }

    /// The calls, by number.
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
        locked: flag("locked"),
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
