//! Servers of Debian's, unpacked into the cache: nothing of them is installed on the machine, and no
//! service is started.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::cache::{Cache, Step};
use crate::command::{run_logged, succeeds};
use crate::host;

/// A server in Go that Debian builds and strips: the built-in maps are checked against it.
pub(crate) const PROMETHEUS: Package = Package {
    name: "prometheus",
    programs: &["usr/bin/prometheus", "usr/bin/promtool"],
    probe: ("usr/bin/prometheus", "--version"),
};

/// Another.
pub(crate) const INFLUXDB: Package = Package {
    name: "influxdb",
    programs: &["usr/bin/influxd"],
    probe: ("usr/bin/influxd", "version"),
};

/// A package whose programs run from where they are unpacked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Package {
    name: &'static str,
    /// What is needed of it.
    programs: &'static [&'static str],
    /// One of them, and the word that makes it say its version.
    probe: (&'static str, &'static str),
}

impl Package {
    /// Downloads and unpacks it if it is not there: where it is unpacked.
    ///
    /// # Errors
    /// When there is no apt, it does not have the package, or the programs do not run here.
    pub(crate) fn ensure(&self, cache: &Cache) -> Result<PathBuf> {
        let Self { name, programs, probe: (program, word) } = *self;
        let path = cache.join("debian").join(name);
        let files: Vec<PathBuf> = programs.iter().map(|program| path.join(program)).collect();
        let runs = |at: &Path| succeeds(Command::new(at.join(program)).arg(word));
        let step = Step {
            name,
            // Whatever version this machine's apt has: an older one leaves the archive when it is
            // replaced, so that a pin would not hold.
            key: name,
            doing: "downloading and unpacking Debian's package (about 5 s)",
            files: &files,
            probe: &|| runs(&path),
        };
        cache.ensure(&step, |workshop| {
            let package = download(cache, name, workshop.scratch.path(), &workshop.log)?;
            let unpacked = workshop.scratch.join("unpacked");
            run_logged(
                Command::new("dpkg-deb").arg("--extract").arg(&package).arg(&unpacked),
                &workshop.log,
            )?;
            if !runs(&unpacked) {
                bail!("`{program} {word}` of the package {name} fails on this machine");
            }
            if path.exists() {
                fs::remove_dir_all(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
            fs::create_dir_all(cache.join("debian"))?;
            fs::rename(&unpacked, &path)
                .with_context(|| format!("cannot move {name} to {}", path.display()))
        })?;
        Ok(path)
    }
}

/// The package's file, in `directory`.
fn download(cache: &Cache, name: &str, directory: &Path, log: &Path) -> Result<PathBuf> {
    if host::which("apt-get").is_none() {
        bail!(
            "there is no apt-get here: unpack Debian's {name} into {}/debian/{name} by hand",
            cache.root().display()
        );
    }
    let _lock = cache.lock("apt")?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        run_logged(command.args(words).current_dir(directory), log)
    };
    // A clean machine has no lists, and one that was left alone for long has lists of packages that
    // are gone.
    if apt(&["download", "-q", name]).is_err() {
        host::update_apt(log)?;
        apt(&["download", "-q", name])?;
    }
    let mut files = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    files
        .find(|file| file.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("`apt-get download {name}` left no package"))
}
