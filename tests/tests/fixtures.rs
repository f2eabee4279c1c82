//! The machine (`fixtures/machine.c`), lever by lever: what it says of its calls must be what
//! becomes of them.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, can_probe, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::tree::{Trace, from_otlp};
use profiler_tests::truth::{Leave, Truth};
use rustix::process::Signal;

/// Compiled as people compile: for the debugger, and for speed.
const LEVELS: [&str; 2] = ["-O0", "-O2"];

const ROUNDS: &str = "50";

/// Runs a scenario under `qprof`: what the machine says, and what was seen of it.
fn watch(level: &str, scenario: &str, map: &str) -> Result<(Truth, Vec<Trace>)> {
    let machine = build("machine.c", &[level, "-rdynamic", "-ldl"])?;
    let plugin = build("plugin.c", &[level, "-shared", "-fPIC"])?;
    let told = scratch("truth")?.join("calls");
    let arguments =
        [scenario, ROUNDS, &told.to_string_lossy(), &plugin.to_string_lossy()].map(str::to_owned);
    let mut fixture = Fixture::start(&machine, &arguments.each_ref().map(String::as_str))?;
    let run = Run::on(fixture.pid())?.map(symbol_map::file(map)?).output("json").start()?;
    fixture.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    ensure!(fixture.finish()?.code == Some(0), "the machine did not end well");
    let traces = from_otlp(&done.finished.stdout)?;
    for trace in &traces {
        trace.check()?;
    }
    Ok((Truth::read(&told)?, traces))
}

/// Every span ended in this way.
fn check_exits(traces: &[Trace], expected: impl Fn(&str) -> &'static str) -> Result<()> {
    for span in traces.iter().flat_map(|trace| &trace.spans) {
        let (exit, expected) = (span.ended()?, expected(&span.name));
        ensure!(exit == expected, "{} ended as {exit}, not as {expected}", span.name);
    }
    Ok(())
}

#[test]
fn recursion_nests_as_it_was_called() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in LEVELS {
        let map = symbol_map::of(&["recursion_root"], &["descend", "leaf"], "");
        let (truth, traces) = watch(level, "recursion", &map)?;
        truth.compare(&traces, Leave::default())?;
        check_exits(&traces, |_| "returned")?;
    }
    Ok(())
}

/// A function that jumps to its last callee leaves its frame to it: the callee is its child, and
/// the return from the one slot ends them both. Where the jump goes to a function that nobody
/// watches and whose address is in a register, the end is only known by what comes next.
#[test]
fn tail_calls_hand_their_frame_on() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let inner = [
        "tail_first",
        "tail_second",
        "tail_last",
        "tail_into_hidden",
        "tail_indirect",
        "tail_indirect_hidden",
        "leaf",
    ];
    for level in LEVELS {
        let (truth, traces) = watch(level, "tail", &symbol_map::of(&["tail_root"], &inner, ""))?;
        truth.compare(&traces, Leave::default())?;
        // An indirect jump away has no `ret` to be seen at: it is seen to come back.
        check_exits(&traces, |_| "returned")?;
    }
    Ok(())
}

#[test]
fn a_jump_table_is_no_exit_and_every_return_is() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in LEVELS {
        let (truth, traces) =
            watch(level, "switch", &symbol_map::of(&["switch_root"], &["dispatch", "leaf"], ""))?;
        truth.compare(&traces, Leave::default())?;
        check_exits(&traces, |_| "returned")?;
    }
    Ok(())
}

/// Two coroutines pause in the middle of their calls, again and again: a call on another stack
/// ends nothing on this one.
///
/// What resumed a coroutine does not stand on its stack, so of its outermost call no more is asked
/// than the trace.
#[test]
fn a_second_stack_ends_nothing() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in LEVELS {
        let map = symbol_map::of(&["co_root"], &["co_work", "co_inner", "co_between", "leaf"], "");
        let (truth, traces) = watch(level, "coroutines", &map)?;
        truth.compare(&traces, Leave { any_parent: &["co_work"], ..Leave::default() })?;
        check_exits(&traces, |_| "returned")?;
    }
    Ok(())
}

#[test]
fn a_signal_stack_ends_nothing() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in LEVELS {
        let map = symbol_map::of(&["signal_root"], &["signal_work", "on_signal", "leaf"], "");
        let (truth, traces) = watch(level, "signal", &map)?;
        truth.compare(&traces, Leave::default())?;
        check_exits(&traces, |_| "returned")?;
    }
    Ok(())
}

/// Four threads hand jobs to three others, by pointers that the allocator uses again and again:
/// single ones (`submit` is no span: they hang under its caller) and one that three share.
#[test]
fn a_queue_keeps_requests_apart() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let handoffs = r#"
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
    for level in LEVELS {
        let map =
            symbol_map::of(&["queue_root"], &["publish", "run_job", "run_part", "leaf"], handoffs);
        let (truth, traces) = watch(level, "queue", &map)?;
        truth.compare(&traces, Leave { waits: &["queued"], ..Leave::default() })?;
        for trace in &traces {
            ensure!(trace.count("queued") == 2, "two jobs waited: {}", trace.outline());
            for wait in trace.named("queued") {
                ensure!(wait.tag("qprof.stage")? == "queue", "a wait is of the stage queue");
            }
            for (name, evidence) in [("run_job", "handoff:job"), ("run_part", "handoff:part")] {
                for span in trace.named(name) {
                    ensure!(span.evidence()? == evidence, "{name}: {}", span.evidence()?);
                }
            }
        }
    }
    Ok(())
}

/// Threads come and go by the hundred, and every fifth ends in the middle of its calls: its spans
/// end with it.
#[test]
fn threads_come_and_go() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in LEVELS {
        let (truth, traces) = watch(
            level,
            "threads",
            &symbol_map::of(&["thread_root"], &["thread_quit", "leaf"], ""),
        )?;
        truth.compare(&traces, Leave::default())?;
        ensure!(truth.count("thread_quit") > 0, "some threads quit");
        for trace in &traces {
            let quit = trace.count("thread_quit") == 1;
            for span in &trace.spans {
                let expected = if quit && span.name != "leaf" { "unwound" } else { "returned" };
                let exit = span.ended()?;
                ensure!(exit == expected, "{} ended as {exit}, not as {expected}", span.name);
            }
        }
    }
    Ok(())
}

/// The tree of one `descend(n)`.
fn descend(n: u32) -> String {
    if n > 1 {
        format!("descend({},{})", descend(n - 1), descend(n - 2))
    } else {
        "descend(leaf)".to_owned()
    }
}

/// The profiler is held up while the machine runs at full speed: the ring fills, and what does not
/// fit is lost. The machine does not wait, the loss is counted, each tree it hurt says so, and
/// there are whole ones before and after it.
#[test]
fn what_is_lost_is_counted_and_marked() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let machine = build("machine.c", &["-O2", "-rdynamic", "-ldl"])?;
    let told = scratch("truth")?.join("calls");
    let mut fixture = Fixture::start(&machine, &["recursion", "5000", &told.to_string_lossy()])?;
    let map = symbol_map::of(&["recursion_root"], &["descend", "leaf"], "");
    let run = Run::on(fixture.pid())?.map(symbol_map::file(&map)?).arg("--ring").arg("256KiB");
    let mut run = run.output("json").start()?;
    fixture.go()?;
    thread::sleep(Duration::from_millis(300));
    run.signal(Signal::STOP)?;
    thread::sleep(Duration::from_millis(300));
    run.signal(Signal::CONT)?;
    fixture.done()?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(fixture.finish()?.code == Some(0), "the machine did not end well");
    ensure!(Truth::read(&told)?.count("recursion_root") == 5_000);
    ensure!(done.summary.number(&["lost"])? > 0, "nothing was lost: {}", done.summary.0);

    let whole: Vec<String> =
        (5..8).map(|n| format!("recursion_root({},leaf)", descend(n))).collect();
    let traces = from_otlp(&done.finished.stdout)?;
    let is_whole = |trace: &Trace| whole.contains(&trace.outline());
    ensure!(traces.first().is_some_and(is_whole), "the first tree is not whole");
    // Not the last one: once its calls come back to landings the machine makes more than fits, held up
    // or not.
    let first_hurt = traces.iter().position(|trace| !is_whole(trace)).unwrap_or(0);
    ensure!(traces.iter().skip(first_hurt).any(is_whole), "no tree after the loss is whole");
    let hurt: Vec<&Trace> = traces.iter().filter(|trace| !is_whole(trace)).collect();
    ensure!(traces.len() < 5_000 || !hurt.is_empty(), "the loss hurt nothing");
    for trace in hurt {
        let marked = trace.spans.iter().any(|span| {
            span.tags.contains_key("qprof.lost_before")
                || span.tags.contains_key("qprof.incomplete")
        });
        ensure!(marked, "hurt and not marked: {}", trace.outline());
    }
    Ok(())
}

#[test]
fn a_library_opened_while_running_is_seen() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for level in LEVELS {
        let map = symbol_map::of(&["plugin_root"], &["plugin_work", "plugin_back", "leaf"], "");
        let (truth, traces) = watch(level, "plugin", &map)?;
        truth.compare(&traces, Leave::default())?;
        check_exits(&traces, |_| "returned")?;
    }
    Ok(())
}
