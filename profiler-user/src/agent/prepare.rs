//! From a pid and a map to a plan: what `check` shows and `run` attaches.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::config::{self, MapError, Select, Selector, SymbolMap};
use crate::model::{Pid, VirtAddr};
use crate::plan::{self, PlanError, ProbePlan};
use crate::symbols::{SymbolError, SymbolSet};
use crate::target::{ObjectId, Target, TargetError};

/// What is to be profiled, and by which maps.
#[derive(Clone, Debug)]
pub struct Aim {
    /// The process.
    pub pid: Pid,
    /// Names or paths of maps; none: the built-in map that fits.
    pub maps: Vec<String>,
    /// How many functions one pattern may match.
    pub max_functions: usize,
}

/// A target with the plan for it; nothing is attached yet.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) target: Target,
    pub(crate) map: SymbolMap,
    pub(crate) plan: ProbePlan,
    /// How long it took to read the symbols and to plan.
    pub(crate) took: Duration,
}

/// Why there is no plan.
#[derive(Debug, Error)]
pub enum PrepareError {
    /// The process cannot be profiled.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// A symbol map is wrong.
    #[error(transparent)]
    Map(#[from] MapError),
    /// An object's symbols cannot be read, or a pattern matches too much.
    #[error(transparent)]
    Symbols(#[from] SymbolError),
    /// What the map requires cannot be probed.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// No map was named and no built-in one fits.
    #[error(
        "no built-in symbol map fits process {pid} ({name}); looked for {known} in {objects} mapped \
         objects. Write a map (docs/symbol-maps.md, `qprof symbols {pid} PATTERN` finds functions) \
         and pass it with -m FILE, or name a built-in one with -m NAME"
    )]
    NoMapFits {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
        /// The built-in maps' names.
        known: String,
        /// How many objects were searched.
        objects: usize,
    },
    /// No map was named and several built-in ones fit.
    #[error("several built-in symbol maps fit process {pid}: {names}. Choose one with -m NAME")]
    SeveralMapsFit {
        /// The process.
        pid: Pid,
        /// The maps' names.
        names: String,
    },
}

/// Reads the target and the maps, and plans.
///
/// # Errors
/// Everything that stops a run before anything is attached.
pub(crate) fn prepare(aim: &Aim) -> Result<Prepared, PrepareError> {
    let begun = Instant::now();
    // The maps first: a typo is told even where the process is gone.
    let named =
        aim.maps.iter().map(|name| config::load_map(name)).collect::<Result<Vec<_>, _>>()?;
    let named = (!named.is_empty()).then(|| config::merge(named)).transpose()?;
    prepare_from(aim, named, begun)
}

/// As [`prepare`], with a map that is there already.
pub(crate) fn prepare_with(aim: &Aim, map: SymbolMap) -> Result<Prepared, PrepareError> {
    prepare_from(aim, Some(map), Instant::now())
}

/// With the map given, or else the built-in one that fits.
fn prepare_from(
    aim: &Aim,
    map: Option<SymbolMap>,
    begun: Instant,
) -> Result<Prepared, PrepareError> {
    let target = Target::open(aim.pid)?;
    let watch = target.watch()?;
    planned(aim, &target, map)
        .map(|(map, plan)| Prepared { target, map, plan, took: begun.elapsed() })
        // Of a process that dies, anything can be missing.
        .map_err(
            |error| {
                if watch.is_ending() { TargetError::Exited(aim.pid).into() } else { error }
            },
        )
}

fn planned(
    aim: &Aim,
    target: &Target,
    map: Option<SymbolMap>,
) -> Result<(SymbolMap, ProbePlan), PrepareError> {
    let symbols = &SymbolSet::new(target);
    let map = match map {
        Some(map) => map,
        None => detect(target, symbols, aim.max_functions)?,
    };
    let found = symbols.find_all(&plan::selectors(&map), aim.max_functions)?;
    let lookup = |object, address| symbols.function_at(object, address);
    let mut plan = plan::build(&map, target, &found, &lookup)?;
    let witnesses: Vec<_> =
        plan::witnesses().iter().flat_map(|select| symbols.everywhere(select)).collect();
    plan::add_witnesses(&mut plan, target, &witnesses);
    add_sources(&mut plan, symbols);
    Ok((map, plan))
}

/// Adds where the probed functions stand in their sources.
fn add_sources(plan: &mut ProbePlan, symbols: &SymbolSet) {
    let mut by_object: BTreeMap<ObjectId, Vec<(usize, VirtAddr)>> = BTreeMap::new();
    for (index, probe) in plan.probes.iter().enumerate() {
        if let Some(site) = probe.sites.first() {
            by_object.entry(probe.object).or_default().push((index, site.address));
        }
    }
    for (object, probes) in by_object {
        let addresses: Vec<VirtAddr> = probes.iter().map(|(_, address)| *address).collect();
        let lines = symbols.source_lines(object, &addresses);
        for ((index, _), line) in probes.into_iter().zip(lines) {
            if let Some(rule) = plan.rules.probes.get_mut(index) {
                rule.source = line;
            }
        }
    }
}

/// The one built-in map that fits the target.
fn detect(
    target: &Target,
    symbols: &SymbolSet,
    max_functions: usize,
) -> Result<SymbolMap, PrepareError> {
    let mut fitting = Vec::new();
    for built_in in config::built_in() {
        let map = built_in.parse()?;
        if fits(&map, target, symbols, max_functions)? {
            fitting.push(map);
        }
    }
    let names = |maps: &[&str]| maps.join(", ");
    match fitting.len() {
        1 => {}
        0 => {
            let known: Vec<&str> = config::built_in().iter().map(|map| map.name).collect();
            return Err(PrepareError::NoMapFits {
                pid: target.pid,
                name: target.name.clone(),
                known: names(&known),
                objects: target.objects.len(),
            });
        }
        _ => {
            let known: Vec<&str> = fitting.iter().map(|map| map.name.as_str()).collect();
            return Err(PrepareError::SeveralMapsFit { pid: target.pid, names: names(&known) });
        }
    }
    Ok(fitting.remove(0))
}

/// Whether a map's `[match]` holds: one mapped object has the path and all the functions.
fn fits(
    map: &SymbolMap,
    target: &Target,
    symbols: &SymbolSet,
    max_functions: usize,
) -> Result<bool, PrepareError> {
    let Some(wanted) = &map.matching else { return Ok(false) };
    let objects = (0_u16..).map(ObjectId).zip(&target.objects);
    for (_, object) in objects.filter(|(id, _)| symbols.is_named(*id, &wanted.object)) {
        let selectors: Vec<Selector> = wanted
            .functions
            .iter()
            .map(|function| Selector {
                select: Select::Function(function.clone()),
                object: Some(object.file_name()),
            })
            .collect();
        let found = symbols.find_all(&selectors.iter().collect::<Vec<_>>(), max_functions)?;
        if found.iter().all(|found| !found.functions.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}
