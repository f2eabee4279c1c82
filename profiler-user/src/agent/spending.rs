//! What the run costs its target, looked at ten times a second: the meter, the budget, and what
//! follows from them for what is attached.

use std::time::{Duration, Instant};

use super::budget::{GivenUp, Keeper, Verdict};
use super::landings::Landings;
use super::meter::{Meter, Window};
use crate::attach::{AttachError, Attached};
use crate::model::{Pid, Rules, Trace};
use crate::plan::{Costs, ProbePlan};
use crate::target::{Scheduled, Target, allowed_cpus, scheduled};

/// How often.
const LOOK: Duration = Duration::from_millis(100);
/// At every so many looks the kernel is asked to take the time of our programs until the next.
const RUN_TIME: u32 = 50;
/// How often it is asked how many CPUs the target keeps busy.
const BUSY: Duration = Duration::from_secs(1);

/// What a run costs.
pub(super) struct Spending {
    meter: Meter,
    /// As a share of the CPU time the target may use; none: whatever it costs.
    budget: Option<f64>,
    /// Of the target that may use most.
    cpus: f64,
    busy: Busy,
    keeper: Option<Keeper>,
    looked: Instant,
    looks: u32,
    latest: Window,
    given_up: Vec<GivenUp>,
}

impl Spending {
    pub(super) fn new(costs: Costs, budget: Option<f64>) -> Self {
        let now = Instant::now();
        Self {
            meter: Meter::new(costs, now),
            budget,
            cpus: 0.0,
            busy: Busy::default(),
            keeper: None,
            looked: now,
            looks: 0,
            latest: Window::default(),
            given_up: Vec::new(),
        }
    }

    /// More is attached, to this target.
    pub(super) fn grow(&mut self, plan: &ProbePlan, target: &Target) {
        self.meter.grow(plan);
        let now = Instant::now();
        let cpus = allowed_cpus(target.pid);
        if cpus > self.cpus {
            self.cpus = cpus;
            self.busy = Busy::of(target.pid);
        }
        match &mut self.keeper {
            Some(keeper) => keeper.attached_more(self.cpus, now),
            None => self.keeper = self.budget.map(|share| Keeper::new(share, self.cpus, now)),
        }
    }

    /// What a finished trace tells of who tells something.
    pub(super) fn learn(&mut self, traces: &[Trace]) {
        // One of those of each turn is enough to know.
        if let (Some(keeper), Some(trace)) = (&mut self.keeper, traces.last()) {
            keeper.learn(trace);
        }
    }

    /// Looks, if it is time to, and says which probes were silenced now. Their sites are still to be
    /// removed: see [`Self::remove`].
    pub(super) fn look(
        &mut self,
        attached: &mut Attached,
        landings: &mut Option<Landings>,
        rules: &Rules,
    ) -> Result<Verdict, AttachError> {
        let now = Instant::now();
        if now - self.looked < LOOK {
            return Ok(Verdict::default());
        }
        self.looked = now;
        attached.take_run_time(self.looks.is_multiple_of(RUN_TIME));
        self.looks = self.looks.wrapping_add(1);
        let counts = attached.counters()?;
        let mut unmatched = 0.0;
        if let Some(landings) = landings {
            landings.counted(&counts, now, attached)?;
            if self.keeper.as_ref().is_some_and(|keeper| keeper.is_clearing(now)) {
                landings.drop_idle(attached)?;
            }
            unmatched = landings.unmatched_ns(self.meter.costs());
        }
        self.busy.look(now);
        self.latest = self.meter.look(&counts, unmatched, self.busy.cpus(), now);
        let Some(keeper) = &mut self.keeper else { return Ok(Verdict::default()) };
        let verdict = keeper.look(&self.latest, rules, now);
        for given_up in &verdict.silence {
            attached.silence(given_up.probe)?;
        }
        self.given_up.extend(&verdict.silence);
        Ok(verdict)
    }

    /// Removes the sites of what is silenced, if there are any.
    pub(super) fn remove(
        &mut self,
        attached: &mut Attached,
        landings: &mut Option<Landings>,
    ) -> Result<(), AttachError> {
        let silenced = self.keeper.as_mut().and_then(Keeper::take_out);
        let Some(silenced) = silenced else { return Ok(()) };
        attached.retire_enters(|probe| !silenced.contains(&probe))?;
        match landings {
            Some(landings) => landings.forsake(silenced, attached),
            None => attached.retire_rets(|probe| !silenced.contains(&probe)),
        }
    }

    /// As a share of the CPU time the target may use, lately; none before the first look.
    pub(super) fn latest_share(&self) -> Option<f64> {
        share(&self.latest, self.cpus)
    }

    /// The same of the whole run.
    pub(super) fn share(&self) -> Option<f64> {
        share(self.meter.all(), self.cpus)
    }

    /// What the probes may cost; none: whatever they cost.
    pub(super) const fn budget(&self) -> Option<f64> {
        self.budget
    }

    pub(super) const fn all(&self) -> &Window {
        self.meter.all()
    }

    pub(super) const fn cpus(&self) -> f64 {
        self.cpus
    }

    /// What hits cost on this machine.
    pub(super) const fn costs(&self) -> &Costs {
        self.meter.costs()
    }

    pub(super) fn given_up(&self) -> &[GivenUp] {
        &self.given_up
    }
}

/// How many CPUs a process keeps busy: looked at seldom, as each of its threads is asked.
#[derive(Default)]
struct Busy {
    of: Option<(Pid, Instant, Scheduled)>,
    cpus: Option<f64>,
}

impl Busy {
    fn of(pid: Pid) -> Self {
        Self { of: Some((pid, Instant::now(), scheduled(pid))), cpus: None }
    }

    fn look(&mut self, now: Instant) {
        let Some((pid, at, before)) = &mut self.of else { return };
        let time = now - *at;
        if time < BUSY {
            return;
        }
        let ran = scheduled(*pid);
        let cpus = ran.since(*before).ran.as_secs_f64() / time.as_secs_f64();
        (*at, *before) = (now, ran);
        self.cpus = Some(cpus).filter(|cpus| *cpus > 0.0);
    }

    /// One, as long as nothing is known.
    fn cpus(&self) -> f64 {
        self.cpus.unwrap_or(1.0)
    }
}

fn share(window: &Window, cpus: f64) -> Option<f64> {
    let time = window.time.as_nanos() as f64 * cpus;
    (time > 0.0).then(|| window.ns() / time)
}
