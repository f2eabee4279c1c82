//! Types as Go's linker writes them, in each of its layouts, with one of every kind that has parts.

use std::collections::BTreeMap;

use crate::symbols::go::tests::fixture::{
    GO_1_18, GO_1_20, GO_1_26, Like, MORE, More, program_with,
};

/// The layouts, with the version that each program says.
pub(super) const LAYOUTS: [(Like, [usize; 4]); 4] = [
    (GO_1_18, [280, 304, 336, 360]),
    (GO_1_20, [296, 320, 352, 376]),
    (GO_1_26, [296, 320, 360, 384]),
    (Like { version: "go1.27.4", ..GO_1_26 }, [296, 344, 0, 0]),
];

/// Where the types are, from the first.
pub(super) const INT: u32 = 8;
pub(super) const FUNC: u32 = INT + 48;
pub(super) const CONTEXT: u32 = FUNC + 56;
pub(super) const NODE: u32 = CONTEXT + 80 + 16 + 4 * 8;
pub(super) const SEARCH: u32 = NODE + 80 + 16 + 2 * 24;
pub(super) const POINTER: u32 = SEARCH + 56 + 4 * 8;
pub(super) const TABLE: u32 = POINTER + 56 + 16 + 5 * 16;
const NAMES: u32 = TABLE + 136 + 16;
/// The address of the first.
pub(super) const TYPES: u64 = MORE;

const NAMED: u8 = 4 | 1;
const STAR: u8 = 2;
/// A pointer, and that it is the data word of interfaces itself.
const DIRECT_POINTER: u8 = 0x20 + 22;

/// A program with types.
pub(super) fn program(layout: usize) -> Vec<u8> {
    let (like, at) = LAYOUTS[layout];
    let is_contiguous = at[2] == 0;
    let mut bytes = types(layout);
    let size = bytes.len() as u64;
    let list = TYPES + size.next_multiple_of(8);
    bytes.resize((list - TYPES) as usize, 0);
    let mut module = vec![(at[0], TYPES), (at[1], TYPES)];
    if is_contiguous {
        let words = [u64::from(NAMES), TYPES + size, u64::from(NAMES), 0];
        module.extend(words.iter().enumerate().map(|(index, word)| (304 + 8 * index, *word)));
    } else {
        module.push((at[0] + 8, TYPES + size));
        // One type by its offset, one by an itab.
        bytes.extend(POINTER.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((list + 16).to_le_bytes());
        bytes.extend((TYPES + u64::from(CONTEXT)).to_le_bytes());
        bytes.extend((TYPES + u64::from(TABLE)).to_le_bytes());
        let slices = [(at[2], [list, 1, 1]), (at[3], [list + 8, 1, 1])];
        for (from, words) in slices {
            module.extend(words.iter().enumerate().map(|(at, word)| (from + 8 * at, *word)));
        }
    }
    program_with(like, &More { module, bytes })
}

struct Writer {
    bytes: Vec<u8>,
    names: BTreeMap<&'static str, u32>,
}

impl Writer {
    fn name(&self, name: &str) -> u32 {
        NAMES + self.names[name]
    }

    fn pointer(&mut self, to: u32) {
        self.bytes.extend((TYPES + u64::from(to)).to_le_bytes());
    }

    fn words(&mut self, words: &[u64]) {
        self.bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    }

    fn header(&mut self, size: u64, flags: u8, kind: u8, name: &str, pointer: u32) {
        self.words(&[size, size]);
        self.bytes.extend([0, 0, 0, 0, flags, 8, 8, kind]);
        self.words(&[0, 0]);
        let name = self.name(name);
        self.bytes.extend([name, pointer].iter().flat_map(|half| half.to_le_bytes()));
    }

    /// A package, then how many methods, which follow after `gap` bytes.
    fn uncommon(&mut self, package: &str, methods: u16, gap: u32) {
        let package = self.name(package);
        self.bytes.extend(package.to_le_bytes());
        self.bytes.extend([methods, methods].iter().flat_map(|half| half.to_le_bytes()));
        self.bytes.extend((16 + gap).to_le_bytes());
        self.bytes.extend([0; 4]);
    }
}

/// All types, and their names behind them.
fn types(layout: usize) -> Vec<u8> {
    let texts = [
        "*int",
        "*func()",
        "*context.Context",
        "*fix.Node",
        "*func(int, context.Context) (int, error)",
        "*fix.Table",
        "context",
        "example.org/a/fix.v2",
        "Deadline",
        "Done",
        "Err",
        "Search",
        "Value",
        "n",
        "Context",
    ];
    let mut names = Vec::new();
    let mut by_text = BTreeMap::new();
    for text in texts {
        by_text.insert(text, names.len() as u32);
        // Only a field is named so that is embedded.
        names.extend([if text == "Context" { 8 } else { 1 }, text.len() as u8]);
        names.extend(text.as_bytes());
    }
    let mut to = Writer { bytes: vec![0; 8], names: by_text };
    to.header(8, NAMED & 4 | STAR, 2, "*int", 0);
    to.header(8, STAR, 19, "*func()", 0);
    to.words(&[0]);

    to.header(16, NAMED | STAR, 20, "*context.Context", 0);
    to.words(&[0]);
    to.pointer(CONTEXT + 96);
    to.words(&[4, 4]);
    to.uncommon("context", 0, 0);
    let methods = ["Deadline", "Done", "Err", "Value"];
    for method in methods {
        let name = to.name(method);
        to.bytes.extend([name, FUNC].iter().flat_map(|half| half.to_le_bytes()));
    }

    to.header(24, NAMED | STAR, 25, "*fix.Node", POINTER);
    to.words(&[0]);
    to.pointer(NODE + 96);
    to.words(&[2, 2]);
    to.uncommon("example.org/a/fix.v2", 0, 0);
    for (name, ty, offset) in [("n", INT, 0), ("Context", CONTEXT, 8)] {
        let at = to.name(name);
        to.pointer(at);
        to.pointer(ty);
        // Go 1.18 has it shifted, and in the lowest bit whether it is embedded.
        to.words(&[if layout == 0 { offset << 1 | u64::from(offset > 0) } else { offset }]);
    }

    to.header(8, STAR, 19, "*func(int, context.Context) (int, error)", 0);
    to.words(&[2 | 2 << 16]);
    for ty in [INT, CONTEXT, INT, CONTEXT] {
        to.pointer(ty);
    }

    to.header(8, 1, DIRECT_POINTER, "*fix.Node", 0);
    to.pointer(NODE);
    to.uncommon("example.org/a/fix.v2", 5, 0);
    // The second function of the program is `(*Node).Search`, 64 bytes from its text's start.
    for (name, ty, code) in [
        ("Deadline", FUNC, 0),
        ("Done", 0, u32::MAX),
        ("Err", u32::MAX, u32::MAX),
        ("Search", SEARCH, 64),
        ("Value", FUNC, 96),
    ] {
        let name = to.name(name);
        to.bytes.extend([name, ty, code, code].iter().flat_map(|half| half.to_le_bytes()));
    }

    to.header(8, NAMED | STAR, 21, "*fix.Table", 0);
    to.pointer(INT);
    to.pointer(NODE);
    let size = [88, 88, 112, 136][layout];
    to.bytes.resize(TABLE as usize + size, 0);
    to.uncommon("example.org/a/fix.v2", 0, 0);
    to.bytes.resize(NAMES as usize, 0);
    to.bytes.extend(names);
    to.bytes
}
