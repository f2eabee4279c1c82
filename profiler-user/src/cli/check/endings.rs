//! How calls of the probed functions will be seen to end, as far as that can be told beforehand:
//! from their direct callers in the same object.

use std::collections::{BTreeMap, HashMap};

use crate::agent::scan_calls;
use crate::model::VirtAddr;
use crate::plan::{
    CallScan, CostClass, KernelForms, PlannedProbe, Predicted, ProbePlan, Return, ReturnNeeds,
    predict,
};
use crate::symbols::SymbolSet;
use crate::target::{ObjectId, Target};

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

/// Looks for the direct callers of all functions of a plan whose ends are asked for. What cannot be
/// read has none.
pub(super) fn predict_endings(
    target: &Target,
    plan: &ProbePlan,
    is_call: &dyn Fn(&PlannedProbe) -> bool,
    forms: KernelForms,
) -> HashMap<ProbeId, Endings> {
    let symbols = SymbolSet::new(target);
    let mut by_object: BTreeMap<ObjectId, Vec<&PlannedProbe>> = BTreeMap::new();
    for probe in plan.probes.iter().filter(|probe| is_call(probe)) {
        by_object.entry(probe.object).or_default().push(probe);
    }
    let mut endings = HashMap::new();
    for (object, probes) in by_object {
        let (starts, scan) = match scan_calls(&symbols, object, &probes) {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::warn!(%error, "its callers are not looked for");
                continue;
            }
        };
        for needs in [ReturnNeeds::Nothing, ReturnNeeds::Value, ReturnNeeds::Pointee] {
            let alike = starts.iter().filter(|(probe, _)| ReturnNeeds::of(&probe.at_ret) == needs);
            add(&mut endings, &symbols, object, &scan, (needs, forms), alike);
        }
    }
    endings
}

/// Adds the endings of functions that need the same, so that each caller is decoded once.
fn add<'a>(
    endings: &mut HashMap<ProbeId, Endings>,
    symbols: &SymbolSet,
    object: ObjectId,
    scan: &CallScan,
    (needs, forms): (ReturnNeeds, KernelForms),
    probes: impl Iterator<Item = &'a (&'a PlannedProbe, Vec<VirtAddr>)>,
) {
    let mut probe_at: HashMap<VirtAddr, ProbeId> = HashMap::new();
    for (probe, starts) in probes {
        let found = || starts.iter().filter_map(|start| scan.callers(*start));
        let more = found().map(|found| found.count - found.return_addresses.len()).sum();
        endings.insert(probe.id, Endings { needs, predicted: Vec::new(), more });
        for address in found().flat_map(|found| &found.return_addresses) {
            probe_at.insert(*address, probe.id);
        }
    }
    let addresses: Vec<VirtAddr> = probe_at.keys().copied().collect();
    let containing = |address| symbols.containing(object, address);
    for predicted in predict(&addresses, needs, &containing, forms) {
        let probe = probe_at.get(&predicted.return_address);
        if let Some(endings) = probe.and_then(|probe| endings.get_mut(probe)) {
            endings.predicted.push(predicted);
        }
    }
}
