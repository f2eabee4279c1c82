//! From a process and a map to a plan: what `check` shows and `run` attaches.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

use super::fitting::fit;
use super::foresee::{DirectCalls, direct_calls, foresee};
use super::go_program::{object_in_go, read_go};
use crate::config::{self, Known, Library, MapError, MapOrigin, Selector, SymbolMap};
use crate::model::{Pid, VirtAddr, Watches};
use crate::plan::{self, KernelForms, PlanError, ProbePlan};
use crate::symbols::{Found, SymbolError, SymbolSet};
use crate::target::go::GoError;
use crate::target::{Inode, ObjectId, Target, TargetError};

/// What is to be profiled, and by which maps.
#[derive(Clone, Debug)]
pub struct Aim {
    /// The process.
    pub pid: Pid,
    /// Names or paths of maps; none: the built-in map that fits.
    pub maps: Vec<String>,
    /// How maps and functions are looked for.
    pub search: Search,
}

/// How maps and functions are looked for, and what of them may be probed.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Folders with maps, besides the built-in ones.
    pub folders: Arc<[PathBuf]>,
    /// How many functions one pattern may match.
    pub max_functions: usize,
    /// Which forms of instructions this kernel may be trusted with.
    pub forms: KernelForms,
    /// Where to read what must be known of the Go that built the target, if not in the table.
    pub go_offsets_from: Option<Arc<Path>>,
}

/// A target with the plan for it; nothing is attached yet.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    pub(crate) target: Target,
    pub(crate) map: SymbolMap,
    pub(crate) plan: ProbePlan,
    /// The files that were searched.
    pub(crate) searched: Vec<Inode>,
    /// The symbols of the target.
    pub(crate) symbols: Arc<SymbolSet>,
    /// The direct calls of the probed functions.
    pub(crate) calls: Vec<DirectCalls>,
    /// How long it took to read the symbols and to plan.
    pub(crate) took: Duration,
}

impl Prepared {
    /// What attaching takes. The rest is most of the memory that planning has taken.
    pub(super) fn without_symbols(self) -> Self {
        Self { symbols: Arc::default(), calls: Vec::new(), ..self }
    }
}

/// A plan, and which of [`plan::selectors`] the executable answers: for those no library is searched.
pub(super) struct Planned {
    pub(super) plan: ProbePlan,
    pub(super) calls: Vec<DirectCalls>,
    pub(super) satisfied: Vec<bool>,
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
    /// Goroutines cannot be followed, and the map names functions in Go.
    #[error(transparent)]
    Go(#[from] GoError),
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

impl PrepareError {
    /// Whether what is missing may be loaded later.
    pub(super) const fn may_come(&self) -> bool {
        matches!(
            self,
            Self::NoMapFits { .. }
                | Self::Plan(PlanError::Required { .. } | PlanError::Nothing { .. })
        )
    }

    /// Whether the process has ended, which is no fault.
    pub(super) const fn is_end_of_target(&self) -> bool {
        matches!(
            self,
            Self::Target(
                TargetError::Exited(_) | TargetError::NoSuchProcess(_) | TargetError::Zombie { .. }
            )
        )
    }

    /// What failed, unless it did because the process is about to end: of one that dies, anything
    /// can be missing.
    fn unless_ending(self, target: &Target) -> Self {
        match target.watch() {
            Ok(watch) if !watch.is_ending() => self,
            _ => TargetError::Exited(target.pid).into(),
        }
    }
}

/// The maps a user names, as one; none if none is named.
pub(super) fn named_map(
    names: &[String],
    search: &Search,
) -> Result<Option<SymbolMap>, PrepareError> {
    let load = |name: &String| config::load_map(name, &search.folders).map(say_overrides);
    let maps = names.iter().map(load).collect::<Result<Vec<_>, _>>()?;
    Ok(if maps.is_empty() { None } else { Some(config::merge(maps)?) })
}

/// Reads the target and the maps, and plans.
///
/// # Errors
/// Everything that stops a run before anything is attached.
pub(crate) fn prepare(aim: &Aim) -> Result<Prepared, PrepareError> {
    let begun = Instant::now();
    // The maps first: a typo is told even where the process is gone.
    let map = named_map(&aim.maps, &aim.search)?;
    prepare_target(Target::open(aim.pid)?, map, &aim.search, begun).map(|(ready, _)| ready)
}

/// As [`prepare`], with a map that is there already.
pub(crate) fn prepare_with(aim: &Aim, map: SymbolMap) -> Result<Prepared, PrepareError> {
    let begun = Instant::now();
    let target = Target::open(aim.pid)?;
    prepare_target(target, Some(map), &aim.search, begun).map(|(ready, _)| ready)
}

/// Says that a map is another one than its name is known for.
fn say_overrides(known: Known) -> SymbolMap {
    if let Some(other) = &known.overrides {
        let (name, origin) = (&known.map.name, &known.map.origin);
        tracing::warn!("the symbol map {name} is that of {origin}, not the one {other}");
    }
    known.map
}

/// Plans for a target, by the map given or else the built-in one that fits; and which of the map's
/// selectors the executable answers.
pub(super) fn prepare_target(
    target: Target,
    map: Option<SymbolMap>,
    search: &Search,
    begun: Instant,
) -> Result<(Prepared, Vec<bool>), PrepareError> {
    let symbols = SymbolSet::new(&target);
    let planned = match map {
        Some(map) => Ok(map),
        None => detect(&target, &symbols, search),
    }
    .and_then(|map| {
        let planned = plan_for(&map, &target, &symbols, search)?;
        Ok((map, planned))
    });
    match planned {
        Ok((map, Planned { plan, calls, satisfied })) => {
            let searched = searched(&target, &symbols);
            let (symbols, took) = (Arc::new(symbols), begun.elapsed());
            Ok((Prepared { target, map, plan, searched, symbols, calls, took }, satisfied))
        }
        Err(error) => Err(error.unless_ending(&target)),
    }
}

/// Plans for a target that lacks what the map requires, or all of it: what is there now; and where
/// nothing is, the loader, which tells when that may have changed.
pub(super) fn plan_for_what_is_there(
    map: &SymbolMap,
    target: &Target,
    symbols: &SymbolSet,
    search: &Search,
) -> Result<Planned, PrepareError> {
    let mut map = map.clone();
    map.spans.iter_mut().for_each(|span| span.required = false);
    match plan_for(&map, target, symbols, search) {
        Err(PrepareError::Plan(PlanError::Nothing { .. })) => {
            let satisfied = vec![false; plan::selectors(&map).len()];
            let plan = plan_for_loading(target, symbols, search.forms);
            Ok(Planned { plan, calls: Vec::new(), satisfied })
        }
        planned => planned,
    }
}

/// The files of a target that need not be searched again. What vanished before it was read may be
/// mapped again at any time.
pub(super) fn searched(target: &Target, symbols: &SymbolSet) -> Vec<Inode> {
    let objects = (0_u16..).map(ObjectId).zip(&target.objects);
    let read = objects.filter(|(id, _)| symbols.is_there(*id)).map(|(_, object)| object.inode);
    read.chain(target.passed_over.iter().copied()).collect()
}

/// Plans for objects that were loaded later (the `symbols` are [`SymbolSet::of_additions`]): what of
/// the map the executable has not.
pub(super) fn plan_for_additions(
    map: &SymbolMap,
    target: &Target,
    symbols: &SymbolSet,
    satisfied: &[bool],
    search: &Search,
) -> Result<Planned, PrepareError> {
    let mut map = map.clone();
    map.spans.iter_mut().for_each(|span| span.required = false);
    // What names its object is meant wherever such an object is.
    let selectors = plan::selectors(&map);
    let open = |(of, satisfied): (&Selector, &bool)| !*satisfied || of.object.is_some();
    let open: Vec<bool> = selectors.iter().copied().zip(satisfied).map(open).collect();
    let asked = selectors.iter().zip(&open).filter(|(_, open)| **open).map(|(of, _)| *of);
    let mut found = symbols.find_all(&asked.collect::<Vec<_>>(), search.max_functions)?.into_iter();
    let nothing = || Found { functions: Vec::new(), nothing: None };
    let found = open.iter().map(|open| open.then(|| found.next()).flatten());
    let found: Vec<Found> = found.map(|found| found.unwrap_or_else(nothing)).collect();
    let (plan, calls) = match assemble(&map, target, symbols, &found, search) {
        Err(PrepareError::Plan(PlanError::Nothing { .. })) => {
            (plan_for_loading(target, symbols, search.forms), Vec::new())
        }
        plan => plan?,
    };
    Ok(Planned { plan, calls, satisfied: satisfied.to_vec() })
}

/// A plan for the dynamic loader alone.
pub(super) fn plan_for_loading(
    target: &Target,
    symbols: &SymbolSet,
    forms: KernelForms,
) -> ProbePlan {
    let mut plan = ProbePlan::default();
    add_silent(&mut plan, target, symbols, forms, |watches| watches == Watches::Loading);
    plan
}

fn plan_for(
    map: &SymbolMap,
    target: &Target,
    symbols: &SymbolSet,
    search: &Search,
) -> Result<Planned, PrepareError> {
    let found = symbols.find_all(&plan::selectors(map), search.max_functions)?;
    let in_exe = |found: &Found| found.functions.iter().any(|of| of.object == ObjectId(0));
    let satisfied = found.iter().map(in_exe).collect();
    let (plan, calls) = assemble(map, target, symbols, &found, search)?;
    Ok(Planned { plan, calls, satisfied })
}

fn assemble(
    map: &SymbolMap,
    target: &Target,
    symbols: &SymbolSet,
    found: &[Found],
    search: &Search,
) -> Result<(ProbePlan, Vec<DirectCalls>), PrepareError> {
    let forms = search.forms;
    let lookup = |object, address| symbols.function_at(object, address);
    let mut plan = plan::build(map, target, found, &lookup, forms)?;
    // Before the symbols of all other objects are read: both take memory, this only for a moment.
    add_sources(&mut plan, symbols);
    follow_goroutines(&mut plan, map, target, symbols, search)?;
    add_silent(&mut plan, target, symbols, forms, |_| true);
    add_go_runtime(&mut plan, target, symbols, forms);
    let calls = direct_calls(&plan, symbols);
    plan.foreseen = foresee(&plan, &calls, symbols, forms);
    Ok((plan, calls))
}

/// Where functions in Go are probed: what the kernel side must know of the program.
fn follow_goroutines(
    plan: &mut ProbePlan,
    map: &SymbolMap,
    target: &Target,
    symbols: &SymbolSet,
    search: &Search,
) -> Result<(), PrepareError> {
    let Some(object) = object_in_go(plan, target) else { return Ok(()) };
    let (go, contexts) = read_go(target.pid, object, search.go_offsets_from.as_deref())?;
    plan::add_contexts(plan, map, &mut |probe| contexts.as_ref()?.of(probe, symbols));
    plan::record_outside_of_traces(plan);
    plan.go = Some(go);
    Ok(())
}

fn add_silent(
    plan: &mut ProbePlan,
    target: &Target,
    symbols: &SymbolSet,
    forms: KernelForms,
    wanted: impl Fn(Watches) -> bool,
) {
    for (watches, select) in plan::silent() {
        if wanted(watches) {
            plan::add_silent(plan, target, watches, &symbols.everywhere(&select), forms);
        }
    }
    for (watches, provider, marker, name) in plan::MARKED {
        if wanted(watches) {
            let functions = symbols.marked(provider, marker, &name.into());
            plan::add_silent(plan, target, watches, &functions, forms);
        }
    }
}

/// Adds what Go's runtime tells of goroutines, if the plan follows any.
fn add_go_runtime(plan: &mut ProbePlan, target: &Target, symbols: &SymbolSet, forms: KernelForms) {
    if plan.go.is_none() {
        return;
    }
    for (place, selects) in plan::go_runtime() {
        let functions: Vec<_> =
            selects.iter().flat_map(|select| symbols.everywhere(select)).collect();
        plan::add_go_runtime(plan, target, place, &functions, forms);
    }
}

/// Adds where the functions that the map names stand in their sources. That of others is shown
/// nowhere, and the debug information of a C library takes long to unpack.
fn add_sources(plan: &mut ProbePlan, symbols: &SymbolSet) {
    let mut by_object: BTreeMap<ObjectId, Vec<(usize, VirtAddr)>> = BTreeMap::new();
    for (index, (probe, rule)) in plan.probes.iter().zip(&plan.rules.probes).enumerate() {
        if rule.watches == Watches::Calls
            && let Some(site) = probe.sites.first()
        {
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
pub(super) fn detect(
    target: &Target,
    symbols: &SymbolSet,
    search: &Search,
) -> Result<SymbolMap, PrepareError> {
    let library = Library::read(&search.folders)?;
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
