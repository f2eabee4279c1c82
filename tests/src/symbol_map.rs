//! Symbol maps for fixtures.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use crate::environment::scratch;

/// A symbol map in which every function makes a span of its own name (the part behind the last
/// `::`), with `more` at its end.
#[must_use]
pub fn of(roots: &[&str], inner: &[&str], more: &str) -> String {
    let roots = roots.iter().map(|function| span(function, true));
    let inner = inner.iter().map(|function| span(function, false));
    let spans: String = roots.chain(inner).collect();
    format!("version = 1\nname = \"fixture\"\nsystem = \"test\"\n{spans}{more}")
}

fn span(function: &str, root: bool) -> String {
    let name = function.rsplit("::").next().unwrap_or(function);
    format!(
        "\n[[span]]\nname = \"{name}\"\nfunction = \"{function}\"\nroot = {root}\nrequired = true\n"
    )
}

/// Writes a symbol map to a file of its own.
///
/// # Errors
/// When it cannot be written.
pub fn file(text: &str) -> Result<PathBuf> {
    let path = scratch("map")?.join("map.toml");
    fs::write(&path, text)?;
    Ok(path)
}
