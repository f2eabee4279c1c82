//! An ELF file, read piece by piece: every number in it is checked before it is used.
//!
//! Read and not mapped: a file that is cut short while it is mapped kills its reader.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::elf::{self, FileHeader64, ProgramHeader64, SectionHeader64};
use object::{LittleEndian as LE, pod};

use super::{CodePart, SymbolError};
use crate::model::{FileOffset, VirtAddr};
use crate::target::BuildId;

/// No table of an honest file is larger.
const LARGEST_TABLE: u64 = 1 << 30;
/// No honest function is larger.
const LARGEST_FUNCTION: u64 = 16 << 20;
/// Code is looked through in pieces of this size.
const PIECE: u64 = 1 << 20;
/// No honest note segment is larger.
const LARGEST_NOTE: u64 = 1 << 20;

/// A section.
#[derive(Clone, Debug)]
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) kind: u32,
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) offset: u64,
    pub(super) size: u64,
    pub(super) link: u32,
}

/// A loaded segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    executable: bool,
    writable: bool,
    offset: u64,
    address: u64,
    /// In the file: what lies beyond is zero and no code.
    size: u64,
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Range {
    pub(super) fn contains(self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }
}

/// Where the bytes come from.
#[derive(Debug)]
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

/// An open ELF file with its tables of sections and segments.
#[derive(Debug)]
pub(super) struct Elf {
    /// For messages.
    file: PathBuf,
    bytes: Bytes,
    len: u64,
    /// Where the program begins.
    entry: u64,
    pub(super) sections: Vec<Section>,
    segments: Vec<Segment>,
    notes: Vec<Segment>,
    /// What may hold functions: executable sections that are not stubs of the linker.
    code: Vec<Range>,
}

impl Elf {
    /// Opens a file; `shown` is its name in messages.
    pub(super) fn open(path: &Path, shown: &Path) -> Result<Self, SymbolError> {
        let error =
            |source: io::Error| SymbolError::Io { file: shown.into(), source: Arc::new(source) };
        // Asked first: to open a fifo would wait for ever.
        if !std::fs::metadata(path).map_err(error)?.is_file() {
            return Err(broken(shown, "not a regular file"));
        }
        Self::of_file(File::open(path).map_err(error)?, shown)
    }

    /// Reads an open file.
    pub(super) fn of_file(file: File, shown: &Path) -> Result<Self, SymbolError> {
        let meta = file.metadata();
        let meta = meta
            .map_err(|source| SymbolError::Io { file: shown.into(), source: Arc::new(source) })?;
        Self::parse(Bytes::File(file), meta.len(), shown)
    }

    /// Reads an ELF file that lay in another.
    pub(super) fn of_memory(bytes: Vec<u8>, shown: &Path) -> Result<Self, SymbolError> {
        let len = bytes.len() as u64;
        Self::parse(Bytes::Memory(bytes), len, shown)
    }

    fn parse(bytes: Bytes, len: u64, shown: &Path) -> Result<Self, SymbolError> {
        let mut this = Self {
            file: shown.into(),
            bytes,
            len,
            entry: 0,
            sections: Vec::new(),
            segments: Vec::new(),
            notes: Vec::new(),
            code: Vec::new(),
        };
        this.read_headers()?;
        Ok(this)
    }

    fn read_headers(&mut self) -> Result<(), SymbolError> {
        if self.len < 64 {
            return Err(self.broken("not an ELF file: shorter than its header"));
        }
        let header = self.read(0, 64)?;
        match header.get(..6) {
            Some([0x7f, b'E', b'L', b'F', 2, 1]) => {}
            Some([0x7f, b'E', b'L', b'F', ..]) => {
                return Err(self.broken("not a 64-bit little-endian ELF file"));
            }
            _ => return Err(self.broken("not an ELF file")),
        }
        let header = *self.one::<FileHeader64<LE>>(&header)?;
        if header.e_machine.get(LE) != elf::EM_X86_64 {
            let machine = header.e_machine.get(LE);
            return Err(self.broken(format!("a program for ELF machine {machine:?}, not x86-64")));
        }

        self.entry = header.e_entry.get(LE);

        let segments = self.table::<ProgramHeader64<LE>>(
            header.e_phoff.get(LE),
            u64::from(header.e_phnum.get(LE)),
            "program headers",
        )?;
        for segment in segments {
            let flags = segment.p_flags.get(LE);
            let parsed = Segment {
                executable: flags.contains(elf::PF_X),
                writable: flags.contains(elf::PF_W),
                offset: segment.p_offset.get(LE),
                address: segment.p_vaddr.get(LE),
                size: segment.p_filesz.get(LE),
            };
            match segment.p_type.get(LE) {
                elf::PT_LOAD => self.segments.push(parsed),
                elf::PT_NOTE => self.notes.push(parsed),
                _ => {}
            }
        }
        self.read_sections(&header)?;
        self.code = self.code_ranges();
        Ok(())
    }

    fn read_sections(&mut self, header: &FileHeader64<LE>) -> Result<(), SymbolError> {
        let at = header.e_shoff.get(LE);
        if at == 0 {
            return Ok(());
        }
        // With too many for 16 bits, the first section's header holds the numbers.
        let first = self.table::<SectionHeader64<LE>>(at, 1, "section headers")?;
        let Some(first) = first.first() else { return Ok(()) };
        let count = match header.e_shnum.get(LE) {
            0 => first.sh_size.get(LE),
            count => u64::from(count),
        };
        let names = match header.e_shstrndx.get(LE) {
            elf::SHN_XINDEX => first.sh_link.get(LE),
            names => u32::from(names.0),
        };
        let headers = self.table::<SectionHeader64<LE>>(at, count, "section headers")?;
        let names = match headers.get(names as usize) {
            Some(names) if names.sh_type.get(LE) == elf::SHT_STRTAB => {
                self.read(names.sh_offset.get(LE), names.sh_size.get(LE))?
            }
            _ => Vec::new(),
        };
        self.sections = headers
            .iter()
            .map(|section| Section {
                name: string_at(&names, section.sh_name.get(LE)).to_vec(),
                kind: section.sh_type.get(LE).0,
                flags: section.sh_flags.get(LE).0,
                address: section.sh_addr.get(LE),
                offset: section.sh_offset.get(LE),
                size: section.sh_size.get(LE),
                link: section.sh_link.get(LE),
            })
            .collect();
        Ok(())
    }

    /// The executable sections without PLTs; the executable segments if there are no sections.
    fn code_ranges(&self) -> Vec<Range> {
        let wanted = elf::SHF_ALLOC.0 | elf::SHF_EXECINSTR.0;
        let mut ranges: Vec<Range> = if self.sections.is_empty() {
            self.segments
                .iter()
                .filter(|segment| segment.executable)
                .filter_map(|s| {
                    Some(Range { start: s.address, end: s.address.checked_add(s.size)? })
                })
                .collect()
        } else {
            self.sections
                .iter()
                .filter(|section| section.flags & wanted == wanted)
                .filter(|section| section.name != b".plt" && !section.name.starts_with(b".plt."))
                .filter_map(|s| {
                    Some(Range { start: s.address, end: s.address.checked_add(s.size)? })
                })
                .collect()
        };
        ranges.sort_unstable_by_key(|range| range.start);
        ranges
    }

    /// The code around an address, up to the section's end; none if there may be no function.
    pub(super) fn code_range(&self, address: u64) -> Option<Range> {
        let after = self.code.partition_point(|range| range.start <= address);
        self.code.get(after.checked_sub(1)?).copied().filter(|range| range.contains(address))
    }

    /// The file offset of an address in a loaded, executable segment.
    pub(super) fn offset(&self, address: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.executable).find_map(|segment| {
            let into = address.checked_sub(segment.address)?;
            (into < segment.size).then(|| segment.offset.checked_add(into))?
        })
    }

    /// The address of a byte of the file, where it is loaded as code.
    pub(super) fn address_of(&self, offset: u64) -> Option<u64> {
        self.segments.iter().filter(|segment| segment.executable).find_map(|segment| {
            let into = offset.checked_sub(segment.offset).filter(|into| *into < segment.size)?;
            segment.address.checked_add(into)
        })
    }

    /// The code of a function. The range comes from symbols and is not trusted: it ends at the
    /// latest where its section does.
    pub(super) fn code(&self, range: Range) -> Result<CodePart, SymbolError> {
        let Range { start, end } = range;
        let within = self.code_range(start);
        let offset = self.offset(start);
        let (Some(within), Some(offset)) = (within, offset) else {
            return Err(self.broken(format!("no code at {start:#x}")));
        };
        let size = end.min(within.end).saturating_sub(start);
        if size > LARGEST_FUNCTION {
            return Err(self.broken(format!("a function of {size} bytes at {start:#x}")));
        }
        let bytes = self.read(offset, size)?;
        Ok(CodePart { address: VirtAddr(start), offset: FileOffset(offset), bytes: bytes.into() })
    }

    /// Shows all that may hold functions, in pieces that overlap.
    pub(super) fn each_piece_of_code(
        &self,
        overlap: u64,
        look: &mut dyn FnMut(VirtAddr, &[u8]),
    ) -> Result<(), SymbolError> {
        // Sections that lie in one another are looked through once.
        let mut done = 0;
        for &Range { start, end } in &self.code {
            let mut from = start.max(done);
            done = done.max(end);
            while from < end {
                let Some(offset) = self.offset(from) else { break };
                let to = end.min(from.saturating_add(PIECE));
                look(VirtAddr(from), &self.read(offset, to - from)?);
                if to == end {
                    break;
                }
                from = (to.saturating_sub(overlap)).max(from + 1);
            }
        }
        Ok(())
    }

    /// The first section of a name that has bytes in the file.
    pub(super) fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections
            .iter()
            .find(|section| section.name == name && section.kind != elf::SHT_NOBITS.0)
    }

    /// The bytes of a section.
    pub(super) fn section_bytes(&self, section: &Section) -> Result<Vec<u8>, SymbolError> {
        self.read(section.offset, section.size)
    }

    /// The build id, if the linker left one. Broken notes are none.
    pub(super) fn build_id(&self) -> Option<BuildId> {
        let in_segments = self.notes.iter().map(|note| (note.offset, note.size));
        let in_sections = self
            .sections
            .iter()
            .filter(|section| section.kind == elf::SHT_NOTE.0)
            .map(|section| (section.offset, section.size));
        in_segments
            .chain(in_sections)
            .filter(|&(_, size)| size <= LARGEST_NOTE)
            .find_map(|(offset, size)| build_id_in(&self.read(offset, size).ok()?))
    }

    /// Where in the file the bytes at an address are, and how many follow there in its segment.
    pub(super) fn loaded_at(&self, address: u64) -> Option<(u64, u64)> {
        self.segments.iter().find_map(|segment| {
            let into = address.checked_sub(segment.address).filter(|into| *into < segment.size)?;
            Some((segment.offset.checked_add(into)?, segment.size - into))
        })
    }

    /// The loaded segments that a program may write, or those that it may not, as ranges of
    /// addresses; what is code last.
    pub(super) fn data(&self, writable: bool) -> Vec<Range> {
        let mut of_kind: Vec<&Segment> =
            self.segments.iter().filter(|segment| segment.writable == writable).collect();
        of_kind.sort_by_key(|segment| segment.executable);
        let end = |s: &Segment| s.address.checked_add(s.size.min(self.len));
        of_kind.iter().filter_map(|s| Some(Range { start: s.address, end: end(s)? })).collect()
    }

    /// The bytes of a range of the file.
    pub(super) fn read(&self, offset: u64, size: u64) -> Result<Vec<u8>, SymbolError> {
        let end = offset.checked_add(size).filter(|&end| end <= self.len);
        if end.is_none() {
            return Err(self.broken(format!(
                "cut short: {size} bytes at {offset:#x} lie beyond its end at {:#x}",
                self.len
            )));
        }
        if size > LARGEST_TABLE {
            return Err(self.broken(format!("a table of {size} bytes at {offset:#x}")));
        }
        let (from, size) = (offset as usize, size as usize);
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(bytes.get(from..from + size).unwrap_or_default().to_vec()),
            Bytes::File(file) => {
                let mut bytes = vec![0; size];
                file.read_exact_at(&mut bytes, offset).map_err(|source| SymbolError::Io {
                    file: self.file.clone(),
                    source: Arc::new(source),
                })?;
                Ok(bytes)
            }
        }
    }

    /// The file's length.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// An error that names this file.
    pub(super) fn broken(&self, reason: impl Into<String>) -> SymbolError {
        broken(&self.file, reason)
    }

    fn one<'a, T: pod::Pod>(&self, bytes: &'a [u8]) -> Result<&'a T, SymbolError> {
        let parsed = pod::from_bytes(bytes);
        parsed.map(|(value, _)| value).map_err(|()| self.broken("a header is cut short"))
    }

    fn table<T: pod::Pod + Clone>(
        &self,
        at: u64,
        count: u64,
        what: &str,
    ) -> Result<Vec<T>, SymbolError> {
        let size = count
            .checked_mul(size_of::<T>() as u64)
            .ok_or_else(|| self.broken(format!("{count} {what}")))?;
        let bytes = self.read(at, size)?;
        let parsed = pod::slice_from_all_bytes(&bytes);
        parsed.map(<[T]>::to_vec).map_err(|()| self.broken(format!("{what} cut short")))
    }
}

/// The build id of an open file, if it is an ELF file with one.
#[must_use]
pub fn build_id_of(file: File) -> Option<BuildId> {
    Elf::of_file(file, Path::new("")).ok()?.build_id()
}

/// The build id of a file, if it is an ELF file with one.
#[must_use]
pub fn build_id(path: &Path) -> Option<BuildId> {
    Elf::open(path, path).ok()?.build_id()
}

/// Where a program begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPoint {
    /// In the file.
    pub offset: FileOffset,
    /// The first bytes there: more than any instruction has, unless the file ends before.
    pub bytes: Vec<u8>,
}

/// The first instruction of a program; `shown` is its name in messages.
///
/// # Errors
/// [`SymbolError`] if it is no ELF file, or does not begin in its code.
pub fn entry_point(path: &Path, shown: &Path) -> Result<EntryPoint, SymbolError> {
    let elf = Elf::open(path, shown)?;
    let begins = elf.broken(format!("it begins at {:#x}, where there is no code", elf.entry));
    let offset = elf.offset(elf.entry).ok_or(begins)?;
    let size = elf.len.saturating_sub(offset).min(16);
    Ok(EntryPoint { offset: FileOffset(offset), bytes: elf.read(offset, size)? })
}

/// The string at an offset of a string table, up to its NUL or the table's end.
pub(super) fn string_at(strings: &[u8], offset: u32) -> &[u8] {
    let rest = strings.get(offset as usize..).unwrap_or_default();
    memchr::memchr(0, rest).map_or(rest, |end| &rest[..end])
}

/// Walks notes (gABI "Note Section"; names and descriptions are padded to 4 bytes) to the build id.
fn build_id_in(mut notes: &[u8]) -> Option<BuildId> {
    const NT_GNU_BUILD_ID: u32 = 3;
    loop {
        let (header, rest) = notes.split_first_chunk::<12>()?;
        let word = |at: usize| {
            header.get(at..at + 4).and_then(|w| w.try_into().ok()).map(u32::from_le_bytes)
        };
        let (name_size, size, kind) = (word(0)? as usize, word(4)? as usize, word(8)?);
        let name = rest.get(..name_size)?;
        let rest = rest.get(name_size.checked_next_multiple_of(4)?..)?;
        let value = rest.get(..size)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && !value.is_empty() {
            return Some(BuildId(value.to_vec()));
        }
        notes = rest.get(size.checked_next_multiple_of(4)?..)?;
    }
}

fn broken(file: &Path, reason: impl Into<String>) -> SymbolError {
    SymbolError::Broken { file: file.into(), reason: reason.into() }
}
