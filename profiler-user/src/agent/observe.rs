//! How often the functions of a plan are called, counted briefly: begins only, within a budget.
//!
//! Counters slow down whom they count. So what is counted is taken off again when it has cost its
//! share, and of a function that is called all the time a few milliseconds must do: its calls are
//! reckoned over the time that the counters have left it.

use std::io;
use std::time::{Duration, Instant};

use profiler_common::{Cookie, ProbeId, Role};

use crate::attach::{AttachOptions, Attached, Targets, check_rights};
use crate::discover::{Budget, Rates, thin};
use crate::model::Watches;
use crate::plan::{Costs, Kernel, PlannedProbe, ProbePlan};
use crate::target::{ExitWatch, Scheduled, Target, TargetError, scheduled};

/// The share of a processor that counting may take from the target, and the most at once.
const SHARE: f64 = 0.02;
const BURST: Duration = Duration::from_millis(15);
/// How often the cost is looked at.
const TURN: Duration = Duration::from_millis(5);
/// What is left to a thread is not known better than this.
const LEAST_LEFT: f64 = 0.05;

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// Calls a second, by [`ProbeId`]; none of what was not counted.
    pub(crate) rates: Vec<Option<f64>>,
    /// For how long counters were attached, all in all.
    pub(crate) attached: Duration,
    /// How many functions were counted.
    pub(crate) functions: usize,
    /// What counting has cost the target.
    pub(crate) spent: Duration,
    /// How many CPUs the target kept busy, what the counters took not counted.
    pub(crate) busy: Option<f64>,
    /// The functions that were given up early, because they are called so often.
    pub(crate) floods: Vec<ProbeId>,
}

/// Counts the calls of a plan's functions in a process for some time.
///
/// # Errors
/// Whatever keeps counters from being attached; and if the target ends.
pub(crate) fn observe(
    plan: &ProbePlan,
    target: &Target,
    kernel: Kernel,
    time: Duration,
) -> anyhow::Result<Observed> {
    check_rights()?;
    let watch = target.watch()?;
    let rule = |id: ProbeId| plan.rules.probes.get(id.index());
    let calls = |id: &ProbeId| rule(*id).is_some_and(|rule| rule.watches == Watches::Calls);
    let mut wanted: Vec<ProbeId> = plan.probes.iter().map(|probe| probe.id).filter(calls).collect();
    let mut observer = Observer {
        plan,
        target,
        kernel,
        watch,
        budget: Budget::new(SHARE, BURST),
        rates: Rates::of(plan.probes.len()),
        attached: Duration::ZERO,
        time,
        end: None,
        ran: Duration::ZERO,
        counted: Duration::ZERO,
    };
    let (functions, mut floods) = (wanted.len(), Vec::new());
    while !wanted.is_empty() {
        let Slice { cut, hits, end } = observer.slice(&wanted)?;
        if cut {
            let many: Vec<ProbeId> = thin(&hits).into_iter().map(|at| ProbeId(at as u16)).collect();
            wanted.retain(|id| !many.contains(id));
            floods.extend(many);
        }
        let pause = observer.budget.recovery();
        if Instant::now() + pause + TURN >= end {
            break;
        }
        std::thread::sleep(pause);
        observer.budget.earn(pause);
    }
    let Observer { rates, attached, budget, ran, counted, .. } = observer;
    let busy = (!counted.is_zero()).then(|| ran.as_secs_f64() / counted.as_secs_f64());
    let busy = busy.filter(|cpus| *cpus > 0.0);
    let rate = |probe: usize| rates.watched.get(probe).filter(|time| !time.is_zero());
    let rates = (0..plan.probes.len()).map(|probe| rate(probe).map(|_| rates.rate(probe)));
    Ok(Observed {
        rates: rates.collect(),
        attached,
        functions,
        spent: budget.spent(),
        busy,
        floods,
    })
}

/// What came of counting until it had cost its share, or time was up.
struct Slice {
    /// It had cost its share.
    cut: bool,
    /// Calls, by function.
    hits: Vec<(usize, u64)>,
    /// When all of it is to end.
    end: Instant,
}

struct Observer<'a> {
    plan: &'a ProbePlan,
    target: &'a Target,
    kernel: Kernel,
    watch: ExitWatch,
    budget: Budget,
    rates: Rates,
    attached: Duration,
    time: Duration,
    /// Known once the first counters are attached: a busy machine takes its time for that.
    end: Option<Instant>,
    /// CPU time of the target while calls were counted, and for how long they were.
    ran: Duration,
    counted: Duration,
}

impl Observer<'_> {
    /// Counts until the end, or until it has cost too much.
    fn slice(&mut self, wanted: &[ProbeId]) -> anyhow::Result<Slice> {
        let plan = counters(self.plan, wanted);
        let costs: Vec<u64> =
            plan.probes.iter().map(|probe| counter_ns(probe, &self.kernel.costs)).collect();
        let link_filter = self.kernel.link_filter;
        let options = AttachOptions { link_filter, ..AttachOptions::default() };
        let mut attached = Attached::load(Targets::One(self.target.pid), &options)?;
        let begun = Instant::now();
        attached.attach(&plan, self.target)?;
        let mut ring =
            attached.take_ring().ok_or_else(|| io::Error::other("the ring buffer was taken"))?;
        let read = |attached: &Attached| -> anyhow::Result<Vec<u64>> {
            let counts = attached.counters()?;
            Ok(plan.probes.iter().map(|probe| counts.hits(probe.id)).collect())
        };
        let first = read(&attached)?;
        let end = *self.end.get_or_insert_with(|| Instant::now() + self.time);
        let scheduled_first = scheduled(self.target.pid);
        let (since, mut looked, mut before) = (Instant::now(), begun, vec![0; first.len()]);
        let mut now = first.clone();
        let mut cut = false;
        loop {
            let paid = cost(&now, &before, &costs);
            let time = Instant::now();
            self.budget.earn(time - looked);
            looked = time;
            cut |= !self.budget.spend(paid);
            if cut || time >= end || self.watch.has_exited() {
                break;
            }
            std::thread::sleep(TURN.min(end - time));
            ring.drain(|_| {});
            before = std::mem::replace(&mut now, read(&attached)?);
        }
        let run = scheduled(self.target.pid).since(scheduled_first);
        let mut window = looked - since;
        if window.is_zero() {
            // What is called so often that attaching was too much is known from that.
            (window, before) = (looked - begun, vec![0; first.len()]);
        } else {
            before = first;
        }
        attached.detach_enters();
        let all = read(&attached)?;
        attached.detach();
        self.attached += begun.elapsed();
        self.budget.spend(cost(&all, &now, &costs));
        if self.watch.has_exited() {
            return Err(TargetError::Exited(self.target.pid).into());
        }
        let spent = cost(&now, &before, &costs);
        let left = left_over(window, spent, run);
        self.ran += run.ran.saturating_sub(Duration::from_nanos(spent));
        self.counted += window;
        let mut hits = Vec::with_capacity(wanted.len());
        for index in wanted.iter().map(|id| id.index()) {
            let count = |of: &[u64]| of.get(index).copied().unwrap_or(0);
            let calls = count(&now) - count(&before);
            self.rates.add(index, calls, left);
            hits.push((index, calls));
        }
        Ok(Slice { cut, hits, end })
    }
}

/// The plan with nothing left but begins of the wanted functions that await no end.
fn counters(plan: &ProbePlan, wanted: &[ProbeId]) -> ProbePlan {
    let mut plan = plan.clone();
    plan.foreseen.clear();
    for probe in &mut plan.probes {
        let is_wanted = wanted.contains(&probe.id);
        probe.sites.retain(|site| is_wanted && site.role == Role::Enter);
        for site in &mut probe.sites {
            site.flags = Cookie::NO_EXIT;
        }
        probe.at_enter.len = 0;
    }
    plan
}

fn cost(now: &[u64], before: &[u64], costs: &[u64]) -> u64 {
    let calls = now.iter().zip(before).map(|(now, before)| now - before);
    calls.zip(costs).map(|(calls, ns)| calls * ns).sum()
}

/// What a hit of a counter costs: no more than the end of a call, as it opens nothing.
fn counter_ns(probe: &PlannedProbe, costs: &Costs) -> u64 {
    probe.sites.iter().map(|site| costs.exit_ns(site.cost, 0)).max().unwrap_or(0)
}

/// The time that the counters have left to those they counted, as if each call were waited for: less
/// by what they took of the threads' time, and by how much longer that took because others ran.
fn left_over(window: Duration, spent_ns: u64, run: Scheduled) -> Duration {
    let (ran, window_ns) = (run.ran.as_nanos() as f64, window.as_nanos() as f64);
    let spent = spent_ns as f64;
    let runnable = ran + run.waited.as_nanos() as f64;
    // Nothing is known of it, or not yet: it ran all the time.
    let stretch = if ran > spent { runnable / ran } else { 1.0 };
    let threads = (runnable / window_ns.max(1.0)).max(1.0);
    let lost = spent * stretch / threads / window_ns.max(1.0);
    window.mul_f64((1.0 - lost).max(LEAST_LEFT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_reckoned_over_the_time_that_was_left() {
        let window = Duration::from_millis(100);
        let run = |ran, waited| Scheduled {
            ran: Duration::from_millis(ran),
            waited: Duration::from_millis(waited),
        };
        let left = |spent_ms: u64, run| left_over(window, spent_ms * 1_000_000, run).as_millis();
        assert_eq!(left(0, run(100, 0)), 100);
        assert_eq!(left(50, run(100, 0)), 50);
        assert_eq!(left(20, run(40, 0)), 80, "a thread that mostly sleeps");
        assert_eq!(left(20, run(50, 50)), 60, "one that has half a processor");
        assert_eq!(left(120, run(200, 0)), 40, "two threads");
        assert_eq!(left(50, Scheduled::default()), 50);
        assert_eq!(left(500, run(100, 0)), 5);
        assert_eq!(left_over(Duration::ZERO, 0, run(0, 0)), Duration::ZERO);
    }
}
