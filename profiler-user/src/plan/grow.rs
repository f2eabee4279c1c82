//! One numbering for all the plans of a run: of several targets, and of what is loaded later.

use profiler_common::{CaptureProgram, MAX_PROBES, ProbeId, Role};
use rustc_hash::FxHashMap;

use super::{PlannedProbe, ProbePlan, Skipped};
use crate::model::{FileOffset, HandoffEnd, Rules};
use crate::target::{Inode, Target};

/// The plans of a run, all made for one symbol map, as one: a function has the same [`ProbeId`] in
/// whichever process it is found.
#[derive(Clone, Debug, Default)]
pub struct GrowingPlan {
    rules: Rules,
    known: FxHashMap<Place, Known>,
}

/// What makes a function the same one: the file it lies in, and where its enters are, or what else is
/// probed of it: by role, as the map may name a function of Go's runtime.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    inode: Inode,
    enters: Vec<(u8, FileOffset)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    id: ProbeId,
    at_enter: CaptureProgram,
    at_ret: CaptureProgram,
}

impl GrowingPlan {
    /// What the stitcher must know of all of them.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Takes in the plan for `target`, and gives it back with the ids of the run. A probe that
    /// cannot have one is left out, as skipped.
    #[must_use]
    pub fn add(&mut self, plan: ProbePlan, target: &Target) -> ProbePlan {
        let ProbePlan { probes, mut rules, foreseen, mut skipped, go } = plan;
        if self.rules.spans.is_empty() {
            // Until a map is known, the loader's probe may be the only one.
            let probes = std::mem::take(&mut self.rules.probes);
            self.rules = Rules { probes, handoffs: Vec::new(), ..rules.clone() };
        }
        let mut ids = FxHashMap::default();
        let mut kept = Vec::with_capacity(probes.len());
        for mut probe in probes {
            match self.id_for(&probe, target) {
                Ok((id, new)) => {
                    if let (true, Some(rule)) = (new, rules.probes.get(probe.id.index())) {
                        self.rules.probes.push(rule.clone());
                    }
                    ids.insert(probe.id.0, id.0);
                    probe.id = id;
                    kept.push(probe);
                }
                Err(why) => skipped.push(Skipped {
                    wanted_by: probe.span.as_deref().unwrap_or("a hand-off").to_owned(),
                    what: probe.function.to_string(),
                    why: why.to_owned(),
                    line: 0,
                }),
            }
        }
        for probe in &mut kept {
            let with = ids.get(&probe.exits_with.0).copied();
            probe.exits_with = with.map_or(probe.id, ProbeId);
        }
        for handoff in &mut rules.handoffs {
            renumber(&mut handoff.give, &ids);
            renumber(&mut handoff.take, &ids);
            if let Some(until) = &mut handoff.until {
                renumber(until, &ids);
            }
            match self.rules.handoffs.iter_mut().find(|known| known.name == handoff.name) {
                None => self.rules.handoffs.push(handoff.clone()),
                Some(known) => {
                    extend(&mut known.give, &handoff.give);
                    extend(&mut known.take, &handoff.take);
                    match (&mut known.until, &handoff.until) {
                        (Some(known), Some(until)) => extend(known, until),
                        (none @ None, until) => none.clone_from(until),
                        (Some(_), None) => {}
                    }
                }
            }
        }
        ProbePlan { probes: kept, rules: self.rules.clone(), foreseen, skipped, go }
    }

    /// A probe's id, and whether it is new.
    fn id_for(
        &mut self,
        probe: &PlannedProbe,
        target: &Target,
    ) -> Result<(ProbeId, bool), &'static str> {
        let object = target.object(probe.object).ok_or("its object is none of the target's")?;
        let enters =
            probe.sites.iter().filter(|site| matches!(site.role, Role::Enter | Role::GoRuntime));
        let mut enters: Vec<_> = enters.map(|site| (site.role as u8, site.offset)).collect();
        enters.sort_unstable();
        let place = Place { inode: object.inode, enters };
        let next =
            u16::try_from(self.known.len()).ok().filter(|next| u32::from(*next) < MAX_PROBES);
        if let Some(known) = self.known.get(&place) {
            if (known.at_enter, known.at_ret) != (probe.at_enter, probe.at_ret) {
                return Err("it is probed already, with other words for its hand-offs");
            }
            return Ok((known.id, false));
        }
        let id = ProbeId(next.ok_or("there are too many probes already")?);
        let known = Known { id, at_enter: probe.at_enter, at_ret: probe.at_ret };
        self.known.insert(place, known);
        Ok((id, true))
    }
}

fn renumber(end: &mut HandoffEnd, ids: &FxHashMap<u16, u16>) {
    end.probes.retain_mut(|(probe, _)| match ids.get(probe) {
        Some(id) => {
            *probe = *id;
            true
        }
        None => false,
    });
}

fn extend(known: &mut HandoffEnd, more: &HandoffEnd) {
    for (probe, words) in &more.probes {
        if !known.probes.iter().any(|(id, _)| id == probe) {
            known.probes.push((*probe, words.clone()));
        }
    }
}
