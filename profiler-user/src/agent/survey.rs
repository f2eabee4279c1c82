//! Which of all maps fit a process: what `qprof maps -p` shows.

use super::fitting::{Fit, fit};
use super::prepare::{PrepareError, choose};
use crate::config::{Library, SymbolMap};
use crate::model::Pid;
use crate::symbols::SymbolSet;
use crate::target::Target;

/// What the maps there are find in a process.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    /// The process's name.
    pub(crate) name: String,
    /// How many objects are mapped into it.
    pub(crate) objects: usize,
    /// For each map of the library, what its `[match]` found.
    pub(crate) fits: Vec<Fit>,
    /// The map that `run` takes by itself, or why it takes none.
    pub(crate) chosen: Result<String, String>,
}

/// Compares every map with a process.
///
/// # Errors
/// The process cannot be profiled.
pub(crate) fn survey(pid: Pid, library: &Library) -> Result<Survey, PrepareError> {
    let target = Target::open(pid)?;
    let symbols = SymbolSet::new(&target);
    let fits: Vec<_> =
        library.known().iter().map(|known| fit(&known.map, &target, &symbols)).collect();
    let maps = library.known().iter().map(|known| &known.map).zip(&fits);
    let fitting: Vec<&SymbolMap> = maps.filter(|(_, fit)| fit.fits).map(|(map, _)| map).collect();
    let known: Vec<_> = library.known().iter().map(|known| known.map.name.as_str()).collect();
    let chosen = choose(&target, &fitting, &known)
        .map(|map| map.name.clone())
        .map_err(|error| error.to_string());
    Ok(Survey { name: target.name.clone(), objects: target.objects.len(), fits, chosen })
}
