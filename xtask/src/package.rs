//! `package`: the release archive, the same bytes for the same commit.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::args::Args;
use crate::cache::Scratch;
use crate::cli::Context;
use crate::command::{run as run_program, stdout_of};
use crate::toolchain::Toolchain;
use crate::{build, say};

const DOCUMENTS: [&str; 4] = ["LICENSE-APACHE", "LICENSE-MIT", "README.md", "CHANGELOG.md"];
/// What `qprof generate` writes, as (its arguments, file).
const GENERATED: [(&[&str], &str); 4] = [
    (&["man"], "qprof.1"),
    (&["completions", "bash"], "completions/qprof.bash"),
    (&["completions", "fish"], "completions/qprof.fish"),
    (&["completions", "zsh"], "completions/_qprof"),
];

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    args.finish()?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let qprof = build::release(context, &toolchain)?;
    let version = stdout_of(Command::new(&qprof).arg("--version"))?;
    let version = version.split_whitespace().last().context("qprof --version printed nothing")?;
    let name = format!("qprof-{version}-{}-linux", std::env::consts::ARCH);
    let package = context.root.join("target/package");
    let scratch = Scratch::new(package.join("staged"))?;
    let staged = scratch.join(&name);
    fs::create_dir_all(staged.join("completions"))?;
    copy(&qprof, &staged.join("qprof"))?;
    for file in DOCUMENTS {
        copy(&context.root.join(file), &staged.join(file))?;
    }
    for (words, file) in GENERATED {
        let text = stdout_of(Command::new(&qprof).arg("generate").args(words))?;
        let file = staged.join(file);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let archive = package.join(format!("{name}.tar.gz"));
    let committed = stdout_of(Command::new("git").arg("-C").arg(&context.root).args([
        "log",
        "-1",
        "--format=%ct",
    ]))?;
    run_program(
        Command::new("tar")
            .args(["--sort=name", "--owner=0", "--group=0", "--numeric-owner"])
            .arg(format!("--mtime=@{}", committed.trim()))
            .args(["--use-compress-program=gzip -9 -n", "-C"])
            .arg(scratch.path())
            .arg("-cf")
            .arg(&archive)
            .arg(&name),
    )?;
    let size = fs::metadata(&archive)?.len();
    say::out(&format!("{} ({} KiB)", archive.display(), size.div_ceil(1024)));
    Ok(ExitCode::SUCCESS)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("cannot copy {}", from.display()))?;
    Ok(())
}
