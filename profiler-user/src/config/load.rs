//! Which symbol maps there are, and how the ones a user names are put together.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use super::error::MapError;
use super::map::{MapOrigin, SymbolMap};
use super::parse::parse_map;
use super::raw::RawMap;
use crate::model::OrphanPolicy;

/// A symbol map that is part of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// Its name: what `-m` takes.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl BuiltIn {
    /// The map itself.
    ///
    /// # Errors
    ///
    /// As [`parse_map`]; the tests see to it that there are none.
    pub fn parse(&self) -> Result<SymbolMap, MapError> {
        parse_map(self.text, MapOrigin::BuiltIn)
    }
}

/// The symbol maps that are part of the program, by name.
#[must_use]
pub const fn built_in() -> &'static [BuiltIn] {
    &[
        BuiltIn { name: "duckdb", text: include_str!("../../../symbol-maps/duckdb.toml") },
        BuiltIn { name: "influxdb", text: include_str!("../../../symbol-maps/influxdb.toml") },
        BuiltIn {
            name: "milvus-lite",
            text: include_str!("../../../symbol-maps/milvus-lite.toml"),
        },
        BuiltIn { name: "postgres", text: include_str!("../../../symbol-maps/postgres.toml") },
        BuiltIn { name: "prometheus", text: include_str!("../../../symbol-maps/prometheus.toml") },
        BuiltIn { name: "tantivy", text: include_str!("../../../symbol-maps/tantivy.toml") },
    ]
}

/// No map is larger: those of 300 functions have 30 KiB.
const MAX_BYTES: u64 = 1 << 20;

/// Reads the text of a map or a configuration. A device or a file without end must not fill the machine's memory.
pub(super) fn read(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::Error::other("larger than such a file can be (1 MiB)"));
    }
    Ok(text)
}

/// Whether `-m` takes `given` for a path and not for a name.
pub(super) fn names_a_file(given: &str) -> bool {
    given.contains('/') || Path::new(given).extension().is_some_and(|end| end == "toml")
}

/// Several maps as one, the first named first: where two declare the same function, the earlier
/// map holds, so that a map of the user's can stand before a built-in one and change it. The name
/// is all names with `+` between; system, description and `[match]` are the first map's; orphans
/// are kept if one map wants them kept.
///
/// # Errors
///
/// [`MapError::NoMap`], [`MapError::MapTwice`], [`MapError::HandoffTwice`].
pub fn merge(maps: Vec<SymbolMap>) -> Result<SymbolMap, MapError> {
    let mut maps = maps.into_iter();
    let mut merged = maps.next().ok_or(MapError::NoMap)?;
    let mut names = vec![merged.name.clone()];
    let mut givers: HashMap<_, _> =
        merged.handoffs.iter().map(|handoff| (handoff.name.clone(), 0)).collect();
    for map in maps {
        let SymbolMap { name, orphans, mut spans, handoffs, .. } = map;
        if names.contains(&name) {
            return Err(MapError::MapTwice { name });
        }
        for handoff in &handoffs {
            if let Some(first) = givers.insert(handoff.name.clone(), names.len()) {
                return Err(MapError::HandoffTwice {
                    first: names.swap_remove(first),
                    second: name,
                    handoff: handoff.name.to_string(),
                });
            }
        }
        spans.retain(|span| !merged.spans.iter().any(|first| first.selector == span.selector));
        merged.spans.append(&mut spans);
        merged.handoffs.extend(handoffs);
        if orphans == OrphanPolicy::Keep {
            merged.orphans = OrphanPolicy::Keep;
        }
        names.push(name);
    }
    merged.name = names.join("+");
    Ok(merged)
}

/// The JSON Schema of the format, for editors.
#[must_use]
pub fn schema() -> serde_json::Value {
    schemars::schema_for!(RawMap).to_value()
}
