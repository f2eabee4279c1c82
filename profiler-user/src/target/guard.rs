//! Noticing that a file in which probes lie is overwritten in place.
//!
//! A probe belongs to an inode and an offset. Where other code comes to lie there, the kernel puts
//! the breakpoint into the middle of something else as soon as a process maps the file
//! (`kernel/events/uprobes.c`, `uprobe_mmap`): the probes must be gone before that.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};

use rustc_hash::FxHashMap;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::{Inode, MappedObject};

/// Watches files.
#[derive(Debug)]
pub struct FileGuard {
    inotify: OwnedFd,
    watched: FxHashMap<i32, Inode>,
}

impl FileGuard {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// If the kernel has no more watchers for this user (`fs.inotify.max_user_instances`).
    pub fn new() -> Result<Self, Errno> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify, watched: FxHashMap::default() })
    }

    /// Watches an object's file from now on.
    ///
    /// # Errors
    /// If it is gone, or too many are watched (`fs.inotify.max_user_watches`).
    pub fn watch(&mut self, object: &MappedObject) -> Result<(), Errno> {
        let file =
            object.open().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::NOENT))?;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let watch = inotify::add_watch(&self.inotify, path, WatchFlags::MODIFY)?;
        self.watched.insert(watch, object.inode);
        Ok(())
    }

    /// The files that were written to since the last call, each once. Never blocks.
    pub fn overwritten(&mut self) -> Vec<Inode> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut found = Vec::new();
        // An error is that there is nothing more to read.
        while let Ok(event) = reader.next() {
            if let Some(inode) = self.watched.get(&event.wd())
                && !found.contains(inode)
            {
                found.push(*inode);
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn writing_is_seen_replacing_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&path, b"code").unwrap();
        fs::write(&other, b"code").unwrap();
        let meta = fs::metadata(&path).unwrap();
        let file = (meta.dev(), meta.ino());
        let (path, open_path, inode) = (path.clone(), path.clone(), (1, 7));
        let object = MappedObject { path: path.clone(), open_path, inode, file };
        let mut guard = FileGuard::new().unwrap();
        guard.watch(&object).unwrap();
        assert_eq!(guard.overwritten(), []);
        let mut file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all(b"c").unwrap();
        file.write_all(b"o").unwrap();
        assert_eq!(guard.overwritten(), [(1, 7)]);
        assert_eq!(guard.overwritten(), []);
        // What package managers do: the old file lives on under no name.
        fs::rename(&other, &path).unwrap();
        assert_eq!(guard.overwritten(), []);
        drop(file);
    }
}
