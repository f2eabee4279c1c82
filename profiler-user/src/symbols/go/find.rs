//! Where in a file Go's tables are: by section, else by what they begin with.

use memchr::memmem::Finder;

use super::header::{Format, Header, SIZE, Unreadable};
use crate::symbols::SymbolError;
use crate::symbols::elf::{Elf, Range};

/// Segments are looked through in pieces of this size.
const PIECE: u64 = 1 << 20;
/// How many places that begin like a table are looked at.
const LIKELY: usize = 64;
/// The names of sections that only Go's toolchain makes.
const MARKS: [&[u8]; 5] =
    [b".gopclntab", b".data.rel.ro.gopclntab", b".go.buildinfo", b".note.go.buildid", b".gosymtab"];

/// A table in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) offset: u64,
    /// Up to the end of its section or segment.
    pub(super) size: u64,
}

/// Whether a file says that Go's toolchain linked it.
pub(super) fn is_marked(elf: &Elf) -> bool {
    elf.sections.iter().any(|section| MARKS.contains(&section.name.as_slice()))
}

/// Finds `.gopclntab`. Files that have sections, and none that is Go's, are not looked through.
pub(super) fn table(elf: &Elf) -> Result<Option<Place>, SymbolError> {
    let named = elf.section(b".gopclntab").or_else(|| elf.section(b".data.rel.ro.gopclntab"));
    if let Some(section) = named {
        let (address, offset, size) = (section.address, section.offset, section.size);
        return Ok(Some(Place { address, offset, size }));
    }
    if !elf.sections.is_empty() && !is_marked(elf) {
        return Ok(None);
    }
    let finders = Format::BEGINS.map(|begin| Finder::new(&begin).into_owned());
    let mut left = LIKELY;
    for segment in [elf.data(false), elf.data(true)].concat() {
        let mut found = None;
        each_piece(elf, segment, SIZE as u64, &mut |at, bytes| {
            for hit in finders.iter().flat_map(|finder| finder.find_iter(bytes)) {
                let address = at.saturating_add(hit as u64);
                let Some((offset, size)) = elf.loaded_at(address) else { continue };
                left = left.saturating_sub(1);
                let header = bytes.get(hit..).map(|bytes| Header::read(bytes, size));
                if address.is_multiple_of(8) && matches!(header, Some(Ok(_))) {
                    found = Some(Place { address, offset, size });
                }
            }
            found.is_none() && left > 0
        })?;
        if found.is_some() || left == 0 {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The address functions are counted from, by the runtime's `moduledata`: it begins with the
/// address of the table, then come its parts, each as a slice, then the bounds of all functions.
/// Those tell it from anything else that begins so.
pub(super) fn text_start(
    elf: &Elf,
    place: Place,
    header: &Header,
    first: u64,
    end: u64,
) -> Result<u64, SymbolError> {
    const MODULE: usize = 192;
    /// Indexes of its words: the first slice, the bounds of all functions, the text's start.
    const NAMES: [usize; 3] = [1, 2, 3];
    const BOUNDS: [usize; 3] = [20, 21, 22];
    let begin = place.address.to_le_bytes();
    let finder = Finder::new(&begin);
    let mut found = None;
    for segment in elf.data(true) {
        each_piece(elf, segment, MODULE as u64, &mut |at, bytes| {
            for hit in finder.find_iter(bytes) {
                if !at.wrapping_add(hit as u64).is_multiple_of(8) {
                    continue;
                }
                let Some(module) = bytes.get(hit..).and_then(<[u8]>::first_chunk::<MODULE>) else {
                    continue;
                };
                let words = module.as_chunks::<8>().0;
                let word = |at: usize| words.get(at).map(|word| u64::from_le_bytes(*word));
                let [Some(names), Some(length), Some(capacity)] = NAMES.map(word) else { continue };
                let [Some(from), Some(to), Some(text)] = BOUNDS.map(word) else { continue };
                if place.address.checked_add(header.names) == Some(names)
                    && length == capacity
                    && text.checked_add(first) == Some(from)
                    && text.checked_add(end) == Some(to)
                {
                    found = Some(text);
                    return false;
                }
            }
            true
        })?;
        if found.is_some() {
            break;
        }
    }
    found.ok_or_else(|| elf.broken(Unreadable::NoTextStart.to_string()))
}

/// Shows a range of addresses piece by piece, each with the `overlap` bytes before it, as long as
/// `look` wants more.
pub(super) fn each_piece(
    elf: &Elf,
    range: Range,
    overlap: u64,
    look: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> Result<(), SymbolError> {
    let mut from = range.start;
    while from < range.end {
        let Some((offset, left)) = elf.loaded_at(from) else { break };
        let size = PIECE.min(left).min(range.end - from);
        if !look(from, &elf.read(offset, size)?) || size <= overlap || from + size >= range.end {
            break;
        }
        from += size - overlap;
    }
    Ok(())
}
