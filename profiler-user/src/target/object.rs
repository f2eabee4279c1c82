//! A target as the rest of the program sees it.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::Pid;

/// An ELF object of the target, by its place in [`Target::objects`]; 0 is the executable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ObjectId(pub u16);

/// A file, by device and inode.
pub type Inode = (u64, u64);

/// A GNU build id (`.note.gnu.build-id`).
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BuildId(pub Vec<u8>);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// A file mapped executable into the target.
#[derive(Clone, Debug)]
pub struct MappedObject {
    /// Its path as the target sees it.
    pub path: PathBuf,
    /// A path at which we can open the very inode that is mapped (`/proc/PID/map_files/…`, or
    /// below `/proc/PID/root`), also if it was deleted or lies in another mount namespace.
    pub open_path: PathBuf,
    /// The mapped file.
    pub inode: Inode,
    /// The same as `stat` has it: on some file systems another device, or another number.
    pub file: Inode,
}

impl MappedObject {
    /// Opens the file, if it is still that. A library may be gone by now and another be mapped
    /// where it was: code of the one is no place for probes meant for the other.
    ///
    /// # Errors
    /// If it cannot be opened; `ENOENT` if another file lies there.
    pub fn open(&self) -> io::Result<File> {
        let check = |meta: &fs::Metadata| {
            let same = (meta.dev(), meta.ino()) == self.file;
            if same { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ENOENT)) }
        };
        // Asked before it is opened: to open a mapped device could have an effect.
        check(&fs::metadata(&self.open_path)?)?;
        let file = File::open(&self.open_path)?;
        check(&file.metadata()?)?;
        Ok(file)
    }

    /// The file name, for messages and `object =` in maps.
    #[must_use]
    pub fn file_name(&self) -> String {
        self.path.file_name().map_or_else(
            || self.path.display().to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }
}

/// A running process and what is mapped into it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its process id.
    pub pid: Pid,
    /// Its name (`/proc/PID/comm`).
    pub name: String,
    /// The executable first, then every other mapped ELF object, each inode once.
    pub objects: Vec<MappedObject>,
    /// What else is mapped executable and is known to be no such object, or cannot be opened. What
    /// vanished before it could be looked at is in neither.
    pub passed_over: Vec<Inode>,
}

impl Target {
    /// The object of an id made by this target.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> Option<&MappedObject> {
        self.objects.get(usize::from(id.0))
    }
}
