//! Attached to the run's processes: from the ring to finished traces, one turn at a time.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use profiler_common::Counter;
use thiserror::Error;

use super::command::CommandError;
use super::expected::Expected;
use super::fleet::{Addition, Fleet, FleetStats};
use super::jumps::Jumps;
use super::landings::{LandingStats, Landings};
use super::outputs::nanoseconds;
use super::own_events::{folded, gave_up, process_end};
use super::pipeline::{Change, Pipeline};
use super::prepare::Search;
use super::spending::Spending;
use super::{Prepared, budget, clock};
use crate::attach::{AttachError, AttachOptions, Attached, KernelCounts, RefusedSite, Targets};
use crate::config::SymbolMap;
use crate::model::{Event, EventBody, MonoNs, Pid, Rules, Trace, Watches};
use crate::plan::{Costs, ProbePlan};
use crate::reader::{self, Ring};
use crate::recording::{RecordingError, Writer};
use crate::stitch::{IdSource, Limits, StitchStats, Stitcher};
use crate::target::{FileGuard, ObjectId, Target, TargetError, descendants};

/// How long one turn waits for events: the ring is drained this often, or when half full.
const TURN: Duration = Duration::from_millis(10);

/// How long one turn reads, however much there is.
const AT_ONCE: Duration = Duration::from_millis(50);

/// How long queries in flight may take to end after we were asked to stop.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// How to attach and to stitch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveOptions {
    pub(crate) attach: AttachOptions,
    pub(crate) grace: Duration,
    pub(crate) exits: Exits,
    /// What hits cost on this machine.
    pub(crate) costs: Costs,
    /// What the probes may cost, as a share of the CPU time the target may use; none: whatever they
    /// cost.
    pub(crate) budget: Option<f64>,
}

/// Where exits are observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exits {
    /// Where calls come back; at their `ret`s only until that is known.
    #[default]
    Landings,
    /// At their `ret`s: dear, and tail calls out of an object are missed.
    Rets,
}

/// Why a run came to an end it was not meant to.
#[derive(Debug, Error)]
pub enum LiveError {
    /// Loading or attaching failed.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The target cannot be watched.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The recording cannot be written.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The ring buffer cannot be waited on.
    #[error("cannot wait for events of the kernel side")]
    Ring(#[from] std::io::Error),
}

/// Attached to processes, with the stages behind. Dropping it detaches.
pub(crate) struct Live {
    attached: Attached,
    ring: Ring,
    pipeline: Pipeline,
    fleet: Fleet,
    tree: bool,
    guard: Option<FileGuard>,
    recorder: Option<Writer>,
    changes: Vec<Change>,
    /// There was more in the ring than could be read at once.
    behind: bool,
    jumps: Jumps,
    landings: Option<Landings>,
    spending: Spending,
    /// What is attached from now on, its cost was not said.
    says_costs: bool,
    /// Processes made since they were last asked for.
    new: Vec<Pid>,
    /// Processes that became other programs in the last turn.
    became: Vec<Pid>,
    /// What was attached since it was last asked.
    told: Vec<Told>,
    attach_time: Duration,
}

/// What was attached, for people.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) pid: Pid,
    pub(super) name: String,
    pub(super) functions: usize,
    pub(super) sites: usize,
    /// Reading symbols, planning and attaching.
    pub(super) took: Duration,
    /// What its calls will cost, where that was not said before.
    pub(super) cost: Option<String>,
}

/// What is left when everything is detached.
pub(crate) struct Stopped {
    /// The last traces.
    pub(crate) traces: Vec<Trace>,
    /// How the probes are to be read.
    pub(super) rules: Rules,
    pub(super) stitch: StitchStats,
    pub(super) fleet: FleetStats,
    pub(super) undecodable: u64,
    pub(super) counts: KernelCounts,
    pub(super) landings: Option<LandingStats>,
    pub(super) spending: Spending,
    /// How long one run of a program at a probe takes, if the kernel has told; nanoseconds.
    pub(super) run_time_ns: Option<f64>,
    pub(super) recorder: Option<Writer>,
}

impl Live {
    /// Loads the kernel side and attaches the plan for one process.
    pub(crate) fn start(prepared: &Prepared, options: &LiveOptions) -> Result<Self, LiveError> {
        let targets = Targets::One(prepared.target.pid);
        let attach = AttachOptions { go: prepared.plan.go.is_some(), ..options.attach };
        let options = LiveOptions { attach, ..*options };
        let mut live =
            Self::load(targets, Some(prepared.map.clone()), Search::default(), &options)?;
        live.add(prepared.clone(), Vec::new())?;
        Ok(live)
    }

    /// Loads the kernel side; nothing is attached yet.
    pub(super) fn load(
        targets: Targets,
        map: Option<SymbolMap>,
        search: Search,
        options: &LiveOptions,
    ) -> Result<Self, LiveError> {
        let begun = Instant::now();
        let mut attached = Attached::load(targets, &options.attach)?;
        let ring = attached
            .take_ring()
            .ok_or_else(|| std::io::Error::other("the ring buffer was taken before"))?;
        let limits = Limits { grace: nanoseconds(options.grace), ..Limits::default() };
        let stitcher = Stitcher::new(Rules::default(), limits, IdSource::new(random_seed()));
        let tree = targets == Targets::Tree;
        Ok(Self {
            attached,
            ring,
            pipeline: Pipeline::new(stitcher),
            tree,
            guard: FileGuard::new().map_err(no_guard).ok(),
            recorder: None,
            changes: Vec::new(),
            behind: false,
            jumps: Jumps::default(),
            landings: match options.exits {
                Exits::Landings => Some(Landings::start(search.forms, &options.costs)?),
                Exits::Rets => None,
            },
            spending: Spending::new(options.costs, options.budget),
            says_costs: false,
            fleet: Fleet::new(map, search, tree)?,
            new: Vec::new(),
            became: Vec::new(),
            told: Vec::new(),
            attach_time: begun.elapsed(),
        })
    }

    /// Attaches to a process whose plan is made; in a tree, to its children too.
    pub(super) fn add(
        &mut self,
        prepared: Prepared,
        satisfied: Vec<bool>,
    ) -> Result<(), LiveError> {
        let pid = prepared.target.pid;
        let addition = self.fleet.add(prepared, satisfied)?;
        self.attached.observe(pid)?;
        self.tell_guard(pid);
        self.attach(&addition)?;
        self.add_children(pid)
    }

    /// Follows a process of which nothing is known yet; it is looked at as soon as may be.
    pub(super) fn follow(&mut self, target: &Target) -> Result<(), LiveError> {
        self.fleet.aim_at(target)?;
        self.attached.observe(target.pid)?;
        self.tell_guard(target.pid);
        self.fleet.look_at(target.pid);
        self.add_children(target.pid)
    }

    /// Those made from now on the kernel side takes in by itself.
    fn add_children(&mut self, pid: Pid) -> Result<(), LiveError> {
        if !self.tree {
            return Ok(());
        }
        for child in descendants(pid) {
            if !self.fleet.has(child) {
                self.attached.observe(child)?;
                self.tell_guard(child);
                self.fleet.found(child);
            }
        }
        Ok(())
    }

    /// Tells the kernel side what it takes to know how far a process jumps.
    fn tell_guard(&mut self, pid: Pid) {
        if let Some(guard) = self.jumps.guard(pid) {
            self.attached.set_guard(pid, guard);
        }
    }

    fn attach(&mut self, addition: &Addition) -> Result<(), LiveError> {
        let Addition { target, plan, took, .. } = addition;
        if plan.probes.is_empty() {
            return Ok(self.attached.tell_of_go(plan, target.pid)?);
        }
        let begun = Instant::now();
        self.guard_files(addition);
        let rules = self.fleet.rules();
        if let Some(recorder) = &mut self.recorder {
            recorder.rules(rules)?;
        }
        self.pipeline.stitcher.grow(rules.clone());
        if let Some(landings) = &mut self.landings {
            landings.grow(plan, target, &mut self.attached)?;
        }
        let sites = self.attached.attach(plan, target)?;
        self.spending.grow(plan, target);
        let spent = begun.elapsed();
        self.attach_time += spent;
        let calls = plan.probes.iter().filter(|probe| {
            let rule = rules.probes.get(probe.id.index());
            rule.is_some_and(|rule| rule.watches == Watches::Calls)
        });
        let functions = calls.count();
        if functions > 0 && sites > 0 {
            self.told.push(Told {
                pid: target.pid,
                name: target.name.clone(),
                functions,
                sites,
                took: *took + spent,
                cost: if self.says_costs { self.expected_cost(plan) } else { None },
            });
        }
        Ok(())
    }

    /// The line on what the calls of a plan will cost.
    fn expected_cost(&self, plan: &ProbePlan) -> Option<String> {
        let exits = if self.landings.is_some() { Exits::Landings } else { Exits::Rets };
        let costs = self.spending.costs();
        Expected::of_plan(plan, costs, exits).line(costs.measured)
    }

    /// Watches the files that probes are about to lie in.
    fn guard_files(&mut self, Addition { target, plan, .. }: &Addition) {
        let Some(guard) = &mut self.guard else { return };
        let objects: BTreeSet<ObjectId> = plan.probes.iter().map(|probe| probe.object).collect();
        for object in objects.into_iter().filter_map(|id| target.object(id)) {
            if let Err(error) = guard.watch(object) {
                no_guard(error);
            }
        }
    }

    /// Takes the probes out of files that are being overwritten.
    fn abandon_overwritten(&mut self) {
        let written = self.guard.as_mut().map(FileGuard::overwritten).unwrap_or_default();
        for inode in written.into_iter().chain(self.fleet.overwritten()) {
            if self.attached.abandon(inode) {
                self.fleet.abandoned();
                if let Some(landings) = &mut self.landings {
                    landings.abandoned(inode, &mut self.attached);
                }
                tracing::error!(
                    "{} was overwritten in place: its probes are removed, and none are put there \
                     any more; run qprof again once the server has been restarted",
                    self.fleet.name_of(inode)
                );
            }
        }
    }

    /// Attaches what has come since the run began; where that fails, the run goes on without.
    fn attach_later(&mut self, addition: &Addition) -> Result<(), LiveError> {
        match self.attach(addition) {
            Ok(()) => {}
            Err(error @ (LiveError::Recording(_) | LiveError::Ring(_))) => return Err(error),
            Err(error) => {
                self.fleet.unlearn(addition);
                if !matches!(error, LiveError::Attach(AttachError::TargetGone { .. })) {
                    tracing::warn!("what was loaded is not probed: {error}");
                }
            }
        }
        Ok(())
    }

    /// Also keeps the raw events.
    pub(super) fn record(&mut self, recorder: Writer) {
        self.recorder = Some(recorder);
    }

    pub(super) fn recorder(&mut self) -> Option<&mut Writer> {
        self.recorder.as_mut()
    }

    /// How long it took to load and attach, planning not included.
    pub(super) const fn attach_time(&self) -> Duration {
        self.attach_time
    }

    /// The planned sites that the kernel would not probe.
    pub(super) fn refused(&self) -> &[RefusedSite] {
        self.attached.refused()
    }

    pub(super) const fn stitch_stats(&self) -> &StitchStats {
        self.pipeline.stitcher.stats()
    }

    pub(super) const fn spending(&self) -> &Spending {
        &self.spending
    }

    pub(super) const fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    pub(super) fn attached(&mut self) -> &mut Attached {
        &mut self.attached
    }

    /// Whether a process has become another program in the last turn.
    pub(super) fn took_over(&self, pid: Pid) -> bool {
        self.became.contains(&pid)
    }

    /// The processes that were made since the last call; their numbers may have been others'.
    pub(super) fn new_processes(&mut self) -> Vec<Pid> {
        std::mem::take(&mut self.new)
    }

    /// Takes what has happened so far as known.
    pub(super) fn forget_changes(&mut self) -> Result<(), LiveError> {
        self.drain()?;
        self.changes.clear();
        Ok(())
    }

    /// Looks at a process at once: it is held meanwhile.
    pub(super) fn look_now(&mut self, pid: Pid) -> Result<(), CommandError> {
        if let Some(addition) = self.fleet.look_now(pid)? {
            self.attach(&addition)?;
        }
        Ok(())
    }

    /// From now on what is attached comes with the word of what its calls will cost.
    pub(super) const fn say_costs(&mut self) {
        self.says_costs = true;
    }

    /// What was attached since the last call.
    pub(super) fn told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Waits a moment for events and stitches what has come. False once the last process has ended.
    pub(crate) fn turn(&mut self) -> Result<bool, LiveError> {
        if !std::mem::take(&mut self.behind) {
            self.ring.wait(TURN)?;
        }
        // Asked before draining: what a process did before it ended is in the ring by then.
        let exited = self.fleet.exited();
        self.behind = !self.drain_for(AT_ONCE)?;
        self.attached.flush_kernel_log();
        self.abandon_overwritten();
        let now = clock::now();
        if !self.behind {
            for pid in exited {
                self.end(pid, now)?;
            }
        }
        self.became.clear();
        for change in std::mem::take(&mut self.changes) {
            self.take_in(change);
        }
        while let Some(looked) = self.fleet.look() {
            match looked {
                Ok(addition) => self.attach_later(&addition)?,
                Err((_, error)) if error.is_end_of_target() => {}
                Err((pid, error)) => {
                    tracing::warn!("process {pid} cannot be looked at again: {error}");
                }
            }
        }
        if let Some(landings) = &mut self.landings {
            landings.turn(&mut self.attached)?;
        }
        self.keep_budget()?;
        self.pipeline.stitcher.tick(now);
        Ok(!self.fleet.is_empty())
    }

    /// Looks at what it costs, and gives up what costs too much.
    fn keep_budget(&mut self) -> Result<(), LiveError> {
        let rules = self.fleet.rules();
        let verdict = self.spending.look(&mut self.attached, &mut self.landings, rules)?;
        // Told before any further event is read: no trace that misses something looks whole.
        for given_up in &verdict.silence {
            self.push_own(&gave_up(given_up.probe, clock::now()))?;
        }
        if let Some(share) = self.spending.budget() {
            budget::tell(&verdict, self.fleet.rules(), share);
        }
        self.spending.remove(&mut self.attached, &mut self.landings)?;
        Ok(())
    }

    /// Stitches an event of our own making, which goes into a recording like any other.
    fn push_own(&mut self, event: &Event) -> Result<(), LiveError> {
        if let Some(recorder) = &mut self.recorder {
            let mut raw = Vec::new();
            reader::encode(event, &mut raw);
            recorder.event(&raw)?;
        }
        self.pipeline.stitcher.push(event);
        Ok(())
    }

    fn take_in(&mut self, change: Change) {
        match change {
            Change::Forked { parent, child } => {
                self.new.push(child);
                self.fleet.forked(parent, child);
            }
            Change::Became(pid, by) => {
                self.jumps.forget(pid);
                self.tell_guard(pid);
                self.became.push(pid);
                if let Some(landings) = &mut self.landings {
                    landings.became(pid, &mut self.attached);
                }
                if by.0 != pid.0 {
                    // A link that filters does so by what was its first thread: by nobody, now.
                    self.attached.remove_own(pid);
                    self.fleet.forget_image(pid);
                    if let Some(landings) = &mut self.landings {
                        landings.removed_own(pid);
                    }
                }
                self.fleet.became(pid);
            }
            Change::Loaded(pid) => {
                self.fleet.look_at(pid);
                if let Some(landings) = &mut self.landings {
                    landings.mappings_changed(pid);
                }
            }
            Change::Ended(pid) => {
                if self.fleet.ended(pid) {
                    self.attached.forget(pid);
                    if let Some(landings) = &mut self.landings {
                        landings.removed_own(pid);
                    }
                }
            }
        }
    }

    /// A process has ended; the word of it goes into a recording like any event.
    fn end(&mut self, pid: Pid, now: MonoNs) -> Result<(), LiveError> {
        self.push_own(&process_end(pid, now))?;
        self.take_in(Change::Ended(pid));
        Ok(())
    }

    /// The traces finished since the last call.
    pub(crate) fn traces(&mut self) -> Vec<Trace> {
        let traces = self.pipeline.stitcher.take_completed();
        self.spending.learn(&traces);
        traces
    }

    /// Lets the queries in flight end, takes no new ones, and detaches.
    ///
    /// The probes stay for that long on purpose: a query whose later calls nobody sees would look
    /// complete and be wrong.
    pub(crate) fn stop(mut self) -> Result<Stopped, LiveError> {
        // What began before we were told to stop is taken; of a target that is faster than we are, what
        // can be read in that time.
        self.drain_for(LAST_CALLS)?;
        self.pipeline.stitcher.refuse_new_traces();
        if let Some(recorder) = &mut self.recorder {
            recorder.last_calls()?;
        }
        let deadline = Instant::now() + LAST_CALLS;
        while self.pipeline.stitcher.open_traces() > 0
            && Instant::now() < deadline
            && self.turn()?
        {}
        self.attached.detach_enters();
        let counts = self.attached.counters()?;
        let landings = match &mut self.landings {
            Some(landings) => Some(landings.finish(&self.attached)?),
            None => None,
        };
        self.attached.detach();
        // Nothing writes any more: what is in the ring now is all there is, and what is folded below
        // calls that are still open.
        self.drain()?;
        let now = clock::now();
        for (key, fold) in self.attached.take_folds()? {
            self.push_own(&folded(&key, &fold, now))?;
        }
        self.pipeline.stitcher.finish(clock::now());
        Ok(Stopped {
            traces: self.pipeline.stitcher.take_completed(),
            rules: self.fleet.rules().clone(),
            stitch: self.pipeline.stitcher.stats().clone(),
            fleet: self.fleet.stats(),
            undecodable: self.pipeline.undecodable,
            counts,
            landings,
            spending: self.spending,
            run_time_ns: self.attached.run_time_ns(),
            recorder: self.recorder,
        })
    }

    /// Reads until the ring is empty.
    fn drain(&mut self) -> Result<(), LiveError> {
        while !self.drain_for(Duration::MAX)? {}
        Ok(())
    }

    /// Reads for about so long at most; whether the ring was empty then. A target may be faster than we
    /// are, and what it costs it has to be looked at all the same.
    fn drain_for(&mut self, limit: Duration) -> Result<bool, LiveError> {
        let Self { ring, pipeline, recorder, changes, jumps, landings, attached, .. } = self;
        let mut failed = None;
        let mut each = |raw: &[u8]| {
            let record = |raw: &[u8]| {
                if let (Some(recorder), None) = (recorder.as_mut(), &failed) {
                    failed = recorder.event(raw).err();
                }
            };
            let see = |event: &Event| {
                let Some(landings) = landings.as_mut() else { return false };
                landings.event(event, attached);
                match &event.body {
                    EventBody::Born { callers } => {
                        landings.runs_once(event.lane.pid(), callers, attached)
                    }
                    _ => false,
                }
            };
            changes.extend(pipeline.event(raw, Some(&mut *jumps), record, see));
        };
        let begun = Instant::now();
        let mut emptied = false;
        while !emptied && begun.elapsed() < limit {
            emptied = ring.drain(&mut each) < Ring::BATCH;
        }
        failed.map_or(Ok(emptied), |error| Err(error.into()))
    }
}

/// That files cannot be watched: told, and no reason to stop.
fn no_guard(error: rustix::io::Errno) {
    tracing::warn!("it would not be noticed if a probed file were overwritten in place: {error}");
}

/// A seed for ids: what the standard library seeds its hash maps with.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(clock::now())
}

/// The kernel side's counters by name, with how often its probes were hit.
pub(super) fn kernel_rows(counts: &KernelCounts) -> Vec<(String, u64)> {
    Counter::ALL.iter().map(|counter| (counter.name().to_owned(), counts.get(*counter))).collect()
}
