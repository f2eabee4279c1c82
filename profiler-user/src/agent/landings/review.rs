//! What is not needed any more, and what is needed after all: exit sites of functions whose calls come
//! back to landings, and landings that others run into.

use std::time::{Duration, Instant};

use profiler_common::{LandingCount, LandingId, LaneKind, ProbeId, Return};
use rustc_hash::FxHashSet;

use super::Landings;
use crate::attach::{AttachError, Attached, KernelCounts};
use crate::model::{ReturnAddr, Wanted};
use crate::plan::{CostClass, Costs};

/// For so long the exit sites that several functions share wait for those that are never called.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many calls whose ends are not seen bring the exit sites of a function back.
const MISSED: u64 = 64;
/// A landing that was hit less often since it was last looked at is not worth a thought.
const FEW: u64 = 2_000;
/// The same where a probe was just silenced.
const IDLE: u64 = 100;
/// How much dearer than an emulated instruction a single-stepped one is: 3 on bare metal, 14 to 30
/// in virtual machines.
pub(super) fn worth(costs: &Costs) -> u64 {
    let times = costs.trap_of(CostClass::SingleStepped) / costs.trap_of(CostClass::Emulated);
    #[expect(clippy::cast_sign_loss, reason = "both are costs, and a cast saturates")]
    let times = times as u64;
    times.clamp(2, 64)
}

impl Landings {
    /// Looks at what the kernel side has counted: exit sites that are not needed go, those that are
    /// come back.
    pub(in crate::agent) fn counted(
        &mut self,
        counts: &KernelCounts,
        now: Instant,
        attached: &mut Attached,
    ) -> Result<(), AttachError> {
        for (index, calls) in self.calls.iter_mut().enumerate() {
            calls.look(counts.of(ProbeId(index as u16)), now);
        }
        self.wake_exits(attached)?;
        self.retire_exits(now, attached)
    }

    /// Removes the exit sites of functions whose calls are not to be seen any more, as far as no other
    /// function ends there.
    pub(in crate::agent) fn forsake(
        &mut self,
        silenced: &FxHashSet<ProbeId>,
        attached: &mut Attached,
    ) -> Result<(), AttachError> {
        let group = |probe: &ProbeId| self.groups.get(probe.index()).copied();
        let needed: FxHashSet<ProbeId> = (0..self.groups.len() as u16)
            .map(ProbeId)
            .filter(|probe| !silenced.contains(probe) && !self.retired.contains(probe))
            .filter_map(|probe| group(&probe))
            .collect();
        let goes = |probe: &&ProbeId| group(probe).is_some_and(|group| !needed.contains(&group));
        let going: Vec<ProbeId> = silenced.iter().filter(goes).copied().collect();
        let going: Vec<ProbeId> =
            going.into_iter().filter(|probe| !self.retired.contains(probe)).collect();
        self.kept.retain(|probe| !silenced.contains(probe));
        self.retire(&going);
        attached.retire_rets(|probe| !self.retired.contains(&probe))
    }

    /// Removes landings that nobody has come to since they were looked at last, though others came by:
    /// whoever awaits one again asks again.
    pub(in crate::agent) fn drop_idle(
        &mut self,
        attached: &mut Attached,
    ) -> Result<(), AttachError> {
        let counts = attached.landing_counts(self.places.len())?;
        self.idle_counts.resize(counts.len(), LandingCount::default());
        let mut idle: FxHashSet<LandingId> = FxHashSet::default();
        for (index, (now, before)) in counts.iter().zip(&self.idle_counts).enumerate() {
            if now.matched == before.matched && now.hits > before.hits + IDLE {
                idle.insert(LandingId(index as u16));
            }
        }
        self.idle_counts = counts;
        if idle.is_empty() {
            return Ok(());
        }
        let mut forgotten: FxHashSet<(u64, ReturnAddr)> = FxHashSet::default();
        self.known.retain(|key, known| {
            let goes = idle.contains(&known.told.landing) || idle.contains(&known.told.point);
            if goes {
                attached.unlearn(key.0, key.1);
                forgotten.insert(*key);
            }
            !goes
        });
        self.asked.retain(|(space, address, _)| !forgotten.contains(&(*space, *address)));
        self.stats.dropped += idle.len() as u64;
        self.standing.retain(|(_, id)| !idle.contains(id));
        attached.retire_landings(|id| !idle.contains(&id))
    }

    /// What hits of landings have cost that no one function's calls can be charged with: those that
    /// awaited none, and what the dear ones cost more than the others. As of the last review,
    /// nanoseconds.
    pub(in crate::agent) fn unmatched_ns(&self, costs: &Costs) -> f64 {
        let emulated = costs.trap_of(CostClass::Emulated);
        let of = |(count, (_, class)): (&LandingCount, &(_, CostClass))| {
            let dearer = costs.trap_of(*class) - emulated;
            let unmatched = count.hits.saturating_sub(count.matched) as f64;
            unmatched * (costs.unmatched_landing + dearer) + count.matched as f64 * dearer
        };
        self.counts.iter().zip(&self.places).map(of).sum()
    }

    /// Removes the exit sites of functions whose calls have all come back to landings for a while.
    fn retire_exits(&mut self, now: Instant, attached: &mut Attached) -> Result<(), AttachError> {
        // What ends at each other's exit sites keeps them together. One that is never called must not
        // hold up the others for ever.
        let patient = now - self.begun >= PATIENCE;
        let (mut settled, mut unsettled) = (FxHashSet::default(), FxHashSet::default());
        for (calls, group) in self.calls.iter().zip(&self.groups) {
            if calls.are_settled(now) {
                settled.insert(*group);
            } else if !(patient && calls.are_none()) {
                unsettled.insert(*group);
            }
        }
        let goes = |probe: &ProbeId| {
            let group = self.groups.get(probe.index());
            !self.retired.contains(probe)
                && !self.kept.contains(probe)
                && group.is_some_and(|group| settled.contains(group) && !unsettled.contains(group))
        };
        let settled: Vec<ProbeId> =
            (0..self.groups.len() as u16).map(ProbeId).filter(goes).collect();
        if settled.is_empty() {
            return Ok(());
        }
        self.retire(&settled);
        attached.retire_rets(|probe| !self.retired.contains(&probe))
    }

    fn retire(&mut self, probes: &[ProbeId]) {
        self.stats.retired += probes.len() as u64;
        for probe in probes {
            if let Some(calls) = self.calls.get_mut(probe.index()) {
                calls.missed = 0;
            }
        }
        self.retired.extend(probes);
    }

    /// Brings back the exit sites of functions that turn out to need them: for good.
    fn wake_exits(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        let misses = |probe: &ProbeId| {
            self.calls.get(probe.index()).is_some_and(|calls| calls.missed >= MISSED)
        };
        let group = |probe: &ProbeId| self.groups.get(probe.index()).copied();
        let groups: FxHashSet<ProbeId> =
            self.retired.iter().filter(|probe| misses(probe)).filter_map(group).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let woken: FxHashSet<ProbeId> = self
            .retired
            .extract_if(|probe| {
                self.groups.get(probe.index()).is_some_and(|group| groups.contains(group))
            })
            .collect();
        self.stats.woken += woken.len() as u64;
        attached.wake_rets(|probe| woken.contains(&probe))?;
        self.kept.extend(woken);
        Ok(())
    }

    /// Moves landings that are run into for nothing to where only their own calls come by.
    pub(super) fn weigh_landings(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        let counts = attached.landing_counts(self.places.len())?;
        let mut wasteful: FxHashSet<LandingId> = FxHashSet::default();
        self.counts.resize(counts.len(), LandingCount::default());
        for (index, (now, before)) in counts.iter().zip(&self.counts).enumerate() {
            let hits = now.hits.saturating_sub(before.hits);
            let matched = now.matched.saturating_sub(before.matched);
            let worth = match self.places.get(index) {
                Some((_, CostClass::SingleStepped)) => 2,
                _ => self.worth,
            };
            if hits > matched.saturating_mul(worth).saturating_add(FEW) {
                wasteful.insert(LandingId(index as u16));
            }
        }
        self.counts = counts;
        if wasteful.is_empty() {
            return Ok(());
        }
        let mut stays: FxHashSet<LandingId> = FxHashSet::default();
        let mut ask = Vec::new();
        for (key, known) in &mut self.known {
            let told = &mut known.told;
            if told.kind != Return::LANDING || !wasteful.contains(&told.landing) {
                continue;
            }
            let place = self.places.get(told.landing.index());
            let dear = place.is_some_and(|(_, cost)| *cost == CostClass::SingleStepped);
            if !dear && told.point == LandingId::NONE && told.flags & Return::NO_POINT == 0 {
                // It moves as soon as there is a place to move to.
                stays.insert(told.landing);
                let lane = place.map_or(LaneKind::Thread, |(place, _)| place.lane);
                ask.push((known.pid, key.1, lane));
                continue;
            }
            // Where all come by that come by here nothing is gained.
            if dear || [LandingId::NONE, told.landing].contains(&told.point) {
                *told = Return::default();
                self.stats.dropped += 1;
            } else {
                let keeps = told.flags & Return::POINT_KEEPS_VALUE != 0;
                let flags = if keeps { Return::LANDING_KEEPS_VALUE } else { 0 };
                *told = Return { kind: Return::LANDING, landing: told.point, flags, ..*told };
                self.stats.moved += 1;
            }
            attached.learn(key.0, key.1, *told)?;
        }
        for (pid, address, lane) in ask {
            self.ask(pid, address, Wanted::Point, lane, attached);
        }
        wasteful.retain(|landing| !stays.contains(landing));
        if wasteful.is_empty() {
            return Ok(());
        }
        self.standing.retain(|(_, id)| !wasteful.contains(id));
        attached.retire_landings(|id| !wasteful.contains(&id))
    }
}
