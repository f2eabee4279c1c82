//! The functions of a program, for tests that probe very many of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use object::{Object as _, ObjectSymbol as _, SymbolKind};

/// The functions with code of their own in a file, as the linker names them.
///
/// # Errors
/// When it cannot be read as an ELF file.
pub fn of(path: &Path) -> Result<BTreeSet<String>> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    // One name an address, and one of a function's clones: more would be spans of one function.
    let mut names: BTreeMap<u64, &str> = BTreeMap::new();
    for symbol in file.symbols().chain(file.dynamic_symbols()) {
        let is_code = symbol.kind() == SymbolKind::Text && symbol.size() > 0;
        if is_code && symbol.is_definition() {
            names.entry(symbol.address()).or_insert(symbol.name()?);
        }
    }
    let whole = names.into_values().filter(|name| !name.contains(".cold"));
    let mut known = BTreeSet::new();
    Ok(whole
        .filter(|name| known.insert(name.split('.').next().unwrap_or(name).to_owned()))
        .map(str::to_owned)
        .collect())
}

/// `count` of them: those first whose names contain one of `favourites`, of the others every
/// so-and-so-manieth.
#[must_use]
pub fn choose(names: &BTreeSet<String>, count: usize, favourites: &[&str]) -> Vec<String> {
    let (mut chosen, others): (Vec<&String>, Vec<&String>) =
        names.iter().partition(|name| favourites.iter().any(|part| name.contains(part)));
    spread(&mut chosen, count);
    let mut others = others;
    spread(&mut others, count - chosen.len());
    chosen.into_iter().chain(others).cloned().collect()
}

fn spread(names: &mut Vec<&String>, count: usize) {
    let all = names.len();
    if all > count {
        let mut at = 0;
        names.retain(|_| {
            at += 1;
            // The step in which the count goes up.
            at * count / all > (at - 1) * count / all
        });
    }
}

/// A map of functions of one object, by their linkage names; `root` is the root.
#[must_use]
pub fn map(object: &str, root: &str, names: &[String]) -> String {
    let mut text = "version = 1\nname = \"many\"\nsystem = \"test\"\n".to_owned();
    let others = names.iter().filter(|name| *name != root);
    for (number, name) in std::iter::once(&root.to_owned()).chain(others).enumerate() {
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "\n[[span]]\nname = \"f{number}\"\nlinkage = \"{name}\"\nobject = \"{object}\"\n\
             root = {}\n",
            number == 0
        );
    }
    text
}
