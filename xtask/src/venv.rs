//! Milvus Lite and its client, Python packages in a virtual environment of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, Step};
use crate::command::{run_logged, stdout_of};
use crate::host;

/// Every package by exact version, so that a test that passed passes again.
const PINS: &str = include_str!("../milvus-lite.txt");

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
    /// When Python is missing or too old, or pip fails.
    pub(crate) fn ensure(cache: &Cache) -> Result<Self> {
        let path = cache.join("venv/milvus-lite");
        let python = path.join("bin/python");
        let step = Step {
            name: "milvus-lite",
            key: PINS,
            doing: "installing Milvus Lite and its client from PyPI (about 40 s)",
            files: std::slice::from_ref(&python),
            probe: &|| stdout_of(&mut pip(&python, "freeze")).is_ok_and(|list| has_pins(&list)),
        };
        cache.ensure(&step, |workshop| {
            host::ensure_venv_module(cache)?;
            create(&path, &workshop.log)?;
            let pins = workshop.scratch.join("pins.txt");
            std::fs::write(&pins, PINS)
                .with_context(|| format!("cannot write {}", pins.display()))?;
            run_logged(pip(&python, "install").arg("--requirement").arg(&pins), &workshop.log)
        })?;
        let library = stdout_of(Command::new(&python).args([
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

fn has_pins(freeze: &str) -> bool {
    PINS.lines()
        .filter(|pin| !pin.is_empty() && !pin.starts_with('#'))
        .all(|pin| freeze.lines().any(|line| line.eq_ignore_ascii_case(pin)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_missing_from_the_list_is_noticed() {
        assert!(has_pins(PINS));
        assert!(!has_pins(&PINS.replace("milvus-lite==2.5.1", "milvus-lite==2.5.0")));
        assert!(!has_pins(""));
    }

    #[test]
    fn every_package_is_pinned() {
        for line in PINS.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            assert!(line.contains("=="), "{line}");
        }
    }
}
