//! Functions of Go programs, by the table that the Go runtime itself needs (`.gopclntab`): it stays
//! when a file is stripped.
//!
//! The table is found (`find`), its header checked (`header`), and of each function the address and
//! the name are kept; the names stay where they are, in one buffer. Where a function ends and in
//! which line it stands is read when somebody asks (`record`). Like all of a file, every number of it
//! is hostile until checked.

mod build_info;
mod find;
mod foreign;
mod header;
mod record;
mod shape;
#[cfg(test)]
mod tests;
pub mod types;

use std::sync::{Arc, OnceLock};

use self::find::Place;
use self::header::{Format, Header, Unreadable, contradiction};
use self::record::Record;
use super::SymbolError;
use super::elf::Elf;
use super::function::Language;
use super::table::{Kind, Symbol, Table};
use crate::model::SourceLine;

pub(super) use self::foreign::{divide, other_toolchain};
pub use self::shape::{ArgumentShape, Shape};
use self::types::GoTypes;

/// So much of a table of values is read to find a line or an end.
const VALUES: u64 = 16 << 10;
/// The longest path of a source file that is read.
const LONGEST_PATH: u64 = 4096;

/// What is known of the Go code in a file.
#[derive(Debug)]
pub(super) struct Go {
    /// The version of Go that built it, if it says.
    version: Option<String>,
    /// Its functions; or why they are not known.
    functions: Result<Functions, SymbolError>,
    types: OnceLock<Result<GoTypes, SymbolError>>,
    /// Where the data of its functions is, if that is known.
    data: OnceLock<Option<u64>>,
}

/// Where the functions' tables are in the file.
#[derive(Debug)]
struct Functions {
    place: Place,
    header: Header,
}

impl Go {
    /// Reads the functions of a Go program, as a table of symbols like any other; none of both if
    /// Go's own toolchain did not link the file. What is broken is told, and costs the Go functions
    /// only.
    pub(super) fn read(elf: &Elf) -> (Option<Self>, Option<Table>) {
        let place = match find::table(elf) {
            Ok(Some(place)) => place,
            Ok(None) if find::is_marked(elf) => {
                let functions = Err(elf.broken(Unreadable::NoTable.to_string()));
                return (Some(Self::new(build_info::version(elf), functions)), None);
            }
            Ok(None) => return (None, None),
            Err(error) => return (Some(Self::new(None, Err(error))), None),
        };
        let version = build_info::version(elf);
        match functions(elf, place) {
            Ok((functions, table)) => (Some(Self::new(version, Ok(functions))), Some(table)),
            Err(error) => (Some(Self::new(version, Err(error))), None),
        }
    }

    const fn new(version: Option<String>, functions: Result<Functions, SymbolError>) -> Self {
        Self { version, functions, types: OnceLock::new(), data: OnceLock::new() }
    }

    /// The version of Go that built it, if it says.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Why its functions are not known, if so.
    pub(super) fn error(&self) -> Option<&SymbolError> {
        self.functions.as_ref().err()
    }

    /// Its types, read on first use.
    pub(super) fn types(&self, elf: &Elf) -> Result<&GoTypes, SymbolError> {
        self.types.get_or_init(|| GoTypes::of(elf)).as_ref().map_err(Clone::clone)
    }

    /// What a function's arguments look like, if the compiler left it.
    pub(super) fn arguments(&self, elf: &Elf, symbol: &Symbol) -> Option<ArgumentShape> {
        let functions = self.functions.as_ref().ok()?;
        let data = self.data.get_or_init(|| types::function_data(elf).ok().flatten());
        let record = functions.header.records.checked_add(u64::from(symbol.source))?;
        let head = functions.bytes(elf, record, shape::HEAD)?;
        let at = shape::place_in_record(&head, functions.header.format)?;
        let from_data = functions.bytes(elf, record.checked_add(at)?, 4)?;
        let from_data = u32::from_le_bytes(*from_data.first_chunk()?);
        let address = (*data)?.checked_add(u64::from(from_data))?;
        let (offset, left) = elf.loaded_at(address).filter(|_| from_data != u32::MAX)?;
        ArgumentShape::read(&elf.read(offset, left.min(shape::LONGEST)).ok()?)
    }

    /// How long a function is without what fills the space up to the next.
    pub(super) fn size(&self, elf: &Elf, symbol: &Symbol) -> Option<u64> {
        let functions = self.functions.as_ref().ok()?;
        let record = functions.record(elf, symbol)?;
        record::end_of(&functions.values(elf, record.depth)?).filter(|size| *size > 0)
    }

    /// The file and line of an address in a function.
    pub(super) fn line(&self, elf: &Elf, symbol: &Symbol, address: u64) -> Option<SourceLine> {
        let functions = self.functions.as_ref().ok()?;
        let record = functions.record(elf, symbol)?;
        let offset = address.checked_sub(symbol.address)?;
        let file = record::value_at(&functions.values(elf, record.file)?, offset)?;
        let line = record::value_at(&functions.values(elf, record.line)?, offset)?;
        let file = functions.file(elf, record.unit, u32::try_from(file).ok()?)?;
        Some(SourceLine { file, line: Some(u32::try_from(line).ok()?) })
    }
}

impl Functions {
    fn record(&self, elf: &Elf, symbol: &Symbol) -> Option<Record> {
        let at = self.header.records.checked_add(u64::from(symbol.source))?;
        Record::read(&self.bytes(elf, at, record::SIZE)?, self.header.format)
    }

    /// A table of values; 0 is none.
    fn values(&self, elf: &Elf, at: u32) -> Option<Vec<u8>> {
        if at == 0 {
            return None;
        }
        self.bytes(elf, self.header.values.checked_add(u64::from(at))?, VALUES)
    }

    /// The name of a source file, by its number in a compilation unit.
    fn file(&self, elf: &Elf, unit: u32, number: u32) -> Option<Arc<str>> {
        let at = u64::from(unit.checked_add(number)?).checked_mul(4)?;
        let at = self.header.units.checked_add(at).filter(|at| *at < self.header.files)?;
        let file = u32::from_le_bytes(*self.bytes(elf, at, 4)?.first_chunk()?);
        let at = self.header.files.checked_add(u64::from(file));
        let at = at.filter(|at| *at < self.header.values)?;
        let path = self.bytes(elf, at, LONGEST_PATH)?;
        let path = path.get(..memchr::memchr(0, &path)?).filter(|path| !path.is_empty())?;
        Some(String::from_utf8_lossy(path).into())
    }

    /// Bytes of the table, fewer where it ends.
    fn bytes(&self, elf: &Elf, at: u64, size: u64) -> Option<Vec<u8>> {
        let left = self.place.size.checked_sub(at)?;
        elf.read(self.place.offset.checked_add(at)?, size.min(left)).ok()
    }
}

/// Reads the list of functions.
fn functions(elf: &Elf, place: Place) -> Result<(Functions, Table), SymbolError> {
    let broken = |why: Unreadable| elf.broken(why.to_string());
    let part = |from: u64, to: u64| {
        let offset = place.offset.checked_add(from);
        let offset = offset.ok_or_else(|| elf.broken("its .gopclntab lies beyond its end"))?;
        elf.read(offset, to.saturating_sub(from))
    };
    let head = part(0, place.size.min(header::SIZE as u64))?;
    let header = Header::read(&head, place.size).map_err(broken)?;
    let names = part(header.names, header.units)?;
    let records = part(header.records, place.size)?;
    let list = List::of(&records, &header).map_err(broken)?;
    let text = match header.text {
        Some(text) => text,
        None => find::text_start(elf, place, &header, list.first, list.end)?,
    };
    let symbols = list.symbols(elf, text, &names).map_err(broken)?;
    Ok((Functions { place, header }, Table::of_go(names, symbols)))
}

/// The list of functions and what follows it, their records.
struct List<'a> {
    bytes: &'a [u8],
    format: Format,
    entries: usize,
    /// Where the first function begins and the last ends, as the list has it.
    first: u64,
    end: u64,
}

impl<'a> List<'a> {
    fn of(bytes: &'a [u8], header: &Header) -> Result<Self, Unreadable> {
        let mut this = Self {
            bytes,
            format: header.format,
            entries: header.functions as usize,
            first: 0,
            end: 0,
        };
        let short = || Unreadable::Short("its list of functions is not whole");
        (this.first, _) = this.entry(0).ok_or_else(short)?;
        this.end = this.start(this.entries).ok_or_else(short)?;
        Ok(this)
    }

    /// Where a function begins, and where its record is.
    fn entry(&self, index: usize) -> Option<(u64, u32)> {
        let start = self.start(index)?;
        let size = self.word();
        let at = index.checked_mul(2)?.checked_add(1)?.checked_mul(size)?;
        let record = self.bytes.get(at..)?;
        match self.format {
            Format::Go116 => {
                Some((start, u32::try_from(u64::from_le_bytes(*record.first_chunk()?)).ok()?))
            }
            Format::Go118 | Format::Go120 => {
                Some((start, u32::from_le_bytes(*record.first_chunk()?)))
            }
        }
    }

    /// Where a function begins; behind the last, where it ends.
    fn start(&self, index: usize) -> Option<u64> {
        let at = index.checked_mul(2)?.checked_mul(self.word())?;
        let bytes = self.bytes.get(at..)?;
        match self.format {
            Format::Go116 => Some(u64::from_le_bytes(*bytes.first_chunk()?)),
            Format::Go118 | Format::Go120 => {
                Some(u64::from(u32::from_le_bytes(*bytes.first_chunk()?)))
            }
        }
    }

    const fn word(&self) -> usize {
        match self.format {
            Format::Go116 => 8,
            Format::Go118 | Format::Go120 => 4,
        }
    }

    /// Every function as a symbol. The list is sorted and each record repeats the start: one that
    /// does not is no list that a linker wrote.
    fn symbols(&self, elf: &Elf, text: u64, names: &[u8]) -> Result<Vec<Symbol>, Unreadable> {
        let mut symbols = Vec::with_capacity(self.entries);
        let mut code = None;
        for index in 0..self.entries {
            let wrong = |what: &str| contradiction(format!("function {index} {what}"));
            let (entry, at) = self.entry(index).ok_or_else(|| wrong("is not in its list"))?;
            let next = self.start(index + 1).ok_or_else(|| wrong("has no end"))?;
            if next < entry {
                return Err(wrong("ends before it begins"));
            }
            let record = self.bytes.get(at as usize..);
            let record = record.and_then(|bytes| Record::read(bytes, self.format));
            let record = record.ok_or_else(|| wrong("has no record"))?;
            if record.entry != entry {
                return Err(wrong("is not the one that its record tells of"));
            }
            if names.get(record.name as usize).is_none_or(|first| *first == 0) {
                return Err(wrong("has no name"));
            }
            let address = text.checked_add(entry);
            let address = address.ok_or_else(|| wrong("lies beyond all addresses"))?;
            if code.is_none_or(|range: super::elf::Range| !range.contains(address)) {
                code = elf.code_range(address);
            }
            if code.is_none() {
                return Err(wrong("lies where there is no code"));
            }
            if next > entry {
                symbols.push(Symbol {
                    address,
                    size: u32::try_from(next - entry).unwrap_or(u32::MAX),
                    name: record.name,
                    source: at,
                    kind: Kind::Function,
                    language: if record.is_go() { Language::Go } else { Language::Native },
                });
            }
        }
        Ok(symbols)
    }
}
