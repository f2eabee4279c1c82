//! A target as the rest of the program sees it.

use std::fmt;
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
}

impl MappedObject {
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
}

impl Target {
    /// The object of an id made by this target.
    #[must_use]
    pub fn object(&self, id: ObjectId) -> Option<&MappedObject> {
        self.objects.get(usize::from(id.0))
    }
}
