//! The code of a process as it lies in memory, against the files it was mapped from.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result};

/// A byte of code in memory that is not the byte in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Altered {
    /// The object, by file name.
    pub object: String,
    /// Where in the file.
    pub offset: u64,
    /// What the file says.
    pub file: u8,
    /// What lies in memory.
    pub memory: u8,
}

/// A file-backed executable mapping, from `/proc/PID/maps`.
struct Code {
    begin: u64,
    end: u64,
    offset: u64,
    path: String,
}

/// Every byte of the process's file-backed code that differs from its file.
///
/// All of it is compared, not just the functions a probe was asked for: a byte changed where
/// nobody looks would be the worst of all.
///
/// # Errors
/// When the process is gone, or its memory or files cannot be read.
pub fn altered(pid: u32) -> Result<BTreeSet<Altered>> {
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let mut altered = BTreeSet::new();
    for code in code(pid)? {
        let Ok(length) = usize::try_from(code.end - code.begin) else { continue };
        let mut here = vec![0; length];
        memory
            .read_exact_at(&mut here, code.begin)
            .with_context(|| format!("reading the code of {} in process {pid}", code.path))?;
        // Through map_files: the very inode that is mapped, in whatever mount namespace.
        let link = format!("/proc/{pid}/map_files/{:x}-{:x}", code.begin, code.end);
        let file = File::open(&link).with_context(|| format!("opening {link}"))?;
        let mut there = vec![0; length];
        // The last page of a mapping may reach beyond the end of the file; it reads as zeroes.
        read_up_to(&file, &mut there, code.offset)?;
        if here == there {
            continue;
        }
        let object = code.path.rsplit('/').next().unwrap_or(&code.path);
        for (at, (memory, file)) in (code.offset..).zip(here.into_iter().zip(there)) {
            if memory != file {
                altered.insert(Altered { object: object.to_owned(), offset: at, file, memory });
            }
        }
    }
    Ok(altered)
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> Result<()> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let read = file.read_at(rest, offset + done as u64)?;
        if read == 0 {
            break;
        }
        done += read;
    }
    Ok(())
}

fn code(pid: u32) -> Result<Vec<Code>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    Ok(maps.lines().filter_map(parse).collect())
}

/// One line of `/proc/PID/maps`, if it is code from a file (`proc_pid_maps(5)`).
fn parse(line: &str) -> Option<Code> {
    let mut fields = line.splitn(6, ' ');
    let (begin, end) = fields.next()?.split_once('-')?;
    let rights = fields.next()?;
    let offset = fields.next()?;
    let path = fields.nth(2)?.trim();
    if !rights.contains('x') || !path.starts_with('/') {
        return None;
    }
    Some(Code {
        begin: u64::from_str_radix(begin, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        offset: u64::from_str_radix(offset, 16).ok()?,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_from_files_is_compared() {
        let code = parse("7f10-7f30 r-xp 00001000 08:01 4711                       /a b/lib.so.6")
            .expect("code");
        assert_eq!((code.begin, code.end, code.offset), (0x7f10, 0x7f30, 0x1000));
        assert_eq!(code.path, "/a b/lib.so.6");
        assert!(parse("7f10-7f30 r--p 00000000 08:01 4711 /lib.so").is_none());
        assert!(parse("7ffd-7fff r-xp 00000000 00:00 0 [vdso]").is_none());
        assert!(parse("7ffd-7fff rwxp 00000000 00:00 0").is_none());
    }

    #[test]
    fn this_process_is_as_its_files_say() {
        assert_eq!(altered(std::process::id()).expect("readable"), BTreeSet::new());
    }
}
