//! How a run begins: from what the user asks for to what is attached.

use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use super::aim::{RunAim, Successor, Whom};
use super::command::Started;
use super::expected::Expected;
use super::live::{Live, LiveError, LiveOptions};
use super::prepare::{PrepareError, Prepared, prepare_target};
use super::resources::Resources;
use super::{RunSettings, clock, memory};
use crate::attach::{AttachOptions, Targets};
use crate::config::{self, SymbolMap};
use crate::model::Pid;
use crate::recording::{Header, Writer};
use crate::target::{Target, TargetError};

/// How many functions that are not probed are named when attaching.
const TOLD: usize = 10;
/// How often a program that has ended is looked for.
const LOOK: Duration = Duration::from_millis(250);

/// A run that has begun.
pub(super) struct Begun {
    pub(super) live: Live,
    /// The first target.
    pub(super) target: Target,
    /// The program that was started, still held.
    pub(super) command: Option<Started>,
    /// How long it took to read symbols and to plan.
    pub(super) planning: Duration,
}

/// Attaches to what the user asks for.
pub(super) fn begin(
    settings: &RunSettings,
    map: Option<SymbolMap>,
    resources: &mut Resources,
) -> anyhow::Result<Begun> {
    let RunSettings { aim, attach, exits, record, out, costs, budget, .. } = settings;
    let options = LiveOptions {
        attach: *attach,
        grace: out.grace,
        exits: *exits,
        costs: *costs,
        budget: *budget,
    };
    // Who may come later may be a Go program.
    let load = |map, targets, go: bool| {
        let attach = AttachOptions { go, ..options.attach };
        Live::load(targets, map, aim.search.clone(), &LiveOptions { attach, ..options })
    };
    let recorder = |live: &mut Live, target: &Target, service: &str| -> anyhow::Result<()> {
        if let Some(path) = record {
            live.record(Writer::create(path, &header(target, service))?);
        }
        Ok(())
    };
    if let Whom::Command(words) = &aim.whom {
        let service = map.as_ref().map_or("unknown", |map| map.system.as_str()).to_owned();
        let targets = if aim.children { Targets::Tree } else { Targets::Several };
        let mut live = load(map, targets, true)?;
        live.say_costs();
        let (command, target) = Started::hold(words, &mut live, aim.search.forms)?;
        resources.fall_back_on(&service);
        recorder(&mut live, &target, &service)?;
        live.follow(&target)?;
        // Whatever it becomes further on is held too.
        live.attached().hold(target.pid).map_err(LiveError::Attach)?;
        live.look_now(target.pid)?;
        if live.fleet().rules().spans.is_empty() {
            tracing::warn!("nothing that a map knows is loaded yet: waiting for it");
        }
        return Ok(Begun { live, target, command: Some(command), planning: Duration::ZERO });
    }
    let pids = aim.processes()?;
    let mut expected = Expected::default();
    let prepare = |pid, map| {
        let prepared = prepare_one(aim, pid, map)?;
        expected.add_prepared(&prepared.0, costs, *exits);
        Ok((prepared.0.without_symbols(), prepared.1))
    };
    let prepared = match prepare_all(map.as_ref(), &pids, prepare) {
        Err(error) if error.may_come() && (aim.children || aim.follow) => {
            tracing::warn!("{error}");
            tracing::warn!("waiting for it to be loaded, or run by a child");
            return wait_for_it(&pids, load(map, targets(aim, &pids), true)?, &recorder);
        }
        prepared => prepared?,
    };
    memory::give_back();
    let Some((first, _)) = prepared.first() else { return Err(TargetError::none().into()) };
    let (target, service) = (first.target.clone(), first.map.system.clone());
    let targets = targets(aim, &pids);
    let in_go = prepared.iter().any(|(prepared, _)| prepared.plan.go.is_some());
    let may_come = !matches!(targets, Targets::One(_));
    let mut live = load(Some(first.map.clone()), targets, in_go || may_come)?;
    resources.fall_back_on(&service);
    recorder(&mut live, &target, &service)?;
    if !settings.quiet {
        let line = expected.line(costs.measured).unwrap_or_default();
        // Nobody to tell is no reason to stop.
        io::stderr().write_all(line.as_bytes()).unwrap_or_default();
    }
    let mut planning = Duration::ZERO;
    for (prepared, satisfied) in prepared {
        planning += prepared.took;
        tell_skipped(&prepared);
        live.add(prepared, satisfied)?;
    }
    live.say_costs();
    for refused in live.refused() {
        tracing::warn!("the kernel refused a site of {}: {}", refused.function, refused.why);
    }
    Ok(Begun { live, target, command: None, planning })
}

/// Whose events are to be taken.
fn targets(aim: &RunAim, pids: &[Pid]) -> Targets {
    match pids {
        _ if aim.children => Targets::Tree,
        [pid] if !aim.follow => Targets::One(*pid),
        _ => Targets::Several,
    }
}

/// Follows processes in which nothing of a map is yet.
fn wait_for_it(
    pids: &[Pid],
    mut live: Live,
    recorder: &dyn Fn(&mut Live, &Target, &str) -> anyhow::Result<()>,
) -> anyhow::Result<Begun> {
    let targets: Vec<Target> =
        pids.iter().map(|pid| Target::open(*pid)).collect::<Result<_, _>>()?;
    let target = targets.first().cloned().ok_or_else(TargetError::none)?;
    live.say_costs();
    let service = live.fleet().service().unwrap_or("unknown").to_owned();
    recorder(&mut live, &target, &service)?;
    for target in &targets {
        live.follow(target)?;
    }
    Ok(Begun { live, target, command: None, planning: Duration::ZERO })
}

/// A plan for a process, and which of the selectors of its map need not be looked for any more.
type Planned = (Prepared, Vec<bool>);

fn prepare_one(aim: &RunAim, pid: Pid, map: Option<SymbolMap>) -> Result<Planned, PrepareError> {
    prepare_target(Target::open(pid)?, map, &aim.search, Instant::now())
}

/// Plans for each process, all by one map: what is named, or what fits each of them together.
fn prepare_all(
    map: Option<&SymbolMap>,
    pids: &[Pid],
    mut prepare: impl FnMut(Pid, Option<SymbolMap>) -> Result<Planned, PrepareError>,
) -> Result<Vec<Planned>, PrepareError> {
    let prepared: Vec<_> =
        pids.iter().map(|pid| prepare(*pid, map.cloned())).collect::<Result<_, _>>()?;
    let mut maps: Vec<SymbolMap> = Vec::new();
    for (prepared, _) in &prepared {
        if !maps.iter().any(|map| map.name == prepared.map.name) {
            maps.push(prepared.map.clone());
        }
    }
    if maps.len() < 2 {
        return Ok(prepared);
    }
    // What one map requires the other's process has not.
    let mut merged = config::merge(maps)?;
    merged.spans.iter_mut().for_each(|span| span.required = false);
    pids.iter().map(|pid| prepare(*pid, Some(merged.clone()))).collect()
}

fn tell_skipped(prepared: &Prepared) {
    let skipped = &prepared.plan.skipped;
    for skipped in skipped.iter().take(TOLD) {
        tracing::warn!("not probed: {} ({}): {}", skipped.wanted_by, skipped.what, skipped.why);
    }
    if let Some(more) = skipped.len().checked_sub(TOLD).filter(|more| *more > 0) {
        tracing::warn!("{more} more are not probed: `qprof check` names them");
    }
}

fn header(target: &Target, service: &str) -> Header {
    Header {
        qprof: env!("CARGO_PKG_VERSION").to_owned(),
        pid: target.pid,
        name: target.name.clone(),
        service: service.to_owned(),
        clock: clock::offset(),
        kernel: crate::attach::kernel_release(),
    }
}

/// Waits for programs to run again.
pub(super) struct Follow {
    awaited: Vec<Awaited>,
    looked: Instant,
}

/// A target, of those the run was aimed at.
struct Awaited {
    pid: Pid,
    successor: Successor,
    waiting: bool,
}

impl Follow {
    /// Of all that the run is aimed at; none if they are gone.
    pub(super) fn new(live: &Live) -> Option<Self> {
        let awaited: Vec<Awaited> = live
            .fleet()
            .aimed()
            .filter_map(|pid| Some(Awaited { pid, successor: Successor::of(pid)?, waiting: false }))
            .collect();
        (!awaited.is_empty()).then(|| Self { awaited, looked: Instant::now() })
    }

    /// Looks for those that have ended, now and then; attaches to them once they are there.
    pub(super) fn look(&mut self, live: &mut Live) -> Result<(), LiveError> {
        for awaited in &mut self.awaited {
            if !awaited.waiting && !live.fleet().has(awaited.pid) {
                awaited.waiting = true;
                // The kernel tells of an end a moment before the process is gone from /proc.
                self.looked = Instant::now();
                let pid = awaited.pid;
                tracing::warn!("process {pid} has ended: waiting until it runs again (--follow)");
            }
        }
        if self.looked.elapsed() < LOOK {
            return Ok(());
        }
        self.looked = Instant::now();
        for awaited in self.awaited.iter_mut().filter(|awaited| awaited.waiting) {
            let Some(pid) = awaited.successor.find(|pid| live.fleet().has(pid)) else { continue };
            let followed = Target::open(pid).map_err(LiveError::from).and_then(|target| {
                live.follow(&target)?;
                Ok(())
            });
            match followed {
                Ok(()) => {
                    tracing::warn!("process {} runs again as process {pid}", awaited.pid);
                    (awaited.pid, awaited.waiting) = (pid, false);
                }
                // It has ended again, or is not there yet.
                Err(LiveError::Target(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
