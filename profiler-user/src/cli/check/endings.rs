//! How calls of the probed functions will be seen to end, as far as that can be told beforehand:
//! from their direct callers in the same object.

use std::collections::{BTreeMap, HashMap};

use crate::agent::{DirectCalls, Prepared};
use crate::model::VirtAddr;
use crate::plan::{CostClass, KernelForms, Predicted, Return, ReturnNeeds, predict};

use profiler_common::ProbeId;

/// How calls of one function will be seen to end.
#[derive(Debug, Default)]
pub(super) struct Endings {
    /// What must be as the function left it.
    pub(super) needs: ReturnNeeds,
    /// Direct calls of it, by return address.
    pub(super) predicted: Vec<Predicted>,
    /// Direct calls beyond those looked at.
    pub(super) more: usize,
}

/// What becomes of a direct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
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
    pub(super) const ALL: [Self; 4] =
        [Self::Emulated, Self::SingleStepped, Self::Chain, Self::Impossible];

    pub(super) fn of(predicted: &Predicted) -> Self {
        match &predicted.plan.first {
            Return::Landing(site) if site.cost == CostClass::SingleStepped => Self::SingleStepped,
            Return::Landing(_) => Self::Emulated,
            Return::Caller(_) => Self::Chain,
            Return::None(_) => Self::Impossible,
        }
    }
}

impl Endings {
    pub(super) fn count(&self, ending: Ending) -> usize {
        self.predicted.iter().filter(|predicted| Ending::of(predicted) == ending).count()
    }

    /// Why calls cannot be seen to end at their callers, and how many.
    pub(super) fn why_impossible(&self) -> BTreeMap<String, usize> {
        let mut reasons = BTreeMap::new();
        for predicted in &self.predicted {
            if let Return::None(why) = &predicted.plan.first {
                *reasons.entry(why.in_general()).or_default() += 1;
            }
        }
        reasons
    }
}

/// Tells how the direct calls of a plan's functions will be seen to end.
pub(super) fn predict_endings(
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
