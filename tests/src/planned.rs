//! Everything the planner says of every function of a file, held against witnesses.

use std::path::Path;

use anyhow::{Result, ensure};
use profiler_common::Role;
use qprof::config::{Select, Selector, load_map};
use qprof::model::Pid;
use qprof::plan::{
    CostClass, KernelForms, LandingSite, Return, ReturnNeeds, Returns, Up, build as plan_of,
};
use qprof::symbols::{Found, Function, SymbolSet};
use qprof::target::{ObjectId, Target};

use crate::symbol_map;
use crate::witness::{Claim, Tally, Top, Witness};

/// How many functions are planned at once: fewer than there may be probes.
const AT_ONCE: usize = 4000;

/// What there was to compare.
#[derive(Debug, Default)]
pub struct Compared {
    /// Enter sites.
    pub enters: usize,
    /// `ret` sites.
    pub rets: usize,
    /// Landings that the kernel emulates.
    pub cheap: usize,
    /// Landings that are single-stepped.
    pub dear: usize,
    /// Calls whose caller returns straight away.
    pub chains: usize,
    /// Calls without a landing.
    pub none: usize,
    /// Calls of which the value returned is still there at a cheap landing.
    pub with_value: usize,
    /// What the witnesses say.
    pub tally: Tally,
}

impl Compared {
    /// Adds another.
    pub fn add(&mut self, other: Self) {
        self.enters += other.enters;
        self.rets += other.rets;
        self.cheap += other.cheap;
        self.dear += other.dear;
        self.chains += other.chains;
        self.none += other.none;
        self.with_value += other.with_value;
        self.tally.add(other.tally);
    }

    /// All calls that return somewhere.
    #[must_use]
    pub const fn calls(&self) -> usize {
        self.cheap + self.dear + self.chains + self.none
    }
}

/// Every function of a file.
///
/// # Errors
/// When the file cannot be read.
pub fn functions(path: &Path) -> Result<Vec<Function>> {
    let everything = Selector { select: Select::Function("*".to_owned()), object: None };
    Ok(SymbolSet::of_file(path).find(&everything, usize::MAX)?.functions)
}

/// Plans functions of a file, and compares each site with the witness.
///
/// # Errors
/// When there is no plan, or the file cannot be read.
pub fn compare(path: &Path, functions: &[Function], witness: &Witness) -> Result<Compared> {
    let mut compared = Compared::default();
    let symbols = SymbolSet::of_file(path);
    let map = load_map(
        &symbol_map::file(&symbol_map::of(&["everything"], &[], ""))?.to_string_lossy(),
        &[],
    )?
    .map;
    let target = Target::open(Pid(std::process::id()))?;
    for some in functions.chunks(AT_ONCE) {
        let found = [Found { functions: some.to_vec(), nothing: None }];
        let plan = plan_of(
            &map,
            &target,
            &found,
            &|object, address| symbols.function_at(object, address),
            KernelForms::default(),
        )?;
        for site in plan.probes.iter().flat_map(|probe| &probe.sites) {
            let claim = Claim {
                address: site.address.0,
                offset: site.offset.0,
                instruction: &site.instruction,
            };
            witness.check(claim, &mut compared.tally)?;
            match site.role {
                Role::Enter => compared.enters += 1,
                _ => compared.rets += 1,
            }
            let what = || format!("{:?} `{}` at {}", site.role, site.instruction, site.address);
            compared.tally.stack(site.slot_offset, witness.own_slot(site.address.0), what);
        }
    }
    for function in functions {
        ensure!(function.object == ObjectId(0), "of another object");
        compare_returns(function, witness, &mut compared)?;
    }
    Ok(compared)
}

/// Compares what is said of every return address of a function.
fn compare_returns(function: &Function, witness: &Witness, compared: &mut Compared) -> Result<()> {
    let Ok(returns) = Returns::of(function, KernelForms::default()) else { return Ok(()) };
    for address in returns.addresses() {
        let plan = returns.at(address, ReturnNeeds::Nothing);
        let check = |site: &LandingSite, tally: &mut Tally| {
            let claim = Claim {
                address: site.address.0,
                offset: site.offset.0,
                instruction: &site.instruction,
            };
            let what = || {
                format!(
                    "landing `{}` at {} of {address} in {}",
                    site.instruction, site.address, function.name
                )
            };
            tally.stack(site.slot_offset, witness.slot_of_call(address.0, site.address.0), what);
            witness.check(claim, tally)
        };
        if let Some(point) = &plan.point {
            check(point, &mut compared.tally)?;
        }
        match &plan.first {
            Return::Landing(site) => {
                let dear = site.cost == CostClass::SingleStepped;
                *(if dear { &mut compared.dear } else { &mut compared.cheap }) += 1;
                check(site, &mut compared.tally)?;
            }
            Return::Caller(up) => {
                compared.chains += 1;
                let what = || format!("chain at {address} in {}", function.name);
                match (up, witness.top(address.0)) {
                    (Up::Bytes(up), Some((_, Top::FromStack(theirs)))) => {
                        compared.tally.stack(i32::try_from(*up)?, Some(theirs), what);
                    }
                    (Up::FramePointer, Some((_, Top::FromFrame(theirs)))) => {
                        compared.tally.stack(16, Some(theirs), what);
                    }
                    _ => {}
                }
            }
            Return::None(_) => compared.none += 1,
        }
        let with_value = returns.at(address, ReturnNeeds::Value).first;
        if let Return::Landing(site) = &with_value {
            ensure!(site.keeps_value, "a landing without the value at {address}");
            compared.with_value += usize::from(site.cost != CostClass::SingleStepped);
        }
    }
    Ok(())
}
