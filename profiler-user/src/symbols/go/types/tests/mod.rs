//! Types in every layout, whole, changed and cut short.

mod fixture;

use std::path::Path;

use proptest::prelude::*;

use self::fixture::{CONTEXT, INT, LAYOUTS, NODE, POINTER, TABLE, TYPES, program};
use super::{ContextParent, ContextSource, GoTypes, Kind, Part, Place, Register};
use crate::symbols::SymbolError;
use crate::symbols::elf::Elf;
use crate::symbols::go::tests::fixture::{GO_1_16, MODULE, TEXT, program as without_types};

const SEARCH: &str = "example.org/a/fix%2ev2.(*Node).Search";

fn read(bytes: Vec<u8>) -> Result<GoTypes, SymbolError> {
    GoTypes::of(&Elf::of_memory(bytes, Path::new("/opt/gateway"))?)
}

fn integers(first: u8, count: u8) -> Place {
    let part = |at: u8| Part {
        offset: u64::from(at) * 8,
        size: 8,
        register: Register::Integer(first + at),
    };
    Place::Registers((0..count).map(part).collect())
}

#[test]
fn types_of_every_layout() {
    for layout in 0..LAYOUTS.len() {
        let types = read(program(layout)).unwrap();
        assert_eq!(types.all().count(), 7, "{layout}");
        let node = types.named("example.org/a/fix.v2.Node").unwrap();
        assert_eq!(node.address(), TYPES + u64::from(NODE));
        assert_eq!((node.shown(), node.kind(), node.size()), ("fix.Node", Kind::Struct, 24));
        let fields: Vec<_> = node
            .fields()
            .map(|field| (field.name, field.offset, field.embedded, field.ty.shown()))
            .collect();
        let expected = [("n", 0, false, "int"), ("Context", 8, true, "context.Context")];
        assert_eq!(fields, expected, "{layout}");
        let pointer = types.named("*example.org/a/fix.v2.Node").unwrap();
        assert_eq!(types.pointer_to(node), Some(pointer));
        let table = types.named("example.org/a/fix.v2.Table").unwrap();
        assert_eq!((table.elem(), table.key()), (Some(node), types.named("int")));
        assert_eq!(types.named_structs().collect::<Vec<_>>(), [node]);
        assert_eq!(types.named("example.org/a/fix.v2"), None);
        assert_eq!(types.at(TYPES + u64::from(TABLE)), Some(table));
        assert_eq!(types.at(TYPES + u64::from(TABLE) + 1), None);
        assert_eq!(types.at(TYPES - 8), None);
    }
}

#[test]
fn a_method_is_known_by_its_code_and_else_by_its_receiver() {
    for layout in 0..LAYOUTS.len() {
        let types = read(program(layout)).unwrap();
        let signature = types.signature(TEXT + 64, SEARCH).unwrap();
        assert_eq!(signature.receiver.ty.address(), TYPES + u64::from(POINTER));
        assert_eq!(signature.receiver.place, integers(0, 1));
        let parameters = signature.parameters.clone().unwrap();
        let places: Vec<_> = parameters.iter().map(|value| value.place.clone()).collect();
        assert_eq!(places, [integers(1, 1), integers(2, 2)]);
        let results = signature.results.clone().unwrap();
        assert_eq!(results[0].place, integers(0, 1));
        assert_eq!(results[1].ty.address(), TYPES + u64::from(CONTEXT));
        let source = types.context_source(&signature);
        assert_eq!(source, Some(ContextSource { register: 2, deref_offset: None }));

        let unknown = types.signature(TEXT + 65, SEARCH).unwrap();
        assert_eq!(unknown.receiver, signature.receiver);
        assert_eq!((&unknown.parameters, &unknown.results), (&None, &None));
        let source = types.context_source(&unknown);
        assert_eq!(source, Some(ContextSource { register: 0, deref_offset: Some(8) }));
        for name in ["main.main", "fix.Node.Search", "a/fix%2ev2.(*Node).Search.func1", "", "."] {
            assert_eq!(types.signature(TEXT + 65, name), None, "{name}");
        }
        let by_value = types.signature(0, "example.org/a/fix%2ev2.Node.Search");
        assert_eq!(by_value, None, "below the text");
        let by_value = types.signature(TEXT, "example.org/a/fix%2ev2.Node.Search").unwrap();
        assert_eq!(by_value.receiver.place, integers(0, 3));
    }
}

#[test]
fn the_parent_of_a_context_is_found() {
    for layout in 0..LAYOUTS.len() {
        let types = read(program(layout)).unwrap();
        let contexts = types.contexts();
        let [one] = contexts.as_slice() else { panic!("{contexts:?}") };
        assert_eq!(one.ty.address(), TYPES + u64::from(POINTER));
        assert_eq!(one.parent, ContextParent { pointer: None, offset: 8 });
    }
}

#[test]
fn what_cannot_be_read_is_told_with_the_file() {
    let complaint = |bytes: Vec<u8>| {
        let complaint = read(bytes).unwrap_err().to_string();
        assert!(complaint.starts_with("/opt/gateway: "), "{complaint}");
        complaint
    };
    assert!(complaint(without_types(GO_1_16)).contains("Go 1.17 or older"));
    for (layout, (like, at)) in LAYOUTS.into_iter().enumerate() {
        assert!(complaint(without_types(like)).contains("none of the layouts"));
        // The data begins three pages behind the file's begin.
        let module = 0x3000 + 128;
        assert_eq!(MODULE & 0xfff, 128);
        for (offset, word, expected) in [
            (0, 0, "was not found"),
            (at[0], TYPES + 4, "none of the layouts"),
            (at[0] + 8, 0, "none of the layouts"),
            (if at[3] == 0 { 312 } else { at[0] + 8 }, u64::MAX, "none of the layouts"),
        ] {
            let mut bytes = program(layout);
            bytes[module + offset..module + offset + 8].copy_from_slice(&word.to_le_bytes());
            let complaint = complaint(bytes);
            assert!(complaint.contains(expected), "{layout} {offset}: {complaint}");
        }
    }
}

#[test]
fn a_closure_is_of_the_object_named_before_it() {
    let mut bytes = program(1);
    // The struct loses its name, and its first field is a closure's: `F uintptr`.
    let place = |at: u32| 0x3000 + 0x400 + at as usize;
    bytes[place(NODE) + 20] &= !4;
    bytes[place(INT) + 23] = 12;
    let name = bytes.windows(3).position(|name| name == b"\x01\x01n").unwrap();
    bytes[name + 2] = b'F';
    let types = read(bytes).unwrap();
    let (maker, closure) = (TEXT, TEXT + 0x100);
    let lea = |at: u64, to: u64| {
        let distance = to.wrapping_sub(maker + at + 7) as u32;
        [&[0x48, 0x8d, 0x05][..], &distance.to_le_bytes()].concat()
    };
    let node = types.at(TYPES + u64::from(NODE));
    let code = |first: u64, second: u64| [lea(0, first), lea(7, second)].concat();
    let object = TYPES + u64::from(NODE);
    let found = |code: &[u8]| types.closure(code, maker, closure);
    assert_eq!(found(&code(object, closure)), node);
    assert_eq!(types.context_in(node.unwrap()), Some(8));
    // No object before it, one of another, and what is no object.
    assert_eq!(found(&code(closure, object)), None);
    assert_eq!(found(&code(object, closure + 1)), None);
    assert_eq!(found(&code(TYPES + u64::from(INT), closure)), None);
    let many = [lea(0, object), vec![0x90; 40], lea(47, closure)].concat();
    assert_eq!(found(&many), None);
    assert_eq!(found(&[0x48, 0x8d]), None);
}

/// Types that hold themselves, and more of them than a program can have.
#[test]
fn what_has_no_end_is_given_up() {
    for layout in 0..LAYOUTS.len() {
        let mut bytes = program(layout);
        let place = |at: u32| 0x3000 + 0x400 + at as usize;
        // The first field's type is the struct itself.
        let field = place(NODE) + 96 + 8;
        bytes[field..field + 8].copy_from_slice(&(TYPES + u64::from(NODE)).to_le_bytes());
        let types = read(bytes.clone()).unwrap();
        let by_value = types.signature(TEXT, "example.org/a/fix%2ev2.Node.Search");
        assert_eq!(by_value, None, "{layout}");
        ask_everything(bytes.clone());
        // And so is each element of an array of it.
        bytes[place(INT) + 23] = 17;
        ask_everything(bytes);
    }
}

fn ask_everything(bytes: Vec<u8>) {
    let Ok(types) = read(bytes) else { return };
    for one in types.all() {
        let _ = (format!("{one:?}"), one.full_name(), one.key(), one.elem(), one.length());
        let _ = (one.package(), one.is_direct(), one.align(), one.is_variadic());
        let _ = (one.fields().count(), one.interface_methods().count(), one.methods().count());
        let _ = types.pointer_to(one);
    }
    for address in (TEXT..TEXT + 200).step_by(16) {
        for name in [SEARCH, "example.org/a/fix%2ev2.Node.Search", "fix%", "a.(*"] {
            if let Some(signature) = types.signature(address, name) {
                let _ = types.context_source(&signature);
            }
        }
    }
    let _ = types.contexts();
    let any: Vec<u8> = (0..=255).collect();
    let _ = types.closure(&any, TYPES, TYPES + 64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn hostile_types_are_an_error_and_no_panic(
        layout in 0..LAYOUTS.len(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = program(layout);
        let places: Vec<usize> = (0x3080..0x3300).chain(0x3400..0x3900).collect();
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
