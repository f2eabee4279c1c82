//! A symbol table, arranged for one question: which names contain these bytes?

use std::hash::Hasher;
use std::sync::OnceLock;

use memchr::{memchr, memmem, memrchr};
use object::elf::{self, Sym64};
use object::{LittleEndian as LE, pod};
use rustc_hash::FxHasher;

use super::SymbolError;
use super::elf::{Elf, Section, string_at};
use super::function::Language;
use super::name;
use super::pattern::Fragment;

/// How many entries of a table are in memory at once as they are read: whole tables take megabytes.
const AT_ONCE: u64 = 8192;

/// What a symbol is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A function with code in this object.
    Function,
    /// A part split off from a function as unlikely.
    Cold,
    /// A name without code here: imported, or chosen when the program is loaded (IFUNC).
    NoCode,
}

/// A symbol that may name a function.
#[derive(Clone, Copy, Debug)]
pub(super) struct Symbol {
    pub(super) address: u64,
    /// 0: not stated. No function is larger than what this holds.
    pub(super) size: u32,
    /// Offset in the string table.
    pub(super) name: u32,
    /// Which source file's local symbol it is, counted by the `STT_FILE` before it; 0 for none. Of a
    /// Go function: where its record is.
    pub(super) source: u32,
    pub(super) kind: Kind,
    pub(super) language: Language,
}

/// One symbol table of an object.
#[derive(Debug)]
pub(super) struct Table {
    strings: Vec<u8>,
    /// By the offset of their names.
    pub(super) symbols: Vec<Symbol>,
    /// By the hash of their names without a version: made when a whole name is first asked for.
    by_name: OnceLock<Vec<(u32, u32)>>,
    languages: OnceLock<Vec<Language>>,
}

impl Table {
    /// Reads a table of `elf`. Addresses are those of `main`, which has the code; the two are one
    /// unless `elf` is a debug file.
    pub(super) fn read(elf: &Elf, section: &Section, main: &Elf) -> Result<Self, SymbolError> {
        let strings = elf
            .sections
            .get(section.link as usize)
            .filter(|strings| strings.kind == elf::SHT_STRTAB.0)
            .ok_or_else(|| elf.broken("a symbol table without its string table"))?;
        let mut strings = elf.section_bytes(strings)?;
        let mut symbols = functions(elf, section, main, &strings)?;
        symbols.sort_by_key(|symbol| symbol.name);
        keep_named(&mut strings, &mut symbols);
        let mut this =
            Self { strings, symbols, by_name: OnceLock::new(), languages: OnceLock::new() };
        for index in this.containing(&memmem::Finder::new(".cold")) {
            if this.symbols[index].kind == Kind::Function
                && name::cold_parent(&this.name(&this.symbols[index])).is_some()
            {
                this.symbols[index].kind = Kind::Cold;
            }
        }
        Ok(this)
    }

    /// A table of Go functions: their names, and where each begins in them.
    pub(super) fn of_go(strings: Vec<u8>, mut symbols: Vec<Symbol>) -> Self {
        symbols.sort_by_key(|symbol| symbol.name);
        Self { strings, symbols, by_name: OnceLock::new(), languages: OnceLock::new() }
    }

    /// The languages of its functions: each is searched by its own rules.
    pub(super) fn languages(&self) -> &[Language] {
        self.languages.get_or_init(|| {
            let mut languages = vec![Language::Native];
            for symbol in &self.symbols {
                if !languages.contains(&symbol.language) {
                    languages.push(symbol.language);
                }
            }
            languages
        })
    }

    /// Whether a name that is among its strings contains some bytes.
    pub(super) fn mentions(&self, bytes: &[u8]) -> bool {
        memmem::find(&self.strings, bytes).is_some()
    }

    /// Forgets symbols, and the names that no others have. Asked before any search.
    pub(super) fn retain(&mut self, keep: impl Fn(&Symbol, &[u8]) -> bool) {
        let before = self.symbols.len();
        let strings = &self.strings;
        self.symbols.retain(|symbol| keep(symbol, string_at(strings, symbol.name)));
        if self.symbols.len() < before {
            self.symbols.shrink_to_fit();
            keep_named(&mut self.strings, &mut self.symbols);
        }
    }

    /// Says which functions with code are of a language, by their names. Asked before any search.
    pub(super) fn mark(&mut self, language: Language, is_it: fn(&[u8]) -> bool) {
        for at in 0..self.symbols.len() {
            let Some(symbol) = self.symbols.get(at) else { continue };
            if symbol.kind == Kind::Function && is_it(self.raw_name(symbol)) {
                self.symbols[at].language = language;
            }
        }
    }

    /// A symbol's name as the table has it.
    pub(super) fn raw_name(&self, symbol: &Symbol) -> &[u8] {
        string_at(&self.strings, symbol.name)
    }

    /// A symbol's name, made readable should it not be UTF-8.
    pub(super) fn name(&self, symbol: &Symbol) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.raw_name(symbol))
    }

    /// The symbols whose names contain all fragments; all if there are none.
    pub(super) fn candidates(&self, fragments: &[Fragment]) -> Vec<usize> {
        let Some((first, rest)) = fragments.split_first() else {
            return (0..self.symbols.len()).collect();
        };
        let mut found = self.containing(first.finder());
        found.retain(|&index| {
            let name = self.raw_name(&self.symbols[index]);
            first.is_in(name) && rest.iter().all(|fragment| fragment.is_in(name))
        });
        found
    }

    /// The symbols that have exactly this name.
    pub(super) fn named(&self, linkage: &str) -> Vec<usize> {
        let by_name = self.by_name.get_or_init(|| {
            let hashed = (0_u32..).zip(&self.symbols);
            let mut by_name: Vec<(u32, u32)> =
                hashed.map(|(index, symbol)| (short(self.raw_name(symbol)), index)).collect();
            by_name.sort_unstable();
            by_name
        });
        let wanted = short(linkage.as_bytes());
        let from = by_name.partition_point(|&(hash, _)| hash < wanted);
        let alike = by_name.get(from..).unwrap_or_default().iter();
        alike
            .take_while(|&&(hash, _)| hash == wanted)
            .map(|&(_, index)| index as usize)
            .filter(|&index| {
                let name = self.name(&self.symbols[index]);
                name == linkage || name::without_version(&name) == linkage
            })
            .collect()
    }

    /// The symbols whose names contain some bytes: one pass over the string table instead of one
    /// over each name.
    fn containing(&self, finder: &memmem::Finder<'_>) -> Vec<usize> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(hit) = finder.find(&self.strings[at..]).map(|hit| at + hit) {
            // Linkers let a name be the end of another: several symbols may begin in one string.
            let start = memrchr(0, &self.strings[..hit]).map_or(0, |nul| nul + 1);
            let end = memchr(0, &self.strings[hit..]).map_or(self.strings.len(), |nul| hit + nul);
            let last = memmem::rfind(&self.strings[hit..end], finder.needle());
            let last = hit + last.unwrap_or(0);
            let from = self.symbols.partition_point(|symbol| (symbol.name as usize) < start);
            let to = self.symbols.partition_point(|symbol| (symbol.name as usize) <= last);
            found.extend(from..to);
            at = end;
            if finder.needle().is_empty() || at >= self.strings.len() {
                break;
            }
        }
        found
    }
}

/// What names functions in a symbol table.
fn functions(
    elf: &Elf,
    section: &Section,
    main: &Elf,
    strings: &[u8],
) -> Result<Vec<Symbol>, SymbolError> {
    let entry = size_of::<Sym64<LE>>() as u64;
    let (mut symbols, mut source) = (Vec::new(), 0);
    let mut rest = (section.offset, section.size / entry);
    while let (offset, left @ 1..) = rest {
        let count = left.min(AT_ONCE);
        let raw = elf.read(offset, count * entry)?;
        let (raw, _) = pod::slice_from_bytes::<Sym64<LE>>(&raw, count as usize)
            .map_err(|()| elf.broken("a symbol table is cut short"))?;
        let found = raw.iter().filter_map(|symbol| {
            if symbol.st_type() == elf::STT_FILE {
                source += 1;
                return None;
            }
            let local = symbol.st_bind() == elf::STB_LOCAL;
            let source = if local { source } else { 0 };
            Some(Symbol { source, ..read(symbol, main)? })
        });
        symbols.extend(found.filter(|symbol| !string_at(strings, symbol.name).is_empty()));
        rest = (offset.saturating_add(count * entry), left - count);
    }
    symbols.shrink_to_fit();
    Ok(symbols)
}

/// Moves the strings that name symbols together and forgets the others: the names of data, and what
/// a symbol table has no use for. The symbols are sorted by name, and stay so.
fn keep_named(strings: &mut Vec<u8>, symbols: &mut [Symbol]) {
    // Linkers let a name be the end of another: the string that was moved last may have several.
    let (mut from, mut end, mut to) = (0, 0, 0);
    let mut kept = 0;
    for symbol in symbols {
        let name = symbol.name as usize;
        if name >= end {
            let rest = strings.get(name..).unwrap_or_default();
            let length = memchr(0, rest).map_or(rest.len(), |nul| nul + 1);
            (from, end, to) = (name, name + length, kept);
            strings.copy_within(from..end, to);
            kept += length;
        }
        symbol.name = (to + name - from) as u32;
    }
    strings.truncate(kept);
    strings.shrink_to_fit();
}

/// The hash of a name without its version, half of it: there is one for every symbol.
fn short(name: &[u8]) -> u32 {
    let end = memchr(b'@', name).unwrap_or(name.len());
    let hash = hash(name.get(..end).unwrap_or(name));
    (hash >> 32) as u32 ^ hash as u32
}

/// The hash of a name.
pub(super) fn hash(name: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    hasher.finish()
}

fn read(symbol: &Sym64<LE>, main: &Elf) -> Option<Symbol> {
    let undefined = symbol.st_shndx.get(LE) == elf::SHN_UNDEF;
    let address = symbol.st_value.get(LE);
    let kind = match symbol.st_type() {
        elf::STT_FUNC | elf::STT_NOTYPE if undefined => Kind::NoCode,
        // The code at an IFUNC is the resolver's, which runs once, at load time.
        elf::STT_GNU_IFUNC => Kind::NoCode,
        elf::STT_FUNC if main.code_range(address).is_some() => Kind::Function,
        _ => return None,
    };
    Some(Symbol {
        address,
        size: u32::try_from(symbol.st_size.get(LE)).unwrap_or(u32::MAX),
        name: symbol.st_name.get(LE),
        source: 0,
        kind,
        language: Language::Native,
    })
}
