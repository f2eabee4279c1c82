//! The functions of a target: searched object by object, each read when it is first searched.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::thread;

use super::elf::Elf;
use super::go::ArgumentShape;
use super::go::types::GoTypes;
use super::loaded::{Hit, Loaded};
use super::name;
use super::nearest::{Near, nearest};
use super::pattern::{Pattern, glob};
use super::{Found, Function, Nothing, SymbolError, source};
use crate::config::{Select, Selector};
use crate::model::{SourceLine, VirtAddr};
use crate::target::{MappedObject, ObjectId, Target};

/// How many names an error about too many shows.
const EXAMPLES: usize = 3;
/// For how many names that are missing the nearest are looked for.
const EXPLAINED: usize = 12;
/// Threads that search at once, at most.
const SEARCHERS: usize = 8;
/// Longer parameter lists are left out of messages.
const SHOWN: usize = 120;

/// The symbols of a target's objects.
#[derive(Debug, Default)]
pub struct SymbolSet {
    /// Where debug files are looked for.
    root: PathBuf,
    objects: Vec<Object>,
    /// The first object is the executable.
    whole: bool,
}

#[derive(Debug)]
struct Object {
    path: PathBuf,
    open_path: PathBuf,
    /// None for a file that no process has.
    mapped: Option<MappedObject>,
    loaded: OnceLock<Result<Loaded, SymbolError>>,
}

impl Object {
    /// The file, opened: that which was mapped, whatever lies at its path now.
    fn elf(&self) -> Result<Elf, SymbolError> {
        let Some(mapped) = &self.mapped else { return Elf::open(&self.open_path, &self.path) };
        let error = |source| SymbolError::Io { file: self.path.clone(), source: Arc::new(source) };
        Elf::of_file(mapped.open().map_err(error)?, &self.path)
    }

    fn file_name(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// A selector, read.
enum Wanted<'a> {
    Name(Pattern),
    Linkage(&'a str),
    Address(VirtAddr),
}

impl<'a> Wanted<'a> {
    fn new(select: &'a Select) -> Self {
        match select {
            Select::Function(pattern) => Self::Name(Pattern::new(pattern)),
            Select::Linkage(linkage) => Self::Linkage(linkage),
            Select::Address(address) => Self::Address(*address),
        }
    }
}

impl SymbolSet {
    /// The symbols of a target. Nothing is read yet.
    #[must_use]
    pub fn new(target: &Target) -> Self {
        let objects = target.objects.iter().map(|object| Object {
            path: object.path.clone(),
            open_path: object.open_path.clone(),
            mapped: Some(object.clone()),
            loaded: OnceLock::new(),
        });
        Self { root: target.root(), objects: objects.collect(), whole: true }
    }

    /// The symbols of what was loaded into a target later; the executable is not among it.
    #[must_use]
    pub fn of_additions(target: &Target) -> Self {
        Self { whole: false, ..Self::new(target) }
    }

    /// The symbols of a file, as [`ObjectId`] 0. Nothing is read yet.
    #[must_use]
    pub fn of_file(path: &Path) -> Self {
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.into());
        let open_path = path.into();
        let object = Object { path: absolute, open_path, mapped: None, loaded: OnceLock::new() };
        Self { root: "/".into(), objects: vec![object], whole: true }
    }

    /// Whether an object is read as far as anybody asked for it: one that vanished before is not.
    #[must_use]
    pub fn is_there(&self, id: ObjectId) -> bool {
        let object = self.objects.get(usize::from(id.0));
        let loaded = object.and_then(|object| object.loaded.get());
        !loaded.is_some_and(|loaded| loaded.as_ref().is_err_and(SymbolError::is_gone))
    }

    /// The path of an object, as the target sees it.
    #[must_use]
    pub fn path(&self, id: ObjectId) -> Option<&Path> {
        self.objects.get(usize::from(id.0)).map(|object| object.path.as_path())
    }

    /// Finds the functions of a selector.
    ///
    /// Where the selector names no object, the executable is searched, and only if nothing matches
    /// there every other object; an address is one in the executable then. Functions come by
    /// object and address, one an address.
    ///
    /// # Errors
    /// [`SymbolError::TooMany`] if more than `limit` functions match; the other kinds if the
    /// executable, or an object the selector names, cannot be read. What cannot be read of
    /// the others is passed over, with a warning.
    pub fn find(&self, selector: &Selector, limit: usize) -> Result<Found, SymbolError> {
        self.find_and_explain(selector, limit, true)
    }

    /// [`SymbolSet::find`]; without `compare` no names are looked for that are near.
    fn find_and_explain(
        &self,
        selector: &Selector,
        limit: usize,
        compare: bool,
    ) -> Result<Found, SymbolError> {
        let wanted = Wanted::new(&selector.select);
        let all: Vec<ObjectId> = (0..self.objects.len() as u16).map(ObjectId).collect();
        let (first, then) = match (&selector.object, all.split_first()) {
            (Some(pattern), _) => {
                let named = all.iter().copied().filter(|&id| self.is_named(id, pattern));
                (named.collect(), Vec::new())
            }
            (None, Some((exe, others))) if self.whole => (vec![*exe], others.to_vec()),
            (None, _) => (Vec::new(), all),
        };
        if first.is_empty() && then.is_empty() {
            let names = self.objects.iter().map(Object::file_name).collect();
            return Ok(nothing(Nothing::NoObject(names)));
        }
        let mut searched = Vec::new();
        for &id in &first {
            searched.push((id, self.load(id)?));
        }
        if let Wanted::Address(address) = wanted {
            return at_address(&searched, address);
        }
        let mut hits = hits(&searched, &wanted);
        if hits.is_empty() && !then.is_empty() {
            let mut others = Vec::new();
            for id in then {
                match self.load(id) {
                    Ok(loaded) => others.push((id, loaded)),
                    Err(error) => not_searched(&error),
                }
            }
            hits = self::hits(&others, &wanted);
            searched.extend(others);
        }
        if hits.is_empty() {
            return Ok(nothing(self.explain(&searched, first.len(), &wanted, compare)));
        }
        if hits.len() > limit {
            return Err(too_many(&selector.select, &hits, limit));
        }
        let functions = hits.into_iter().map(|(id, loaded, hit)| {
            loaded.function(id, hit).map(|function| loaded.with_surroundings(function))
        });
        Ok(Found { functions: functions.collect::<Result<_, _>>()?, nothing: None })
    }

    /// [`SymbolSet::find`] for several selectors, in their order; of those without a match, only the
    /// first 12 are told which names are near. They are searched side by side, each processor some.
    ///
    /// # Errors
    /// The first of [`SymbolSet::find`].
    pub fn find_all(
        &self,
        selectors: &[&Selector],
        limit: usize,
    ) -> Result<Vec<Found>, SymbolError> {
        let helpers = thread::available_parallelism().map_or(1, usize::from).min(SEARCHERS);
        let share = selectors.len().div_ceil(helpers).max(1);
        let find = |selectors: &[&Selector]| -> Result<Vec<Found>, SymbolError> {
            let each = selectors.iter().map(|of| self.find_and_explain(of, limit, false));
            each.collect()
        };
        let mut shares = selectors.chunks(share);
        let Some(first) = shares.next() else { return Ok(Vec::new()) };
        let mut found = thread::scope(|scope| {
            let others: Vec<_> =
                shares.map(|share| (share, scope.spawn(move || find(share)))).collect();
            let mut found = find(first)?;
            for (share, searching) in others {
                // One that failed to run is done again here, where it is seen to fail.
                found.extend(searching.join().unwrap_or_else(|_| find(share))?);
            }
            Ok(found)
        })?;
        let missing = found.iter_mut().zip(selectors);
        let missing = missing.filter(|(found, _)| found.nothing == Some(Nothing::NotCompared));
        for (found, selector) in missing.take(EXPLAINED) {
            *found = self.find(selector, limit)?;
        }
        Ok(found)
    }

    /// Every copy of a function in whatever object has one: the executable and all libraries. What
    /// cannot be read is passed over, with a warning.
    #[must_use]
    pub fn everywhere(&self, select: &Select) -> Vec<Function> {
        let mut searched = Vec::new();
        for id in (0..self.objects.len() as u16).map(ObjectId) {
            match self.load(id) {
                Ok(loaded) => searched.push((id, loaded)),
                Err(error) => not_searched(&error),
            }
        }
        let found = hits(&searched, &Wanted::new(select));
        let functions = found.into_iter().filter_map(|(id, loaded, hit)| {
            loaded.function(id, hit).ok().map(|function| loaded.with_surroundings(function))
        });
        functions.collect()
    }

    /// The function that begins at an address of an object: what a jump there calls. Stubs of the
    /// linker (PLT) are none.
    #[must_use]
    pub fn function_at(&self, object: ObjectId, address: VirtAddr) -> Option<Function> {
        let loaded = self.load(object).ok()?;
        if loaded.is_inside(address.0) {
            return None;
        }
        let function = loaded.around(object, address.0).ok().flatten()?;
        (function.code.address == address).then(|| loaded.with_surroundings(function))
    }

    /// The file and line at which each of an object's functions begins; none where its debug
    /// information does not tell.
    #[must_use]
    pub fn source_lines(&self, id: ObjectId, functions: &[VirtAddr]) -> Vec<Option<SourceLine>> {
        let Some(object) = self.objects.get(usize::from(id.0)) else {
            return vec![None; functions.len()];
        };
        let of_go = |address: &VirtAddr| self.load(id).ok()?.go_line(address.0);
        let go: Vec<Option<SourceLine>> = functions.iter().map(of_go).collect();
        if go.iter().all(Option::is_some) {
            return go;
        }
        let native = source::lines(&object.open_path, functions);
        go.into_iter().zip(native).map(|(go, native)| go.or(native)).collect()
    }

    /// The version of Go that built an object; empty if it is a Go program and does not say. None
    /// where there is no Go code.
    #[must_use]
    pub fn go_version(&self, id: ObjectId) -> Option<&str> {
        let go = self.load(id).ok()?.go()?;
        Some(go.version().unwrap_or_default())
    }

    /// The types of an object, if it is a Go program; read on first use.
    ///
    /// # Errors
    /// [`SymbolError`] if it is none, or its types cannot be read.
    pub fn go_types(&self, id: ObjectId) -> Result<&GoTypes, SymbolError> {
        self.load(id)?.go_types()
    }

    /// What the arguments of the Go function look like that begins at an address, if its compiler
    /// left that.
    #[must_use]
    pub fn argument_shape(&self, id: ObjectId, address: VirtAddr) -> Option<ArgumentShape> {
        self.load(id).ok()?.argument_shape(address.0)
    }

    /// Whether an object is the one a selector names: by file name, or by path if the glob has a
    /// slash.
    pub(crate) fn is_named(&self, id: ObjectId, pattern: &str) -> bool {
        self.objects.get(usize::from(id.0)).is_some_and(|object| {
            if pattern.contains('/') {
                glob(pattern, &object.path.to_string_lossy())
            } else {
                glob(pattern, &object.file_name())
            }
        })
    }

    pub(super) const fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn load(&self, id: ObjectId) -> Result<&Loaded, SymbolError> {
        let object = self.objects.get(usize::from(id.0)).ok_or_else(|| SymbolError::Broken {
            file: PathBuf::new(),
            reason: format!("no object {} in this target", id.0),
        })?;
        object
            .loaded
            .get_or_init(|| Loaded::read(object.elf()?, &object.path, &self.root))
            .as_ref()
            .map_err(Clone::clone)
    }

    /// Why nothing was found in the objects searched, of which the first few were meant.
    fn explain(
        &self,
        searched: &[(ObjectId, &Loaded)],
        meant: usize,
        wanted: &Wanted<'_>,
        compare: bool,
    ) -> Nothing {
        let objects: Vec<&Loaded> = searched.iter().map(|&(_, loaded)| loaded).collect();
        // In a stripped object what was meant is probably there, but has no name.
        let stripped: Vec<String> = searched
            .iter()
            .take(meant)
            .filter_map(|&(id, loaded)| {
                let name = self.objects.get(usize::from(id.0))?.file_name();
                Some(format!("{name}: {}", loaded.stripped()?))
            })
            .collect();
        let nearest = |pattern: &Pattern| {
            if compare { nearest(&objects, pattern, stripped.is_empty()) } else { Vec::new() }
        };
        let (imported, near) = match wanted {
            Wanted::Name(pattern) => {
                let imported = objects.iter().flat_map(|object| object.imports(pattern)).collect();
                let shown = |near: Near| match near.name.full {
                    full if pattern.has_parameters() && full.len() <= SHOWN => full,
                    _ if pattern.has_parameters() => format!("{}(…)", near.name.base),
                    _ => near.name.base,
                };
                (imported, unique(nearest(pattern).into_iter().map(shown)))
            }
            Wanted::Linkage(linkage) => {
                let imported = objects.iter().any(|object| object.imports_linkage(linkage));
                let pattern = Pattern::new(&name::read(linkage).full);
                let near = nearest(&pattern).into_iter().map(|near| near.linkage);
                let imported = if imported { vec![(*linkage).to_owned()] } else { Vec::new() };
                (imported, unique(near))
            }
            Wanted::Address(address) => return Nothing::NoAddress(*address),
        };
        if !imported.is_empty() {
            return Nothing::NoCode(unique(imported.into_iter()));
        }
        let go: Vec<String> = objects
            .iter()
            .take(meant)
            .filter_map(|object| Some(object.go()?.error()?.to_string()))
            .collect();
        if !go.is_empty() {
            return Nothing::NoGo(go);
        }
        if !compare {
            return Nothing::NotCompared;
        }
        if !stripped.is_empty() && near.is_empty() {
            return Nothing::Stripped(stripped);
        }
        Nothing::NoName(near)
    }
}

/// That an object is passed over; of a process that has ended that goes without saying.
fn not_searched(error: &SymbolError) {
    if error.is_gone() {
        tracing::debug!(%error, "not searched");
    } else {
        tracing::warn!(%error, "not searched");
    }
}

type Place<'a> = (ObjectId, &'a Loaded, Hit);

/// What matches in some objects, by object and address, one an address.
fn hits<'a>(objects: &[(ObjectId, &'a Loaded)], wanted: &Wanted<'_>) -> Vec<Place<'a>> {
    let matching = |loaded: &Loaded| match wanted {
        Wanted::Name(pattern) => loaded.distinct(loaded.matching(pattern)),
        Wanted::Linkage(linkage) => loaded.distinct(loaded.linked_as(linkage)),
        Wanted::Address(_) => Vec::new(),
    };
    let places = objects
        .iter()
        .flat_map(|&(id, loaded)| matching(loaded).into_iter().map(move |hit| (id, loaded, hit)));
    places.collect()
}

fn at_address(objects: &[(ObjectId, &Loaded)], address: VirtAddr) -> Result<Found, SymbolError> {
    let mut functions = Vec::new();
    for (id, loaded) in objects {
        let function = loaded.around(*id, address.0)?;
        functions.extend(function.map(|function| loaded.with_surroundings(function)));
    }
    let nothing = functions.is_empty().then_some(Nothing::NoAddress(address));
    Ok(Found { functions, nothing })
}

fn nothing(why: Nothing) -> Found {
    Found { functions: Vec::new(), nothing: Some(why) }
}

fn too_many(select: &Select, hits: &[Place<'_>], limit: usize) -> SymbolError {
    let (Select::Function(pattern) | Select::Linkage(pattern)) = select else {
        return SymbolError::TooMany {
            pattern: String::new(),
            count: hits.len(),
            limit,
            examples: Vec::new(),
        };
    };
    let mut names = unique(hits.iter().map(|(_, _, hit)| hit.name.base.clone()));
    // The shortest say the most.
    names.sort_by_key(String::len);
    SymbolError::TooMany {
        pattern: pattern.clone(),
        count: hits.len(),
        limit,
        examples: names.into_iter().take(EXAMPLES).collect(),
    }
}

/// Each once, in the order of their first appearance.
fn unique(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = rustc_hash::FxHashSet::default();
    names.filter(|name| seen.insert(name.clone())).collect()
}
