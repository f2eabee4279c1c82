//! `build`: the release binary.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::args::Args;
use crate::cli::Context;
use crate::command;
use crate::say;
use crate::toolchain::Toolchain;

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    args.finish()?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    say::out(&release(context, &toolchain)?.display().to_string());
    Ok(ExitCode::SUCCESS)
}

/// Builds `target/release/qprof`; its absolute path.
///
/// # Errors
/// When cargo fails.
pub(crate) fn release(context: &Context, toolchain: &Toolchain) -> Result<PathBuf> {
    say::step("build", "target/release/qprof");
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--locked", "--release", "-p", "profiler-user", "--bin", "qprof"]);
    command::run(&mut cargo)?;
    let program = context.root.join("target/release/qprof");
    if !program.exists() {
        bail!("cargo built, yet there is no {}", program.display());
    }
    Ok(program)
}
