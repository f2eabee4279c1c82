//! What was measured, kept until the next boot.
//!
//! In `/run/qprof`: only root writes there, and it is gone with the boot it is about. Whoever is not
//! root and may trace all the same (capabilities on the program) keeps it below his own
//! `$XDG_RUNTIME_DIR`. `QPROF_CACHE_DIR` names another directory. What others could have written is
//! not believed; what is damaged, or of another kernel, boot or version, is measured again.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Measured;
use crate::attach::kernel_release;
use crate::target::boot_id;

const FILE: &str = "kernel.json";
const ROOTS: &str = "/run/qprof";
/// Of what is kept: another number where something else is tried or measured.
const FORMAT: u32 = 2;
/// No entry is nearly as large.
const MAX_BYTES: u64 = 1 << 20;

/// What an entry must be of to be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    format: u32,
    version: String,
    kernel: String,
    boot: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    key: Key,
    measured: Measured,
}

/// Why what is kept is not used, or nothing can be kept.
#[derive(Debug, Error)]
pub(super) enum CacheError {
    #[error("nothing was measured since this machine was started")]
    Nothing,
    #[error("{} is not believed: {why}", .path.display())]
    Untrusted { path: PathBuf, why: String },
    #[error("{} is damaged: {why}", .path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is of another kernel, boot or version of qprof", .path.display())]
    Old { path: PathBuf },
    #[error("{}: {source}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("nothing can be kept: {0}")]
    NoPlace(&'static str),
}

impl CacheError {
    /// Whether somebody should be told.
    pub(super) const fn is_odd(&self) -> bool {
        matches!(self, Self::Untrusted { .. } | Self::Damaged { .. } | Self::Io { .. })
    }
}

/// Where an entry may be, the place to write to first.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    places: Vec<PathBuf>,
    owner: u32,
}

impl Cache {
    /// As the environment says.
    pub(super) fn here() -> Self {
        let owner = rustix::process::geteuid().as_raw();
        let of = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let own = of("XDG_RUNTIME_DIR").filter(|_| owner != 0).map(|dir| dir.join("qprof"));
        let places = match of("QPROF_CACHE_DIR") {
            Some(named) => vec![named],
            None => own.into_iter().chain([PathBuf::from(ROOTS)]).collect(),
        };
        Self { places, owner }
    }

    /// What was measured for this kernel, boot and version.
    pub(super) fn read(&self) -> Result<Measured, CacheError> {
        let mut why = CacheError::Nothing;
        for place in &self.places {
            match self.read_from(&place.join(FILE)) {
                Ok(measured) => return Ok(measured),
                Err(CacheError::Nothing) => {}
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    fn read_from(&self, path: &Path) -> Result<Measured, CacheError> {
        let io = |source| CacheError::Io { path: path.to_owned(), source };
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
        let file = match open {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CacheError::Nothing);
            }
            file => file.map_err(io)?,
        };
        self.trust(path, &file.metadata().map_err(io)?)?;
        let directory = path.parent().unwrap_or(path);
        self.trust(directory, &fs::symlink_metadata(directory).map_err(io)?)?;
        let damaged = |why: String| CacheError::Damaged { path: path.to_owned(), why };
        let mut text = String::new();
        file.take(MAX_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| damaged(error.to_string()))?;
        // The key alone first: what another version wrote may look otherwise, and is not damaged.
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        let key = value.get("key").filter(|key| key.is_object());
        let key = key.ok_or_else(|| damaged("it has no key".to_owned()))?;
        let key = Key::deserialize(key).ok();
        if key.is_none() || key != key_of_now() {
            return Err(CacheError::Old { path: path.to_owned() });
        }
        let entry: Entry =
            serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        Ok(entry.measured)
    }

    /// Nobody but root and ourselves may have written it.
    fn trust(&self, path: &Path, metadata: &fs::Metadata) -> Result<(), CacheError> {
        let (owner, mode) = (metadata.uid(), metadata.mode());
        let why = if owner != 0 && owner != self.owner {
            format!("it belongs to user {owner}")
        } else if mode & 0o022 != 0 {
            format!("others may write it (mode {:03o})", mode & 0o777)
        } else {
            return Ok(());
        };
        Err(CacheError::Untrusted { path: path.to_owned(), why })
    }

    /// Keeps what was measured; where.
    pub(super) fn write(&self, measured: &Measured) -> Result<PathBuf, CacheError> {
        let key = key_of_now().ok_or(CacheError::NoPlace("this boot has no id (/proc)"))?;
        let directory = self.places.first().ok_or(CacheError::NoPlace("there is no directory"))?;
        let path = directory.join(FILE);
        let io = |source| CacheError::Io { path: path.clone(), source };
        DirBuilder::new().recursive(true).mode(0o755).create(directory).map_err(io)?;
        self.trust(directory, &fs::symlink_metadata(directory).map_err(io)?)?;
        let entry = Entry { key, measured: measured.clone() };
        let text = serde_json::to_string_pretty(&entry).map_err(|error| io(error.into()))?;
        // Whoever reads meanwhile gets the old one or the new one, and never a part.
        let new = directory.join(format!("{FILE}.{}", std::process::id()));
        let written = write_new(&new, text.as_bytes()).and_then(|()| fs::rename(&new, &path));
        if written.is_err() {
            drop(fs::remove_file(&new));
        }
        written.map_err(io)?;
        Ok(path)
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(bytes)
}

fn key_of_now() -> Option<Key> {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Some(Key { format: FORMAT, version, kernel: kernel_release(), boot: boot_id()? })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn cache(directory: &Path) -> Cache {
        Cache { places: vec![directory.to_owned()], owner: rustix::process::geteuid().as_raw() }
    }

    fn filled() -> (tempfile::TempDir, Cache, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let cache = cache(&directory.path().join("qprof"));
        let path = cache.write(&Measured::default()).unwrap();
        (directory, cache, path)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_directory, cache, _) = filled();
        assert_eq!(cache.read().unwrap(), Measured::default());
        cache.write(&Measured::default()).unwrap();
        assert_eq!(cache.read().unwrap(), Measured::default());
    }

    #[test]
    fn nothing_is_no_fault() {
        let directory = tempfile::tempdir().unwrap();
        let error = cache(directory.path()).read().unwrap_err();
        assert!(matches!(error, CacheError::Nothing) && !error.is_odd(), "{error}");
    }

    #[test]
    fn what_others_may_write_is_not_believed() {
        let (_directory, cache, path) = filled();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(cache.read(), Err(CacheError::Untrusted { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        cache.read().unwrap();
        let directory = path.parent().unwrap();
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(cache.read(), Err(CacheError::Untrusted { .. })));
        assert!(matches!(cache.write(&Measured::default()), Err(CacheError::Untrusted { .. })));
    }

    #[test]
    fn what_belongs_to_others_is_not_believed() {
        let (_directory, mut cache, path) = filled();
        if cache.owner != 0 {
            return;
        }
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        assert!(matches!(cache.read(), Err(CacheError::Untrusted { .. })));
        // Who wrote it himself may believe it, and whoever is in root's hands anyway.
        cache.owner = 12_345;
        cache.read().unwrap();
    }

    #[test]
    fn a_link_is_not_followed() {
        let (directory, cache, path) = filled();
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&path, &elsewhere).unwrap();
        symlink(&elsewhere, &path).unwrap();
        assert!(cache.read().is_err_and(|error| error.is_odd()));
    }

    #[test]
    fn damaged_and_old_entries_are_told_apart() {
        let (_directory, cache, path) = filled();
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [&text[..text.len() / 2], "", "{}", "[1]", "\u{0}\u{1}", "null"] {
            fs::write(&path, damaged).unwrap();
            assert!(matches!(cache.read(), Err(CacheError::Damaged { .. })), "{damaged}");
        }
        let boot = boot_id().unwrap();
        let old = text.replace(&boot, "00000000-0000-0000-0000-000000000000");
        fs::write(&path, old.replace("\"forms\"", "\"something_else\"")).unwrap();
        assert!(matches!(cache.read(), Err(CacheError::Old { .. })));
        fs::write(&path, text.replace("\"format\"", "\"form\"")).unwrap();
        assert!(matches!(cache.read(), Err(CacheError::Old { .. })));
        fs::write(&path, text.replace("\"forms\"", "\"something_else\"")).unwrap();
        assert!(matches!(cache.read(), Err(CacheError::Damaged { .. })));
    }
}
