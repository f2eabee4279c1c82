//! What a Go program's file tells about it, stripped or not: which Go built it, where a thread
//! keeps its g, where the runtime's first structures are.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{
    Architecture, LittleEndian, Object as _, ObjectSection as _, ObjectSegment as _,
    ObjectSymbol as _, ReadCache, elf,
};
use serde::Serialize;
use thiserror::Error;

use super::code;

/// No honest program is larger. Tables are read whole: this bounds what a file can make us take.
const LARGEST_FILE: u64 = 2 << 30;
/// What Go's linker puts before the version (`debug/buildinfo`), at a multiple of its 16 bytes.
const MAGIC: &[u8] = b"\xff Go buildinf:";
const MAGIC_STEP: usize = 16;
/// Where there is no section of that name, it is looked for in so much of a segment.
const LOOKED_THROUGH: u64 = 1 << 20;
/// No version is longer.
const LONGEST_VERSION: usize = 256;
/// Where a program without C code has g: the runtime sets `fs` to the word after it.
const OWN_SLOT: i32 = -8;

type Elf<'a> = ElfFile64<'a, LittleEndian, &'a ReadCache<File>>;

/// What the file of a Go program tells.
#[derive(Clone, Debug)]
pub struct GoProgram {
    /// The version that built it, as it stands there: `go1.20.7`.
    pub version: String,
    /// Where a thread keeps the address of its g, or why that is not told.
    pub tls: Result<TlsSlot, &'static str>,
    /// The address of its first instruction, as the file has it.
    pub(super) entry: u64,
    /// What may be `runtime.g0` and `runtime.m0`, as the file has them.
    pub(super) first: First,
}

/// Addresses of the structures of a program's first thread.
#[derive(Clone, Debug)]
pub(super) enum First {
    /// Its symbols name them.
    Named { g0: u64, m0: u64 },
    /// It has no symbols: both are among what its first instructions load.
    Among(Vec<u64>),
}

/// Where a thread keeps the address of its g.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TlsSlot {
    /// From the base of `fs`.
    pub offset: i32,
    /// How we know.
    pub known_by: SlotSource,
}

/// How we know where g is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotSource {
    /// `runtime.morestack` reads it there.
    Code,
    /// The symbol `runtime.tlsg`, in the program's block of thread-local data.
    Symbol,
    /// That block has room for nothing else.
    OnlyOne,
    /// It has no such block, and so no C code: Go's own place.
    Own,
}

impl SlotSource {
    /// For a person.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Code => "as runtime.morestack reads it",
            Self::Symbol => "as the symbol runtime.tlsg says",
            Self::OnlyOne => "the only thread-local word of the program",
            Self::Own => "Go's own place: the program has no other thread-local data",
        }
    }
}

/// Why a file is no Go program of which we can tell anything.
#[derive(Debug, Error)]
pub enum GoProgramError {
    /// It cannot be read.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no ELF file, or is broken.
    #[error("{} is no x86-64 ELF program: {reason}", file.display())]
    NotElf {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Nothing in it says that Go built it.
    #[error(
        "{} has no Go build information: it is no Go program, or gccgo or TinyGo built it, which \
         keep goroutines in ways of their own", file.display()
    )]
    NotGo {
        /// The file.
        file: PathBuf,
    },
    /// An old Go built it.
    #[error(
        "{} was built by a Go older than 1.18: its goroutines are not known", file.display()
    )]
    TooOld {
        /// The file.
        file: PathBuf,
    },
}

impl GoProgram {
    /// Reads the file of a program.
    ///
    /// # Errors
    /// [`GoProgramError`] for a file that cannot be read, is broken, or no Go program.
    pub fn read(path: &Path) -> Result<Self, GoProgramError> {
        let io_error = |source| GoProgramError::Io { file: path.into(), source };
        // Asked first: to open a fifo would wait for ever.
        let meta = std::fs::metadata(path).map_err(io_error)?;
        if !meta.is_file() {
            let why = "not a regular file";
            return Err(io_error(io::Error::new(io::ErrorKind::InvalidInput, why)));
        }
        if meta.len() > LARGEST_FILE {
            return Err(io_error(io::ErrorKind::FileTooLarge.into()));
        }
        let cache = ReadCache::new(File::open(path).map_err(io_error)?);
        let not_elf = |reason: String| GoProgramError::NotElf { file: path.into(), reason };
        let elf = Elf::parse(&cache).map_err(|error| not_elf(error.to_string()))?;
        if elf.architecture() != Architecture::X86_64 {
            return Err(not_elf(format!("it is for {:?}", elf.architecture())));
        }
        let version = match version(&elf) {
            Some(BuiltBy::Version(version)) => version,
            Some(BuiltBy::Older) => return Err(GoProgramError::TooOld { file: path.into() }),
            None => return Err(GoProgramError::NotGo { file: path.into() }),
        };
        let symbols = Symbols::read(&elf);
        Ok(Self {
            version,
            tls: tls_slot(&elf, &symbols),
            entry: elf.entry(),
            first: match (symbols.g0, symbols.m0) {
                (Some(g0), Some(m0)) => First::Named { g0, m0 },
                _ => First::Among(code::loaded_addresses(elf.entry(), |at, len| {
                    bytes_at(&elf, at, len)
                })),
            },
        })
    }
}

/// What build information says.
#[derive(Debug, PartialEq, Eq)]
enum BuiltBy {
    Version(String),
    /// It is in the form that Go had before 1.18: pointers to strings that a linker may have moved.
    Older,
}

fn version(elf: &Elf<'_>) -> Option<BuiltBy> {
    let section = elf.section_by_name(".go.buildinfo");
    let bytes = section.and_then(|section| {
        let size = section.size().min(LOOKED_THROUGH);
        section.data_range(section.address(), size).ok()?
    });
    if let Some(bytes) = bytes {
        return version_in(bytes);
    }
    elf.segments().find_map(|segment| {
        let size = segment.file_range().1.min(LOOKED_THROUGH);
        version_in(segment.data_range(segment.address(), size).ok()??)
    })
}

fn version_in(bytes: &[u8]) -> Option<BuiltBy> {
    let at = (0..bytes.len())
        .step_by(MAGIC_STEP)
        .find(|&at| bytes.get(at..).is_some_and(|rest| rest.starts_with(MAGIC)))?;
    let info = bytes.get(at..)?;
    if info.get(15)? & 2 == 0 {
        return Some(BuiltBy::Older);
    }
    let (length, text) = varint(info.get(32..)?)?;
    let text = text.get(..length).filter(|text| text.len() <= LONGEST_VERSION)?;
    Some(BuiltBy::Version(str::from_utf8(text).ok()?.to_owned()))
}

/// A length of one or two bytes: none of ours is longer.
fn varint(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match bytes {
        [low @ 0..0x80, rest @ ..] => Some((usize::from(*low), rest)),
        [low, high @ 0..0x80, rest @ ..] => {
            Some((usize::from(low & 0x7f) | usize::from(*high) << 7, rest))
        }
        _ => None,
    }
}

#[derive(Default)]
struct Symbols {
    g0: Option<u64>,
    m0: Option<u64>,
    morestack: Option<u64>,
    tlsg: Option<u64>,
}

impl Symbols {
    fn read(elf: &Elf<'_>) -> Self {
        let mut found = Self::default();
        for symbol in elf.symbols().filter(|symbol| !symbol.is_undefined()) {
            let slot = match symbol.name_bytes() {
                Ok(b"runtime.g0") => &mut found.g0,
                Ok(b"runtime.m0") => &mut found.m0,
                Ok(b"runtime.morestack" | b"runtime.morestack.abi0") => &mut found.morestack,
                Ok(b"runtime.tlsg") => &mut found.tlsg,
                _ => continue,
            };
            *slot = Some(symbol.address());
        }
        found
    }
}

/// Where g is, from the surest source that there is.
fn tls_slot(elf: &Elf<'_>, symbols: &Symbols) -> Result<TlsSlot, &'static str> {
    let slot = |offset, known_by| Ok(TlsSlot { offset, known_by });
    let morestack = symbols.morestack.and_then(|at| bytes_at(elf, at, 16));
    if let Some(offset) = morestack.and_then(|code| code::tls_slot(&code)) {
        return slot(offset, SlotSource::Code);
    }
    let endian = elf.endian();
    let headers = elf.elf_program_headers();
    let Some(block) = headers.iter().find(|header| header.p_type(endian) == elf::PT_TLS) else {
        return slot(OWN_SLOT, SlotSource::Own);
    };
    // The block of the program itself ends at the base of fs, on x86-64.
    let size = block.p_memsz(endian).checked_next_multiple_of(block.p_align(endian).max(1));
    let size = size.and_then(|size| i32::try_from(size).ok());
    match (size, symbols.tlsg.and_then(|at| i32::try_from(at).ok())) {
        (Some(size), Some(at)) if at < size => slot(at - size, SlotSource::Symbol),
        (Some(8), None) => slot(-8, SlotSource::OnlyOne),
        _ => Err("the program has more thread-local data, and no symbols that tell which is g"),
    }
}

/// Up to `len` bytes of the code at an address.
fn bytes_at(elf: &Elf<'_>, address: u64, len: u64) -> Option<Vec<u8>> {
    let endian = elf.endian();
    let is_code = elf.elf_program_headers().iter().any(|header| {
        header.p_type(endian) == elf::PT_LOAD
            && header.p_flags(endian).contains(elf::PF_X)
            && (header.p_vaddr(endian)
                ..header.p_vaddr(endian).saturating_add(header.p_filesz(endian)))
                .contains(&address)
    });
    let segment = elf.segments().filter(|_| is_code).find(|segment| {
        let end = segment.address().saturating_add(segment.file_range().1);
        (segment.address()..end).contains(&address)
    })?;
    let end = segment.address().saturating_add(segment.file_range().1);
    let bytes = segment.data_range(address, len.min(end.checked_sub(address)?)).ok()??;
    Some(bytes.to_vec())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn info(flags: u8, version: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        bytes.extend(MAGIC);
        bytes.extend([8, flags]);
        bytes.extend([0; 16]);
        bytes.extend(version);
        bytes
    }

    #[test]
    fn versions_stand_after_the_mark() {
        let found = version_in(&info(2, b"\x08go1.20.7\x00"));
        assert_eq!(found, Some(BuiltBy::Version("go1.20.7".to_owned())));
        assert_eq!(version_in(&info(0, b"")), Some(BuiltBy::Older));
        assert_eq!(version_in(&info(2, b"\x09go1.20.7")), None);
        assert_eq!(version_in(b"no mark"), None);
        let mut long = vec![0x80 | 0x20, 2];
        long.extend([b'x'; 300]);
        assert_eq!(version_in(&info(2, &long)), None, "288 bytes are no version");
    }

    #[test]
    fn what_is_no_go_program_says_so() {
        let error = GoProgram::read(Path::new("/proc/self/exe")).unwrap_err();
        assert!(matches!(error, GoProgramError::NotGo { .. }), "{error}");
        let error = GoProgram::read(Path::new("/etc/passwd")).unwrap_err();
        assert!(matches!(error, GoProgramError::NotElf { .. }), "{error}");
        let error = GoProgram::read(Path::new("/dev/null")).unwrap_err();
        assert!(matches!(error, GoProgramError::Io { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = version_in(&bytes);
            let _ = version_in(&info(2, &bytes));
        }
    }
}
