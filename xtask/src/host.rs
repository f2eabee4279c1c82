//! The machine: who we are on it, its kernel, its programs.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cache::Cache;
use crate::command::{run_logged, stdout_of, succeeds};
use crate::say;

/// A command needs root and is not run by root.
#[derive(Debug)]
pub(crate) struct NeedsRoot {
    why: String,
    again: String,
}

impl fmt::Display for NeedsRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, again } = self;
        write!(f, "{why} needs root; run it as\n  sudo -E env \"PATH=$PATH\" {again}")
    }
}

impl std::error::Error for NeedsRoot {}

/// Whether this process acts as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|itself| itself.uid() == 0)
}

/// # Errors
/// [`NeedsRoot`], saying what needs it (`why`) and the command line to repeat (`again`).
pub(crate) fn require_root(why: &str, again: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    Err(anyhow!(NeedsRoot { why: why.to_owned(), again: again.to_owned() }))
}

/// The kernel's version as (major, minor).
///
/// # Errors
/// When `/proc` does not tell it in the usual form.
pub(crate) fn kernel_version() -> Result<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .context("cannot read /proc/sys/kernel/osrelease")?;
    parse_version(&release).with_context(|| format!("unexpected kernel release {release:?}"))
}

/// The first two numbers of `6.18.44-generic`, `go1.24.6` or `v2.0`.
pub(crate) fn parse_version(text: &str) -> Option<(u32, u32)> {
    let start = text.find(|c: char| c.is_ascii_digit())?;
    let mut numbers = text[start..].split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Something of the machine that a command needs and apt has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Need {
    Compilers,
    Clang,
    Musl,
    Network,
    Binutils,
    Venv,
    Bpftrace,
}

impl Need {
    fn package(self) -> &'static str {
        match self {
            Self::Compilers => "build-essential",
            Self::Clang => "clang",
            Self::Musl => "musl-tools",
            Self::Network => "iproute2",
            Self::Binutils => "binutils",
            Self::Venv => "python3-venv",
            Self::Bpftrace => "bpftrace",
        }
    }

    fn is_met(self) -> bool {
        match self {
            Self::Compilers => all_there(&["cc", "gcc", "g++"]),
            Self::Clang => all_there(&["clang", "clang++"]),
            Self::Musl => all_there(&["musl-gcc"]),
            Self::Network => all_there(&["ip", "ss"]),
            Self::Binutils => all_there(&["objdump", "nm"]),
            // Debian ships python3 with a venv module that fails for want of ensurepip.
            Self::Venv => succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])),
            Self::Bpftrace => all_there(&["bpftrace"]),
        }
    }
}

/// Installs the packages of what is missing among `needs`.
///
/// # Errors
/// When something is missing and this is not root, there is no apt, or apt fails.
pub(crate) fn ensure(cache: &Cache, needs: &[Need]) -> Result<()> {
    let missing = || -> Vec<&'static str> {
        needs.iter().filter(|need| !need.is_met()).map(|need| need.package()).collect()
    };
    if missing().is_empty() {
        return Ok(());
    }
    let _lock = cache.lock("apt")?;
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    let list = packages.join(" ");
    if which("apt-get").is_none() {
        bail!("this needs what Debian calls {list}, and there is no apt-get: install it by hand");
    }
    if !is_root() {
        bail!("missing system packages; install them with\n  sudo apt-get install {list}");
    }
    say::step("apt", &format!("installing {list}"));
    let log = cache.join("log/apt.log");
    update_apt(&log)?;
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(&packages);
    apt(&words, &log)?;
    match missing().as_slice() {
        [] => Ok(()),
        still => bail!("installed {list}, yet what {} should bring is not found", still.join(" ")),
    }
}

/// Has apt read what packages there are now.
///
/// # Errors
/// When this is not root, or apt fails.
pub(crate) fn update_apt(log: &Path) -> Result<()> {
    if !is_root() {
        bail!("apt's lists of packages are missing or old; renew them with\n  sudo apt-get update");
    }
    apt(&["update", "-q"], log)
}

fn apt(words: &[&str], log: &Path) -> Result<()> {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(words);
    run_logged(&mut command, log)
}

/// The program `name` on `PATH`, or where administrators' programs are.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| is_program(file))
}

fn all_there(names: &[&str]) -> bool {
    names.iter().all(|name| which(name).is_some())
}

fn is_program(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// `python3` can make virtual environments after this.
///
/// # Errors
/// When there is no Python, or what [`ensure`] reports.
pub(crate) fn ensure_venv_module(cache: &Cache) -> Result<()> {
    if which("python3").is_none() && !is_root() {
        bail!("python3 not found; install it with\n  sudo apt-get install python3-venv");
    }
    ensure(cache, &[Need::Venv])?;
    let version = stdout_of(Command::new("python3").arg("--version"))?;
    match parse_version(&version) {
        Some(found) if found >= (3, 11) => Ok(()),
        _ => bail!("python3 is {}; the pinned packages need 3.11 or newer", version.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_the_wild() {
        assert_eq!(parse_version("6.18.44-fc-v657\n"), Some((6, 18)));
        assert_eq!(parse_version("go version go1.26.8 linux/amd64"), Some((1, 26)));
        assert_eq!(parse_version("Python 3.11.7"), Some((3, 11)));
        assert_eq!(parse_version("none"), None);
        assert_eq!(parse_version("6"), None);
    }

    #[test]
    fn programs_are_found_and_others_not() {
        assert!(which("sh").is_some());
        assert!(which("qprof-no-such-program").is_none());
    }
}
