//! An object with its symbols read: from names and addresses to functions.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};

use object::elf::{SHT_DYNSYM, SHT_SYMTAB, SectionType};
use rustc_hash::FxHashMap;

use super::elf::{Elf, Range};
use super::frames::Frames;
use super::function::Language;
use super::go::types::GoTypes;
use super::go::{self, ArgumentShape, Go};
use super::name::{self, Name};
use super::nearest::Components;
use super::pattern::Pattern;
use super::table::{self, Kind, Symbol, Table};
use super::{CodePart, Function, SymbolError, debug_file};
use crate::model::SourceLine;
use crate::target::ObjectId;

/// How many symbols before the start of a function are asked whether they reach over it.
const NESTED: usize = 64;

/// A symbol of an object: which table, which entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SymbolId {
    table: u32,
    index: u32,
}

/// A symbol that matches.
#[derive(Clone, Debug)]
pub(super) struct Hit {
    pub(super) address: u64,
    pub(super) name: Name,
    symbol: SymbolId,
}

/// The parts split off from functions. There may be as many as functions: names stay where they are.
#[derive(Debug, Default)]
struct ColdParts {
    /// By the hash of the name of the function they belong to.
    by_parent: Vec<(u64, SymbolId)>,
    /// The functions of those names, by its hash.
    parents: Vec<(u64, SymbolId)>,
}

impl ColdParts {
    /// What may be of a name: all that is, and what has another of the same hash.
    fn of<'a>(
        list: &'a [(u64, SymbolId)],
        name: &[u8],
    ) -> impl Iterator<Item = SymbolId> + use<'a> {
        let wanted = table::hash(name);
        let from = list.partition_point(|(hash, _)| *hash < wanted);
        let alike = list.get(from..).unwrap_or_default().iter();
        alike.take_while(move |(hash, _)| *hash == wanted).map(|(_, id)| *id)
    }
}

/// An object and its symbols.
#[derive(Debug)]
pub(super) struct Loaded {
    elf: Elf,
    pub(super) tables: Vec<Table>,
    /// Functions and cold parts by address.
    starts: Vec<(u64, SymbolId)>,
    cold: OnceLock<ColdParts>,
    /// Whether local functions are known, too, and not only what is exported.
    complete: bool,
    frames: OnceLock<Frames>,
    components: OnceLock<Components>,
    /// Its Go code, if it has some.
    go: Option<Go>,
    /// The kind of Go in it, if there is some.
    language: Option<Language>,
    /// Code that reaches over the starts of other functions, by its bounds; none: unreadable.
    shared: Mutex<FxHashMap<(u64, u64), Option<CodePart>>>,
}

impl Loaded {
    /// Reads the symbols of a file: its own tables, and if it was stripped those kept apart.
    pub(super) fn read(elf: Elf, path: &Path, root: &Path) -> Result<Self, SymbolError> {
        let mut tables = tables(&elf, SHT_SYMTAB, &elf)?;
        let mut complete = !tables.is_empty();
        if !complete {
            tables = kept_apart(&elf, path, root);
            complete = !tables.is_empty();
        }
        tables.extend(self::tables(&elf, SHT_DYNSYM, &elf)?);
        let (go, mut functions) = Go::read(&elf);
        if let Some(error) = go.as_ref().and_then(Go::error) {
            tracing::warn!(%error, "its Go functions are not known");
        }
        complete |= functions.is_some();
        let of_other = || go::other_toolchain(&elf, &tables);
        let language = go.as_ref().map(|_| Language::Go).or_else(of_other);
        go::divide(language, &mut tables, &mut functions);
        tables.extend(functions);
        Ok(Self { language, ..Self::arranged(elf, tables, complete, go) })
    }

    fn arranged(elf: Elf, tables: Vec<Table>, complete: bool, go: Option<Go>) -> Self {
        let with_code = |id: SymbolId| {
            let symbol = &tables[id.table as usize].symbols[id.index as usize];
            (symbol.kind != Kind::NoCode).then_some((symbol.address, id))
        };
        let mut starts: Vec<_> = ids(&tables).filter_map(with_code).collect();
        starts.shrink_to_fit();
        starts.sort_unstable();
        Self {
            elf,
            tables,
            starts,
            cold: OnceLock::new(),
            complete,
            frames: OnceLock::new(),
            components: OnceLock::new(),
            go,
            language: None,
            shared: Mutex::default(),
        }
    }

    fn cold(&self) -> &ColdParts {
        self.cold.get_or_init(|| {
            let mut by_parent = Vec::new();
            for id in ids(&self.tables).filter(|&id| self.symbol(id).kind == Kind::Cold) {
                let name = self.table(id).name(self.symbol(id));
                by_parent
                    .extend(name::cold_parent(&name).map(|of| (table::hash(of.as_bytes()), id)));
            }
            by_parent.sort_unstable();
            by_parent.shrink_to_fit();
            let mut parents = Vec::new();
            for id in ids(&self.tables).filter(|&id| self.symbol(id).kind == Kind::Function) {
                let name = self.table(id).raw_name(self.symbol(id));
                if ColdParts::of(&by_parent, name).next().is_some() {
                    parents.push((table::hash(name), id));
                }
            }
            parents.sort_unstable();
            parents.shrink_to_fit();
            ColdParts { by_parent, parents }
        })
    }

    /// The parts split off from the functions of a name.
    fn cold_parts_of(&self, name: &[u8]) -> impl Iterator<Item = SymbolId> {
        ColdParts::of(&self.cold().by_parent, name).filter(move |&id| {
            let cold = self.table(id).name(self.symbol(id));
            name::cold_parent(&cold).is_some_and(|parent| parent.as_bytes() == name)
        })
    }

    /// The functions of a name of which parts were split off. There are several of static ones of
    /// several source files.
    fn parents(&self, name: &[u8]) -> impl Iterator<Item = SymbolId> {
        let is_it = move |id: &SymbolId| self.table(*id).raw_name(self.symbol(*id)) == name;
        ColdParts::of(&self.cold().parents, name).filter(is_it)
    }

    /// The symbols with code that match a pattern.
    pub(super) fn matching(&self, pattern: &Pattern) -> Vec<Hit> {
        self.select(Kind::Function, pattern)
    }

    /// The names without code here that match a pattern.
    pub(super) fn imports(&self, pattern: &Pattern) -> Vec<String> {
        self.select(Kind::NoCode, pattern).into_iter().map(|hit| hit.name.full).collect()
    }

    fn select(&self, kind: Kind, pattern: &Pattern) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (at, table) in self.tables.iter().enumerate() {
            for &language in table.languages() {
                for index in table.candidates(pattern.fragments(language)) {
                    let symbol = &table.symbols[index];
                    if (symbol.kind, symbol.language) != (kind, language) {
                        continue;
                    }
                    let linkage = table.name(symbol);
                    let name = read_as(language, &linkage);
                    if pattern.matches(language, &linkage, &name) {
                        let symbol_id = SymbolId { table: at as u32, index: index as u32 };
                        hits.push(Hit { address: symbol.address, name, symbol: symbol_id });
                    }
                }
            }
        }
        hits
    }

    /// The symbols of exactly this name in the symbol table.
    pub(super) fn linked_as(&self, linkage: &str) -> Vec<Hit> {
        self.named(linkage, Kind::Function)
    }

    /// Whether the name is there, but without code.
    pub(super) fn imports_linkage(&self, linkage: &str) -> bool {
        !self.named(linkage, Kind::NoCode).is_empty()
    }

    fn named(&self, linkage: &str, kind: Kind) -> Vec<Hit> {
        let hits =
            self.tables.iter().enumerate().flat_map(|(at, table)| {
                table.named(linkage).into_iter().map(move |index| (at, index))
            });
        hits.map(|(table, index)| SymbolId { table: table as u32, index: index as u32 })
            .filter(|&id| self.symbol(id).kind == kind)
            .map(|id| self.hit(id, name::read))
            .collect()
    }

    /// The name of every function, as the symbol table has it.
    pub(super) fn function_names(&self) -> impl Iterator<Item = &[u8]> {
        self.tables.iter().flat_map(|table| {
            let functions = table.symbols.iter().filter(|symbol| symbol.kind == Kind::Function);
            functions.map(|symbol| table.raw_name(symbol))
        })
    }

    /// The last components of the names of all functions.
    pub(super) fn components(&self) -> &Components {
        self.components.get_or_init(|| {
            let functions = ids(&self.tables).filter(|&id| self.symbol(id).kind == Kind::Function);
            let name = |id: SymbolId| self.table(id).raw_name(self.symbol(id));
            Components::of(functions.map(|id| (id, self.symbol(id).language, name(id))))
        })
    }

    /// The name of a symbol, as a person reads it.
    pub(super) fn name(&self, id: SymbolId) -> Name {
        read_as(self.symbol(id).language, &self.linkage(id))
    }

    /// Its Go code, if it has some.
    pub(super) const fn go(&self) -> Option<&Go> {
        self.go.as_ref()
    }

    /// The file and line of an address, if it is in a Go function.
    pub(super) fn go_line(&self, address: u64) -> Option<SourceLine> {
        let go = self.go.as_ref()?;
        let symbol = self.nearest(address).filter(|symbol| symbol.language == Language::Go)?;
        go.line(&self.elf, symbol, address)
    }

    /// Its types, if it is a Go program.
    pub(super) fn go_types(&self) -> Result<&GoTypes, SymbolError> {
        let none = || self.elf.broken("it is no Go program: it has no .gopclntab");
        self.go.as_ref().ok_or_else(none)?.types(&self.elf)
    }

    /// What the arguments of the Go function look like that begins at an address.
    pub(super) fn argument_shape(&self, address: u64) -> Option<ArgumentShape> {
        let go = self.go.as_ref()?;
        let symbol = self.nearest(address).filter(|symbol| symbol.language == Language::Go)?;
        go.arguments(&self.elf, symbol).filter(|_| symbol.address == address)
    }

    /// The nearest symbol with code that begins at an address or before.
    fn nearest(&self, address: u64) -> Option<&Symbol> {
        let after = self.starts.partition_point(|&(start, _)| start <= address);
        let &(_, id) = self.starts.get(after.checked_sub(1)?)?;
        Some(self.symbol(id))
    }

    /// The name of a symbol, as its table has it.
    pub(super) fn linkage(&self, id: SymbolId) -> Cow<'_, str> {
        self.table(id).name(self.symbol(id))
    }

    /// If only exported functions are known: how many, in words.
    pub(super) fn stripped(&self) -> Option<String> {
        if self.complete {
            return None;
        }
        Some(match self.function_names().count() {
            0 => "no function symbols at all".into(),
            1 => "only 1 exported function is named".into(),
            n => format!("only its {n} exported functions are named"),
        })
    }

    /// One function an address, with the best of the names that matched.
    pub(super) fn distinct(&self, mut hits: Vec<Hit>) -> Vec<Hit> {
        hits.sort_by(|a, b| {
            a.address.cmp(&b.address).then_with(|| self.rank(a.symbol).cmp(&self.rank(b.symbol)))
        });
        hits.dedup_by_key(|hit| hit.address);
        hits
    }

    /// Names that are exported, then short ones, go first.
    fn rank(&self, id: SymbolId) -> (bool, Reverse<bool>, usize, &[u8]) {
        let symbol = self.symbol(id);
        let linkage = self.table(id).raw_name(symbol);
        // A size is worth more than none.
        (symbol.source != 0, Reverse(symbol.size != 0), linkage.len(), linkage)
    }

    /// The function of a symbol, with its code.
    pub(super) fn function(&self, object: ObjectId, hit: Hit) -> Result<Function, SymbolError> {
        let symbol = self.symbol(hit.symbol);
        let linkage = self.table(hit.symbol).name(symbol);
        let code = self.elf.code(self.exact(symbol))?;
        let cold = self.cold_parts(symbol.address, &code)?;
        Ok(Function {
            object,
            name: hit.name.full.into(),
            base_name: hit.name.base.into(),
            linkage: name::without_version(&linkage).into(),
            language: symbol.language,
            code,
            cold,
            around: Vec::new(),
        })
    }

    /// The function around an address. Where no symbol tells, `.eh_frame` does, or the next symbol
    /// bounds it; then its name is the address.
    pub(super) fn around(
        &self,
        object: ObjectId,
        address: u64,
    ) -> Result<Option<Function>, SymbolError> {
        let Some(section) = self.elf.code_range(address) else { return Ok(None) };
        let after = self.starts.partition_point(|&(start, _)| start <= address);
        let before = after.checked_sub(1).and_then(|at| self.starts.get(at));
        if let Some(&(start, id)) = before
            && self.extent(self.symbol(id)).contains(address)
        {
            return self.symbolised(object, start, name::read);
        }
        let next = self.starts.get(after).map(|&(next, _)| next).filter(|&n| section.contains(n));
        let framed = self.frames().around(&self.elf, address);
        let range = framed.or_else(|| next.map(|end| Range { start: address, end }));
        let language = match self.language {
            // C has frame descriptions, Go has none unless gccgo made it.
            Some(Language::Go) if framed.is_some() => Language::Native,
            of_program => of_program.unwrap_or_default(),
        };
        let function = range.map(|range| self.unnamed(object, range)).transpose()?;
        Ok(function.map(|function| Function { language, ..function }))
    }

    /// Where the functions begin of which a symbol says that they reach an address, the nearest
    /// first, of the `asked` nearest symbols.
    pub(super) fn reaching(
        &self,
        address: u64,
        asked: usize,
    ) -> impl Iterator<Item = u64> + use<'_> {
        self.extents_over(address, asked).map(|range| range.start)
    }

    /// The same with their ends.
    fn extents_over(&self, address: u64, asked: usize) -> impl Iterator<Item = Range> + use<'_> {
        let after = self.starts.partition_point(|&(start, _)| start <= address);
        let before = self.starts.get(..after).unwrap_or_default().iter().rev().take(asked);
        before
            .map(|&(_, id)| self.extent(self.symbol(id)))
            .filter(move |range| range.contains(address))
    }

    /// Whether the nearest symbol says that an address is in the middle of its function.
    pub(super) fn is_inside(&self, address: u64) -> bool {
        let after = self.starts.partition_point(|&(start, _)| start <= address);
        let nearest = after.checked_sub(1).and_then(|at| self.starts.get(at));
        nearest.is_some_and(|&(start, id)| {
            start < address && self.extent(self.symbol(id)).contains(address)
        })
    }

    /// A function that may be probed: with the code of others that reaches over its start. What
    /// cannot be read is left out: no function is so large.
    pub(super) fn with_surroundings(&self, function: Function) -> Function {
        let address = function.code.address.0;
        let framed = self.frames().around(&self.elf, address);
        let mut ranges: Vec<Range> = self.extents_over(address, NESTED).chain(framed).collect();
        ranges.retain(|range| range.start < address);
        ranges.sort_unstable_by_key(|range| (range.start, Reverse(range.end)));
        ranges.dedup_by_key(|range| range.start);
        let around = ranges.into_iter().filter_map(|range| self.shared_code(range)).collect();
        Function { around, ..function }
    }

    /// Code that many functions may ask for, in memory once.
    fn shared_code(&self, range: Range) -> Option<CodePart> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(code) = shared.get(&(range.start, range.end)) {
            return code.clone();
        }
        let code = self.elf.code(range).ok();
        shared.insert((range.start, range.end), code.clone());
        code
    }

    /// Its file.
    pub(super) const fn elf(&self) -> &Elf {
        &self.elf
    }

    /// The function around an address by `.eh_frame`.
    pub(super) fn framed(&self, object: ObjectId, address: u64) -> Option<Function> {
        self.elf.code_range(address)?;
        self.unnamed(object, self.frames().around(&self.elf, address)?).ok()
    }

    fn unnamed(&self, object: ObjectId, range: Range) -> Result<Function, SymbolError> {
        let name: std::sync::Arc<str> = format!("{:#x}", range.start).into();
        Ok(Function {
            object,
            name: name.clone(),
            base_name: name.clone(),
            linkage: name,
            language: Language::Native,
            code: self.elf.code(range)?,
            cold: Vec::new(),
            around: Vec::new(),
        })
    }

    /// The function whose symbols, or whose cold part's, are at an address; `read` makes its name of
    /// that in the symbol table.
    pub(super) fn symbolised(
        &self,
        object: ObjectId,
        start: u64,
        read: fn(&str) -> Name,
    ) -> Result<Option<Function>, SymbolError> {
        let here = self.at(start);
        let function = here
            .iter()
            .copied()
            .filter(|&id| self.symbol(id).kind == Kind::Function)
            .min_by(|&a, &b| self.rank(a).cmp(&self.rank(b)));
        if let Some(id) = function {
            return self.function(object, self.hit(id, read)).map(Some);
        }
        for &id in &here {
            let name = self.table(id).name(self.symbol(id));
            let Some(parent) = name::cold_parent(&name) else { continue };
            let parents = self.parents(parent.as_bytes());
            for hit in self.distinct(parents.map(|id| self.hit(id, read)).collect()) {
                let function = self.function(object, hit)?;
                if function.cold.iter().any(|part| part.address.0 == start) {
                    return Ok(Some(function));
                }
            }
        }
        Ok(None)
    }

    fn symbol(&self, id: SymbolId) -> &Symbol {
        &self.table(id).symbols[id.index as usize]
    }

    fn table(&self, id: SymbolId) -> &Table {
        &self.tables[id.table as usize]
    }

    fn hit(&self, id: SymbolId, read: fn(&str) -> Name) -> Hit {
        let symbol = self.symbol(id);
        let linkage = self.table(id).name(symbol);
        let name = if symbol.language == Language::Native {
            read(&linkage)
        } else {
            name::read_go(&linkage)
        };
        Hit { address: symbol.address, name, symbol: id }
    }

    fn at(&self, address: u64) -> Vec<SymbolId> {
        let from = self.starts.partition_point(|&(start, _)| start < address);
        let rest = self.starts.get(from..).unwrap_or_default();
        rest.iter().take_while(|&&(start, _)| start == address).map(|&(_, id)| id).collect()
    }

    fn frames(&self) -> &Frames {
        self.frames.get_or_init(|| Frames::read(&self.elf))
    }

    /// The addresses of a symbol. Hand-written assembly often states no size.
    fn extent(&self, symbol: &Symbol) -> Range {
        let start = symbol.address;
        if symbol.size > 0 {
            return Range { start, end: start.saturating_add(u64::from(symbol.size)) };
        }
        let framed = self.frames().around(&self.elf, start).filter(|range| range.start == start);
        framed.unwrap_or_else(|| {
            let after = self.starts.partition_point(|&(other, _)| other <= start);
            let section = self.elf.code_range(start).map_or(start, |range| range.end);
            let next = self.starts.get(after).map_or(section, |&(next, _)| next);
            Range { start, end: next.min(section) }
        })
    }

    /// The addresses of a symbol, without what fills the space behind a Go function.
    fn exact(&self, symbol: &Symbol) -> Range {
        let range = self.extent(symbol);
        let size = match (&self.go, symbol.language) {
            (Some(go), Language::Go) => go.size(&self.elf, symbol),
            _ => None,
        };
        let end = size.and_then(|size| range.start.checked_add(size));
        Range { end: end.map_or(range.end, |end| end.min(range.end)), ..range }
    }

    /// The parts split off from the function at an address, whichever of its names they carry.
    fn cold_parts(&self, address: u64, code: &CodePart) -> Result<Vec<CodePart>, SymbolError> {
        let mut parts: Vec<CodePart> = Vec::new();
        for id in self.at(address) {
            let parent = self.symbol(id);
            let name = self.table(id).raw_name(parent);
            let mut addresses = self.parents(name).map(|id| self.symbol(id).address);
            let first = addresses.next();
            let alone = addresses.all(|address| Some(address) == first);
            for cold in self.cold_parts_of(name) {
                let symbol = self.symbol(cold);
                let range = self.extent(symbol);
                let same_source =
                    cold.table == id.table && parent.source != 0 && parent.source == symbol.source;
                if (alone || same_source || jumps_into(code, range))
                    && parts.iter().all(|part| part.address.0 != symbol.address)
                {
                    parts.push(self.elf.code(range)?);
                }
            }
        }
        parts.sort_by_key(|part| part.address);
        Ok(parts)
    }
}

/// A name in a symbol table as a person reads it.
fn read_as(language: Language, linkage: &str) -> Name {
    match language {
        Language::Native => name::read(linkage),
        Language::Go | Language::GccGo | Language::TinyGo => name::read_go(linkage),
    }
}

fn ids(tables: &[Table]) -> impl Iterator<Item = SymbolId> {
    (0_u32..).zip(tables).flat_map(|(table, symbols)| {
        (0_u32..).take(symbols.symbols.len()).map(move |index| SymbolId { table, index })
    })
}

/// The tables of one kind, for the code of `main`.
fn tables(elf: &Elf, kind: SectionType, main: &Elf) -> Result<Vec<Table>, SymbolError> {
    let wanted = elf.sections.iter().filter(|section| section.kind == kind.0);
    wanted.map(|section| Table::read(elf, section, main)).collect()
}

/// The tables of a stripped object that lie elsewhere: in a debug file, else packed in itself.
/// What is broken there costs names, not the run.
fn kept_apart(main: &Elf, path: &Path, root: &Path) -> Vec<Table> {
    let found = debug_file::find(main, path, root);
    let found = found.map_or_else(|| debug_file::embedded(main, path), |elf| Ok(Some(elf)));
    let read = found.and_then(|elf| match elf {
        Some(elf) => tables(&elf, SHT_SYMTAB, main),
        None => Ok(Vec::new()),
    });
    read.unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "its separate symbols are of no use");
        Vec::new()
    })
}

/// Whether code contains what looks like a jump into a range: `jmp rel32` or `jcc rel32`, at any
/// byte. A false one among the few parts that share a name is next to impossible.
fn jumps_into(code: &CodePart, range: Range) -> bool {
    code.bytes.windows(5).enumerate().any(|(at, window)| {
        let [opcode, a, b, c, d] = *window else { return false };
        let jump = opcode == 0xe9
            || (opcode & 0xf0 == 0x80 && at > 0 && code.bytes.get(at - 1) == Some(&0x0f));
        let next = code.address.0.wrapping_add(at as u64 + 5);
        let to = next.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        jump && range.contains(to)
    })
}
