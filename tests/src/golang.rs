//! Targets in Go, built by the Go that `cargo xtask setup` sees to.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
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

/// As [`build`], by a release of Go that is not there: `1.21.13`. It is fetched as the Go module it
/// is, and goes again; what it built is kept in the cache, per source, flags and release.
///
/// # Errors
/// When the release cannot be had, or it refuses the source.
pub fn build_by(release: &str, module: &str, cgo: bool, flags: &[&str]) -> Result<PathBuf> {
    let source = repository().join("tests/fixtures").join(module);
    let mut hash = DefaultHasher::new();
    (release, cgo, flags).hash(&mut hash);
    hash_tree(&source, &mut hash)?;
    let directory = cache().join("go-fixtures");
    fs::create_dir_all(&directory)?;
    let built = directory.join(format!("{module}-go{release}-{:016x}", hash.finish()));
    // One at a time, for a toolchain is large; whoever waited finds what the other has built.
    let lock = File::create(directory.join("lock"))?;
    lock.lock()?;
    if built.is_file() {
        return Ok(built);
    }
    // Under the lock what lies there was left by a run that was killed.
    let workshop = directory.join("workshop");
    if workshop.exists() {
        fs::remove_dir_all(&workshop)?;
    }
    fs::create_dir(&workshop)?;
    let made = make(release, &source, &workshop, cgo, flags);
    let moved = made.and_then(|half| Ok(fs::rename(half, &built)?));
    fs::remove_dir_all(&workshop)?;
    moved.map(|()| built)
}

/// Builds it in `workshop`, by a toolchain that is fetched there.
fn make(
    release: &str,
    source: &Path,
    workshop: &Path,
    cgo: bool,
    flags: &[&str],
) -> Result<PathBuf> {
    let half = workshop.join("built");
    let go = fetch(release, workshop)?;
    let mut command = Command::new(go);
    bare(&mut command, workshop);
    // Go 1.19 builds nothing when it lies in the module cache that it uses.
    command.env("GOMODCACHE", workshop.join("modules"));
    command.env("GOCACHE", workshop.join("cache"));
    command.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", if cgo { "1" } else { "0" });
    command.current_dir(source);
    command.args(["build", "-buildvcs=false"]).args(flags).arg("-o").arg(&half).arg(".");
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", tail(&said));
    Ok(half)
}

/// The program `go` of a release, below `directory`.
fn fetch(release: &str, directory: &Path) -> Result<PathBuf> {
    let mut command = Command::new(go()?);
    bare(&mut command, directory);
    command.env("GOTOOLCHAIN", format!("go{release}"));
    command.env("GOMODCACHE", directory.join("toolchain"));
    command.current_dir(directory).args(["env", "GOROOT"]);
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cannot fetch Go {release}: {}", tail(&said));
    let root = String::from_utf8(output.stdout)?;
    Ok(Path::new(root.trim()).join("bin/go"))
}

/// No settings made for other modules concern it, and what it writes can be removed.
fn bare(command: &mut Command, directory: &Path) {
    command.env_remove("GOROOT").env("GOFLAGS", "-modcacherw").env("GOWORK", "off");
    // Experiments of the user's would be built in; so would other processors.
    command.env("GOEXPERIMENT", "").env("GOOS", "linux").env("GOARCH", "amd64");
    command.env("GOTMPDIR", directory);
}

fn hash_tree(directory: &Path, hash: &mut DefaultHasher) -> Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        entry.file_name().hash(hash);
        if entry.file_type()?.is_dir() {
            hash_tree(&entry.path(), hash)?;
        } else {
            fs::read(entry.path())?.hash(hash);
        }
    }
    Ok(())
}
