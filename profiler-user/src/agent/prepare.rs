//! From a pid and a map to a plan: what `check` shows and `run` attaches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::fitting::fit;
use crate::config::{self, Known, Library, MapError, MapOrigin, SymbolMap};
use crate::model::{Pid, VirtAddr};
use crate::plan::{self, PlanError, ProbePlan};
use crate::symbols::{SymbolError, SymbolSet};
use crate::target::{ObjectId, Target, TargetError};

/// What is to be profiled, and by which maps.
#[derive(Clone, Debug)]
pub struct Aim {
    /// The process.
    pub pid: Pid,
    /// Names or paths of maps; none: the one that fits.
    pub maps: Vec<String>,
    /// Folders with maps, searched before the usual ones.
    pub map_dirs: Vec<PathBuf>,
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
    /// No map was named and none fits.
    #[error(
        "no symbol map fits process {pid} ({name}); looked for {known} in {objects} mapped objects \
         (`qprof maps -p {pid}` says why). Write a map (docs/symbol-maps.md, `qprof symbols {pid} \
         PATTERN` finds functions) and pass it with -m FILE, or name one with -m NAME"
    )]
    NoMapFits {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
        /// The maps' names.
        known: String,
        /// How many objects were searched.
        objects: usize,
    },
    /// No map was named and several fit.
    #[error("several symbol maps fit process {pid}: {names}. Choose one with -m NAME")]
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
    let named = aim
        .maps
        .iter()
        .map(|name| config::load_map(name, &aim.map_dirs).map(say_overrides))
        .collect::<Result<Vec<_>, _>>()?;
    let named = (!named.is_empty()).then(|| config::merge(named)).transpose()?;
    prepare_from(aim, named, begun)
}

/// As [`prepare`], with a map that is there already.
pub(crate) fn prepare_with(aim: &Aim, map: SymbolMap) -> Result<Prepared, PrepareError> {
    prepare_from(aim, Some(map), Instant::now())
}

/// Says that a map is another one than its name is known for.
fn say_overrides(known: Known) -> SymbolMap {
    if let Some(other) = &known.overrides {
        let (name, origin) = (&known.map.name, &known.map.origin);
        tracing::warn!("the symbol map {name} is that of {origin}, not the one {other}");
    }
    known.map
}

/// With the map given, or else the one that fits.
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
        None => detect(target, symbols, &aim.map_dirs)?,
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

/// The one map that fits the target.
fn detect(
    target: &Target,
    symbols: &SymbolSet,
    folders: &[PathBuf],
) -> Result<SymbolMap, PrepareError> {
    let library = Library::read(folders)?;
    for broken in library.broken() {
        tracing::warn!("a symbol map is passed over: {}", broken.error);
    }
    let fits = |known: &&Known| fit(&known.map, target, symbols).fits;
    let fitting: Vec<&Known> = library.known().iter().filter(fits).collect();
    let maps: Vec<_> = fitting.iter().map(|known| &known.map).collect();
    let names: Vec<_> = library.known().iter().map(|known| known.map.name.as_str()).collect();
    let chosen = choose(target, &maps, &names)?;
    let known = fitting.iter().find(|known| known.map.name == chosen.name);
    Ok(known.map_or_else(|| chosen.clone(), |known| say_overrides(Known::clone(known))))
}

/// The one of the maps that fit; one of the user's goes before built-in ones.
pub(super) fn choose<'m>(
    target: &Target,
    fitting: &[&'m SymbolMap],
    known: &[&str],
) -> Result<&'m SymbolMap, PrepareError> {
    let own = || fitting.iter().copied().filter(|map| map.origin != MapOrigin::BuiltIn);
    let candidates: Vec<&SymbolMap> =
        if own().next().is_some() { own().collect() } else { fitting.to_vec() };
    match candidates.as_slice() {
        [map] => Ok(map),
        [] => Err(PrepareError::NoMapFits {
            pid: target.pid,
            name: target.name.clone(),
            known: known.join(", "),
            objects: target.objects.len(),
        }),
        several => {
            let names: Vec<&str> = several.iter().map(|map| map.name.as_str()).collect();
            Err(PrepareError::SeveralMapsFit { pid: target.pid, names: names.join(", ") })
        }
    }
}
