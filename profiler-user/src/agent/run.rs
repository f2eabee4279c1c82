//! `qprof run`, from a pid to the summary.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::aim::RunAim;
use super::begin::{Begun, Follow, begin};
use super::command::{Started, exit_code};
use super::live::{Exits, Live, Stopped, kernel_rows};
use super::outputs::{OutSettings, Outputs, Sent};
use super::prepare::named_map;
use super::threads::Threads;
use super::{Ended, EndedBy, clock, report};
use crate::attach::{AttachOptions, check_rights};
use crate::model::{ClockOffset, Pid, ProbeId, Watches};
use crate::plan::Costs;
use crate::target::Target;
use crate::ui::{ProbeHits, Progress, RunReport, StatusLine};

/// How often the clock is measured and the names of threads looked at again.
const SECOND: Duration = Duration::from_secs(1);
/// How often the status line is drawn.
const STATUS: Duration = Duration::from_millis(500);
/// How often files are flushed.
const FLUSH: Duration = Duration::from_secs(5);

/// What `run` is asked for.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Whom, by which maps.
    pub aim: RunAim,
    /// How to attach.
    pub attach: AttachOptions,
    /// Where exits are observed.
    pub exits: Exits,
    /// What a hit costs.
    pub costs: Costs,
    /// What the probes may cost, as a share of the CPU time the target may use; none: whatever they
    /// cost.
    pub budget: Option<f64>,
    /// Where to keep the raw events.
    pub record: Option<PathBuf>,
    /// How long; none: until told to stop.
    pub duration: Option<Duration>,
    /// What comes out, and where.
    pub out: OutSettings,
    /// No status line.
    pub quiet: bool,
}

/// Attaches, traces until told to stop, detaches, and reports.
///
/// # Errors
///
/// Whatever keeps it from attaching, or from going on. Nothing stays attached, and a program that
/// was started is ended.
pub fn run(settings: &RunSettings) -> anyhow::Result<Ended> {
    check_rights()?;
    let runtime = runtime()?;
    // Before all else, so that Ctrl-C ends a run that is still reading symbols too.
    let stop = stop_on_signals(&runtime)?;
    // The maps first: a typo is told even where the process is gone.
    let map = named_map(&settings.aim.maps, &settings.aim.search)?;
    let mut outputs = Outputs::open(&settings.out, true, &runtime)?;
    let Begun { mut live, target, mut command, planning } =
        begin(settings, map, &mut outputs.resources)?;
    let begun = Instant::now();
    let mut watch = Watch::new(settings, begun);
    watch.tell(&mut live);
    if let Some(command) = &command {
        command.go_on();
    }
    let mut successor = settings.aim.follow.then(|| Follow::new(&live)).flatten();
    let ended_by = loop {
        if stop.load(Ordering::Relaxed) {
            break EndedBy::Signal;
        }
        if settings.duration.is_some_and(|duration| begun.elapsed() >= duration) {
            break EndedBy::Duration;
        }
        let alive = live.turn()?;
        watch.tell(&mut live);
        if let Some(service) = live.fleet().service() {
            outputs.resources.fall_back_on(service);
        }
        if !watch.look_after(&mut live, &mut outputs)? {
            break EndedBy::NoReader;
        }
        if let Some(command) = &mut command
            && live.took_over(Pid(command.pid()))
        {
            if let Err(error) = command.held_again(&mut live) {
                tracing::warn!("what was started runs another program now, unheld: {error}");
            }
            watch.tell(&mut live);
            command.go_on();
        }
        match &mut successor {
            Some(follow) => follow.look(&mut live)?,
            None if !alive => break EndedBy::Target,
            None => {}
        }
    };
    watch.status.clear(io::stderr()).unwrap_or_default();
    let observed = begun.elapsed();
    if ended_by == EndedBy::Target && command.is_none() {
        tracing::warn!("process {} has ended", target.pid);
    }
    let attach_time = planning + live.attach_time();
    let map = live.fleet().map_name().unwrap_or("none that fits").to_owned();
    let stopped = live.stop()?;
    // Ended only now: probes are there to the last, and nothing waits for us any more.
    let code = command.and_then(Started::end).map(exit_code);
    let about = About { target, map, observed, attach: attach_time, ended_by, code };
    finish(settings, about, watch, outputs, stopped, &runtime)
}

/// What is known of a run besides what it has seen.
struct About {
    target: Target,
    map: String,
    observed: Duration,
    attach: Duration,
    ended_by: EndedBy,
    /// The exit code of the program that was started.
    code: Option<u8>,
}

fn finish(
    settings: &RunSettings,
    about: About,
    mut watch: Watch,
    mut outputs: Outputs,
    mut stopped: Stopped,
    runtime: &Runtime,
) -> anyhow::Result<Ended> {
    let kernel = kernel_rows(&stopped.counts);
    let rules = std::mem::take(&mut stopped.rules);
    for trace in std::mem::take(&mut stopped.traces) {
        watch.threads.learn(&trace);
        outputs.take(trace, &rules, watch.clock, watch.threads.names());
    }
    if let Some(mut recorder) = stopped.recorder.take() {
        watch.threads.each_new(|tid, name| recorder.thread(tid, name))?;
        recorder.kernel(&kernel)?;
        recorder.finish()?;
    }
    let Sent { summary, otlp, file, summary_file, stdout_error } = outputs.close(runtime);
    let hits =
        |probe: usize| u16::try_from(probe).map_or(0, |probe| stopped.counts.hits(ProbeId(probe)));
    let Target { pid, name, .. } = &about.target;
    let others = match stopped.fleet.processes.saturating_sub(1) {
        0 => String::new(),
        others => format!(" and {others} more"),
    };
    let mut stitch = report::stitch_rows(&stopped.stitch, stopped.undecodable);
    stitch.push(("processes_not_looked_at".to_owned(), stopped.fleet.not_looked));
    stitch.push(("files_overwritten".to_owned(), stopped.fleet.overwritten));
    let report = RunReport {
        target: format!("{name} (pid {pid}){others}"),
        map: about.map,
        attach: Some(about.attach),
        observed: about.observed,
        summary,
        lost: stopped.stitch.lost.max(stopped.counts.get(profiler_common::Counter::RingFull)),
        orphans: stopped.stitch.orphans,
        stitch,
        kernel,
        landings: stopped.landings.as_ref().map(report::landing_rows).unwrap_or_default(),
        otlp,
        file,
        probes: rules
            .probes
            .iter()
            .enumerate()
            // A server in which nothing is thrown is no reason to wonder.
            .filter(|(_, rule)| rule.watches == Watches::Calls)
            .map(|(id, rule)| ProbeHits {
                function: Arc::clone(&rule.function),
                object: Arc::clone(&rule.object),
                span: rule
                    .span
                    .and_then(|span| rules.spans.get(usize::from(span)))
                    .map(|span| Arc::clone(&span.name)),
                hits: hits(id),
            })
            .collect(),
        cost: Some(report::cost(&rules, &stopped, about.observed)),
        threads: watch.threads.into_names(),
    };
    report::print(&report, settings.out.print, settings.out.style, summary_file, stdout_error)?;
    Ok(Ended { by: about.ended_by, unsent: report::unsent(&report), code: about.code })
}

/// What the loop looks after besides events.
struct Watch {
    clock: ClockOffset,
    threads: Threads,
    status: StatusLine,
    /// Something was attached, and told.
    told: bool,
    cost_told: bool,
    draw: bool,
    quiet: bool,
    begun: Instant,
    looked: Instant,
    drawn: Instant,
    flushed: Instant,
}

impl Watch {
    fn new(settings: &RunSettings, now: Instant) -> Self {
        let stderr = io::stderr();
        Self {
            clock: clock::offset(),
            threads: Threads::default(),
            status: StatusLine::new(settings.out.style.colour),
            told: false,
            cost_told: false,
            draw: stderr.is_terminal() && !settings.quiet,
            quiet: settings.quiet,
            begun: now,
            looked: now,
            drawn: now,
            flushed: now,
        }
    }

    /// Passes finished traces on and does what is due. False when nobody listens any more.
    fn look_after(&mut self, live: &mut Live, outputs: &mut Outputs) -> anyhow::Result<bool> {
        let now = Instant::now();
        let mut heard = true;
        for pid in live.new_processes() {
            outputs.resources.forget(pid);
        }
        let traces = live.traces();
        if !traces.is_empty() && self.draw {
            self.status.clear(io::stderr()).unwrap_or_default();
        }
        for trace in traces {
            self.threads.learn(&trace);
            let (rules, names) = (live.fleet().rules(), self.threads.names());
            heard &= outputs.take(trace, rules, self.clock, names);
        }
        if !self.cost_told && now - self.begun >= SECOND {
            self.tell_cost(live);
        }
        if let Some(recorder) = live.recorder() {
            self.threads.each_new(|tid, name| recorder.thread(tid, name))?;
        }
        if now - self.looked >= SECOND {
            self.looked = now;
            self.clock = clock::offset();
            if let Some(recorder) = live.recorder() {
                recorder.clock(clock::now(), self.clock)?;
            }
        }
        if now - self.flushed >= FLUSH {
            self.flushed = now;
            outputs.flush();
        }
        if self.draw && now - self.drawn >= STATUS {
            self.drawn = now;
            let progress = self.progress(live, outputs);
            let width = super::terminal_width(io::stderr()).unwrap_or(80);
            self.status.draw(io::stderr(), &progress, width).unwrap_or_default();
        }
        Ok(heard)
    }

    /// Says on stderr what was attached: the line scripts wait for.
    fn tell(&mut self, live: &mut Live) {
        for told in live.told() {
            self.status.clear(io::stderr()).unwrap_or_default();
            let more = if self.told { "attached: more: " } else { "attached: " };
            self.told = true;
            let cost = told.cost.filter(|_| !self.quiet).unwrap_or_default();
            let message = format!(
                "{cost}{more}{} functions, {} sites in {:.2} s (pid {}, {}; map {}); Ctrl-C ends it\n",
                told.functions,
                told.sites,
                told.took.as_secs_f64(),
                told.pid,
                told.name,
                live.fleet().map_name().unwrap_or("?")
            );
            // Nobody to tell is no reason to stop.
            io::stderr().write_all(message.as_bytes()).unwrap_or_default();
        }
    }

    /// Says once what it costs by what was called so far, as soon as something was.
    fn tell_cost(&mut self, live: &Live) {
        if let Some(line) = report::early_cost(live.spending(), live.fleet().rules()) {
            self.cost_told = true;
            if !self.quiet {
                self.status.clear(io::stderr()).unwrap_or_default();
                io::stderr().write_all(line.as_bytes()).unwrap_or_default();
            }
        }
    }

    fn progress(&self, live: &Live, outputs: &Outputs) -> Progress {
        let summary = outputs.summary();
        let percentiles = (summary.traces > 0)
            .then(|| (summary.durations.percentile(50), summary.durations.percentile(95)));
        Progress {
            elapsed: self.begun.elapsed(),
            traces: summary.traces,
            spans: summary.spans,
            percentiles,
            lost: live.stitch_stats().lost,
            export_failures: outputs.export_failures(),
            cost: live.spending().latest_share(),
        }
    }
}

pub(super) fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("qprof-export")
        .enable_all()
        .build()
}

/// Ctrl-C and termination ask for an orderly end; the second one does not wait for it.
fn stop_on_signals(runtime: &Runtime) -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let _runtime = runtime.enter();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind)?;
        let stop = Arc::clone(&stop);
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                if stop.swap(true, Ordering::Relaxed) {
                    leave_at_once();
                }
            }
        });
    }
    Ok(stop)
}

#[expect(clippy::exit, reason = "the user asked twice; the kernel detaches when we are gone")]
fn leave_at_once() -> ! {
    std::process::exit(130)
}
