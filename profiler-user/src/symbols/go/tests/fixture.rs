//! A Go program without Go: the tables of any version, as its linker writes them.

pub(in crate::symbols::go) const TEXT: u64 = 0x40_1000;
pub(in crate::symbols::go) const TABLE: u64 = 0x50_0000;
pub(in crate::symbols::go) const DATA: u64 = 0x60_0000;
const PAGE: usize = 0x1000;

/// What a file is like.
#[derive(Clone, Copy, Debug)]
pub(in crate::symbols::go) struct Like {
    pub(in crate::symbols::go) magic: u32,
    /// Whether the header tells where the text begins.
    pub(in crate::symbols::go) told: bool,
    pub(in crate::symbols::go) sections: bool,
    pub(in crate::symbols::go) version: &'static str,
    /// Whether the version's text follows its header.
    pub(in crate::symbols::go) inline: bool,
}

pub(in crate::symbols::go) const GO_1_16: Like =
    Like { magic: 0xffff_fffa, told: true, sections: true, version: "go1.16.15", inline: false };
pub(in crate::symbols::go) const GO_1_18: Like =
    Like { magic: 0xffff_fff0, told: true, sections: true, version: "go1.18.10", inline: true };
pub(in crate::symbols::go) const GO_1_20: Like =
    Like { magic: 0xffff_fff1, told: true, sections: true, version: "go1.20.4", inline: true };
pub(in crate::symbols::go) const GO_1_26: Like =
    Like { magic: 0xffff_fff1, told: false, sections: true, version: "go1.26.8", inline: true };

/// Name, room, size, whether it is Go; the first line and, behind 8 bytes, the second.
pub(in crate::symbols::go) const FUNCTIONS: [(&str, u32, u32, bool); 6] = [
    ("main.main", 64, 50, true),
    ("example.org/a/fix%2ev2.(*Node).Search", 32, 20, true),
    ("example.org/a/fix%2ev2.(*Node).Search.func1", 32, 31, true),
    ("example.org/a/fix%2ev2.Sum[go.shape.int]", 16, 16, true),
    ("example.org/a/fix%2ev2.Sum[go.shape.float64]", 16, 9, true),
    ("x_cgo_init", 32, 32, false),
];
pub(in crate::symbols::go) const LINES: (u32, u32) = (7, 9);
pub(in crate::symbols::go) const FILE: &str = "example.org/a/fix.v2/node.go";

/// What else there is: words of `moduledata` by their offsets, and what lies at [`MORE`].
#[derive(Clone, Debug, Default)]
pub(in crate::symbols::go) struct More {
    pub(in crate::symbols::go) module: Vec<(usize, u64)>,
    pub(in crate::symbols::go) bytes: Vec<u8>,
}

/// Where it lies: the first word of `moduledata`, and what comes behind that.
pub(in crate::symbols::go) const MODULE: u64 = DATA + BUILD_INFO as u64;
pub(in crate::symbols::go) const MORE: u64 = DATA + 0x400;

/// The file.
pub(in crate::symbols::go) fn program(like: Like) -> Vec<u8> {
    program_with(like, &More::default())
}

pub(in crate::symbols::go) fn program_with(like: Like, more: &More) -> Vec<u8> {
    let table = table(like);
    let data = data(like, &table, more);
    let text: usize = FUNCTIONS.iter().map(|(_, room, ..)| *room as usize).sum();
    let pages = |size: usize| size.next_multiple_of(PAGE);
    let table_at = 2 * PAGE;
    let data_at = table_at + pages(table.bytes.len());
    let end = data_at + pages(data.len());

    let mut file = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    for word in [TEXT, 64, if like.sections { end as u64 } else { 0 }] {
        file.extend(word.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0]);
    file.extend(if like.sections { [5, 0, 4, 0] } else { [0; 4] });
    for (flags, offset, address, size) in [
        (5_u32, PAGE, TEXT, text),
        (4, table_at, TABLE, table.bytes.len()),
        (6, data_at, DATA, data.len()),
    ] {
        file.extend(1_u32.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [offset as u64, address, address, size as u64, size as u64, PAGE as u64] {
            file.extend(word.to_le_bytes());
        }
    }
    for (offset, bytes) in [(PAGE, &vec![0x90; text]), (table_at, &table.bytes), (data_at, &data)] {
        file.resize(offset, 0);
        file.extend(bytes);
    }
    file.resize(end, 0);
    if like.sections {
        let names = b"\0.text\0.gopclntab\0.go.buildinfo\0.shstrtab\0";
        let sections = [
            (0_u32, 0_u32, 0_u64, 0_u64, 0, 0),
            (1, 1, 6, TEXT, PAGE, text),
            (7, 1, 2, TABLE, table_at, table.bytes.len()),
            (18, 1, 3, DATA, data_at, BUILD_INFO),
            (32, 3, 0, 0, end + 5 * 64, names.len()),
        ];
        for (name, kind, flags, address, offset, size) in sections {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            for word in [flags, address, offset as u64, size as u64, 0, 1, 0] {
                file.extend(word.to_le_bytes());
            }
        }
        file.extend(names);
    }
    file
}

struct Table {
    bytes: Vec<u8>,
    names: u64,
    names_size: u64,
}

fn table(like: Like) -> Table {
    let wide = like.magic == 0xffff_fffa;
    let word = |value: u64| -> Vec<u8> {
        if wide { value.to_le_bytes().to_vec() } else { (value as u32).to_le_bytes().to_vec() }
    };
    let base = if wide { TEXT } else { 0 };
    let mut names = vec![0];
    // Offset 0 of the values means none.
    let mut values = vec![0];
    let (mut list, mut records) = (Vec::new(), Vec::new());
    let head = (2 * FUNCTIONS.len() + 1) * word(0).len();
    let mut at = base;
    for (name, room, size, is_go) in FUNCTIONS {
        list.extend(word(at));
        list.extend(word((head + records.len()) as u64));
        let mut lead = |steps: &[(i32, u32)]| {
            let here = values.len() as u32;
            for (change, length) in steps {
                number(&mut values, ((change << 1) ^ (change >> 31)).cast_unsigned());
                number(&mut values, *length);
            }
            values.push(0);
            if is_go { here } else { 0 }
        };
        let (first, second) = (LINES.0.cast_signed(), LINES.1.cast_signed());
        let tables = [
            lead(&[(1, 4), (8, size - 4)]),
            lead(&[(1, size)]),
            lead(&[(first + 1, 8), (second - first, size - 8)]),
        ];
        records.extend(word(at));
        records.extend((names.len() as u32).to_le_bytes());
        for value in [0, 0, tables[0], tables[1], tables[2], 3, 0, 7, 0] {
            records.extend(value.to_le_bytes());
        }
        names.extend(name.as_bytes());
        names.push(0);
        at += u64::from(room);
    }
    list.extend(word(at));
    let units = 0_u32.to_le_bytes().to_vec();
    let files = [FILE.as_bytes(), &[0]].concat();

    let mut bytes = like.magic.to_le_bytes().to_vec();
    bytes.extend([0, 0, 1, 8]);
    let size: u64 = if wide { 64 } else { 72 };
    let mut words = vec![FUNCTIONS.len() as u64, 1];
    if !wide {
        words.push(if like.told { TEXT } else { 0 });
    }
    let names_size = names.len() as u64;
    let mut part = size;
    for bytes in [&names, &units, &files, &values] {
        words.push(part);
        part += bytes.len() as u64;
    }
    words.push(part);
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    for part in [&names, &units, &files, &values, &list, &records] {
        bytes.extend(part.iter());
    }
    Table { bytes, names: TABLE + size, names_size }
}

const BUILD_INFO: usize = 128;

/// What says the version, then the runtime's `moduledata`.
fn data(like: Like, table: &Table, more: &More) -> Vec<u8> {
    let mut data = b"\xff Go buildinf:".to_vec();
    data.extend([8, if like.inline { 2 } else { 0 }]);
    if like.inline {
        data.resize(32, 0);
        data.push(like.version.len() as u8);
        data.extend(like.version.as_bytes());
    } else {
        for word in [DATA + 48, 0, 0, 0, DATA + 64, like.version.len() as u64] {
            data.extend(word.to_le_bytes());
        }
        data.extend(like.version.as_bytes());
    }
    data.resize(BUILD_INFO, 0);
    let end: u64 = FUNCTIONS.iter().map(|(_, room, ..)| u64::from(*room)).sum();
    let mut words = [0; 60];
    words[..4].copy_from_slice(&[TABLE, table.names, table.names_size, table.names_size]);
    words[20..24].copy_from_slice(&[TEXT, TEXT + end, TEXT, TEXT + end]);
    for (offset, word) in &more.module {
        words[offset / 8] = *word;
    }
    data.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    data.resize((MORE - DATA) as usize, 0);
    data.extend(&more.bytes);
    data
}

fn number(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}
