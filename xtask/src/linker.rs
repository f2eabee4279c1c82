//! bpf-linker, linked against the pinned compiler's own LLVM: no LLVM of the system is needed,
//! and the linker always reads the bitcode that the compiler writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache::{Cache, Step};
use crate::command::{run_logged, stdout_of};
use crate::toolchain::{self, Toolchain};

const VERSION: &str = "0.13.0";

/// Builds bpf-linker if it is not there.
///
/// # Errors
/// When the compiler has no shared LLVM, or the build fails.
pub(crate) fn ensure(cache: &Cache, toolchain: &Toolchain) -> Result<()> {
    let program = cache.program("bpf-linker");
    let step = Step {
        name: "bpf-linker",
        key: &format!("{VERSION} rust {}", toolchain::VERSION),
        doing: &format!("building {VERSION} (about 80 s)"),
        files: &[program.clone(), cache.join("llvm/lib/libLLVM.so")],
        probe: &|| {
            stdout_of(Command::new(&program).arg("--version"))
                .is_ok_and(|version| version.trim() == format!("bpf-linker {VERSION}"))
        },
    };
    cache.ensure(&step, |workshop| {
        let (llvm, major) = toolchain.llvm()?;
        let prefix = cache.join("llvm");
        let lib = prefix.join("lib");
        if lib.exists() {
            fs::remove_dir_all(&lib).with_context(|| format!("cannot clear {}", lib.display()))?;
        }
        fs::create_dir_all(&lib).with_context(|| format!("cannot make {}", lib.display()))?;
        // The build asks the linker for -lLLVM; the program then asks the loader for the name
        // inside the file.
        link(&llvm, &lib.join("libLLVM.so"))?;
        link(&llvm, &lib.join(llvm.file_name().unwrap_or_default()))?;

        let built = workshop.scratch.join("root");
        run_logged(
            toolchain
                .cargo()
                // Not in the checkout, whose .cargo/config.toml and target/ are its own.
                .current_dir(workshop.scratch.path())
                .env("CARGO_TARGET_DIR", workshop.scratch.join("target"))
                // Its directory goes into the program's RUNPATH.
                .env("LLVM_PREFIX", &prefix)
                .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
                .args(["--no-default-features", "--features", &format!("llvm-{major}")])
                .args(["--no-track", "--root"])
                .arg(&built),
            &workshop.log,
        )?;
        fs::rename(built.join("bin/bpf-linker"), &program)
            .with_context(|| format!("cannot move bpf-linker to {}", program.display()))
    })
}

fn link(file: &Path, at: &Path) -> Result<()> {
    symlink(file, at).with_context(|| format!("cannot link {} to {}", at.display(), file.display()))
}
