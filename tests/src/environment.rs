//! Where things are, and what this machine can do.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// The directory cargo builds into.
#[must_use]
pub fn target_directory() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

/// The binary under test: `QPROF`, else the newest kind that is built.
///
/// # Errors
/// When there is none.
pub fn qprof() -> Result<PathBuf> {
    if let Some(path) = env::var_os("QPROF") {
        let path = PathBuf::from(path);
        return fs::canonicalize(&path)
            .with_context(|| format!("QPROF names {}, which is not there", path.display()));
    }
    for profile in ["release", "debug"] {
        let path = target_directory().join(profile).join("qprof");
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("no qprof binary under {}: run `cargo xtask build`", target_directory().display())
}

/// Where `cargo xtask` keeps the servers it installs.
#[must_use]
pub fn cache() -> PathBuf {
    if let Some(path) = env::var_os("QPROF_CACHE") {
        return PathBuf::from(path);
    }
    let home = env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from).join("qprof")
}

/// How often a soak repeats: `whole` with `QPROF_FULL=1`, else a tenth of it.
#[must_use]
pub fn soak(whole: u32) -> u32 {
    if env::var_os("QPROF_FULL").is_some_and(|value| value == "1") {
        whole
    } else {
        whole.div_ceil(10)
    }
}

/// The name of the running test.
#[must_use]
pub fn test_name() -> String {
    thread::current().name().unwrap_or("test").to_owned()
}

/// Says that this test cannot run here: a kernel feature is missing.
///
/// # Errors
/// When `QPROF_SKIPS` names a file that cannot be written.
pub fn skip(reason: &str) -> Result<()> {
    note("skip", reason)
}

/// Says that this test means nothing here: the CPU or the kernel's build lacks what it is about.
///
/// # Errors
/// When `QPROF_SKIPS` names a file that cannot be written.
pub fn not_applicable(reason: &str) -> Result<()> {
    note("n/a", reason)
}

fn note(kind: &str, reason: &str) -> Result<()> {
    let line = format!("{kind}\t{}\t{reason}\n", test_name());
    // Not `eprint!`: the test harness would keep it to itself.
    std::io::stderr().write_all(line.to_uppercase().as_bytes())?;
    if let Some(path) = env::var_os("QPROF_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
        file.write_all(line.as_bytes())?;
    }
    Ok(())
}

/// Whether this kernel can carry probes; if not, the test is noted as skipped.
///
/// # Errors
/// When the tests do not run as root (that is a mistake, nothing to skip), or the kernel's
/// version cannot be read.
pub fn can_probe() -> Result<bool> {
    if !rustix::process::geteuid().is_root() {
        bail!("these tests need root: run `sudo -E cargo xtask test`");
    }
    let (major, minor) = kernel()?;
    if (major, minor) < (6, 6) {
        skip(&format!("kernel {major}.{minor} has no uprobe_multi links (6.6 has)"))?;
        return Ok(false);
    }
    Ok(true)
}

/// The running kernel's version.
///
/// # Errors
/// When `/proc/sys/kernel/osrelease` is not of the form `6.18…`.
pub fn kernel() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("kernel release {release:?} is not understood"),
    }
}

/// One heavy test at a time: those that load the machine or count what was lost hold this.
pub fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fresh directory for what a test and its processes write.
///
/// It stays until the next run of the tests, for whoever wants to know why one failed.
///
/// # Errors
/// When it cannot be made.
pub fn scratch(name: &str) -> Result<PathBuf> {
    static SWEPT: OnceLock<()> = OnceLock::new();
    let base = target_directory().join("qprof-tests");
    SWEPT.get_or_init(|| sweep(&base));
    fresh(&base, name)
}

/// A fresh directory that every user can reach, unlike the repository, for what does not run as
/// root. To be removed by whoever asked for it.
///
/// # Errors
/// When it cannot be made.
pub fn open_scratch(name: &str) -> Result<PathBuf> {
    static SWEPT: OnceLock<()> = OnceLock::new();
    let base = env::temp_dir().join("qprof-tests");
    SWEPT.get_or_init(|| sweep(&base));
    let path = fresh(&base, name)?;
    for part in path.ancestors().take_while(|part| part.starts_with(&base)) {
        fs::set_permissions(part, fs::Permissions::from_mode(0o755))?;
    }
    Ok(path)
}

fn fresh(base: &Path, name: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = base.join(std::process::id().to_string()).join(format!("{number:02}-{name}"));
    fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
    Ok(path)
}

/// Removes what test binaries left that are no more.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let gone = name.to_str().is_some_and(|pid| {
            pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
        });
        if gone {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A loopback port where nothing listens, and that no other test was given.
///
/// # Errors
/// When the machine has none.
pub fn free_port() -> Result<u16> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..100 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        // Whoever was given one may not listen there yet.
        if given.insert(port) {
            return Ok(port);
        }
    }
    bail!("no free port on 127.0.0.1")
}
