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

/// The runtime's `moduledata`, as far as it is alike since Go 1.16, and its words behind that.
pub(super) struct Module {
    /// As many words of 8 bytes as of any version are of use.
    words: [u64; Self::WORDS],
}

impl Module {
    const WORDS: usize = 52;
    /// Indexes of its words: the table's header, the first slice, the bounds of all functions, the
    /// text's start.
    const NAMES: [usize; 3] = [1, 2, 3];
    const BOUNDS: [usize; 3] = [20, 21, 22];

    /// The word at an offset in bytes.
    pub(super) fn word(&self, offset: usize) -> Option<u64> {
        self.words.get(offset / 8).copied()
    }

    /// The address functions are counted from.
    pub(super) const fn text(&self) -> u64 {
        let [_, _, text] = Self::BOUNDS;
        self.words[text]
    }

    /// Reads what may be one: it begins with the address of the table, then come its parts, each as
    /// a slice, then the bounds of all functions. Those tell it from anything else that begins so.
    fn read(bytes: &[u8], names: u64, first: u64, end: u64) -> Option<Self> {
        let mut words = [0; Self::WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [address, length, capacity] = Self::NAMES.map(|at| words[at]);
        let [from, to, text] = Self::BOUNDS.map(|at| words[at]);
        let is_it = address == names
            && length == capacity
            && text.checked_add(first) == Some(from)
            && text.checked_add(end) == Some(to);
        is_it.then_some(Self { words })
    }
}

/// Finds the runtime's `moduledata`; `first` and `end` are where the first function begins and the
/// last ends, as the list has them.
pub(super) fn module(
    elf: &Elf,
    place: Place,
    header: &Header,
    first: u64,
    end: u64,
) -> Result<Option<Module>, SymbolError> {
    const SIZE: u64 = Module::WORDS as u64 * 8;
    let Some(names) = place.address.checked_add(header.names) else { return Ok(None) };
    let begin = place.address.to_le_bytes();
    let finder = Finder::new(&begin);
    let mut found = None;
    for segment in elf.data(true) {
        each_piece(elf, segment, SIZE, &mut |at, bytes| {
            let end_of_piece = at.saturating_add(bytes.len() as u64);
            let mut modules = finder.find_iter(bytes).filter_map(|hit| {
                let address = at.saturating_add(hit as u64);
                // One that is cut by the end of a piece is whole in the next.
                let whole = address.saturating_add(SIZE) <= end_of_piece;
                let is_last = end_of_piece >= segment.end;
                let module = bytes.get(hit..)?;
                (address.is_multiple_of(8) && (whole || is_last)).then_some(module)
            });
            found = modules.find_map(|bytes| Module::read(bytes, names, first, end));
            found.is_none()
        })?;
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

/// Where the first function begins and the last ends, as the list of functions has them.
pub(super) fn bounds(elf: &Elf, place: Place, header: &Header) -> Result<(u64, u64), SymbolError> {
    let at = |index: u64| {
        let at = index.checked_mul(header.entry()).and_then(|at| at.checked_add(header.records));
        let offset = at.and_then(|at| at.checked_add(place.offset));
        let beyond = || elf.broken("its .gopclntab lies beyond its end");
        let bytes = elf.read(offset.ok_or_else(beyond)?, header.word())?;
        let mut word = [0; 8];
        word.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok::<u64, SymbolError>(u64::from_le_bytes(word))
    };
    Ok((at(0)?, at(header.functions)?))
}

/// The address functions are counted from, by the runtime's `moduledata`.
pub(super) fn text_start(
    elf: &Elf,
    place: Place,
    header: &Header,
    first: u64,
    end: u64,
) -> Result<u64, SymbolError> {
    let module = module(elf, place, header, first, end)?;
    let module = module.ok_or_else(|| elf.broken(Unreadable::NoTextStart.to_string()))?;
    Ok(module.text())
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
