//! A child of our own, traced from end to end: symbols, plan, kernel side, ring, stitcher.

use std::hint::black_box;
use std::io::{self, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::agent::{Aim, Exits, Live, LiveOptions, Prepared, Search, prepare_with};
use crate::attach::AttachOptions;
use crate::config::{self, MapOrigin};
use crate::model::{Evidence, ExitKind, Pid, Trace};
use crate::plan::Costs;

/// How often the child makes the call that is traced.
const CALLS: u64 = 100;

/// The child's map: two functions of this very binary.
const MAP: &str = r#"
version = 1
name = "self-test"
system = "qprof"

[[span]]
name = "outer"
function = "qprof::doctor::self_test::outer"
root = true
required = true

[[span]]
name = "inner"
function = "qprof::doctor::self_test::inner"
required = true
"#;

/// What became of the self-test.
#[derive(Debug, Serialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum SelfTest {
    /// Every call of the child was traced, exactly.
    Passed {
        /// How many calls.
        calls: u64,
        /// From planning to attached, milliseconds.
        attached_ms: f64,
    },
    /// It did not work.
    Failed {
        /// What went wrong.
        why: String,
    },
}

/// Starts a child, traces it and compares what came out with what the child did.
#[must_use]
pub fn self_test() -> SelfTest {
    match attempt() {
        Ok(attached) => {
            SelfTest::Passed { calls: CALLS, attached_ms: attached.as_secs_f64() * 1e3 }
        }
        Err(error) => SelfTest::Failed { why: format!("{error:#}") },
    }
}

fn attempt() -> anyhow::Result<Duration> {
    let child = Subject::start()?;
    let begun = Instant::now();
    let map = config::parse_map(MAP, MapOrigin::BuiltIn)?;
    let search = Search { max_functions: 8, ..Search::default() };
    let aim = Aim { pid: Pid(child.0.id()), maps: Vec::new(), search };
    let prepared = prepare_with(&aim, map)?;
    let (attached, traces) = trace(child, &prepared)?;
    verify(&traces)?;
    Ok(attached - begun)
}

fn trace(mut child: Subject, prepared: &Prepared) -> anyhow::Result<(Instant, Vec<Trace>)> {
    let options = LiveOptions {
        attach: AttachOptions { ring_bytes: 1 << 20, ..AttachOptions::default() },
        grace: Duration::from_secs(1),
        exits: Exits::default(),
        costs: Costs::default(),
        budget: None,
    };
    let mut live = Live::start(prepared, &options)?;
    let attached = Instant::now();
    child.go()?;
    let mut traces = Vec::new();
    let deadline = attached + Duration::from_secs(5);
    while (traces.len() as u64) < CALLS && Instant::now() < deadline {
        live.turn()?;
        traces.extend(live.traces());
    }
    traces.extend(live.stop()?.traces);
    Ok((attached, traces))
}

fn verify(traces: &[Trace]) -> anyhow::Result<()> {
    let exact = |trace: &&Trace| {
        let [outer, inner] = trace.spans.as_slice() else { return false };
        let is_exact = |exit| matches!(exit, ExitKind::Landing | ExitKind::Ret);
        is_exact(outer.exit)
            && is_exact(inner.exit)
            && inner.parent == Some(outer.id)
            && inner.evidence == Evidence::Stack
            && outer.start <= inner.start
            && inner.end <= outer.end
    };
    let count = traces.iter().filter(exact).count() as u64;
    anyhow::ensure!(
        count == CALLS,
        "the child made {CALLS} calls, {count} of {} traces show them exactly",
        traces.len()
    );
    Ok(())
}

/// The child; dropping it ends it.
struct Subject(Child);

impl Subject {
    fn start() -> io::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("self-test-child")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        // Its first byte says that it has been through exec and runs our own code.
        if let Some(stdout) = &mut child.stdout {
            stdout.read_exact(&mut [0])?;
        }
        Ok(Self(child))
    }

    fn go(&mut self) -> io::Result<()> {
        self.0.stdin.as_mut().map_or(Ok(()), |stdin| stdin.write_all(b"g"))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It may have ended by itself, which is what we want.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What the child does: waits for a byte, makes its calls, waits for the end of its input.
///
/// # Errors
/// Its pipes are closed.
pub fn child() -> anyhow::Result<()> {
    io::stdout().write_all(b"r")?;
    io::stdout().flush()?;
    let mut stdin = io::stdin();
    stdin.read_exact(&mut [0])?;
    let sum: u64 = (0..CALLS).map(outer).sum();
    black_box(sum);
    // Stay alive until the parent has seen enough and closes the pipe.
    stdin.read_to_end(&mut Vec::new())?;
    Ok(())
}

#[inline(never)]
fn outer(n: u64) -> u64 {
    // The addition after the call keeps it from becoming a tail call.
    black_box(inner(black_box(n))) + 1
}

#[inline(never)]
fn inner(n: u64) -> u64 {
    black_box(n).wrapping_mul(3)
}
