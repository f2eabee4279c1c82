//! `qprof run`, from a pid to the summary.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::live::{Live, LiveOptions, Stopped, kernel_rows};
use super::outputs::{OutSettings, Outputs, Sent};
use super::prepare::{Aim, Prepared, prepare};
use super::threads::Threads;
use super::{Ended, EndedBy, clock, facts, report};
use crate::attach::{AttachOptions, check_rights};
use crate::model::ClockOffset;
use crate::recording::{Header, Writer};
use crate::ui::{Cost, ProbeHits, Progress, RunReport, StatusLine};

/// How often the clock is measured and the names of threads looked at again.
const SECOND: Duration = Duration::from_secs(1);
/// How often the status line is drawn.
const STATUS: Duration = Duration::from_millis(500);
/// How often files are flushed.
const FLUSH: Duration = Duration::from_secs(5);

/// How many functions that are not probed are named when attaching.
const TOLD: usize = 10;

/// What `run` is asked for.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Whom, by which maps.
    pub aim: Aim,
    /// How to attach.
    pub attach: AttachOptions,
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
/// Whatever keeps it from attaching, or from going on. Nothing stays attached.
pub fn run(settings: &RunSettings) -> anyhow::Result<Ended> {
    check_rights()?;
    let runtime = runtime()?;
    // Before all else, so that Ctrl-C ends a run that is still reading symbols too.
    let stop = stop_on_signals(&runtime)?;
    let prepared = prepare(&settings.aim)?;
    let mut facts = facts::of(&prepared)?;
    if let Some(service) = &settings.out.service_in_file {
        facts.service_name.clone_from(service);
    }
    let mut outputs = Outputs::open(&settings.out, &facts, &runtime)?;
    let recorder = match &settings.record {
        Some(path) => Some(Writer::create(path, &header(&prepared, &facts.service_name))?),
        None => None,
    };
    let options = LiveOptions { attach: settings.attach, grace: settings.out.grace };
    let mut live = Live::start(&prepared, &options)?;
    if let Some(recorder) = recorder {
        live.record(recorder);
    }
    announce(&prepared, &live);
    let begun = Instant::now();
    let mut watch = Watch::new(&prepared, settings, begun);
    let ended_by = loop {
        if stop.load(Ordering::Relaxed) {
            break EndedBy::Signal;
        }
        if settings.duration.is_some_and(|duration| begun.elapsed() >= duration) {
            break EndedBy::Duration;
        }
        let alive = live.turn()?;
        if !watch.look_after(&mut live, &mut outputs)? {
            break EndedBy::NoReader;
        }
        if !alive {
            break EndedBy::Target;
        }
    };
    watch.status.clear(io::stderr()).unwrap_or_default();
    let observed = begun.elapsed();
    if ended_by == EndedBy::Target {
        tracing::warn!("process {} has ended", prepared.target.pid);
    }
    let attach_time = prepared.took + live.attach_time();
    let stopped = live.stop()?;
    finish(
        settings,
        &prepared,
        watch,
        outputs,
        stopped,
        &runtime,
        (observed, attach_time, ended_by),
    )
}

fn finish(
    settings: &RunSettings,
    prepared: &Prepared,
    mut watch: Watch,
    mut outputs: Outputs,
    mut stopped: Stopped,
    runtime: &Runtime,
    (observed, attach, ended_by): (Duration, Duration, EndedBy),
) -> anyhow::Result<Ended> {
    let kernel = kernel_rows(&stopped.counts);
    for trace in std::mem::take(&mut stopped.traces) {
        watch.threads.learn(&trace);
        outputs.take(trace, &prepared.plan.rules, watch.clock, watch.threads.names());
    }
    if let Some(mut recorder) = stopped.recorder.take() {
        watch.threads.each_new(|tid, name| recorder.thread(tid, name))?;
        recorder.kernel(&kernel)?;
        recorder.finish()?;
    }
    let Sent { summary, otlp, file, summary_file, stdout_error } = outputs.close(runtime);
    let probes = prepared.plan.probes.iter().zip(&prepared.plan.rules.probes);
    let hits = |probe| stopped.counts.hits(probe);
    let report = RunReport {
        target: format!("{} (pid {})", prepared.target.name, prepared.target.pid),
        map: prepared.map.name.clone(),
        attach: Some(attach),
        observed,
        summary,
        lost: stopped.stitch.lost.max(stopped.counts.get(profiler_common::Counter::RingFull)),
        orphans: stopped.stitch.orphans,
        stitch: report::stitch_rows(&stopped.stitch, stopped.undecodable),
        kernel,
        otlp,
        file,
        probes: probes
            // A server in which nothing is thrown is no reason to wonder.
            .filter(|(_, rule)| !rule.witness)
            .map(|(probe, rule)| ProbeHits {
                function: Arc::clone(&rule.function),
                object: Arc::clone(&rule.object),
                span: probe.span.clone(),
                hits: hits(probe.id),
            })
            .collect(),
        cost: Some(Cost {
            hits: prepared.plan.probes.iter().map(|probe| hits(probe.id)).sum(),
            agent_share: clock::cpu_time().as_secs_f64() / observed.as_secs_f64().max(1e-3),
        }),
        threads: watch.threads.into_names(),
    };
    report::print(&report, settings.out.print, settings.out.style, summary_file, stdout_error)?;
    Ok(Ended { by: ended_by, unsent: report::unsent(&report) })
}

/// What the loop looks after besides events.
struct Watch<'a> {
    prepared: &'a Prepared,
    clock: ClockOffset,
    threads: Threads,
    status: StatusLine,
    draw: bool,
    begun: Instant,
    looked: Instant,
    drawn: Instant,
    flushed: Instant,
}

impl<'a> Watch<'a> {
    fn new(prepared: &'a Prepared, settings: &RunSettings, now: Instant) -> Self {
        let stderr = io::stderr();
        Self {
            prepared,
            clock: clock::offset(),
            threads: Threads::of(prepared.target.pid),
            status: StatusLine::new(settings.out.style.colour),
            draw: stderr.is_terminal() && !settings.quiet,
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
        let traces = live.traces();
        if !traces.is_empty() && self.draw {
            self.status.clear(io::stderr()).unwrap_or_default();
        }
        for trace in traces {
            self.threads.learn(&trace);
            let (rules, names) = (&self.prepared.plan.rules, self.threads.names());
            heard &= outputs.take(trace, rules, self.clock, names);
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
        }
    }
}

fn header(prepared: &Prepared, service: &str) -> Header {
    Header {
        qprof: env!("CARGO_PKG_VERSION").to_owned(),
        pid: prepared.target.pid,
        name: prepared.target.name.clone(),
        rules: prepared.plan.rules.clone(),
        service: service.to_owned(),
        clock: clock::offset(),
        kernel: crate::attach::kernel_release(),
    }
}

/// Says on stderr that it is attached: the line scripts wait for.
fn announce(prepared: &Prepared, live: &Live) {
    let Prepared { target, map, plan, took } = prepared;
    for skipped in plan.skipped.iter().take(TOLD) {
        tracing::warn!("not probed: {} ({}): {}", skipped.wanted_by, skipped.what, skipped.why);
    }
    if let Some(more) = plan.skipped.len().checked_sub(TOLD).filter(|more| *more > 0) {
        tracing::warn!("{more} more are not probed: `qprof check` names them");
    }
    for refused in live.refused() {
        tracing::warn!("the kernel refused a site of {}: {}", refused.function, refused.why);
    }
    let sites: usize = plan.probes.iter().map(|probe| probe.sites.len()).sum();
    let message = format!(
        "attached: {} functions, {sites} sites in {:.2} s (pid {}, {}; map {}); Ctrl-C ends it\n",
        plan.probes.len(),
        (*took + live.attach_time()).as_secs_f64(),
        target.pid,
        target.name,
        map.name
    );
    // Nobody to tell is no reason to stop.
    io::stderr().write_all(message.as_bytes()).unwrap_or_default();
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
