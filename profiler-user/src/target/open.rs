//! Opening a target: from a pid to its objects.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustc_hash::FxHashSet;
use tracing::warn;

use super::maps::{self, Mapping};
use super::process::{self, State};
use super::{ExitWatch, Inode, MappedObject, Target, TargetError};
use crate::model::{Pid, Tid};

impl Target {
    /// Opens a running process: who it is, and which ELF objects it executes.
    ///
    /// # Errors
    /// [`TargetError`]: no such process, one that may not be read, one without user code, one
    /// that is not 64-bit x86-64, one that ends meanwhile.
    pub fn open(pid: Pid) -> Result<Self, TargetError> {
        // Held until the end: the number cannot come to mean another process unnoticed.
        let watch = ExitWatch::new(pid).map_err(|error| of_thread(pid).unwrap_or(error))?;
        let opened = Self::read(pid, &watch);
        match opened {
            Err(error @ (TargetError::Zombie { .. } | TargetError::KernelThread { .. })) => {
                Err(error)
            }
            _ if watch.is_ending() => Err(TargetError::Exited(pid)),
            opened => opened,
        }
    }

    fn read(pid: Pid, watch: &ExitWatch) -> Result<Self, TargetError> {
        let stat = process::stat(pid).map_err(|error| match error {
            // It lives but /proc does not show it: mounted with hidepid.
            TargetError::Exited(pid) if !watch.has_exited() => {
                TargetError::NotPermitted { pid, file: process::file(pid, "stat") }
            }
            other => other,
        })?;
        match stat.state {
            State::Zombie => return Err(TargetError::Zombie { pid, name: stat.name }),
            State::Kernel => return Err(TargetError::KernelThread { pid, name: stat.name }),
            State::Alive => {}
        }

        let exe = process::file(pid, "exe");
        let exe_path = fs::read_link(&exe).map_err(|e| TargetError::reading(pid, &exe, e))?;
        let exe_path = PathBuf::from(std::ffi::OsString::from_vec(
            maps::without_deleted(exe_path.as_os_str().as_bytes()).to_vec(),
        ));
        let header = Header::read(&exe).map_err(|e| TargetError::reading(pid, &exe, e))?;
        if let Some(found) = header.unsupported() {
            return Err(TargetError::Unsupported { pid, found });
        }

        let maps = process::file(pid, "maps");
        let text = fs::read(&maps).map_err(|e| TargetError::reading(pid, &maps, e))?;
        let mappings: Vec<Mapping> = maps::executable(&text).collect();
        let mapped_exe = mappings
            .iter()
            .find(|m| m.path == exe_path)
            .or_else(|| mappings.iter().find(|m| m.inode.1 == header.inode.1));
        // Text that was moved to huge pages is no mapping of the file any more.
        let inode = mapped_exe.map_or(header.inode, |m| m.inode);
        let mut seen = FxHashSet::from_iter([inode]);
        let exe = MappedObject { path: exe_path, open_path: exe, inode, file: header.inode };
        let (mut objects, mut passed_over) = (vec![exe], Vec::new());
        for mapping in mappings {
            // An ObjectId is 16 bits wide.
            if objects.len() > usize::from(u16::MAX) {
                warn!(%pid, "more than {} objects are mapped: the rest is not searched", u16::MAX);
                break;
            }
            if !seen.insert(mapping.inode) {
                continue;
            }
            let inode = mapping.inode;
            match examine(pid, mapping) {
                Examined::Object(object) => objects.push(object),
                Examined::PassedOver => passed_over.push(inode),
                Examined::Vanished => {}
            }
        }
        Ok(Self { pid, name: stat.name, objects, passed_over })
    }

    /// The root of the target's file system, as we see it.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        process::file(self.pid, "root")
    }

    /// Watches for the target's end.
    ///
    /// # Errors
    /// [`TargetError::NoSuchProcess`] if it has ended and was reaped.
    pub fn watch(&self) -> Result<ExitWatch, TargetError> {
        ExitWatch::new(self.pid)
    }
}

/// The files mapped executable into a process, each once, and a path to open each: cheaper than
/// [`Target::open`], to see whether something is new.
///
/// # Errors
/// [`TargetError`] if the process is gone or may not be read.
pub fn mapped_files(pid: Pid) -> Result<Vec<(Inode, PathBuf)>, TargetError> {
    let maps = process::file(pid, "maps");
    let text = fs::read(&maps).map_err(|e| TargetError::reading(pid, &maps, e))?;
    let mut seen = FxHashSet::default();
    let files = maps::executable(&text).filter(|mapping| seen.insert(mapping.inode));
    Ok(files.map(|mapping| (mapping.inode, by_range(pid, &mapping))).collect())
}

/// Opens one of [`mapped_files`], if it is still that which is mapped there.
///
/// # Errors
/// If it cannot be opened; `ENOENT` if another file is mapped there by now.
pub fn open_mapped(path: &Path, inode: Inode) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.ino() == inode.1 {
        Ok(file)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// The kernel's own handle on what is mapped: right for deleted files and foreign mounts. It takes
/// `CAP_SYS_ADMIN` or `CAP_CHECKPOINT_RESTORE` to follow (`proc_map_files_get_link`).
fn by_range(pid: Pid, mapping: &Mapping) -> PathBuf {
    process::file(pid, &format!("map_files/{:x}-{:x}", mapping.start, mapping.end))
}

/// If the number is a thread's: the error that says so.
fn of_thread(id: Pid) -> Option<TargetError> {
    let pid = process::thread_group(Tid(id.0))?;
    (pid != id).then_some(TargetError::IsThread { tid: Tid(id.0), pid })
}

/// What is behind a mapping.
enum Examined {
    Object(MappedObject),
    /// No ELF object for us, or one that cannot be opened though it is there.
    PassedOver,
    /// It is not mapped any more.
    Vanished,
}

/// The ELF object behind a mapping, if it is one and can be opened.
pub(super) fn object(pid: Pid, mapping: Mapping) -> Option<MappedObject> {
    match examine(pid, mapping) {
        Examined::Object(object) => Some(object),
        Examined::PassedOver | Examined::Vanished => None,
    }
}

fn examine(pid: Pid, mapping: Mapping) -> Examined {
    let by_range = by_range(pid, &mapping);
    let header = Header::read(&by_range);
    // The numbers agree, but on layered file systems, or where the mapping has changed meanwhile.
    if header.as_ref().is_ok_and(|header| header.inode.1 != mapping.inode.1)
        && !is_mapped(pid, &mapping)
    {
        tracing::debug!(path = %mapping.path.display(), "is not mapped any more");
        return Examined::Vanished;
    }
    let inode = mapping.inode;
    match header {
        Ok(header) => return header.object(mapping.path, by_range, inode),
        Err(error) => tracing::debug!(%error, path = %by_range.display(), "no map_files"),
    }
    let mut by_name = process::file(pid, "root").into_os_string();
    by_name.push(mapping.path.as_os_str());
    let by_name = PathBuf::from(by_name);
    let header = Header::read(&by_name);
    // Only the inode: overlay and btrfs report another device to stat than to maps.
    if let Ok(header) = &header
        && header.inode.1 == inode.1
    {
        return header.object(mapping.path, by_name, inode);
    }
    if !is_mapped(pid, &mapping) {
        tracing::debug!(path = %mapping.path.display(), "is not mapped any more");
        return Examined::Vanished;
    }
    let path = mapping.path.display();
    match header {
        Ok(_) => warn!(%path, "was replaced since it was mapped: not searched"),
        Err(error) => warn!(%error, %path, "cannot be opened: not searched"),
    }
    Examined::PassedOver
}

/// Whether the process still has that mapping.
fn is_mapped(pid: Pid, mapping: &Mapping) -> bool {
    let text = fs::read(process::file(pid, "maps")).unwrap_or_default();
    maps::executable(&text)
        .any(|now| (now.start, now.end, now.inode) == (mapping.start, mapping.end, mapping.inode))
}

/// What the first bytes of a file say.
struct Header {
    inode: (u64, u64),
    /// `e_ident` up to `e_machine`; shorter if the file is.
    start: Vec<u8>,
}

impl Header {
    fn read(path: &Path) -> io::Result<Self> {
        // Asked before it is opened: to open a mapped device could have an effect.
        let meta = fs::metadata(path)?;
        let mut start = Vec::new();
        if meta.is_file() {
            File::open(path)?.take(20).read_to_end(&mut start)?;
        }
        Ok(Self { inode: (meta.dev(), meta.ino()), start })
    }

    /// What a file with this header is to us.
    fn object(&self, path: PathBuf, open_path: PathBuf, inode: Inode) -> Examined {
        if !self.is_ours() {
            return Examined::PassedOver;
        }
        Examined::Object(MappedObject { path, open_path, inode, file: self.inode })
    }

    fn is_ours(&self) -> bool {
        self.unsupported().is_none()
    }

    /// What it is, if not a little-endian 64-bit x86-64 ELF file.
    fn unsupported(&self) -> Option<String> {
        let bits = match self.start.get(..6) {
            Some([0x7f, b'E', b'L', b'F', 2, 1]) => 64,
            Some([0x7f, b'E', b'L', b'F', 1, _]) => 32,
            Some([0x7f, b'E', b'L', b'F', _, 2]) => return Some("a big-endian program".into()),
            _ => return Some("something other than an ELF program".into()),
        };
        match self.start.get(18..20) {
            Some(&[62, 0]) if bits == 64 => None,
            Some(&[62, 0]) => Some("an x32 program (64-bit code, 32-bit pointers)".into()),
            Some(&[low, high]) => {
                let machine = u16::from_le_bytes([low, high]);
                Some(format!("a {bits}-bit program for ELF machine {machine}"))
            }
            _ => Some("a truncated ELF file".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A child that waits until it is dropped.
    struct Waiting(Child);

    impl Waiting {
        fn start(program: &Path) -> Self {
            let child =
                Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let mut this = Self(child);
            // Its first output says that exec and the loader are done.
            io::Write::write_all(this.0.stdin.as_mut().unwrap(), b"x\n").unwrap();
            let mut byte = [0];
            this.0.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
            this
        }

        fn pid(&self) -> Pid {
            Pid(self.0.id())
        }
    }

    impl Drop for Waiting {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn the_executable_comes_first_and_each_inode_once() {
        let cat = Waiting::start(Path::new("/bin/cat"));
        let target = Target::open(cat.pid()).unwrap();
        assert_eq!(target.name, "cat");
        assert_eq!(target.objects[0].file_name(), "cat");
        let names: Vec<_> = target.objects.iter().map(MappedObject::file_name).collect();
        assert!(names.iter().any(|name| name.starts_with("libc.so")), "{names:?}");
        assert!(!names.iter().any(|name| name.contains("vdso")), "{names:?}");
        let inodes: FxHashSet<_> = target.objects.iter().map(|o| o.inode).collect();
        assert_eq!(inodes.len(), target.objects.len());
        for object in &target.objects {
            let theirs = fs::metadata(&object.path).unwrap();
            assert_eq!(fs::metadata(&object.open_path).unwrap().ino(), theirs.ino());
        }
        assert!(!target.watch().unwrap().has_exited());
    }

    #[test]
    fn a_deleted_executable_is_opened_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("my server");
        fs::copy("/bin/cat", &path).unwrap();
        let server = Waiting::start(&path);
        fs::remove_file(&path).unwrap();
        let target = Target::open(server.pid()).unwrap();
        assert_eq!(target.objects[0].path, path.canonicalize().unwrap_or(path));
        assert_eq!(fs::read(&target.objects[0].open_path).unwrap(), fs::read("/bin/cat").unwrap());
    }

    #[test]
    fn what_is_no_target_says_why() {
        assert!(matches!(Target::open(Pid(0)), Err(TargetError::NoSuchProcess(_))));

        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid(child.id());
        let watch = ExitWatch::new(pid).unwrap();
        while !watch.has_exited() {
            std::thread::yield_now();
        }
        assert!(matches!(Target::open(pid), Err(TargetError::Zombie { .. })));
        child.wait().unwrap();
        assert!(matches!(Target::open(pid), Err(TargetError::NoSuchProcess(_))));

        if process::stat(Pid(2)).is_ok_and(|stat| stat.name == "kthreadd") {
            assert!(matches!(Target::open(Pid(2)), Err(TargetError::KernelThread { .. })));
        }
    }

    #[test]
    fn a_thread_is_named_with_its_process() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned()).unwrap();
            let _ = ended.recv();
        });
        let tid = told.recv().unwrap();
        let error = Target::open(Pid(tid)).unwrap_err();
        let ours = std::process::id();
        assert_eq!(
            error.to_string(),
            format!("{tid} is a thread of process {ours}: use `-p {ours}`")
        );
        drop(end);
        thread.join().unwrap();
    }

    #[test]
    fn other_machines_are_refused_by_name() {
        let header = |start: &[u8]| Header { inode: (0, 0), start: start.to_vec() };
        let mut elf = *b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0";
        assert!(header(&elf).is_ours());
        elf[18] = 183;
        assert_eq!(header(&elf).unsupported().unwrap(), "a 64-bit program for ELF machine 183");
        elf[4] = 1;
        elf[18] = 3;
        assert_eq!(header(&elf).unsupported().unwrap(), "a 32-bit program for ELF machine 3");
        assert_eq!(header(&elf[..17]).unsupported().unwrap(), "a truncated ELF file");
        assert!(header(b"#!/bin/sh").unsupported().is_some());
    }
}
