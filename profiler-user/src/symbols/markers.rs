//! Marked places in code (`.note.stapsdt`, of `sys/sdt.h`): they stay when a file is
//! stripped, and name a place inside a function that has no name any more.
//!
//! A note's value is an address, that of the section `.stapsdt.base` when the note was made (a later
//! `prelink` moves both), that of a semaphore, and the provider, the name and the arguments, each
//! ended by a NUL.

use std::sync::Arc;

use super::elf::Elf;
use super::{Function, SymbolSet};
use crate::model::VirtAddr;
use crate::target::ObjectId;

const NOTE_KIND: u32 = 3;
const NOTE_NAME: &[u8] = b"stapsdt\0";
/// More of a section is not looked at.
const LARGEST: u64 = 1 << 20;

impl SymbolSet {
    /// The functions, in whatever object has one, around the places marked as `provider:name`; each
    /// is called `function`, whatever its symbol says. What cannot be read has none.
    #[must_use]
    pub fn marked(&self, provider: &str, name: &str, function: &Arc<str>) -> Vec<Function> {
        let mut found: Vec<Function> = Vec::new();
        for id in (0..self.len() as u16).map(ObjectId) {
            let Ok(loaded) = self.load(id) else { continue };
            for place in places(loaded.elf(), provider, name).unwrap_or_default() {
                let Some(around) = self.containing(id, VirtAddr(place)) else { continue };
                let is_new = |known: &Function| {
                    (known.object, known.code.address) != (around.object, around.code.address)
                };
                if found.iter().all(is_new) {
                    let name = || Arc::clone(function);
                    found.push(Function {
                        name: name(),
                        base_name: name(),
                        linkage: name(),
                        ..around
                    });
                }
            }
        }
        found
    }
}

/// The marked addresses; none if the section is absent or too large.
fn places(elf: &Elf, provider: &str, name: &str) -> Option<Vec<u64>> {
    let section = elf.section(b".note.stapsdt").filter(|section| section.size <= LARGEST)?;
    let notes = elf.section_bytes(section).ok()?;
    let base = elf.section(b".stapsdt.base").map(|base| base.address);
    Some(places_in(&notes, base, provider, name))
}

/// As far as the notes are whole.
fn places_in(mut notes: &[u8], base: Option<u64>, provider: &str, name: &str) -> Vec<u64> {
    let mut places = Vec::new();
    while let Some(note) = Note::first(notes) {
        notes = note.rest;
        if note.kind != NOTE_KIND || note.name != NOTE_NAME {
            continue;
        }
        let Some((head, text)) = note.value.split_first_chunk::<24>() else { continue };
        let mut texts = text.split(|byte| *byte == 0);
        if texts.next() != Some(provider.as_bytes()) || texts.next() != Some(name.as_bytes()) {
            continue;
        }
        let mut words = head.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let (Some(place), Some(then)) = (words.next(), words.next()) else { continue };
        let moved = base.map_or(0, |base| base.wrapping_sub(then));
        places.push(place.wrapping_add(moved));
    }
    places
}

struct Note<'a> {
    kind: u32,
    name: &'a [u8],
    value: &'a [u8],
    /// What follows it.
    rest: &'a [u8],
}

impl<'a> Note<'a> {
    fn first(notes: &'a [u8]) -> Option<Self> {
        let (header, rest) = notes.split_first_chunk::<12>()?;
        let mut words = header.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
        let (name_size, size) = (words.next()? as usize, words.next()? as usize);
        let kind = words.next()?;
        let name = rest.get(..name_size)?;
        let rest = rest.get(name_size.checked_next_multiple_of(4)?..)?;
        let value = rest.get(..size)?;
        // The last one may not be padded.
        let next = size.checked_next_multiple_of(4)?.min(rest.len());
        Some(Self { kind, name, value, rest: rest.get(next..)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(provider: &str, name: &str, place: u64, base: u64) -> Vec<u8> {
        let text = format!("{provider}\0{name}\08@%rdx\0");
        let mut note = Vec::new();
        for word in [NOTE_NAME.len() as u32, 24 + text.len() as u32, NOTE_KIND] {
            note.extend(word.to_le_bytes());
        }
        note.extend(NOTE_NAME);
        for word in [place, base, 0] {
            note.extend(word.to_le_bytes());
        }
        note.extend(text.as_bytes());
        note.resize(note.len().next_multiple_of(4), 0);
        note
    }

    #[test]
    fn a_marked_place_is_found_where_it_was_moved_to() {
        let notes = [
            one("libc", "catch", 0x10, 0x100),
            one("libstdcxx", "throw", 0x20, 0x100),
            one("libstdcxx", "catch", 0x30, 0x100),
        ]
        .concat();
        assert_eq!(places_in(&notes, Some(0x100), "libstdcxx", "catch"), [0x30]);
        assert_eq!(places_in(&notes, Some(0x180), "libstdcxx", "catch"), [0xb0]);
        assert_eq!(places_in(&notes, None, "libstdcxx", "catch"), [0x30]);
        assert_eq!(places_in(&notes, None, "libstdcxx", "rethrow"), [0; 0]);
    }

    #[test]
    fn notes_that_are_cut_short_are_none() {
        let note = one("libstdcxx", "catch", 0x30, 0x100);
        for end in 0..note.len() - 4 {
            assert_eq!(places_in(&note[..end], None, "libstdcxx", "catch"), [0; 0], "{end}");
        }
    }
}
