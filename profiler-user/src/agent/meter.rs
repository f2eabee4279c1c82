//! What a run costs its target: hits, as the kernel side counts them, times what they cost on this
//! machine.

use std::time::{Duration, Instant};

use profiler_common::{ProbeCount, ProbeId};

use crate::attach::KernelCounts;
use crate::plan::{Costs, Price, ProbePlan, since};

/// What one probe has cost in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    /// Of the target's CPU time, nanoseconds.
    pub(super) ns: f64,
    /// The same if all its calls had come back to landings.
    pub(super) settled: f64,
    /// Calls that began, seen or not.
    pub(super) calls: u64,
}

/// What was spent between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Window {
    pub(super) time: Duration,
    /// By probe.
    pub(super) probes: Vec<Spent>,
    /// On landings that others came by, which is no one probe's doing.
    pub(super) shared: f64,
}

impl Window {
    /// All of it, nanoseconds.
    pub(super) fn ns(&self) -> f64 {
        self.probes.iter().map(|spent| spent.ns).sum::<f64>() + self.shared
    }
}

/// Keeps account of a run.
pub(super) struct Meter {
    costs: Costs,
    prices: Vec<Price>,
    before: Vec<ProbeCount>,
    landings_before: f64,
    looked: Instant,
    /// Since the run began.
    all: Window,
}

impl Meter {
    pub(super) fn new(costs: Costs, now: Instant) -> Self {
        Self {
            costs,
            prices: Vec::new(),
            before: Vec::new(),
            landings_before: 0.0,
            looked: now,
            all: Window::default(),
        }
    }

    pub(super) const fn costs(&self) -> &Costs {
        &self.costs
    }

    /// Learns what hits of more probes cost.
    pub(super) fn grow(&mut self, plan: &ProbePlan) {
        for probe in &plan.probes {
            let index = probe.id.index();
            if self.prices.len() <= index {
                self.prices.resize(index + 1, Price::default());
                self.before.resize(index + 1, ProbeCount::default());
                self.all.probes.resize(index + 1, Spent::default());
            }
            if let Some(price) = self.prices.get_mut(index) {
                *price = Price::of(probe, &self.costs);
            }
        }
    }

    /// What was spent since the last look. `landings`: on landings that others came by, since the run
    /// began.
    /// `busy`: how many CPUs the target has kept busy.
    pub(super) fn look(
        &mut self,
        counts: &KernelCounts,
        landings: f64,
        busy: f64,
        now: Instant,
    ) -> Window {
        let mut window = Window {
            time: now - self.looked,
            probes: Vec::with_capacity(self.prices.len()),
            shared: (landings - self.landings_before).max(0.0),
        };
        self.looked = now;
        self.landings_before = landings;
        let each: Vec<ProbeCount> = (0_u16..)
            .zip(&mut self.before)
            .map(|(index, before)| {
                let now = counts.of(ProbeId(index));
                since(&std::mem::replace(before, now), &now)
            })
            .collect();
        let hits: f64 = each.iter().map(hits_of).sum();
        let more = self.costs.more_at(hits / (window.time.as_secs_f64() * busy).max(1e-3));
        let known = self.prices.iter().zip(&each).zip(&mut self.all.probes);
        for ((price, count), all) in known {
            let more = hits_of(count) * more;
            let (ns, settled) = (price.ns(count) + more, price.settled_ns(count) + more);
            let spent = Spent { ns, settled, calls: count.enters };
            all.ns += spent.ns;
            all.calls += spent.calls;
            window.probes.push(spent);
        }
        self.all.time += window.time;
        self.all.shared += window.shared;
        window
    }

    /// What was spent since the run began.
    pub(super) const fn all(&self) -> &Window {
        &self.all
    }
}

/// Of enter and exit sites and landings.
fn hits_of(count: &ProbeCount) -> f64 {
    count.enters.saturating_add(count.exits).saturating_add(count.landed) as f64
}
