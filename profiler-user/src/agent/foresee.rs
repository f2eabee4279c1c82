//! Where calls will come back, told from the code before anything is attached: what the first query
//! after attaching is seen by.

use std::collections::BTreeMap;

use profiler_common::Role;

use crate::model::{VirtAddr, Watches};
use crate::plan::{
    CallScan, ForeseenReturn, PlannedProbe, ProbePlan, Return, ReturnNeeds, predict,
};
use crate::symbols::SymbolSet;
use crate::target::ObjectId;

/// A function with more direct callers is learned as it is called: few of them ever call.
const CALLERS: usize = 32;
/// Landings that are attached beforehand, at most.
const FORESEEN: usize = 4096;

/// Looks for the direct callers of a plan's functions, and where they go on. What cannot be read has
/// none.
pub(super) fn foresee(plan: &ProbePlan, symbols: &SymbolSet) -> Vec<ForeseenReturn> {
    let mut by_object: BTreeMap<ObjectId, Vec<&PlannedProbe>> = BTreeMap::new();
    for (probe, rule) in plan.probes.iter().zip(&plan.rules.probes) {
        if rule.watches == Watches::Calls {
            by_object.entry(probe.object).or_default().push(probe);
        }
    }
    let mut foreseen = Vec::new();
    for (object, probes) in by_object {
        let starts: Vec<(VirtAddr, ReturnNeeds)> = probes
            .into_iter()
            .flat_map(|probe| {
                starts(probe, symbols).map(|start| (start, ReturnNeeds::of(&probe.at_ret)))
            })
            .collect();
        let mut scan = CallScan::of(starts.iter().map(|(start, _)| *start));
        let scanned = symbols.each_piece_of_code(object, CallScan::OVERLAP, &mut |base, code| {
            scan.scan(base, code);
        });
        if let Err(error) = scanned {
            tracing::debug!(%error, "its callers are not looked for");
            continue;
        }
        let needs = starts.iter().map(|(_, needs)| *needs).max().unwrap_or_default();
        let addresses: Vec<VirtAddr> = starts
            .iter()
            .filter_map(|(start, _)| scan.callers(*start))
            .filter(|found| found.count <= CALLERS)
            .flat_map(|found| found.return_addresses.iter().copied())
            .take(FORESEEN - foreseen.len())
            .collect();
        let containing = |address| symbols.containing(object, address);
        let valued = (needs != ReturnNeeds::Nothing)
            .then(|| predict(&addresses, needs, &containing))
            .unwrap_or_default();
        for predicted in predict(&addresses, ReturnNeeds::Nothing, &containing) {
            let address = predicted.return_address;
            if matches!(predicted.plan.first, Return::None(_)) {
                continue;
            }
            let Some(offset) = symbols.offset_of(object, address) else { continue };
            let with_value = valued.iter().find(|other| other.return_address == address);
            foreseen.push(ForeseenReturn {
                object,
                offset,
                plan: predicted.plan,
                for_value: with_value.map(|other| other.plan.clone()),
            });
        }
    }
    foreseen
}

/// Where the copies of a function begin.
fn starts<'a>(
    probe: &'a PlannedProbe,
    symbols: &'a SymbolSet,
) -> impl Iterator<Item = VirtAddr> + 'a {
    let enters = probe.sites.iter().filter(|site| site.role == Role::Enter);
    enters
        .filter_map(|site| symbols.containing(site.object, site.address))
        .map(|function| function.code.address)
}
