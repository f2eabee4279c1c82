//! How calls of the probed functions will be seen to end, as far as that can be told beforehand:
//! from their direct callers in the same object.

use std::collections::{BTreeMap, HashMap};

use crate::model::VirtAddr;
use crate::plan::{
    CallScan, CostClass, PlannedProbe, Predicted, ProbePlan, Return, ReturnNeeds, predict,
};
use crate::symbols::{SymbolError, SymbolSet};
use crate::target::{ObjectId, Target};

use profiler_common::{ProbeId, Role};

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
) -> HashMap<ProbeId, Endings> {
    let symbols = SymbolSet::new(target);
    let mut by_object: BTreeMap<ObjectId, Vec<&PlannedProbe>> = BTreeMap::new();
    for probe in plan.probes.iter().filter(|probe| is_call(probe)) {
        by_object.entry(probe.object).or_default().push(probe);
    }
    let mut endings = HashMap::new();
    for (object, probes) in by_object {
        let starts: Vec<(&PlannedProbe, Vec<VirtAddr>)> =
            probes.into_iter().map(|probe| (probe, starts(probe, &symbols))).collect();
        let mut scan = CallScan::of(starts.iter().flat_map(|(_, starts)| starts.iter().copied()));
        if let Err(error) = look_through(&symbols, object, &mut scan) {
            tracing::warn!(%error, "its callers are not looked for");
        }
        for needs in [ReturnNeeds::Nothing, ReturnNeeds::Value, ReturnNeeds::Pointee] {
            let alike = starts.iter().filter(|(probe, _)| ReturnNeeds::of(&probe.at_ret) == needs);
            add(&mut endings, &symbols, object, &scan, needs, alike);
        }
    }
    endings
}

fn look_through(
    symbols: &SymbolSet,
    object: ObjectId,
    scan: &mut CallScan,
) -> Result<(), SymbolError> {
    for stub in symbols.stubs(object)? {
        scan.add_alias(stub.address, stub.function);
    }
    symbols.each_piece_of_code(object, CallScan::OVERLAP, &mut |base, code| scan.scan(base, code))
}

/// Adds the endings of functions that need the same, so that each caller is decoded once.
fn add<'a>(
    endings: &mut HashMap<ProbeId, Endings>,
    symbols: &SymbolSet,
    object: ObjectId,
    scan: &CallScan,
    needs: ReturnNeeds,
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
    for predicted in predict(&addresses, needs, &containing) {
        let probe = probe_at.get(&predicted.return_address);
        if let Some(endings) = probe.and_then(|probe| endings.get_mut(probe)) {
            endings.predicted.push(predicted);
        }
    }
}

/// Where the copies of a function begin.
fn starts(probe: &PlannedProbe, symbols: &SymbolSet) -> Vec<VirtAddr> {
    let enters = probe.sites.iter().filter(|site| site.role == Role::Enter);
    let function = |site: &crate::plan::Site| symbols.containing(site.object, site.address);
    enters.filter_map(function).map(|function| function.code.address).collect()
}
