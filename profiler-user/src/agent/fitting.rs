//! Whether a map fits a target, and why: what detection goes by and `qprof maps -p` shows.

use serde::Serialize;

use crate::config::{Select, Selector, SymbolMap};
use crate::symbols::{SymbolError, SymbolSet, build_id_of};
use crate::target::{ObjectId, Target};

/// What a map's `[match]` found in a target.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fit {
    /// Whether one object is as the map wants it.
    pub(crate) fits: bool,
    /// The objects whose path is right.
    pub(crate) objects: Vec<ObjectFit>,
}

/// An object whose path a map's `[match]` names.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ObjectFit {
    /// Its path, as the target sees it.
    pub(crate) path: String,
    /// Whether it has all the functions.
    pub(crate) fits: bool,
    /// The functions it must have.
    pub(crate) functions: Vec<FunctionFit>,
    /// Its build id.
    pub(crate) build_id: Option<String>,
    /// Its version, if the map was checked with this very build; there is no other way to know it.
    pub(crate) version: Option<String>,
}

/// A function that an object must have.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FunctionFit {
    /// As the map names it.
    pub(crate) function: String,
    /// Whether it is there.
    pub(crate) found: bool,
    /// If not, why.
    pub(crate) why: Option<String>,
}

/// Looks for what a map's `[match]` wants. A map without one fits nothing.
pub(crate) fn fit(map: &SymbolMap, target: &Target, symbols: &SymbolSet) -> Fit {
    let Some(wanted) = &map.matching else { return Fit::default() };
    let objects = (0_u16..).map(ObjectId).zip(&target.objects);
    let objects: Vec<ObjectFit> = objects
        .filter(|(id, _)| symbols.is_named(*id, &wanted.object))
        .map(|(_, object)| {
            let functions: Vec<_> = wanted
                .functions
                .iter()
                .map(|function| find(symbols, function, object.file_name()))
                .collect();
            let id = object.open().ok().and_then(build_id_of);
            let checked = wanted.builds.iter().find(|build| Some(&build.id) == id.as_ref());
            ObjectFit {
                path: object.path.display().to_string(),
                fits: functions.iter().all(|function| function.found),
                functions,
                version: checked.map(|build| build.version.clone()),
                build_id: id.map(|id| id.to_string()),
            }
        })
        .collect();
    Fit { fits: objects.iter().any(|object| object.fits), objects }
}

fn find(symbols: &SymbolSet, function: &str, object: String) -> FunctionFit {
    let selector = Selector { select: Select::Function(function.to_owned()), object: Some(object) };
    let (found, why) = match symbols.find(&selector, usize::MAX) {
        Ok(found) => (!found.functions.is_empty(), found.nothing.map(|why| why.to_string())),
        // There are some.
        Err(SymbolError::TooMany { .. }) => (true, None),
        Err(error) => (false, Some(error.to_string())),
    };
    FunctionFit { function: function.to_owned(), found, why }
}
