//! Where installed tools stay between runs: `${XDG_CACHE_HOME:-~/.cache}/qprof`.
//!
//! Each tool is one [`Step`] with a key (what exactly is to be there). A step's stamp, a file
//! holding the key, is written last: it says that the step was finished. What is there without
//! a stamp is asked (`probe`) before it is used, and made anew when it does not answer.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::{say, sys};

/// The cache directory.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
}

/// One thing to have in the cache.
pub(crate) struct Step<'a> {
    /// File-name-safe name, also shown in progress lines.
    pub(crate) name: &'a str,
    /// Versions of all that the result depends on; another key means to make it anew.
    pub(crate) key: &'a str,
    /// What is done and about how long it takes, for the progress line.
    pub(crate) doing: &'a str,
    /// Files without which the step is not done, whatever its stamp says.
    pub(crate) files: &'a [PathBuf],
    /// Whether what lies there without a stamp is whole and of this key. May take a second.
    pub(crate) probe: &'a dyn Fn() -> bool,
}

/// What a step may use while it runs.
pub(crate) struct Workshop {
    /// An empty directory, removed afterwards; on the cache's file system, so that a rename
    /// into the cache is atomic.
    pub(crate) scratch: Scratch,
    /// Where the output of the programs it runs goes.
    pub(crate) log: PathBuf,
}

impl Cache {
    /// # Errors
    /// When neither `XDG_CACHE_HOME` nor `HOME` says where, or the directory cannot be made.
    pub(crate) fn open() -> Result<Self> {
        // The XDG base directory specification: a relative path is invalid and is ignored.
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .context("neither XDG_CACHE_HOME nor HOME is set: set one to say where tools go")?;
        Self::at(base.join("qprof"))
    }

    fn at(root: PathBuf) -> Result<Self> {
        for dir in ["bin", "log", "stamp", "lock", "build"] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir)
                .with_context(|| format!("cannot make the cache directory {}", dir.display()))?;
        }
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// `path` inside the cache.
    pub(crate) fn join(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Where the program `name` is, once its step is done.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.root.join("bin").join(name)
    }

    /// Waits until no other run holds `name`, and holds it until the file is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be made or locked.
    pub(crate) fn lock(&self, name: &str) -> Result<File> {
        let path = self.root.join("lock").join(name);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open the lock {}", path.display()))?;
        if !sys::try_lock(&file)? {
            say::step(name, "waiting for another run that is at it");
            sys::lock(&file)?;
        }
        Ok(file)
    }

    /// Sees to it that `step` is done: at once when it was, else by `make`.
    ///
    /// # Errors
    /// What `make` reports.
    pub(crate) fn ensure(
        &self,
        step: &Step<'_>,
        make: impl FnOnce(&Workshop) -> Result<()>,
    ) -> Result<()> {
        if self.is_done(step) {
            return Ok(());
        }
        let _lock = self.lock(step.name)?;
        if self.is_done(step) {
            return Ok(());
        }
        let stamp = self.stamp(step.name);
        let unfinished = !stamp.exists();
        if unfinished && files_exist(step) && (step.probe)() {
            return write_stamp(&stamp, step.key);
        }
        if !unfinished {
            fs::remove_file(&stamp)
                .with_context(|| format!("cannot remove {}", stamp.display()))?;
        }

        say::step(step.name, step.doing);
        let started = Instant::now();
        let workshop = Workshop {
            scratch: Scratch::new(self.root.join("build").join(step.name))?,
            log: self.root.join("log").join(format!("{}.log", step.name)),
        };
        File::create(&workshop.log)
            .with_context(|| format!("cannot write {}", workshop.log.display()))?;
        make(&workshop).with_context(|| format!("{}: not installed", step.name))?;
        write_stamp(&stamp, step.key)?;
        say::step(step.name, &format!("ready in {}", say::seconds(started.elapsed())));
        Ok(())
    }

    fn stamp(&self, name: &str) -> PathBuf {
        self.root.join("stamp").join(name)
    }

    fn is_done(&self, step: &Step<'_>) -> bool {
        fs::read_to_string(self.stamp(step.name)).is_ok_and(|key| key == step.key)
            && files_exist(step)
    }
}

fn files_exist(step: &Step<'_>) -> bool {
    step.files.iter().all(|file| file.exists())
}

fn write_stamp(stamp: &Path, key: &str) -> Result<()> {
    replace_file(stamp, key.as_bytes())
}

/// Writes `bytes` to `path` in one step: a reader sees the old file or the new one.
///
/// # Errors
/// When the directory is not writable or the disk is full.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    fs::write(&new, bytes)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A directory that is empty at first and removed at the end, whichever end that is.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// # Errors
    /// When what lay at `path` cannot be removed or the directory cannot be made.
    pub(crate) fn new(path: PathBuf) -> Result<Self> {
        let cannot = || format!("cannot make the directory {}", path.display());
        if path.exists() {
            fs::remove_dir_all(&path).with_context(cannot)?;
        }
        fs::create_dir_all(&path).with_context(cannot)?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            say::err(&format!("warning: {} stays behind: {error}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use anyhow::bail;

    use super::*;

    fn cache(name: &str) -> (Scratch, Cache) {
        let path = std::env::temp_dir().join(format!("qprof-xtask-{}-{name}", std::process::id()));
        let scratch = Scratch::new(path).unwrap();
        let cache = Cache::at(scratch.join("qprof")).unwrap();
        (scratch, cache)
    }

    fn ensure(cache: &Cache, key: &str, whole: bool, made: &Cell<u32>) {
        let file = cache.program("tool");
        let files = [file.clone()];
        let probe = || whole;
        let step = Step { name: "tool", key, doing: "making", files: &files, probe: &probe };
        cache
            .ensure(&step, |workshop| {
                made.set(made.get() + 1);
                let new = workshop.scratch.join("tool");
                fs::write(&new, key)?;
                Ok(fs::rename(new, &file)?)
            })
            .unwrap();
    }

    #[test]
    fn a_step_is_done_once_a_key_and_again_when_its_file_is_gone() {
        let (_dir, cache) = cache("once");
        let made = Cell::new(0);
        ensure(&cache, "1", false, &made);
        ensure(&cache, "1", false, &made);
        assert_eq!(made.get(), 1);
        ensure(&cache, "2", true, &made);
        assert_eq!(made.get(), 2, "another key is made anew, whatever the probe says");
        fs::remove_file(cache.program("tool")).unwrap();
        ensure(&cache, "2", true, &made);
        assert_eq!(made.get(), 3);
        assert!(fs::read_dir(cache.join("build")).unwrap().next().is_none(), "scratch removed");
    }

    #[test]
    fn without_a_stamp_the_probe_decides() {
        let (_dir, cache) = cache("probe");
        let made = Cell::new(0);
        fs::write(cache.program("tool"), "by hand").unwrap();
        ensure(&cache, "1", true, &made);
        assert_eq!(made.get(), 0);
        fs::remove_file(cache.stamp("tool")).unwrap();
        ensure(&cache, "1", false, &made);
        assert_eq!(made.get(), 1);
    }

    #[test]
    fn a_failed_step_leaves_no_stamp() {
        let (_dir, cache) = cache("failed");
        let probe = || false;
        let step = Step { name: "tool", key: "1", doing: "making", files: &[], probe: &probe };
        let error = cache.ensure(&step, |_| bail!("no network")).unwrap_err();
        assert_eq!(format!("{error:#}"), "tool: not installed: no network");
        assert!(!cache.is_done(&step));
    }
}
