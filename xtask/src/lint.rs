//! `lint`: everything a reviewer should not have to say.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::cache::replace_file;
use crate::cli::Context;
use crate::command::{run as run_program, stdout_of};
use crate::toolchain::Toolchain;
use crate::{build, ebpf, go_facts, say};

/// Files that `qprof` itself writes, as (path, its arguments).
const GENERATED: &[(&str, &[&str])] = &[
    ("docs/symbol-map.schema.json", &["generate", "schema", "map"]),
    ("docs/config.schema.json", &["generate", "schema", "config"]),
];

/// So many minor versions of Go are asked again each time; what older ones say cannot change.
const NEWEST_GO: usize = 2;

const HOST_PACKAGES: [&str; 8] =
    ["-p", "profiler-common", "-p", "profiler-user", "-p", "profiler-tests", "-p", "xtask"];

type Check = fn(&Context, &Toolchain, bool) -> Result<()>;

const CHECKS: [(&str, Check); 5] = [
    ("fmt", fmt),
    ("clippy", clippy),
    ("clippy of the kernel side", clippy_ebpf),
    ("rustdoc", rustdoc),
    ("generated files", generated),
];

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let fix = args.flag("--fix");
    args.finish()?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let failed = all(context, &toolchain, fix);
    if failed.is_empty() {
        say::step("lint", "clean");
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{}", failed.join("; "));
}

/// Runs every check, also after one failed; what failed and why, an entry a check.
pub(crate) fn all(context: &Context, toolchain: &Toolchain, fix: bool) -> Vec<String> {
    CHECKS
        .iter()
        .filter_map(|(name, check)| {
            say::step("lint", name);
            check(context, toolchain, fix).err().map(|error| format!("{name}: {error:#}"))
        })
        .collect()
}

fn fmt(_: &Context, toolchain: &Toolchain, fix: bool) -> Result<()> {
    let mut cargo = toolchain.cargo();
    cargo.args(["fmt", "--all"]);
    if !fix {
        cargo.arg("--check");
    }
    run_program(&mut cargo)
}

fn clippy(_: &Context, toolchain: &Toolchain, _: bool) -> Result<()> {
    let mut cargo = toolchain.cargo();
    cargo.args(["clippy", "--locked", "--all-targets"]).args(HOST_PACKAGES);
    run_program(cargo.args(["--", "-D", "warnings"]))
}

fn clippy_ebpf(context: &Context, toolchain: &Toolchain, _: bool) -> Result<()> {
    run_program(ebpf::cargo(context, toolchain, "clippy", &[])?.args(["--", "-D", "warnings"]))
}

fn rustdoc(_: &Context, toolchain: &Toolchain, _: bool) -> Result<()> {
    let mut cargo = toolchain.cargo();
    cargo.env("RUSTDOCFLAGS", "-D warnings").args(["doc", "--locked", "--no-deps", "--lib"]);
    run_program(cargo.args([
        "-p",
        "profiler-common",
        "-p",
        "profiler-user",
        "-p",
        "profiler-tests",
    ]))
}

fn generated(context: &Context, toolchain: &Toolchain, fix: bool) -> Result<()> {
    let qprof = build::release(context, toolchain)?;
    let mut stale = Vec::new();
    for (file, words) in GENERATED {
        let text = stdout_of(Command::new(&qprof).args(*words))?;
        if !matches_file(&context.root.join(file), &text, fix)? {
            stale.push(*file);
        }
    }
    if !stale.is_empty() {
        bail!("{} not what qprof generates: run `cargo xtask lint --fix`", stale.join(", "));
    }
    if !go_facts::is_current(context, &qprof, NEWEST_GO, fix)? {
        bail!("{} not what Go's toolchains say: run `cargo xtask lint --fix`", go_facts::TABLE);
    }
    Ok(())
}

/// Whether `file` holds `text`; with `fix` it does afterwards.
fn matches_file(file: &Path, text: &str, fix: bool) -> Result<bool> {
    if fs::read_to_string(file).is_ok_and(|kept| kept == text) {
        return Ok(true);
    }
    if !fix {
        return Ok(false);
    }
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    }
    replace_file(file, text.as_bytes())?;
    Ok(true)
}
