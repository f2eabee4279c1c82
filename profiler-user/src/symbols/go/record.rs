//! A function's record (`runtime._func`), and the values by address that it leads to.

use super::header::Format;

/// What of a record is read, at most.
pub(super) const SIZE: u64 = 40;

/// A function's record, as far as it is of use here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Where the function begins, as the list of functions has it.
    pub(super) entry: u64,
    /// Its name, an offset in the names.
    pub(super) name: u32,
    /// Offsets in the tables of values, 0 for none: of the stack's depth, …
    pub(super) depth: u32,
    /// … the file number, …
    pub(super) file: u32,
    /// … and the line.
    pub(super) line: u32,
    /// Where the file numbers of its compilation unit begin.
    pub(super) unit: u32,
}

impl Record {
    /// Reads a record from its start.
    pub(super) fn read(bytes: &[u8], format: Format) -> Option<Self> {
        let (entry, rest) = match format {
            Format::Go116 => {
                let (entry, rest) = bytes.split_first_chunk::<8>()?;
                (u64::from_le_bytes(*entry), rest)
            }
            Format::Go118 | Format::Go120 => {
                let (entry, rest) = bytes.split_first_chunk::<4>()?;
                (u64::from(u32::from_le_bytes(*entry)), rest)
            }
        };
        let words = rest.first_chunk::<32>()?.as_chunks::<4>().0;
        let mut words = words.iter().map(|word| u32::from_le_bytes(*word));
        // Between them: the size of the arguments, the deferred return; how many values there are.
        let (name, _, _) = (words.next()?, words.next()?, words.next()?);
        let (depth, file, line) = (words.next()?, words.next()?, words.next()?);
        let (_, unit) = (words.next()?, words.next()?);
        Some(Self { entry, name, depth, file, line, unit })
    }

    /// Whether the Go toolchain compiled it: of C functions that Go's own linker took in, nothing but
    /// their names is there.
    pub(super) const fn is_go(&self) -> bool {
        (self.depth | self.file | self.line) != 0
    }
}

/// A table of values by address, from its start: the value at an offset from the function's start.
/// None beyond its end, or if it is cut short.
pub(super) fn value_at(table: &[u8], offset: u64) -> Option<i32> {
    Steps::of(table).find(|step| offset < step.end).map(|step| step.value)
}

/// Where a table of values ends, and so the function that it is of: an offset from its start.
pub(super) fn end_of(table: &[u8]) -> Option<u64> {
    let mut steps = Steps::of(table);
    let last = steps.by_ref().last()?;
    steps.ended.then_some(last.end)
}

/// A value, and up to where it holds.
struct Step {
    value: i32,
    end: u64,
}

/// Pairs of numbers: by how much the value changes (`zig-zag`; 0 ends it, but for the first), and for
/// how many bytes of code it stays so.
struct Steps<'a> {
    rest: &'a [u8],
    value: i32,
    end: u64,
    first: bool,
    ended: bool,
}

impl<'a> Steps<'a> {
    const fn of(table: &'a [u8]) -> Self {
        Self { rest: table, value: -1, end: 0, first: true, ended: false }
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.ended {
            return None;
        }
        let change = number(&mut self.rest)?;
        if change == 0 && !self.first {
            self.ended = true;
            return None;
        }
        self.first = false;
        let change = (change >> 1).cast_signed() ^ -((change & 1).cast_signed());
        self.value = self.value.wrapping_add(change);
        self.end = self.end.checked_add(u64::from(number(&mut self.rest)?))?;
        Some(Step { value: self.value, end: self.end })
    }
}

/// An unsigned number in base 128, the low digits first.
pub(super) fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut value = 0_u32;
    for at in 0..5_u32 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u32::from(byte & 0x7f).checked_shl(7 * at)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
