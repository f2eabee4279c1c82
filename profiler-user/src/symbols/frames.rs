//! Where functions begin and end by `.eh_frame`: what a stripped file still says.
//!
//! The LSB Core specification, "Exception Frames", has the formats.

use super::elf::{Elf, Range};

/// `DW_EH_PE_*`: how a pointer is written.
mod encoding {
    pub(super) const OMITTED: u8 = 0xff;
    pub(super) const PC_RELATIVE_U32: u8 = 0x1b;
    pub(super) const TABLE_RELATIVE_I32: u8 = 0x3b;
    pub(super) const U32: u8 = 0x03;
    pub(super) const FORMAT: u8 = 0x0f;
    pub(super) const RELATIVE_TO: u8 = 0x70;
    pub(super) const PC_RELATIVE: u8 = 0x10;
}

/// The search table of `.eh_frame_hdr`.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Start of a function and address of its description, by start, from `base` on.
    table: Vec<(i32, i32)>,
    base: u64,
}

impl Frames {
    /// Reads the table. One that is absent, broken, or written in a way no linker we know uses is
    /// empty: nothing but the ends of nameless functions depends on it.
    pub(super) fn read(elf: &Elf) -> Self {
        table(elf).unwrap_or_default()
    }

    /// The function around an address.
    pub(super) fn around(&self, elf: &Elf, address: u64) -> Option<Range> {
        let at = |offset: i32| self.base.checked_add_signed(i64::from(offset));
        let after = self.table.partition_point(|&(start, _)| at(start) <= Some(address));
        let &(start, description) = self.table.get(after.checked_sub(1)?)?;
        let (start, description) = (at(start)?, at(description)?);
        let range = Range { start, end: start.checked_add(length(elf, start, description)?)? };
        range.contains(address).then_some(range)
    }
}

fn table(elf: &Elf) -> Option<Frames> {
    let section = elf.section(b".eh_frame_hdr")?;
    let bytes = elf.section_bytes(section).ok()?;
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    let [1, frame_encoding, encoding::U32, encoding::TABLE_RELATIVE_I32] = *head else {
        return None;
    };
    if frame_encoding == encoding::OMITTED || frame_encoding & encoding::FORMAT != 0x0b {
        return None;
    }
    let (count, entries) = rest.get(4..)?.split_first_chunk::<4>()?;
    let count = u32::from_le_bytes(*count) as usize;
    let base = section.address;
    let is_address = |offset: i32| base.checked_add_signed(i64::from(offset)).is_some();
    let entries = entries.as_chunks::<8>().0.iter().take(count);
    let mut table: Vec<(i32, i32)> = entries
        .map(|&[a, b, c, d, e, f, g, h]| {
            (i32::from_le_bytes([a, b, c, d]), i32::from_le_bytes([e, f, g, h]))
        })
        .filter(|&(start, description)| is_address(start) && is_address(description))
        .collect();
    // The linker sorts it; a table that lies must not lead the search astray.
    table.sort_unstable();
    table.shrink_to_fit();
    Some(Frames { table, base })
}

/// The length of the function that a frame description (FDE) at an address tells of.
fn length(elf: &Elf, start: u64, description: u64) -> Option<u64> {
    let frames = elf.section(b".eh_frame")?;
    let read = |at: u64, size: u64| {
        let into = at.checked_sub(frames.address)?;
        let end = into.checked_add(size)?;
        (end <= frames.size).then(|| elf.read(frames.offset.checked_add(into)?, size).ok())?
    };
    let word = |at: u64| Some(u32::from_le_bytes(read(at, 4)?.try_into().ok()?));
    let size = word(description)?;
    // 0 ends the section; all ones announce a 64-bit length, which nothing needs.
    if size < 12 || size == u32::MAX {
        return None;
    }
    let to_common = description.checked_add(4)?;
    let common = to_common.checked_sub(u64::from(word(to_common)?))?;
    if pointer_encoding(&read(
        common,
        64.min(frames.size.saturating_sub(common.checked_sub(frames.address)?)),
    )?)? != encoding::PC_RELATIVE_U32
    {
        return None;
    }
    let at = description.checked_add(8)?;
    let begins = at.checked_add_signed(i64::from(word(at)?.cast_signed()))?;
    (begins == start).then(|| word(at + 4).map(u64::from))?
}

/// How the descriptions of a common entry (CIE) write addresses: augmentation `R`.
fn pointer_encoding(common: &[u8]) -> Option<u8> {
    // Length, id (0), version (1), augmentation string.
    let (&[.., i0, i1, i2, i3, version], rest) = common.split_first_chunk::<9>()?;
    if [i0, i1, i2, i3, version] != [0, 0, 0, 0, 1] {
        return None;
    }
    let end = memchr::memchr(0, rest)?;
    let letters = rest.get(..end)?.strip_prefix(b"z")?;
    let mut rest = rest.get(end + 1..)?;
    // Code and data alignment, return register in version 1 (one byte), augmentation length.
    rest = skip_leb128(rest)?;
    rest = skip_leb128(rest)?;
    rest = skip_leb128(rest.get(1..)?)?;
    for letter in letters {
        let &first = rest.first()?;
        match letter {
            b'R' => return Some(first),
            b'L' => rest = rest.get(1..)?,
            b'P' if first & encoding::RELATIVE_TO <= encoding::PC_RELATIVE => {
                let size = match first & encoding::FORMAT {
                    0x02 | 0x0a => 2,
                    0x03 | 0x0b => 4,
                    0x00 | 0x04 | 0x0c => 8,
                    _ => return None,
                };
                rest = rest.get(1 + size..)?;
            }
            b'S' | b'B' => {}
            _ => return None,
        }
    }
    None
}

fn skip_leb128(bytes: &[u8]) -> Option<&[u8]> {
    let last = bytes.iter().position(|byte| byte & 0x80 == 0)?;
    bytes.get(last + 1..)
}
