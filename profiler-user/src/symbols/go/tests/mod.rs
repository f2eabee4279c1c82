//! Go programs of every format, whole, changed and cut short.

pub(super) mod fixture;

use std::path::Path;

use proptest::prelude::*;

use self::fixture::{
    FILE, FUNCTIONS, GO_1_16, GO_1_18, GO_1_20, GO_1_26, LINES, Like, TEXT, program,
};
use super::header::{Header, Unreadable};
use super::record::{end_of, value_at};
use crate::symbols::elf::Elf;
use crate::symbols::loaded::Loaded;
use crate::symbols::pattern::Pattern;
use crate::symbols::{Function, Language, SymbolError};
use crate::target::ObjectId;

const FORMATS: [Like; 4] = [GO_1_16, GO_1_18, GO_1_20, GO_1_26];

fn loaded(bytes: Vec<u8>) -> Result<Loaded, SymbolError> {
    let path = Path::new("/opt/gateway");
    Loaded::read(Elf::of_memory(bytes, path)?, path, Path::new("/nonexistent"))
}

fn find(loaded: &Loaded, pattern: &str) -> Vec<Function> {
    let hits = loaded.distinct(loaded.matching(&Pattern::new(pattern)));
    hits.into_iter().map(|hit| loaded.function(ObjectId(0), hit).unwrap()).collect()
}

#[test]
fn functions_of_every_format_with_and_without_sections() {
    for like in FORMATS.into_iter().flat_map(|like| [like, Like { sections: false, ..like }]) {
        let loaded = loaded(program(like)).unwrap();
        let go = loaded.go().unwrap();
        assert_eq!(go.version(), Some(like.version), "{like:?}");
        assert!(go.error().is_none(), "{like:?}: {:?}", go.error());
        let found = find(&loaded, "*");
        let mut address = TEXT;
        assert_eq!(found.len(), FUNCTIONS.len());
        for (function, (name, room, size, is_go)) in found.iter().zip(FUNCTIONS) {
            assert_eq!((function.code.address.0, &*function.linkage), (address, name));
            assert_eq!(function.code.bytes.len(), size as usize, "{name} {like:?}");
            assert_eq!(function.language == Language::Go, is_go, "{name}");
            let line = |into: u64| loaded.go_line(address + into).map(|at| (at.file, at.line));
            let lines = [LINES.0, LINES.1].map(|line| is_go.then(|| (FILE.into(), Some(line))));
            assert_eq!([line(0), line(8)], lines, "{name} {like:?}");
            address += u64::from(room);
        }
    }
}

#[test]
fn names_are_found_as_users_write_them() {
    let loaded = loaded(program(GO_1_20)).unwrap();
    for (pattern, count) in [
        ("a/fix.v2.(*Node).Search", 1),
        ("fix.v2.(*Node).Search", 1),
        ("example.org/a/fix.v2.(*Node).Search.func1", 1),
        ("fix.v2.Sum[...]", 2),
        ("fix.v2.Sum[go.shape.int]", 1),
        ("fix.v2.(*).Search*", 2),
        ("main.main", 1),
        ("x_cgo_init", 1),
        ("x_cgo_init(*)", 1),
        ("Search", 0),
        ("fix.v2.(*Nod).Search", 0),
    ] {
        assert_eq!(find(&loaded, pattern).len(), count, "{pattern}");
    }
    assert_eq!(loaded.linked_as("example.org/a/fix%2ev2.(*Node).Search").len(), 1);
    let near =
        crate::symbols::nearest::nearest(&[&loaded], &Pattern::new("fix.v2.(*Node).Serach"), false);
    let near: Vec<_> = near.iter().map(|near| near.name.full.as_str()).collect();
    assert_eq!(near.first(), Some(&"example.org/a/fix.v2.(*Node).Search"), "{near:?}");
}

/// What is wrong with a file that is told, by a part of its text.
fn complaint(bytes: Vec<u8>) -> String {
    let loaded = loaded(bytes).unwrap();
    assert_eq!(find(&loaded, "main.*").len(), 0);
    loaded.go().and_then(super::Go::error).unwrap().to_string()
}

#[test]
fn what_cannot_be_read_is_told_with_the_file() {
    let good = program(GO_1_20);
    let table = 0x2000;
    let changed = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[table + at..table + at + bytes.len()].copy_from_slice(bytes);
        file
    };
    for (file, expected) in [
        (changed(0, &[0xfb]), "Go 1.15 or older"),
        (changed(0, &[0x12, 0x34, 0x56, 0x78]), "unknown magic, 0x78563412"),
        (changed(4, &[1]), "no zeros"),
        (changed(6, &[4]), "units of 4 and pointers of 8"),
        (changed(8, &u64::MAX.to_le_bytes()), "no room for"),
        (changed(8, &0_u64.to_le_bytes()), "no room for the 0 functions"),
        (changed(32, &u64::MAX.to_le_bytes()), "not in their order"),
        (changed(64, &u64::MAX.to_le_bytes()), "lies beyond its end"),
        (changed(24, &1_u64.to_le_bytes()), "no code"),
    ] {
        let complaint = complaint(file);
        assert!(complaint.starts_with("/opt/gateway: "), "{complaint}");
        assert!(complaint.contains(expected), "{complaint} for {expected}");
    }
}

#[test]
fn since_go_1_26_moduledata_must_be_there() {
    let mut file = program(GO_1_26);
    let data = file.len() - 5 * 64 - 42 - 0x1000;
    file[data + 128..data + 136].fill(0);
    assert!(complaint(file).contains("where its Go code begins is not known"));
}

#[test]
fn a_go_program_without_its_table_says_so() {
    let mut file = program(GO_1_20);
    let name = file.windows(10).position(|name| name == b".gopclntab").unwrap();
    file[name + 1] = b'x';
    // Still found by its magic; without that it is obfuscated.
    assert!(loaded(file.clone()).unwrap().go().unwrap().error().is_none());
    file[0x2000] = 0x42;
    assert!(complaint(file).contains("garble"));
}

#[test]
fn gccgo_is_told_by_a_section_that_stays() {
    let mut file = program(GO_1_20);
    for (from, to) in
        [(&b".gopclntab"[..], &b".go_export"[..]), (b".go.buildinfo", b".no.buildinfo")]
    {
        let name = file.windows(from.len()).position(|name| name == from).unwrap();
        file[name..name + to.len()].copy_from_slice(to);
    }
    let loaded = loaded(file).unwrap();
    assert!(loaded.go().is_none() && find(&loaded, "*").is_empty());
    let other = crate::symbols::go::other_toolchain(loaded.elf(), &[]);
    assert_eq!(other, Some(Language::GccGo));
}

#[test]
fn values_by_address() {
    // −1 + 8 for 4 bytes, then −2 for 300.
    let table = [0x10, 4, 0x03, 0xac, 0x02, 0];
    let values = [0, 3, 4, 303, 304].map(|at| value_at(&table, at));
    assert_eq!(values, [Some(7), Some(7), Some(5), Some(5), None]);
    assert_eq!(end_of(&table), Some(304));
    // The first change may be none.
    assert_eq!((value_at(&[0, 4, 0], 0), end_of(&[0, 4, 0])), (Some(-1), Some(4)));
    for cut in 0..table.len() {
        assert_eq!(end_of(&table[..cut]), None, "{cut}");
    }
    assert_eq!(end_of(&[0xff; 20]), None);
}

#[test]
fn a_header_that_is_cut_short_is_none() {
    let file = program(GO_1_20);
    let header = &file[0x2000..0x2048];
    assert!(Header::read(header, 0x1000).is_ok());
    for cut in 0..header.len() {
        assert!(matches!(Header::read(&header[..cut], 0x1000), Err(Unreadable::Short(_))), "{cut}");
    }
}

fn ask_everything(bytes: Vec<u8>) {
    let Ok(loaded) = loaded(bytes) else { return };
    for pattern in ["*", "fix.v2.(*Node).Search", "x_cgo_init"] {
        for hit in loaded.matching(&Pattern::new(pattern)) {
            let _ = loaded.function(ObjectId(0), hit);
        }
    }
    for address in (TEXT - 8..TEXT + 200).step_by(7) {
        let _ = (loaded.go_line(address), loaded.around(ObjectId(0), address));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_table_is_an_error_and_no_panic(
        format in 0..FORMATS.len(),
        sections in any::<bool>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = program(Like { sections, ..FORMATS[format] });
        // The headers, the table, and the data: not the zeros between.
        let places: Vec<usize> =
            (0..0x100).chain(0x2000..0x2400).chain(0x3000..bytes.len().min(0x3200)).collect();
        for (place, byte) in changes {
            let place = places[place.index(places.len())];
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        ask_everything(bytes);
    }
}

#[test]
fn each_shorter_file_is_an_error_or_less() {
    for like in FORMATS {
        let bytes = program(like);
        for length in (0..bytes.len()).step_by(61) {
            ask_everything(bytes[..length].to_vec());
        }
    }
}
