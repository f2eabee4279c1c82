//! Where calls will come back, told from the code before anything is attached: what the first query
//! after attaching is seen by.

use std::collections::BTreeMap;

use profiler_common::{LaneKind, ProbeId, Role};
use rustc_hash::FxHashMap;

use crate::model::{VirtAddr, Watches};
use crate::plan::{
    CallScan, ForeseenReturn, KernelForms, PlannedProbe, ProbePlan, Return, ReturnNeeds,
    ReturnPlan, Site, predict,
};
use crate::symbols::{SymbolError, SymbolSet};
use crate::target::ObjectId;

/// A function with more direct callers is learned as it is called: few of them ever call.
const CALLERS: usize = 32;
/// Landings that are attached beforehand, at most.
const FORESEEN: usize = 4096;

/// The direct calls of probed functions within one object.
#[derive(Clone, Debug)]
pub(crate) struct DirectCalls {
    /// The object.
    pub(crate) object: ObjectId,
    /// The functions in it, with where their copies begin.
    pub(crate) starts: Vec<(ProbeId, Vec<VirtAddr>)>,
    /// The calls, by the starts of the functions.
    pub(crate) scan: CallScan,
}

/// Looks for the direct calls of a plan's functions. An object that cannot be read has none.
pub(super) fn direct_calls(plan: &ProbePlan, symbols: &SymbolSet) -> Vec<DirectCalls> {
    let mut by_object: BTreeMap<ObjectId, Vec<&PlannedProbe>> = BTreeMap::new();
    for (probe, rule) in plan.probes.iter().zip(&plan.rules.probes) {
        if rule.watches == Watches::Calls {
            by_object.entry(probe.object).or_default().push(probe);
        }
    }
    let mut calls = Vec::with_capacity(by_object.len());
    for (object, probes) in by_object {
        match scan_calls(symbols, object, &probes) {
            Ok(found) => calls.push(found),
            Err(error) => tracing::debug!(%error, "its callers are not looked for"),
        }
    }
    calls
}

/// Where the direct calls of a plan's functions go on. What cannot be told is left out.
pub(super) fn foresee(
    plan: &ProbePlan,
    calls: &[DirectCalls],
    symbols: &SymbolSet,
    forms: KernelForms,
) -> Vec<ForeseenReturn> {
    let mut foreseen = Vec::new();
    for DirectCalls { object, starts, scan } in calls {
        let object = *object;
        let probes = starts.iter().filter_map(|(id, _)| plan.probes.get(id.index()));
        let needs = probes.map(|probe| ReturnNeeds::of(&probe.at_ret)).max().unwrap_or_default();
        let lane_of =
            |id: ProbeId| plan.probes.get(id.index()).map_or(LaneKind::Thread, PlannedProbe::lane);
        let lanes: FxHashMap<VirtAddr, LaneKind> = starts
            .iter()
            .flat_map(|(id, starts)| starts.iter().map(|start| (lane_of(*id), *start)))
            .filter_map(|(lane, start)| Some((lane, scan.callers(start)?)))
            .filter(|(_, found)| found.count <= CALLERS)
            .flat_map(|(lane, found)| found.return_addresses.iter().map(move |at| (*at, lane)))
            .take(FORESEEN - foreseen.len())
            .collect();
        let mut addresses: Vec<VirtAddr> = lanes.keys().copied().collect();
        addresses.sort_unstable();
        let containing = |address| symbols.containing(object, address);
        let valued = match needs {
            ReturnNeeds::Nothing => Vec::new(),
            _ => predict(&addresses, needs, &containing, forms),
        };
        let mut valued: FxHashMap<VirtAddr, ReturnPlan> =
            valued.into_iter().map(|of| (of.return_address, of.plan)).collect();
        for predicted in predict(&addresses, ReturnNeeds::Nothing, &containing, forms) {
            let address = predicted.return_address;
            if matches!(predicted.plan.first, Return::None(_)) {
                continue;
            }
            let Some(offset) = symbols.offset_of(object, address) else { continue };
            let for_value = valued.remove(&address);
            let lane = lanes.get(&address).copied().unwrap_or(LaneKind::Thread);
            foreseen.push(ForeseenReturn { object, offset, lane, plan: predicted.plan, for_value });
        }
    }
    foreseen
}

fn scan_calls(
    symbols: &SymbolSet,
    object: ObjectId,
    probes: &[&PlannedProbe],
) -> Result<DirectCalls, SymbolError> {
    let starts: Vec<_> = probes.iter().map(|probe| (probe.id, starts(probe, symbols))).collect();
    let mut scan = CallScan::of(starts.iter().flat_map(|(_, starts)| starts.iter().copied()));
    for stub in symbols.stubs(object)? {
        scan.add_alias(stub.address, stub.function);
    }
    symbols.each_piece_of_code(object, CallScan::OVERLAP, &mut |base, code| {
        scan.scan(base, code);
    })?;
    Ok(DirectCalls { object, starts, scan })
}

fn starts(probe: &PlannedProbe, symbols: &SymbolSet) -> Vec<VirtAddr> {
    let enters = probe.sites.iter().filter(|site| site.role == Role::Enter);
    let function = |site: &Site| symbols.containing(site.object, site.address);
    enters.filter_map(function).map(|function| function.code.address).collect()
}
