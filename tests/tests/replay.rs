//! Recordings: the same events again, without the target, the kernel or root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::process::Finished;
use profiler_tests::qprof::{Done, Run, check_code, read_summary, verb};
use profiler_tests::symbol_map;
use profiler_tests::tree::{Trace, from_otlp};
use profiler_tests::truth::{Leave, Truth};

const HANDOFFS: &str = r#"
[[handoff]]
name = "job"
give = { function = "submit", key = "arg(1)" }
take = { function = "run_job", key = "arg(1)" }
span = "queued"

[[handoff]]
name = "part"
give = { function = "publish", key = "arg(1)" }
take = { function = "run_part", key = "arg(1)" }
takes = "any"
"#;

/// A recorded run of the machine's queue.
struct Recorded {
    file: PathBuf,
    truth: Truth,
    live: Vec<Trace>,
    done: Done,
}

fn record() -> Result<Recorded> {
    let machine = build("machine.c", &["-O2", "-rdynamic", "-ldl"])?;
    let told = scratch("truth")?.join("calls");
    let mut fixture = Fixture::start(&machine, &["queue", "50", &told.to_string_lossy()])?;
    let map =
        symbol_map::of(&["queue_root"], &["publish", "run_job", "run_part", "leaf"], HANDOFFS);
    let run = Run::on(fixture.pid())?.map(symbol_map::file(&map)?).output("json");
    let file = run.directory().join("events.qprof");
    let run = run.arg("--record").arg(&file).start()?;
    fixture.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    fixture.finish()?;
    let live = from_otlp(&done.finished.stdout)?;
    Ok(Recorded { file, truth: Truth::read(&told)?, live, done })
}

fn replay(file: &Path, more: &[&str]) -> Result<Finished> {
    verb(&[&["replay", &file.to_string_lossy()], more].concat())
}

/// Every span of some OTLP JSON lines, as it stands there.
fn spans(lines: &str) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line)?;
        let scopes = line["resourceSpans"].as_array().into_iter().flatten();
        let scopes = scopes.flat_map(|of| of["scopeSpans"].as_array().into_iter().flatten());
        let spans = scopes.flat_map(|scope| scope["spans"].as_array().into_iter().flatten());
        all.extend(spans.map(ToString::to_string));
    }
    ensure!(!all.is_empty(), "no spans");
    Ok(all)
}

/// What a trace is, without its ids and whatever else differs from run to run.
fn plain(traces: &[Trace]) -> Vec<String> {
    let mut plain: Vec<String> = traces
        .iter()
        .map(|trace| {
            let spans = trace
                .spans
                .iter()
                .map(|span| format!("{} {:?} {}", span.name, span.tags, span.end - span.start));
            format!("{}: {}", trace.outline(), spans.collect::<Vec<_>>().join("; "))
        })
        .collect();
    plain.sort();
    plain
}

#[test]
fn a_replay_is_the_run_again_and_always_the_same() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let recorded = record()?;
    let first = replay(&recorded.file, &["--output", "json"])?;
    check_code(&first, 0)?;
    let second = replay(&recorded.file, &["--output", "json"])?;
    ensure!(first.stdout == second.stdout, "two replays differ");
    for kind in ["tree", "summary"] {
        let first = replay(&recorded.file, &["--output", kind])?;
        check_code(&first, 0)?;
        ensure!(!first.stdout.is_empty(), "replay --output {kind} says nothing");
        ensure!(first.stdout == replay(&recorded.file, &["--output", kind])?.stdout);
    }

    let traces = from_otlp(&first.stdout)?;
    let leave = Leave { waits: &["queued"], ..Leave::default() };
    recorded.truth.compare(&recorded.live, leave).context("the run itself")?;
    recorded.truth.compare(&traces, leave).context("its replay")?;
    ensure!(plain(&traces) == plain(&recorded.live), "the replay is not the run");
    Ok(())
}

#[test]
fn a_replay_writes_what_a_run_writes() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let recorded = record()?;
    let directory = scratch("replay")?;
    let (file, summary) = (directory.join("traces.jsonl"), directory.join("summary.json"));
    let finished = replay(
        &recorded.file,
        &[
            "--output",
            "none",
            "-o",
            &file.to_string_lossy(),
            "--summary-json",
            &summary.to_string_lossy(),
        ],
    )?;
    check_code(&finished, 0)?;
    ensure!(finished.stdout.is_empty(), "--output none said {:?}", finished.stdout);
    let json = replay(&recorded.file, &["--output", "json"])?;
    // A line a batch there, a line a trace here: the same spans, ids and all.
    ensure!(
        spans(&fs::read_to_string(&file)?)? == spans(&json.stdout)?,
        "-o and --output json differ"
    );
    let summary = read_summary(&summary)?;
    for key in ["traces", "spans", "lost", "orphans"] {
        ensure!(
            summary.number(&[key])? == recorded.done.summary.number(&[key])?,
            "{key} of the replay and of the run differ: {} {}",
            summary.0,
            recorded.done.summary.0
        );
    }
    Ok(())
}

/// `--slow` chooses whole traces, `--min-span` spans within them; neither loses the others' count.
#[test]
fn slow_and_min_span_choose() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let recorded = record()?;
    let mut durations: Vec<u64> = Vec::new();
    for trace in &recorded.live {
        let root = trace.root()?;
        durations.push(root.end - root.start);
    }
    durations.sort_unstable();
    let bound = durations[durations.len() / 2] / 1_000 + 1;
    let expected = durations.iter().filter(|ns| **ns >= bound * 1_000).count();
    let slow = format!("{bound}us");
    let finished = replay(&recorded.file, &["--output", "json", "--slow", &slow])?;
    check_code(&finished, 0)?;
    let traces = from_otlp(&finished.stdout)?;
    ensure!(traces.len() == expected, "{} of {expected} slow traces", traces.len());
    for trace in &traces {
        let root = trace.root()?;
        ensure!(root.end - root.start >= bound * 1_000, "a quick one");
    }

    let finished = replay(&recorded.file, &["--output", "json", "--min-span", "1s"])?;
    check_code(&finished, 0)?;
    let traces = from_otlp(&finished.stdout)?;
    ensure!(traces.len() == recorded.live.len(), "a trace went with its spans");
    for trace in &traces {
        trace.root()?;
    }
    Ok(())
}

/// A recording that was cut off, or that is something else, is never a panic; what it holds up to
/// there is shown.
#[test]
fn a_recording_cut_short_is_read_as_far_as_it_goes() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let recorded = record()?;
    let whole = fs::read(&recorded.file)?;
    let cut = scratch("cut")?.join("events.qprof");
    let half = whole.len() / 2;
    fs::write(&cut, &whole[..half])?;
    let finished = replay(&cut, &["--output", "json"])?;
    check_code(&finished, 0).context("cut in the middle")?;
    ensure!(
        finished.stderr.contains("cut") || finished.stderr.contains("truncated"),
        "it does not say that the recording is cut short: {}",
        finished.stderr
    );
    let shown = from_otlp(&finished.stdout)?.len();
    ensure!(shown > 0 && shown < recorded.live.len(), "{shown} of {}", recorded.live.len());

    for length in (0..64).chain((half..whole.len()).step_by(1 + half / 40)) {
        fs::write(&cut, &whole[..length])?;
        let finished = replay(&cut, &["--output", "none"])?;
        ensure!(
            matches!(finished.code, Some(0 | 1)) && !finished.stderr.contains("panicked"),
            "cut at {length}: {finished:?}"
        );
    }
    for (at, byte) in [(0, 0xff_u8), (9, 0xff), (half, 0xff), (half + 3, 0x7f)] {
        let mut hostile = whole.clone();
        hostile[at] = byte;
        fs::write(&cut, &hostile)?;
        let finished = replay(&cut, &["--output", "none"])?;
        ensure!(
            matches!(finished.code, Some(0 | 1)) && !finished.stderr.contains("panicked"),
            "byte {at} changed: {finished:?}"
        );
    }
    Ok(())
}

#[test]
fn what_is_no_recording_is_told() -> Result<()> {
    let directory = scratch("replay")?;
    let file = directory.join("no-recording");
    fs::write(&file, "{\"resourceSpans\":[]}\n")?;
    let finished = replay(&file, &[])?;
    check_code(&finished, 1)?;
    ensure!(finished.stderr.contains("recording"), "{}", finished.stderr);
    let finished = replay(&directory.join("missing"), &[])?;
    check_code(&finished, 1)?;
    ensure!(finished.stderr.contains("missing"), "{}", finished.stderr);
    Ok(())
}
