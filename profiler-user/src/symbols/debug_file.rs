//! Symbols kept apart from the program: debug files and `.gnu_debugdata`.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use super::SymbolError;
use super::elf::Elf;
use crate::target::BuildId;

const DEBUG: &str = "usr/lib/debug";
/// What `.gnu_debugdata` may grow to. Fedora's largest are a few megabytes.
const LARGEST_UNPACKED: u64 = 256 << 20;
/// What unpacking may need.
const UNPACK_MEMORY_KIB: u32 = 128 << 10;
/// What is read of a debug file without build id to check its CRC.
const LARGEST_CHECKED: u64 = 4 << 30;

/// Finds the debug file of an object, below `root`, by build id, then by `.gnu_debuglink`. One
/// that is not this object's is passed over.
pub(super) fn find(main: &Elf, path: &Path, root: &Path) -> Option<Elf> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.ok()?;
    let open = |path: &Path| {
        // In the target's root its links lead where they lead the target, and never out. A fifo
        // put there must not hold us up.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let file = File::from(file);
        file.metadata().ok()?.is_file().then_some(file)
    };
    let build_id = main.build_id();
    let by_id = build_id.as_ref().and_then(|id| {
        let path = by_build_id(id)?;
        let elf = Elf::of_file(open(&path)?, &path).ok()?;
        (elf.build_id().as_ref() == Some(id)).then_some(elf)
    });
    by_id.or_else(|| {
        let (name, crc) = link(main)?;
        by_link(&name, path).into_iter().find_map(|path| {
            let file = open(&path)?;
            let elf = Elf::of_file(file.try_clone().ok()?, &path).ok()?;
            let same = match (&build_id, elf.build_id()) {
                (Some(ours), Some(theirs)) => *ours == theirs,
                _ => crc_of(file, elf.len()) == Some(crc),
            };
            if !same {
                tracing::debug!(path = %path.display(), "a debug file of another build");
            }
            same.then_some(elf)
        })
    })
}

/// Where distributions put the debug file of a build id.
fn by_build_id(id: &BuildId) -> Option<PathBuf> {
    let (first, rest) = id.0.split_first()?;
    let rest = BuildId(rest.to_vec());
    (!rest.0.is_empty()).then(|| format!("{DEBUG}/.build-id/{first:02x}/{rest}.debug").into())
}

/// Where GDB looks for a debug link ("Debugging Information in Separate Files").
fn by_link(name: &Path, path: &Path) -> [PathBuf; 3] {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = directory.strip_prefix("/").unwrap_or(directory);
    [
        directory.join(name),
        directory.join(".debug").join(name),
        Path::new(DEBUG).join(directory).join(name),
    ]
}

/// The file name and the CRC in `.gnu_debuglink`: name, NUL, padding to 4 bytes, CRC.
fn link(main: &Elf) -> Option<(PathBuf, u32)> {
    let bytes = main.section_bytes(main.section(b".gnu_debuglink")?).ok()?;
    let end = memchr::memchr(0, &bytes)?;
    let crc = bytes.get((end + 1).checked_next_multiple_of(4)?..)?.first_chunk::<4>()?;
    let name = Path::new(std::ffi::OsStr::from_bytes(bytes.get(..end)?));
    // A name, not a path: a link may not point elsewhere.
    let name = (Some(name.as_os_str()) == name.file_name()).then(|| name.to_owned())?;
    Some((name, u32::from_le_bytes(*crc)))
}

fn crc_of(file: File, len: u64) -> Option<u32> {
    if len > LARGEST_CHECKED {
        return None;
    }
    let mut crc = Crc::new();
    let mut file = file.take(len);
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk).ok()? {
            0 => return Some(crc.sum()),
            n => crc.update(chunk.get(..n)?),
        }
    }
}

/// Unpacks `.gnu_debugdata` (`MiniDebugInfo`): an xz-packed ELF file with the local functions.
pub(super) fn embedded(main: &Elf, path: &Path) -> Result<Option<Elf>, SymbolError> {
    let Some(section) = main.section(b".gnu_debugdata") else { return Ok(None) };
    let packed = main.section_bytes(section)?;
    let reader = lzma_rust2::XzReader::new_mem_limit(packed.as_slice(), false, UNPACK_MEMORY_KIB);
    let mut unpacked = Vec::new();
    let read = reader.take(LARGEST_UNPACKED + 1).read_to_end(&mut unpacked);
    if let Err(error) = read {
        return Err(main.broken(format!(".gnu_debugdata cannot be unpacked: {error}")));
    }
    if unpacked.len() as u64 > LARGEST_UNPACKED {
        return Err(main.broken(format!(".gnu_debugdata is larger than {LARGEST_UNPACKED} bytes")));
    }
    Elf::of_memory(unpacked, path).map(Some)
}
