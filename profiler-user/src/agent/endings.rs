//! How calls of the probed functions will be seen to end, as far as that can be told beforehand:
//! from their direct callers in the same object.

use std::collections::{BTreeMap, HashMap};

use super::Prepared;
use super::foresee::DirectCalls;
use crate::model::VirtAddr;
use crate::plan::{
    CostClass, Ends, KernelForms, Predicted, Return, ReturnNeeds, ReturnPlan, predict,
};

use profiler_common::ProbeId;

/// How calls of one function will be seen to end.
#[derive(Debug, Default)]
pub(crate) struct Endings {
    /// What must be as the function left it.
    pub(crate) needs: ReturnNeeds,
    /// Direct calls of it, by return address.
    pub(crate) predicted: Vec<Predicted>,
    /// Direct calls beyond those looked at.
    pub(crate) more: usize,
}

/// What becomes of a direct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Seen at an instruction that the kernel emulates.
    Emulated,
    /// Seen at one that is single-stepped.
    SingleStepped,
    /// Its caller returns straight away: seen as its caller's.
    Chain,
    /// Not seen at the caller.
    Impossible,
}

impl Ending {
    pub(crate) const ALL: [Self; 4] =
        [Self::Emulated, Self::SingleStepped, Self::Chain, Self::Impossible];

    fn of(plan: &ReturnPlan) -> Self {
        match &plan.first {
            Return::Landing(site) if site.cost == CostClass::SingleStepped => Self::SingleStepped,
            Return::Landing(_) => Self::Emulated,
            Return::Caller(_) => Self::Chain,
            Return::None(_) => Self::Impossible,
        }
    }
}

impl Endings {
    pub(crate) fn count(&self, ending: Ending) -> usize {
        self.predicted.iter().filter(|predicted| Ending::of(&predicted.plan) == ending).count()
    }

    /// For what they cost. A caller that returns at once is seen at an emulated landing further up,
    /// as a rule.
    pub(crate) fn ends(&self) -> Ends {
        let mut ends = Ends::default();
        for predicted in &self.predicted {
            count(&mut ends, Ending::of(&predicted.plan));
        }
        ends
    }

    /// Why calls cannot be seen to end at their callers, and how many.
    pub(crate) fn why_impossible(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for predicted in &self.predicted {
            if let Return::None(why) = &predicted.plan.first {
                *reasons.entry(why.in_general()).or_default() += 1;
            }
        }
        reasons
    }
}

fn count(ends: &mut Ends, ending: Ending) {
    match ending {
        Ending::Emulated | Ending::Chain => ends.emulated += 1,
        Ending::SingleStepped => ends.stepped += 1,
        Ending::Impossible => ends.rets += 1,
    }
}

/// For what they cost, the endings that a plan foresees already: no code is read again.
pub(crate) fn ends_foreseen(prepared: &Prepared) -> HashMap<ProbeId, Ends> {
    let foreseen = prepared.plan.foreseen.iter();
    let foreseen: HashMap<_, _> = foreseen.map(|of| ((of.object, of.offset), of)).collect();
    let mut ends: HashMap<ProbeId, Ends> = HashMap::new();
    for DirectCalls { object, starts, scan } in &prepared.calls {
        for (id, starts) in starts {
            let probe = prepared.plan.probes.get(id.index());
            let needs = probe.map_or(ReturnNeeds::Nothing, |probe| ReturnNeeds::of(&probe.at_ret));
            let found = starts.iter().filter_map(|start| scan.callers(*start));
            let addresses = found.flat_map(|found| &found.return_addresses);
            let offsets = addresses.filter_map(|at| prepared.symbols.offset_of(*object, *at));
            for of in offsets.filter_map(|offset| foreseen.get(&(*object, offset))) {
                let for_value = of.for_value.as_ref().filter(|_| needs != ReturnNeeds::Nothing);
                let plan = for_value.unwrap_or(&of.plan);
                count(ends.entry(*id).or_default(), Ending::of(plan));
            }
        }
    }
    ends
}

/// Tells how the direct calls of a plan's functions will be seen to end.
pub(crate) fn predict_endings(
    prepared: &Prepared,
    forms: KernelForms,
) -> HashMap<ProbeId, Endings> {
    let mut endings = HashMap::new();
    for calls in &prepared.calls {
        for needs in [ReturnNeeds::Nothing, ReturnNeeds::Value, ReturnNeeds::Pointee] {
            add(&mut endings, prepared, calls, needs, forms);
        }
    }
    endings
}

/// Adds the endings of functions that need the same, so that each caller is decoded once.
fn add(
    endings: &mut HashMap<ProbeId, Endings>,
    prepared: &Prepared,
    DirectCalls { object, starts, scan }: &DirectCalls,
    needs: ReturnNeeds,
    forms: KernelForms,
) {
    let mut probe_at: HashMap<VirtAddr, ProbeId> = HashMap::new();
    for (id, starts) in starts {
        let probe = prepared.plan.probes.get(id.index());
        if probe.is_none_or(|probe| ReturnNeeds::of(&probe.at_ret) != needs) {
            continue;
        }
        let found = || starts.iter().filter_map(|start| scan.callers(*start));
        let more = found().map(|found| found.count - found.return_addresses.len()).sum();
        endings.insert(*id, Endings { needs, predicted: Vec::new(), more });
        for address in found().flat_map(|found| &found.return_addresses) {
            probe_at.insert(*address, *id);
        }
    }
    let addresses: Vec<VirtAddr> = probe_at.keys().copied().collect();
    let containing = |address| prepared.symbols.containing(*object, address);
    for predicted in predict(&addresses, needs, &containing, forms) {
        let probe = probe_at.get(&predicted.return_address);
        if let Some(endings) = probe.and_then(|probe| endings.get_mut(probe)) {
            endings.predicted.push(predicted);
        }
    }
}
