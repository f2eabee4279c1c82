//! Python packages in virtual environments of their own, every package by exact version, so that a
//! test that passed passes again.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, Step};
use crate::command::{run_logged, stdout_of};
use crate::host;

/// Milvus Lite and its client.
const MILVUS_LITE: Packages = Packages {
    name: "milvus-lite",
    pins: include_str!("../milvus-lite.txt"),
    doing: "installing Milvus Lite and its client from PyPI (about 40 s)",
};

/// Query engines that live inside Python, and `PostgreSQL`.
pub(crate) const ENGINES: Packages = Packages {
    name: "engines",
    pins: include_str!("../engines.txt"),
    doing: "installing DuckDB, tantivy and PostgreSQL from PyPI (about 20 s)",
};

/// SQLite, in an environment of its own: only the safety suite asks for it.
pub(crate) const SQLITE: Packages = Packages {
    name: "sqlite",
    pins: include_str!("../sqlite.txt"),
    doing: "installing SQLite from PyPI (about 5 s)",
};

/// What is in one environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Packages {
    /// The environment's directory in the cache, under `venv`.
    name: &'static str,
    /// A requirements file.
    pins: &'static str,
    doing: &'static str,
}

impl Packages {
    /// Installs the packages if they are not there: the environment.
    ///
    /// # Errors
    /// When Python is missing or too old, or pip fails.
    pub(crate) fn ensure(&self, cache: &Cache) -> Result<PathBuf> {
        let Self { name, pins, doing } = *self;
        let path = cache.join("venv").join(name);
        let python = path.join("bin/python");
        let step = Step {
            name,
            key: pins,
            doing,
            files: std::slice::from_ref(&python),
            probe: &|| {
                stdout_of(&mut pip(&python, "freeze")).is_ok_and(|list| has_pins(pins, &list))
            },
        };
        cache.ensure(&step, |workshop| {
            host::ensure_venv_module(cache)?;
            create(&path, &workshop.log)?;
            let file = workshop.scratch.join("pins.txt");
            std::fs::write(&file, pins)
                .with_context(|| format!("cannot write {}", file.display()))?;
            run_logged(pip(&python, "install").arg("--requirement").arg(&file), &workshop.log)
        })?;
        Ok(path)
    }
}

/// The virtual environment with Milvus Lite.
#[derive(Debug, Clone)]
pub(crate) struct MilvusVenv {
    path: PathBuf,
    library: PathBuf,
}

impl MilvusVenv {
    /// Installs the packages if they are not there.
    ///
    /// # Errors
    /// As [`Packages::ensure`].
    pub(crate) fn ensure(cache: &Cache) -> Result<Self> {
        let path = MILVUS_LITE.ensure(cache)?;
        let library = stdout_of(Command::new(path.join("bin/python")).args([
            "-c",
            "import importlib.util as u, pathlib as p; \
             print(p.Path(u.find_spec('milvus_lite').origin).parent / 'lib')",
        ]))?;
        Ok(Self { path, library: PathBuf::from(library.trim()) })
    }

    /// Its Python, which has the client.
    pub(crate) fn python(&self) -> PathBuf {
        self.path.join("bin/python")
    }

    /// The server program.
    pub(crate) fn server(&self) -> PathBuf {
        self.library.join("milvus")
    }

    /// Where the server's shared objects are, for `LD_LIBRARY_PATH`.
    pub(crate) fn library(&self) -> &Path {
        &self.library
    }
}

/// Makes an empty virtual environment at `path`, in place of what is there.
///
/// # Errors
/// When Python cannot.
pub(crate) fn create(path: &Path, log: &Path) -> Result<()> {
    run_logged(Command::new("python3").args(["-m", "venv", "--clear"]).arg(path), log)
}

/// `python -m pip VERB`: the environment's own `pip` script names an absolute path.
pub(crate) fn pip(python: &Path, verb: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-m", "pip", verb, "--disable-pip-version-check", "--no-input"]);
    if verb == "freeze" {
        // It hides setuptools otherwise.
        command.arg("--all");
    }
    command
}

fn has_pins(pins: &str, freeze: &str) -> bool {
    packages(pins).all(|pin| freeze.lines().any(|line| line.eq_ignore_ascii_case(pin)))
}

fn packages(pins: &str) -> impl Iterator<Item = &str> {
    pins.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_missing_from_the_list_is_noticed() {
        for Packages { pins, .. } in [MILVUS_LITE, ENGINES, SQLITE] {
            assert!(has_pins(pins, pins));
            let first = packages(pins).next().unwrap();
            assert!(!has_pins(pins, &pins.replace(first, "other==1")));
            assert!(!has_pins(pins, ""));
        }
    }

    #[test]
    fn every_package_is_pinned() {
        for Packages { pins, .. } in [MILVUS_LITE, ENGINES, SQLITE] {
            for line in packages(pins) {
                assert!(line.contains("=="), "{line}");
            }
        }
    }
}
