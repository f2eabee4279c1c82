//! `/proc/PID/maps`: which files are mapped executable (`fs/proc/task_mmu.c`, `show_map_vma`).
//!
//! Parsed here and not by a crate because a target chooses the names of the files it maps.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One executable mapping of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    /// Where in the file it begins.
    pub(super) offset: u64,
    /// Device (as `st_dev` encodes it) and inode.
    pub(super) inode: (u64, u64),
    /// As the target sees it, without the kernel's ` (deleted)`.
    pub(super) path: PathBuf,
}

/// The executable file mappings, in the order of their addresses. Lines of another shape (there
/// are none in the kernels we know) are passed over.
pub(super) fn executable(text: &[u8]) -> impl Iterator<Item = Mapping> {
    text.split(|&byte| byte == b'\n').filter_map(line)
}

fn line(line: &[u8]) -> Option<Mapping> {
    // START-END PERMS OFFSET MAJOR:MINOR INODE      PATH
    let mut fields = line.splitn(6, |&byte| byte == b' ');
    let mut field = || fields.next().and_then(|field| str::from_utf8(field).ok());
    let (start, end) = field()?.split_once('-')?;
    let permissions = field()?;
    let offset = field()?;
    let (major, minor) = field()?.split_once(':')?;
    let inode: u64 = field()?.parse().ok()?;
    let path = fields.next()?.trim_ascii_start();
    // Anonymous mappings have inode 0; [vdso], [heap] and the like have no path from the root.
    if permissions.as_bytes().get(2) != Some(&b'x') || inode == 0 || path.first() != Some(&b'/') {
        return None;
    }
    let hex32 = |text| u32::from_str_radix(text, 16).ok();
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        inode: (rustix::fs::makedev(hex32(major)?, hex32(minor)?), inode),
        path: PathBuf::from(OsString::from_vec(unescape(without_deleted(path)))),
    })
}

/// The mapping that an address lies in: where it begins, and where it ends.
pub(super) fn around(text: &[u8], address: u64) -> Option<(u64, u64)> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let range = line.split(|&byte| byte == b' ').next()?;
        let (start, end) = str::from_utf8(range).ok()?.split_once('-')?;
        let (start, end) =
            (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        (start..end).contains(&address).then_some((start, end))
    })
}

/// Without the mark of a file that has no name any more. A file whose name really ends so loses
/// its end: the name is for messages, what is opened is the inode.
pub(super) fn without_deleted(path: &[u8]) -> &[u8] {
    path.strip_suffix(b" (deleted)").unwrap_or(path)
}

/// The kernel writes a line feed in a path as `\012` and leaves all else alone.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(br"\012") {
            out.push(b'\n');
            rest = tail;
        } else {
            out.push(byte);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_executable_files() {
        let text = b"\
55d0c0a00000-55d0c0a2f000 r--p 00000000 08:01 1315 /usr/bin/bash
55d0c0a2f000-55d0c0b0a000 r-xp 0002f000 08:01 1315                       /usr/bin/bash
55d0c1000000-55d0c1021000 rw-p 00000000 00:00 0                          [heap]
7f0000000000-7f0000001000 rwxp 00000000 00:00 0 
7f0000001000-7f0000002000 r-xs 00000000 00:01 77 /memfd:jit code (deleted)
7f0000002000-7f0000003000 r-xp 00000000 fe:10 4026531 /opt/two words\\012and lines/lib.so (deleted)
7ffd1b7f2000-7ffd1b7f4000 r-xp 00000000 00:00 0                          [vdso]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
";
        assert_eq!(around(text, 0x7ffd_1b7f_3fff), Some((0x7ffd_1b7f_2000, 0x7ffd_1b7f_4000)));
        assert_eq!(around(text, 0x7ffd_1b7f_4000), None);
        let found: Vec<_> = executable(text).collect();
        let paths: Vec<_> = found.iter().map(|m| m.path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/usr/bin/bash", "/memfd:jit code", "/opt/two words\nand lines/lib.so"]);
        assert_eq!((found[0].start, found[0].end), (0x55d0_c0a2_f000, 0x55d0_c0b0_a000));
        assert_eq!(found[0].offset, 0x2_f000);
        assert_eq!(found[0].inode, (rustix::fs::makedev(8, 1), 1315));
        assert_eq!(found[2].inode.0, rustix::fs::makedev(0xfe, 0x10));
    }

    proptest! {
        #[test]
        fn never_panics(text in proptest::collection::vec(any::<u8>(), 0..300), path in ".*") {
            let _ = executable(&text).count();
            let _ = around(&text, 7);
            let text = format!("1000-2000 r-xp 00000000 08:01 1 {path}\n");
            let _ = executable(text.as_bytes()).count();
        }
    }
}
