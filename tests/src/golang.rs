//! Targets in Go, built by the Go that `cargo xtask setup` sees to.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::environment::{cache, repository, scratch};
use crate::process::tail;

/// The `go` that setup installed, which it does only where the one on `PATH` is too old; else that.
///
/// # Errors
/// When there is none.
pub fn go() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|directory| directory.join("go"));
    let installed = cache().join("venv/go/bin/go");
    std::iter::once(installed)
        .chain(on_path)
        .find(|go| go.is_file())
        .context("there is no Go here: run `cargo xtask setup go`")
}

/// Builds the module `fixtures/MODULE` with `flags`, with C in it or without.
///
/// # Errors
/// When there is no Go, or it refuses the source.
pub fn build(module: &str, cgo: bool, flags: &[&str]) -> Result<PathBuf> {
    let built = scratch("go")?.join(module);
    let mut command = Command::new(go()?);
    // The Go that is there builds it, and no settings made for other modules concern it.
    command.env("GOTOOLCHAIN", "local").env("GOFLAGS", "").env("GOWORK", "off");
    command.env("CGO_ENABLED", if cgo { "1" } else { "0" });
    command.current_dir(repository().join("tests/fixtures").join(module));
    command.args(["build", "-buildvcs=false"]).args(flags).arg("-o").arg(&built).arg(".");
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", tail(&said));
    Ok(built)
}
