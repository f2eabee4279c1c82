//! The pinned Rust compiler, in a `RUSTUP_HOME` of our own: the user's toolchains stay as they
//! are, and what the kernel side is built with is the same on every machine.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Cache, Step};
use crate::command::{run_logged, stdout_of};
use crate::host;

/// The compiler's version. The drift check of the kernel side compares bytes, so a change here
/// means to build and commit that object anew.
pub(crate) const VERSION: &str = "1.99.1";

const COMPONENTS: &str = "rust-src,rustfmt,clippy";

/// The installed compiler.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// Holds `bin/` and `lib/`.
    sysroot: PathBuf,
    /// The checkout that its cargo works in.
    root: PathBuf,
    /// Programs of the cache, `bpf-linker` among them.
    programs: PathBuf,
}

impl Toolchain {
    /// Installs the compiler if it is not there.
    ///
    /// # Errors
    /// When there is no `rustup`, or it fails.
    pub(crate) fn ensure(cache: &Cache, root: &Path) -> Result<Self> {
        let home = cache.join("rustup");
        let name = format!("{VERSION}-{}-unknown-linux-gnu", std::env::consts::ARCH);
        let sysroot = home.join("toolchains").join(name);
        let files = [
            "bin/cargo",
            "bin/rustc",
            "bin/rustfmt",
            "bin/cargo-clippy",
            "lib/rustlib/src/rust/library/core/src/lib.rs",
        ]
        .map(|file| sysroot.join(file));
        let rustc = sysroot.join("bin/rustc");
        let step = Step {
            name: "rust",
            key: &format!("{VERSION} {COMPONENTS}"),
            doing: &format!("installing Rust {VERSION} (about 15 s)"),
            files: &files,
            probe: &|| {
                stdout_of(cleaned(Command::new(&rustc)).arg("--version"))
                    .is_ok_and(|version| version.starts_with(&format!("rustc {VERSION} ")))
            },
        };
        cache.ensure(&step, |workshop| {
            let Some(rustup) = host::which("rustup") else {
                bail!(
                    "rustup not found on PATH; it installs the pinned compiler beside yours. \
                     Get it from your distribution (`apt-get install rustup`) or https://rustup.rs"
                );
            };
            run_logged(
                cleaned(Command::new(rustup))
                    .env("RUSTUP_HOME", &home)
                    .args(["toolchain", "install", VERSION, "--profile", "minimal"])
                    .args(["--component", COMPONENTS, "--no-self-update"]),
                &workshop.log,
            )
        })?;
        Ok(Self { sysroot, root: root.to_owned(), programs: cache.join("bin") })
    }

    /// This compiler's cargo, at the root of the checkout, with nothing in its environment of
    /// the cargo that started us.
    pub(crate) fn cargo(&self) -> Command {
        let bin = self.sysroot.join("bin");
        let mut path = OsString::from(&bin);
        path.push(":");
        path.push(&self.programs);
        if let Some(rest) = std::env::var_os("PATH") {
            path.push(":");
            path.push(rest);
        }
        let mut command = cleaned(Command::new(bin.join("cargo")));
        command
            .current_dir(&self.root)
            .env("PATH", path)
            // Where everything else looks for `release/qprof`, whatever the user's default.
            .env("CARGO_TARGET_DIR", self.root.join("target"));
        command
    }

    /// Where the compiler itself is installed, `rustc --print sysroot`.
    pub(crate) fn sysroot(&self) -> &Path {
        &self.sysroot
    }

    /// The LLVM that the compiler uses, as (file, major version).
    ///
    /// # Errors
    /// When the toolchain has no shared LLVM of the known name.
    pub(crate) fn llvm(&self) -> Result<(PathBuf, u32)> {
        let lib = self.sysroot.join("lib");
        let entries = fs::read_dir(&lib)
            .with_context(|| format!("cannot read {}", lib.display()))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()));
        for file in entries {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            if let Some(rest) = name.strip_prefix("libLLVM.so.") {
                if let Some((major, _)) = host::parse_version(rest) {
                    return Ok((file, major));
                }
            }
        }
        bail!("no libLLVM.so.* in {}: bpf-linker cannot be linked against it", lib.display())
    }
}

/// Takes out of the environment what `cargo run` and rustup set for us: their paths and flags
/// would reach the inner compiler, and the object it builds.
pub(crate) fn cleaned(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(is_of_the_outer_cargo) {
            command.env_remove(name);
        }
    }
    command
}

fn is_of_the_outer_cargo(name: &str) -> bool {
    const PREFIXES: [&str; 6] =
        ["RUSTUP_", "RUSTC", "CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BUILD_", "CARGO_PROFILE_"];
    const NAMES: [&str; 8] = [
        "CARGO",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
        "RUSTDOC",
        "RUSTFLAGS",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_cargo_leaves_no_trace() {
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTC", "RUSTC_WRAPPER", "LD_LIBRARY_PATH"] {
            assert!(is_of_the_outer_cargo(name), "{name}");
        }
        for name in ["CARGO_HOME", "CARGO_TERM_COLOR", "CARGO_NET_OFFLINE", "PATH", "HOME"] {
            assert!(!is_of_the_outer_cargo(name), "{name}");
        }
    }
}
