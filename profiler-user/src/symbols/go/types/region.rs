//! The bytes that hold a program's types, and what is read out of them with every number checked.

use crate::symbols::go::record::number;

/// Where something is in the region, from its start. No region is larger than 32 bits tell.
pub(super) type At = u32;

/// Longer names are none: what looks at all of them must come to an end.
const LONGEST_NAME: u32 = 16 << 10;

/// The part of a program that types, and the names in them, lie in: `moduledata.types` to `etypes`.
#[derive(Debug)]
pub(super) struct Region {
    /// The address of its first byte.
    pub(super) base: u64,
    pub(super) bytes: Vec<u8>,
}

/// A name, as `internal/abi.Name` encodes it: flags, length, text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    pub(super) text: &'a str,
    flags: u8,
}

impl Name<'_> {
    /// Whether it is that of a field which is embedded; said here since Go 1.19.
    pub(super) const fn is_embedded(self) -> bool {
        self.flags & 8 != 0
    }
}

impl Region {
    /// Its size in bytes.
    pub(super) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The address of what is at a place.
    pub(super) fn address(&self, at: At) -> u64 {
        self.base.wrapping_add(u64::from(at))
    }

    /// Where an address is, if it lies here.
    pub(super) fn at(&self, address: u64) -> Option<At> {
        let at = address.checked_sub(self.base).filter(|at| *at < self.bytes.len() as u64)?;
        At::try_from(at).ok()
    }

    fn chunk<const N: usize>(&self, at: At, into: u32) -> Option<[u8; N]> {
        let from = at.checked_add(into)? as usize;
        self.bytes.get(from..)?.first_chunk::<N>().copied()
    }

    /// The bytes at `into` behind a place, as a number of their size.
    pub(super) fn byte(&self, at: At, into: u32) -> Option<u8> {
        self.chunk::<1>(at, into).map(|[byte]| byte)
    }

    pub(super) fn half(&self, at: At, into: u32) -> Option<u16> {
        self.chunk(at, into).map(u16::from_le_bytes)
    }

    pub(super) fn int(&self, at: At, into: u32) -> Option<u32> {
        self.chunk(at, into).map(u32::from_le_bytes)
    }

    pub(super) fn word(&self, at: At, into: u32) -> Option<u64> {
        self.chunk(at, into).map(u64::from_le_bytes)
    }

    /// Where the pointer at `into` behind a place leads, if that is here.
    pub(super) fn pointer(&self, at: At, into: u32) -> Option<At> {
        self.at(self.word(at, into)?)
    }

    /// The slice whose header is at `into` behind a place: where its elements of `size` bytes are, and
    /// how many; none where it is empty or reaches beyond the region.
    pub(super) fn slice(&self, at: At, into: u32, size: u32) -> Option<(At, u32)> {
        let first = self.pointer(at, into)?;
        let count = u32::try_from(self.word(at, into.checked_add(8)?)?).ok()?;
        self.array(first, count, size)
    }

    /// As [`Region::slice`], of elements that begin at a place.
    pub(super) fn array(&self, first: At, count: u32, size: u32) -> Option<(At, u32)> {
        let end = u64::from(first).checked_add(u64::from(count).checked_mul(u64::from(size))?)?;
        (count > 0 && end <= self.bytes.len() as u64).then_some((first, count))
    }

    /// The name at a place.
    pub(super) fn name(&self, at: At) -> Option<Name<'_>> {
        let (&flags, mut rest) = self.bytes.get(at as usize..)?.split_first()?;
        let length = number(&mut rest).filter(|length| *length <= LONGEST_NAME)?;
        let text = str::from_utf8(rest.get(..length as usize)?).ok()?;
        Some(Name { text, flags })
    }

    /// The name that the offset at `into` behind a place leads to; 0 is none.
    pub(super) fn name_by_offset(&self, at: At, into: u32) -> Option<Name<'_>> {
        self.name(self.int(at, into).filter(|offset| *offset != 0)?)
    }
}
