//! Where calls will come back, told from the code before anything is attached: what the first query
//! after attaching is seen by.

use std::collections::BTreeMap;

use profiler_common::Role;

use crate::model::{VirtAddr, Watches};
use crate::plan::{
    CallScan, ForeseenReturn, KernelForms, PlannedProbe, ProbePlan, Return, ReturnNeeds, Site,
    predict,
};
use crate::symbols::{SymbolError, SymbolSet};
use crate::target::ObjectId;

/// A function with more direct callers is learned as it is called: few of them ever call.
const CALLERS: usize = 32;
/// Landings that are attached beforehand, at most.
const FORESEEN: usize = 4096;

/// Looks for the direct callers of a plan's functions, and where they go on. What cannot be read has
/// none.
pub(super) fn foresee(
    plan: &ProbePlan,
    symbols: &SymbolSet,
    forms: KernelForms,
) -> Vec<ForeseenReturn> {
    let mut by_object: BTreeMap<ObjectId, Vec<&PlannedProbe>> = BTreeMap::new();
    for (probe, rule) in plan.probes.iter().zip(&plan.rules.probes) {
        if rule.watches == Watches::Calls {
            by_object.entry(probe.object).or_default().push(probe);
        }
    }
    let mut foreseen = Vec::new();
    for (object, probes) in by_object {
        let (starts, scan) = match scan_calls(symbols, object, &probes) {
            Ok(scanned) => scanned,
            Err(error) => {
                tracing::debug!(%error, "its callers are not looked for");
                continue;
            }
        };
        let needs = probes.iter().map(|probe| ReturnNeeds::of(&probe.at_ret)).max();
        let needs = needs.unwrap_or_default();
        let addresses: Vec<VirtAddr> = starts
            .iter()
            .flat_map(|(_, starts)| starts)
            .filter_map(|start| scan.callers(*start))
            .filter(|found| found.count <= CALLERS)
            .flat_map(|found| found.return_addresses.iter().copied())
            .take(FORESEEN - foreseen.len())
            .collect();
        let containing = |address| symbols.containing(object, address);
        let valued = match needs {
            ReturnNeeds::Nothing => Vec::new(),
            _ => predict(&addresses, needs, &containing, forms),
        };
        for predicted in predict(&addresses, ReturnNeeds::Nothing, &containing, forms) {
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

/// Functions with where their copies begin.
type Starts<'p> = Vec<(&'p PlannedProbe, Vec<VirtAddr>)>;

/// Looks through an object's code for direct calls of functions in it; by the starts of their
/// copies.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn scan_calls<'p>(
    symbols: &SymbolSet,
    object: ObjectId,
    probes: &[&'p PlannedProbe],
) -> Result<(Starts<'p>, CallScan), SymbolError> {
    let starts: Starts<'p> = probes.iter().map(|probe| (*probe, starts(probe, symbols))).collect();
    let mut scan = CallScan::of(starts.iter().flat_map(|(_, starts)| starts.iter().copied()));
    for stub in symbols.stubs(object)? {
        scan.add_alias(stub.address, stub.function);
    }
    symbols.each_piece_of_code(object, CallScan::OVERLAP, &mut |base, code| {
        scan.scan(base, code);
    })?;
    Ok((starts, scan))
}

fn starts(probe: &PlannedProbe, symbols: &SymbolSet) -> Vec<VirtAddr> {
    let enters = probe.sites.iter().filter(|site| site.role == Role::Enter);
    let function = |site: &Site| symbols.containing(site.object, site.address);
    enters.filter_map(function).map(|function| function.code.address).collect()
}
