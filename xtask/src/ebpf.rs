//! `build-ebpf`: the kernel side, byte for byte the same on every machine.
//!
//! The built object is part of the repository, so that `cargo install` needs no bpf-linker.
//! What could differ between machines is pinned (compiler, linker, core's source) or mapped
//! away (paths).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};

use crate::args::Args;
use crate::cache::{Scratch, replace_file};
use crate::cli::Context;
use crate::command::run;
use crate::toolchain::{Toolchain, cleaned};
use crate::{linker, say};

/// The object in the repository.
const OBJECT: &str = "profiler-user/ebpf/qprof-bpf.o";
const TARGET: &str = "bpfel-unknown-none";

pub(crate) fn run_command(context: &Context, mut args: Args) -> Result<ExitCode> {
    let only_compare = args.flag("--check");
    args.finish()?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    if only_compare {
        check(context, &toolchain)?;
        return Ok(ExitCode::SUCCESS);
    }
    let bytes = build(context, &toolchain)?;
    let object = context.root.join(OBJECT);
    if fs::read(&object).is_ok_and(|old| old == bytes) {
        say::step("build-ebpf", &format!("{OBJECT} is unchanged"));
    } else {
        fs::create_dir_all(object.parent().unwrap_or(&context.root))?;
        replace_file(&object, &bytes)?;
        say::step("build-ebpf", &format!("{OBJECT} is new: commit it with the change"));
    }
    Ok(ExitCode::SUCCESS)
}

/// # Errors
/// When the object in the repository is not what its source gives.
pub(crate) fn check(context: &Context, toolchain: &Toolchain) -> Result<()> {
    let built = build(context, toolchain)?;
    let object = context.root.join(OBJECT);
    let kept = fs::read(&object).with_context(|| {
        format!("cannot read {}: run `cargo xtask build-ebpf`", object.display())
    })?;
    if let Some(difference) = difference(&kept, &built) {
        // Kept for whoever wants to compare them.
        let beside = context.root.join("target/qprof-bpf.rebuilt.o");
        replace_file(&beside, &built)?;
        bail!(
            "{OBJECT} is not what its source gives ({difference}; the rebuilt one is {}): \
             run `cargo xtask build-ebpf` and commit the object",
            beside.display()
        );
    }
    say::step("build-ebpf", &format!("{OBJECT} is what its source gives"));
    Ok(())
}

/// Where two objects part, in words.
fn difference(kept: &[u8], built: &[u8]) -> Option<String> {
    if kept == built {
        return None;
    }
    let at = kept.iter().zip(built).take_while(|(a, b)| a == b).count();
    Some(format!("{} bytes, rebuilt {}, first difference at {at:#x}", kept.len(), built.len()))
}

/// Cargo set up to compile the kernel side, with `flags` for rustc beside the ones it needs.
///
/// # Errors
/// When the checkout's path cannot be resolved.
pub(crate) fn cargo(
    context: &Context,
    toolchain: &Toolchain,
    verb: &str,
    flags: &[&str],
) -> Result<Command> {
    // Cargo resolves links in its working directory, and paths are mapped by their text.
    let root = fs::canonicalize(&context.root)
        .with_context(|| format!("cannot resolve {}", context.root.display()))?;
    // The sources must be there before their folders can be named.
    run(toolchain.cargo().current_dir(&root).args(["fetch", "--locked", "--quiet"]))?;
    let mut encoded = OsString::from("--cfg=bpf_target_arch=\"x86_64\"");
    let mut flag = |text: OsString| {
        encoded.push("\x1f");
        encoded.push(text);
    };
    for text in flags {
        flag(text.into());
    }
    flag(remap(&root, "qprof"));
    // A folder a registry, named after its host: the object must not depend on it, nor name it.
    for registry in registries()? {
        flag(remap(&registry, "cargo"));
    }
    flag(remap(&toolchain.sysroot().join("lib/rustlib/src/rust"), "rust"));
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(&root)
        .env("CARGO_TARGET_DIR", root.join("target"))
        .env("CARGO_ENCODED_RUSTFLAGS", encoded)
        // Building core is not stable; the compiler is pinned, so it may.
        .env("RUSTC_BOOTSTRAP", "1")
        .args([verb, "--locked", "--profile", "bpf", "-p", "profiler-ebpf"])
        .args(["--target", TARGET, "-Z", "build-std=core"]);
    Ok(cargo)
}

fn remap(from: &Path, to: &str) -> OsString {
    let mut flag = OsString::from("--remap-path-prefix=");
    flag.push(from);
    flag.push("=");
    flag.push(to);
    flag
}

/// Where cargo unpacks what it downloads: a folder a registry.
fn registries() -> Result<Vec<PathBuf>> {
    let sources = cargo_home()?.join("registry/src");
    let error = || format!("cannot read {}", sources.display());
    let mut folders = Vec::new();
    for entry in fs::read_dir(&sources).with_context(error)? {
        folders.push(entry.with_context(error)?.path());
    }
    folders.sort();
    Ok(folders)
}

fn cargo_home() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("CARGO_HOME") {
        return Ok(PathBuf::from(home));
    }
    let home = std::env::var_os("HOME").context("neither CARGO_HOME nor HOME is set")?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// Compiles and links the kernel side; the bytes of the object.
fn build(context: &Context, toolchain: &Toolchain) -> Result<Vec<u8>> {
    linker::ensure(&context.cache, toolchain)?;
    say::step("build-ebpf", "compiling the kernel side");
    run(&mut cargo(context, toolchain, "build", &["-Cdebuginfo=2", "-Clink-arg=--btf"])?)?;
    let scratch = Scratch::new(context.root.join("target/ebpf-object"))?;
    let object = scratch.join("qprof-bpf.o");
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // DWARF goes, .BTF and .BTF.ext stay: they are what the kernel reads. The compiler brings
    // this objcopy, which needs the compiler's LLVM.
    run(cleaned(Command::new(
        toolchain.sysroot().join("lib/rustlib").join(host).join("bin/rust-objcopy"),
    ))
    .env("LD_LIBRARY_PATH", toolchain.sysroot().join("lib"))
    .arg("--strip-debug")
    .arg(context.root.join("target").join(TARGET).join("bpf/qprof-bpf"))
    .arg(&object))?;
    fs::read(&object).with_context(|| format!("cannot read {}", object.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_located() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(
            difference(b"abc", b"abd").unwrap(),
            "3 bytes, rebuilt 3, first difference at 0x2"
        );
        assert!(difference(b"abc", b"ab").unwrap().ends_with("0x2"));
    }
}
