//! What a function's arguments look like: what the runtime prints of them in a traceback
//! (`FUNCDATA_ArgInfo`, since Go 1.17; `cmd/compile/internal/ssagen.EmitArgInfo`).
//!
//! The compiler writes it for functions of all kinds. Types are not told, nor whether a value is in
//! registers: an array of two words on the stack and a struct of two in registers look the same.

use std::fmt;

use super::header::Format;

/// No honest list is longer (`internal/abi.TraceArgsMaxLen`).
pub(super) const LONGEST: u64 = 171;
/// Which of a function's data it is.
const INDEX: u64 = 5;

/// What there is of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A number, a pointer, or a word of a string, slice or interface.
    Word {
        /// Where it is, or is saved to when its register is needed: bytes from the word above the
        /// return address.
        offset: u8,
        /// Its size in bytes.
        size: u8,
    },
    /// What follows up to its [`Shape::Close`] is one value.
    Open,
    /// The value ends.
    Close,
    /// There are more, which are not told.
    More,
    /// A word that lies too far away to be told.
    Beyond,
}

/// What a function's arguments look like, the receiver first: `{8,8} 8 {8,8,8}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgumentShape(pub Vec<Shape>);

impl ArgumentShape {
    /// Reads a list. None if it has no end.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let mut all = Vec::new();
        let mut bytes = bytes.iter().copied();
        loop {
            all.push(match bytes.next()? {
                0xff => return Some(Self(all)),
                0xfe => Shape::Open,
                0xfd => Shape::Close,
                0xfc => Shape::More,
                0xfb => Shape::Beyond,
                offset => Shape::Word { offset, size: bytes.next()? },
            });
        }
    }
}

impl fmt::Display for ArgumentShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut depth = 0_u32;
        let mut first = true;
        for shape in &self.0 {
            if !first && *shape != Shape::Close {
                f.write_str(if depth > 0 { "," } else { " " })?;
            }
            first = *shape == Shape::Open;
            match shape {
                Shape::Word { size, .. } => write!(f, "{size}")?,
                Shape::Open => {
                    depth = depth.saturating_add(1);
                    f.write_str("{")?;
                }
                Shape::Close => {
                    depth = depth.saturating_sub(1);
                    f.write_str("}")?;
                }
                Shape::More => f.write_str("…")?,
                Shape::Beyond => f.write_str("_")?,
            }
        }
        Ok(())
    }
}

/// Where in a function's record stands where the list is: an offset from the record's start. None
/// if it has none. `head` is the record's beginning, up to [`HEAD`] bytes.
pub(super) fn place_in_record(head: &[u8], format: Format) -> Option<u64> {
    let (values, data, size) = match format {
        Format::Go116 => return None,
        Format::Go118 => (28, 39, 40),
        Format::Go120 => (28, 43, 44),
    };
    let values = u32::from_le_bytes(*head.get(values..)?.first_chunk()?);
    let there = u64::from(*head.get(data)?) > INDEX;
    there.then(|| size + 4 * (u64::from(values) + INDEX))
}

/// How much of a record tells where its lists are.
pub(super) const HEAD: u64 = 44;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_shown_as_written_down_in_tracebacks() {
        let bytes =
            [0xfe, 0, 8, 8, 8, 0xfd, 16, 8, 0xfe, 0xfe, 24, 4, 0xfd, 0xfb, 0xfd, 0xfc, 0xff];
        let shape = ArgumentShape::read(&bytes).unwrap();
        assert_eq!(shape.to_string(), "{8,8} 8 {{4},_} …");
        for cut in 0..bytes.len() {
            assert_eq!(ArgumentShape::read(&bytes[..cut]), None);
        }
        assert_eq!(ArgumentShape::read(&[0xff]).unwrap().to_string(), "");
    }

    #[test]
    fn records_without_such_a_list_have_none() {
        let mut head = [0; HEAD as usize];
        assert_eq!(place_in_record(&head, Format::Go120), None);
        head[28] = 3;
        head[43] = 6;
        assert_eq!(place_in_record(&head, Format::Go120), Some(44 + 4 * 8));
        head[39] = 6;
        assert_eq!(place_in_record(&head, Format::Go118), Some(40 + 4 * 8));
        assert_eq!(place_in_record(&head, Format::Go116), None);
        assert_eq!(place_in_record(&head[..30], Format::Go118), None);
    }
}
