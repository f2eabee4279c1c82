//! What is not recorded call by call: folded calls, calls outside of traces, and those that a budget
//! has no room for.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::postgres::{Postgres, ROWS};
use profiler_tests::qprof::{Done, Run, Running};
use profiler_tests::symbol_map;
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::{Trace, from_otlp};

/// A map of the fixture in which the calls of `hot` are declared like this.
fn map(roots: &[&str], inner: &[&str], hot: &str) -> Result<std::path::PathBuf> {
    let hot = format!("\n[[span]]\nname = \"hot\"\nfunction = \"hot\"\n{hot}\n");
    symbol_map::file(&symbol_map::of(roots, inner, &hot))
}

fn fixture(arguments: &[&str]) -> Result<Fixture> {
    Fixture::start(&build("costly.cc", &["-O2"])?, arguments)
}

fn attach(target: &Fixture, roots: &[&str], inner: &[&str], hot: &str) -> Result<Running> {
    Run::on(target.pid())?.map(map(roots, inner, hot)?).output("json").start()
}

/// Lets the fixture work and ends both.
fn work(mut target: Fixture, run: Running) -> Result<(Done, Vec<Trace>)> {
    target.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(target.finish()?.code == Some(0), "the fixture did not end well");
    done.summary.check_nothing_lost()?;
    let traces = from_otlp(&done.finished.stdout)?;
    Ok((done, traces))
}

/// The number of folded calls of `hot` in a trace, which has one span for them.
fn folded(trace: &Trace) -> Result<u64> {
    let hot: Vec<_> = trace.spans.iter().filter(|span| span.name == "hot").collect();
    let [hot] = hot[..] else { anyhow::bail!("{} spans of hot: {}", hot.len(), trace.outline()) };
    Ok(hot.tag("qprof.calls")?.parse()?)
}

/// Each request has one span with the exact number of its calls, however they were reached and
/// whether or not their ends could be seen.
#[test]
fn folded_calls_are_counted_exactly() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let requests = soak(200).max(20);
    let target = fixture(&["rounds", &requests.to_string(), "1001"])?;
    let run = attach(&target, &["request"], &["kept"], "fold = true")?;
    let (done, traces) = work(target, run)?;
    ensure!(traces.len() as u64 == u64::from(requests), "{} traces", traces.len());
    for trace in &traces {
        ensure!(trace.outline() == "request(hot,kept)", "{}", trace.outline());
        ensure!(folded(trace)? == 1001, "{} calls", folded(trace)?);
    }
    // Once it is known where they come back, their ends are seen, too.
    let late = traces.last().context("no trace")?;
    let hot = late.spans.iter().find(|span| span.name == "hot").context("no hot")?;
    ensure!(hot.returned()?, "ended {}", hot.exit()?);
    let time = |key: &str| anyhow::Ok(hot.tag(key)?.parse::<f64>()?);
    let (sum, min, max) =
        (time("qprof.calls_sum_us")?, time("qprof.calls_min_us")?, time("qprof.calls_max_us")?);
    ensure!(min > 0.0 && min <= max && sum >= 1001.0 * min && sum <= 1001.0 * max);
    ensure!(done.summary.number(&["kernel", "not_folded"])? == 0);
    // Not an event a call.
    let events = done.summary.number(&["kernel", "emitted"])?;
    ensure!(events < u64::from(requests) * 100, "{events} events");
    Ok(())
}

/// The same where the call they are made in is left by an exception, or by a jump.
#[test]
fn what_is_folded_below_calls_that_are_left_is_counted() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let requests = soak(200).max(20);
    for (mode, root, left) in [("throw", "catches", "throws"), ("leap", "lands", "leaps")] {
        let target = fixture(&[mode, &requests.to_string(), "501"])?;
        let run = attach(&target, &[root], &["kept", left], "fold = true")?;
        let (_, traces) = work(target, run)?;
        ensure!(traces.len() as u64 == u64::from(requests), "{} traces", traces.len());
        for trace in &traces {
            ensure!(trace.outline() == format!("{root}({left}(hot),kept)"), "{}", trace.outline());
            ensure!(folded(trace)? == 501, "{mode}: {} calls", folded(trace)?);
        }
    }
    Ok(())
}

/// What is folded below a call that is still open when we stop, or whose process is killed.
#[test]
fn what_is_folded_below_open_calls_is_counted() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    for killed in [false, true] {
        let mut target = fixture(&["open", "777"])?;
        let run = attach(&target, &["waits"], &[], "fold = true")?;
        target.work()?;
        let done = if killed {
            target.kill()?;
            run.wait()?
        } else {
            run.stop()?
        };
        let traces = from_otlp(&done.finished.stdout)?;
        let [trace] = &traces[..] else { anyhow::bail!("{} traces", traces.len()) };
        ensure!(trace.outline() == "waits(hot)", "{}", trace.outline());
        ensure!(folded(trace)? == 777, "killed: {killed}: {} calls", folded(trace)?);
        if !killed {
            ensure!(target.finish()?.code == Some(0), "the fixture did not end well");
        }
    }
    Ok(())
}

/// Calls outside of any request make no event where they are wanted in traces only; nor do they where
/// they are folded. Those inside do.
#[test]
fn calls_outside_of_traces_are_turned_away() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    for hot in ["only_in_trace = true", "fold = true"] {
        let target = fixture(&["idle", "5000"])?;
        let run = attach(&target, &["request"], &["kept"], hot)?;
        let (done, traces) = work(target, run)?;
        let [trace] = &traces[..] else { anyhow::bail!("{} traces", traces.len()) };
        ensure!(trace.outline() == "request(kept)", "{}", trace.outline());
        let orphans = done.summary.number(&["orphans"])?;
        ensure!(orphans == 0, "{hot}: {orphans} orphans");
        let events = done.summary.number(&["kernel", "emitted"])?;
        ensure!(events < 20, "{hot}: {events} events");
    }
    // A request that is left by a jump is over: what is called deeper on the stack is outside.
    let target = fixture(&["leave", "20", "100"])?;
    let run = attach(&target, &["left"], &["kept"], "only_in_trace = true")?;
    let (done, traces) = work(target, run)?;
    ensure!(traces.len() == 20, "{} traces", traces.len());
    for trace in &traces {
        ensure!(trace.outline() == "left(kept)", "{}", trace.outline());
    }
    let (events, orphans) =
        (done.summary.number(&["kernel", "emitted"])?, done.summary.number(&["orphans"])?);
    ensure!(events < 20 * 10 && orphans == 0, "{events} events, {orphans} orphans");

    for (mode, root, left) in
        [("rounds", "request", ""), ("throw", "catches", "throws"), ("leap", "lands", "leaps")]
    {
        let target = fixture(&[mode, "50", "4"])?;
        let inner = ["kept", left];
        let inner = if left.is_empty() { &inner[..1] } else { &inner[..] };
        let run = attach(&target, &[root], inner, "only_in_trace = true")?;
        let (done, traces) = work(target, run)?;
        ensure!(traces.len() == 50, "{} traces", traces.len());
        let calls = "hot,hot,hot,hot";
        let outline = if left.is_empty() {
            format!("{root}({calls},kept)")
        } else {
            format!("{root}({left}({calls}),kept)")
        };
        for trace in &traces {
            ensure!(trace.outline() == outline, "{}", trace.outline());
        }
        ensure!(done.summary.number(&["orphans"])? == 0, "{mode}: orphans");
    }
    Ok(())
}

/// A function that costs more than the budget is given up within the run, is said, and is on each
/// trace from then on; what stays is seen exactly once a call, while links are exchanged and after.
#[test]
fn a_budget_is_kept() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let requests = soak(10_000).max(1_500);
    let mut target = fixture(&["flood", &requests.to_string(), "2000"])?;
    let run = Run::on(target.pid())?.map(map(&["request"], &["kept"], "")?);
    let run = run.output("json").budget("2%").start()?;
    target.go()?;
    until(PATIENCE, "the budget to be kept", || {
        Ok(run.stderr().contains("budget: `hot` (hot) is detached").then_some(()))
    })?;
    target.done()?;
    // Whatever else was recorded is read.
    thread::sleep(Duration::from_millis(200));
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(target.finish()?.code == Some(0), "the fixture did not end well");
    let said = done.finished.stderr.matches("is detached").count();
    ensure!(said == 1, "said {said} times: {}", done.finished.stderr);

    let traces = from_otlp(&done.finished.stdout)?;
    let detached =
        |trace: &Trace| trace.spans.iter().any(|s| s.tags.contains_key("qprof.detached"));
    let hurt = |trace: &Trace| {
        trace.spans.iter().any(|span| {
            span.tags.contains_key("qprof.lost_before")
                || span.tags.contains_key("qprof.incomplete")
        })
    };
    let (mut before, mut after) = (0, 0);
    for trace in traces.iter().filter(|trace| !hurt(trace)) {
        let of = |name: &str| trace.spans.iter().filter(|span| span.name == name).count();
        ensure!(of("request") == 1 && of("kept") == 1, "{}", trace.outline());
        if detached(trace) {
            after += 1;
        } else {
            ensure!(of("hot") == 2000, "{} of 2000 calls, and no word of it", of("hot"));
            before += 1;
        }
    }
    ensure!(after > 0, "{before} before, {after} after");
    // Every request makes a trace, also those in which something is lost.
    if done.summary.number(&["lost"])? == 0 {
        ensure!(traces.len() as u64 == u64::from(requests), "{} traces", traces.len());
    }
    let last = traces.last().context("no trace")?;
    ensure!(last.outline() == "request(kept)" && detached(last), "{}", last.outline());
    let cost = done.summary.0["cost"]["detached"].to_string();
    ensure!(cost.contains("\"hot\""), "{cost}");
    Ok(())
}

/// A thread that rests while links are exchanged, and calls nothing but one function, from one place:
/// the next call is no twin of the last.
#[test]
fn a_resting_thread_misses_no_call() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut target = fixture(&["beside", "12", "2000"])?;
    let run = Run::on(target.pid())?.map(map(&["request", "alone"], &["kept"], "")?);
    let run = run.output("json").arg("--ring").arg("64MiB").budget("2%").start()?;
    target.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(target.finish()?.code == Some(0), "the fixture did not end well");
    let said = &done.finished.stderr;
    ensure!(said.contains("budget: `hot` (hot) is detached"), "nothing was exchanged: {said}");
    let traces = from_otlp(&done.finished.stdout)?;
    let calls = traces.iter().filter(|trace| trace.outline() == "alone").count();
    ensure!(calls == 12, "{calls} of 12 calls");
    Ok(())
}

/// The per-row function of a real engine: folded it is one span with the exact number of rows, also of
/// a statement that ends in an error half way; under a budget it goes, and queries go on.
#[test]
fn a_function_called_for_every_row() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let server = Postgres::start()?;
    let scan = |hot: &str| {
        let span = format!("\n[[span]]\nname = \"scan\"\nfunction = \"ExecSeqScan\"\n{hot}\n");
        symbol_map::file(&symbol_map::of(&["exec_simple_query"], &[], &span))
    };
    let of_scan = |trace: &Trace| -> Result<u64> {
        let scans = trace.spans.iter().filter(|span| span.name == "scan");
        scans.map(|span| Ok(span.tag("qprof.calls")?.parse::<u64>()?)).sum()
    };

    let mut session = server.session()?;
    let run = Run::on(session.pid())?.map(scan("fold = true")?).output("json").start()?;
    for _ in 0..3 {
        session.simple("select count(*) from numbers")?.rows()?;
    }
    let refused = session.simple("select 1 / (id - 70000) from numbers")?;
    ensure!(refused.state()? == "22012", "{refused:?}");
    session.simple("select count(*) from numbers where id <= 7")?.rows()?;
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    let traces = from_otlp(&done.finished.stdout)?;
    let rows: Vec<u64> = traces.iter().map(of_scan).collect::<Result<_>>()?;
    // One call more than there are rows says that there are no more.
    ensure!(rows == [ROWS + 1, ROWS + 1, ROWS + 1, 70_000, 8], "{rows:?}");

    let mut session = server.session()?;
    let run = Run::on(session.pid())?.map(scan("")?).output("json").budget("2%").start()?;
    until(PATIENCE, "the budget to be kept", || {
        session.simple("select count(*) from numbers")?.rows()?;
        Ok(run.stderr().contains("budget: `scan` (ExecSeqScan) is detached").then_some(()))
    })?;
    session.simple("select count(*) from numbers where id <= 7")?.rows()?;
    let done = run.stop()?;
    done.check_ok()?;
    let traces = from_otlp(&done.finished.stdout)?;
    let last = traces.last().context("no trace")?;
    ensure!(last.outline() == "exec_simple_query", "{}", last.outline());
    let root = last.spans.first().context("no span")?;
    ensure!(root.tag("qprof.detached")?.contains("scan"), "{:?}", root.tags);
    Ok(())
}
