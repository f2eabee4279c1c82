//! What a Go program says of how it was built: `.go.buildinfo`, which `go version` reads, too.
//!
//! Go's `debug/buildinfo` has both formats: since 1.18 the texts follow the header, before it had the
//! addresses of two string headers.

use memchr::memmem::Finder;

use super::find::each_piece;
use super::record::number;
use crate::symbols::elf::Elf;

const MAGIC: &[u8; 14] = b"\xff Go buildinf:";
/// The header before the texts.
const HEADER: u64 = 32;
/// The version is longer in no honest file.
const LONGEST: u64 = 256;
const ALIGNED: u64 = 16;
/// In the flags: the texts follow the header.
const INLINE: u8 = 2;

/// The version of Go that built a file, as Go writes it: `go1.20.4`, `go1.27.0 X:nocoverageredesign`.
pub(super) fn version(elf: &Elf) -> Option<String> {
    let named = elf.section(b".go.buildinfo").map(|section| section.address);
    named.and_then(|address| version_at(elf, address)).or_else(|| scan(elf))
}

/// Looks for the magic where a program's data is.
fn scan(elf: &Elf) -> Option<String> {
    let finder = Finder::new(MAGIC);
    for segment in [elf.data(true), elf.data(false)].concat() {
        let mut found = None;
        let looked = each_piece(elf, segment, HEADER, &mut |at, bytes| {
            let hits = finder.find_iter(bytes).map(|hit| at.wrapping_add(hit as u64));
            found = hits
                .filter(|address| address.is_multiple_of(ALIGNED))
                .find_map(|address| version_at(elf, address));
            found.is_none()
        });
        if found.is_some() || looked.is_err() {
            return found;
        }
    }
    None
}

fn version_at(elf: &Elf, address: u64) -> Option<String> {
    let header = bytes_at(elf, address, HEADER + LONGEST)?;
    let text = if inline(&header)? {
        first_text(header.get(HEADER as usize..)?)?.to_vec()
    } else {
        let string = word(header.get(16..)?)?;
        let string = bytes_at(elf, string, 16)?;
        let (at, length) = (word(&string)?, word(string.get(8..)?)?);
        let mut text = bytes_at(elf, at, length.min(LONGEST))?;
        text.truncate(length as usize);
        text
    };
    readable(&text)
}

/// Whether the texts follow the header; none: a header of another machine, or none.
fn inline(header: &[u8]) -> Option<bool> {
    let (magic, rest) = header.split_first_chunk::<14>()?;
    let (&pointer, &flags) = (rest.first()?, rest.get(1)?);
    let inline = flags & INLINE != 0;
    (magic == MAGIC && (inline || (pointer, flags & 1) == (8, 0))).then_some(inline)
}

/// A text with its length before it.
fn first_text(mut bytes: &[u8]) -> Option<&[u8]> {
    let length = number(&mut bytes)?;
    bytes.get(..length as usize)
}

fn readable(text: &[u8]) -> Option<String> {
    let text = str::from_utf8(text).ok()?;
    let plain = !text.is_empty() && text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    plain.then(|| text.to_owned())
}

fn word(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<8>().map(|word| u64::from_le_bytes(*word))
}

/// At most `size` bytes at an address, fewer where its segment ends.
fn bytes_at(elf: &Elf, address: u64, size: u64) -> Option<Vec<u8>> {
    let (offset, left) = elf.loaded_at(address)?;
    elf.read(offset, size.min(left)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8) -> Vec<u8> {
        let mut header = [MAGIC.as_slice(), &[8, flags]].concat();
        header.resize(HEADER as usize, 0);
        header
    }

    #[test]
    fn both_formats_are_told_apart() {
        assert_eq!(inline(&header(INLINE)), Some(true));
        assert_eq!(inline(&header(0)), Some(false));
        assert_eq!(inline(&header(1)), None);
        assert_eq!(inline(b"\xff Go buildinfo"), None);
    }

    #[test]
    fn a_text_that_is_cut_short_is_none() {
        assert_eq!(first_text(b"\x08go1.24.1\0").and_then(readable).as_deref(), Some("go1.24.1"));
        for text in
            [&b""[..], b"\x09go1.24.1", b"\xff\xff\xff\xff\x7fgo", b"\x80\x80\x80\x80\x80\x80"]
        {
            assert_eq!(first_text(text), None);
        }
        assert_eq!(readable(b"go\n"), None);
    }
}
