//! The facts as the debug information of a program tells them.
//!
//! Every number in it is the word of whoever made the file: what does not add up is an error.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use gimli::{AttributeValue, DwarfSections, EndianSlice, LittleEndian, SectionId};
use object::{Object as _, ObjectSection as _, ReadCache, ReadRef};
use rustc_hash::FxHashMap;
use thiserror::Error;

use super::{GFacts, GoFacts, GoProgram, GoProgramError, MFacts, PanicFacts};

/// No section of an honest program is larger; a compressed one may claim anything.
const LARGEST_SECTION: u64 = 1 << 30;
/// No field of these structures lies further in.
const LARGEST_OFFSET: u64 = 1 << 16;
/// None of these structures has more fields.
const MOST_FIELDS: usize = 1024;
const NEWPROC1: &str = "runtime.newproc1";
const STRUCTS: [&str; 5] =
    ["runtime.g", "runtime.m", "runtime._panic", "runtime.stack", "runtime.gobuf"];

/// Why a program's debug information does not tell the facts.
#[derive(Debug, Error)]
pub enum DwarfError {
    /// It is no Go program, or no file that can be read as one.
    #[error(transparent)]
    Program(#[from] GoProgramError),
    /// It cannot be read.
    #[error("cannot read {}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has none.
    #[error(
        "{} has no debug information: take a program built without -ldflags=-w and not stripped",
        file.display()
    )]
    None {
        /// The file.
        file: PathBuf,
    },
    /// It contradicts itself.
    #[error("the debug information of {} cannot be read: {reason}", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Something is not in it.
    #[error(
        "the debug information of {} does not tell of {what}: a version of Go that keeps it \
         elsewhere, or none of the usual compiler", file.display()
    )]
    Missing {
        /// The file.
        file: PathBuf,
        /// What.
        what: String,
    },
}

type Slice<'a> = EndianSlice<'a, LittleEndian>;
/// The fields of a structure with their offsets.
type Fields = FxHashMap<Vec<u8>, u32>;

/// What was found on the way through the units.
#[derive(Default)]
struct Found {
    structs: FxHashMap<&'static str, Fields>,
    newproc1: Option<Vec<String>>,
}

impl GoFacts {
    /// Reads them from a Go program that was built with debug information.
    ///
    /// # Errors
    /// [`DwarfError`] for what is no Go program, has no debug information, or not all of it.
    pub fn from_dwarf(file: &Path) -> Result<Self, DwarfError> {
        let program = GoProgram::read(file)?;
        let opened =
            File::open(file).map_err(|source| DwarfError::Io { file: file.into(), source })?;
        let cache = ReadCache::new(opened);
        let broken = |reason: String| DwarfError::Broken { file: file.into(), reason };
        let elf = object::File::parse(&cache).map_err(|error| broken(error.to_string()))?;
        if elf.section_by_name(".debug_info").is_none() {
            return Err(DwarfError::None { file: file.into() });
        }
        let sections = DwarfSections::load(|id| section(&elf, id)).map_err(broken)?;
        let dwarf = sections.borrow(|bytes| EndianSlice::new(bytes, LittleEndian));
        let found = look(&dwarf).map_err(|error| broken(error.to_string()))?;
        let missing = |what: String| DwarfError::Missing { file: file.into(), what };
        let tls = program.tls.map_err(|why| missing(format!("where g is ({why})")))?;
        found.facts(tls.offset).map_err(missing)
    }
}

fn section<'a>(
    elf: &object::File<'a, impl ReadRef<'a>>,
    id: SectionId,
) -> Result<Cow<'a, [u8]>, String> {
    let wanted = matches!(
        id,
        SectionId::DebugAbbrev
            | SectionId::DebugAddr
            | SectionId::DebugInfo
            // Its header is read with each unit.
            | SectionId::DebugLine
            | SectionId::DebugLineStr
            | SectionId::DebugStr
            | SectionId::DebugStrOffsets
    );
    let Some(section) = wanted.then(|| elf.section_by_name(id.name())).flatten() else {
        return Ok(Cow::Borrowed(&[]));
    };
    let name = id.name();
    let data = section.compressed_data().map_err(|error| format!("{name}: {error}"))?;
    let size = data.uncompressed_size.max(data.data.len() as u64);
    if size > LARGEST_SECTION {
        return Err(format!("{name} claims to be {size} bytes long"));
    }
    data.decompress().map_err(|error| format!("{name}: {error}"))
}

/// Goes through the units until all is found.
fn look(dwarf: &gimli::Dwarf<Slice<'_>>) -> gimli::Result<Found> {
    let mut found = Found::default();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        let unit = dwarf.unit(header)?;
        let mut entries = unit.entries();
        // What the entries below the last one of depth 1 belong to.
        let mut within = Within::Other;
        while let Some(entry) = entries.next_dfs()? {
            let name = || match entry.attr_value(gimli::DW_AT_name) {
                Some(value) => dwarf.attr_string(&unit, value).map(|name| Some(name.slice())),
                None => Ok(None),
            };
            match (entry.depth(), entry.tag()) {
                (..=1, tag) => {
                    if found.is_whole() {
                        return Ok(found);
                    }
                    let name = match tag {
                        gimli::DW_TAG_structure_type | gimli::DW_TAG_subprogram => name()?,
                        _ => None,
                    };
                    within = found.enter(tag, name.unwrap_or_default());
                }
                (2, gimli::DW_TAG_member) => {
                    let Within::Struct(of) = within else { continue };
                    let offset = entry
                        .attr_value(gimli::DW_AT_data_member_location)
                        .and_then(|value| value.udata_value())
                        .filter(|&offset| offset <= LARGEST_OFFSET);
                    if let (Some(name), Some(offset)) = (name()?, offset) {
                        found.field(of, name, offset as u32);
                    }
                }
                (2, gimli::DW_TAG_formal_parameter) => {
                    let result = entry.attr_value(gimli::DW_AT_variable_parameter);
                    let is_result = matches!(result, Some(AttributeValue::Flag(true)));
                    if matches!(within, Within::Newproc1) && !is_result {
                        found.argument(name()?.unwrap_or_default());
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

#[derive(Clone, Copy)]
enum Within {
    Struct(&'static str),
    Newproc1,
    Other,
}

impl Found {
    /// A second definition of a name changes nothing: the first one counts.
    fn enter(&mut self, tag: gimli::DwTag, name: &[u8]) -> Within {
        if tag == gimli::DW_TAG_subprogram {
            if name == NEWPROC1.as_bytes() && self.newproc1.is_none() {
                self.newproc1 = Some(Vec::new());
                return Within::Newproc1;
            }
            return Within::Other;
        }
        let known = STRUCTS.into_iter().find(|known| known.as_bytes() == name);
        match known {
            Some(known) if !self.structs.contains_key(known) => {
                self.structs.insert(known, Fields::default());
                Within::Struct(known)
            }
            _ => Within::Other,
        }
    }

    fn field(&mut self, of: &'static str, name: &[u8], offset: u32) {
        let fields = self.structs.entry(of).or_default();
        if fields.len() < MOST_FIELDS {
            fields.entry(name.to_vec()).or_insert(offset);
        }
    }

    fn argument(&mut self, name: &[u8]) {
        let arguments = self.newproc1.get_or_insert_default();
        if arguments.len() < MOST_FIELDS {
            arguments.push(String::from_utf8_lossy(name).into_owned());
        }
    }

    fn is_whole(&self) -> bool {
        self.newproc1.is_some() && self.structs.len() == STRUCTS.len()
    }

    fn at(&self, of: &str, field: &str) -> Option<u32> {
        self.structs.get(of)?.get(field.as_bytes()).copied()
    }

    /// The facts, or the name of what is not there.
    fn facts(self, tls: i32) -> Result<GoFacts, String> {
        let need =
            |of: &str, field: &str| self.at(of, field).ok_or_else(|| format!("{of}.{field}"));
        let g = |field| need("runtime.g", field);
        let m = |field| need("runtime.m", field);
        let panic = |field| need("runtime._panic", field);
        let within = |outer: u32, of, field| Ok::<_, String>(outer + need(of, field)?);
        Ok(GoFacts {
            g: GFacts {
                stack_lo: within(g("stack")?, "runtime.stack", "lo")?,
                stack_hi: within(g("stack")?, "runtime.stack", "hi")?,
                panic: g("_panic")?,
                m: g("m")?,
                sched_sp: within(g("sched")?, "runtime.gobuf", "sp")?,
                atomicstatus: g("atomicstatus")?,
                goid: g("goid")?,
                parent_goid: self.at("runtime.g", "parentGoid"),
                gopc: g("gopc")?,
                startpc: g("startpc")?,
                waitreason: g("waitreason")?,
                sigcode0: g("sigcode0")?,
            },
            panic: PanicFacts {
                argp: self.at("runtime._panic", "argp"),
                sp: panic("sp")?,
                start_sp: self.at("runtime._panic", "startSP"),
                retpc: self.at("runtime._panic", "retpc"),
                recovered: panic("recovered")?,
                goexit: panic("goexit")?,
            },
            m: MFacts { g0: m("g0")?, curg: m("curg")?, procid: m("procid")? },
            tls,
            newproc1: match self.newproc1 {
                Some(arguments) if !arguments.is_empty() => arguments,
                _ => return Err(format!("the arguments of {NEWPROC1}")),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use gimli::Dwarf;
    use proptest::prelude::*;

    use super::*;

    /// Kinds of entries: a unit, a structure, a field, a function, an argument; all with names.
    const ABBREVIATIONS: &[u8] = &[
        1, 0x11, 1, 0x03, 0x08, 0, 0, // DW_TAG_compile_unit with children: DW_AT_name string
        2, 0x13, 1, 0x03, 0x08, 0, 0, // DW_TAG_structure_type with children
        3, 0x0d, 0, 0x03, 0x08, 0x38, 0x0f, 0, 0, // DW_TAG_member: a name, a place as udata
        4, 0x2e, 1, 0x03, 0x08, 0, 0, // DW_TAG_subprogram with children
        5, 0x05, 0, 0x03, 0x08, 0x4b, 0x0c, 0, 0, // DW_TAG_formal_parameter: a result or not
        0,
    ];

    const FIELDS: [(&str, &[(&str, u8)]); 5] = [
        (
            "runtime.g",
            &[
                ("stack", 0),
                ("_panic", 32),
                ("m", 48),
                ("sched", 56),
                ("atomicstatus", 0x60),
                ("goid", 0x68),
                ("gopc", 0x70),
                ("startpc", 0x78),
                ("waitreason", 0x58),
                ("sigcode0", 0x7f),
            ],
        ),
        ("runtime.stack", &[("lo", 0), ("hi", 8)]),
        ("runtime.gobuf", &[("sp", 0), ("pc", 8)]),
        ("runtime._panic", &[("sp", 40), ("recovered", 48), ("goexit", 50)]),
        ("runtime.m", &[("g0", 0), ("curg", 96), ("procid", 72)]),
    ];

    fn named(kind: u8, name: &str) -> Vec<u8> {
        let mut bytes = vec![kind];
        bytes.extend(name.bytes().chain([0]));
        bytes
    }

    /// A unit of DWARF 4 that tells all but what `left_out` names.
    fn unit(left_out: &str) -> Vec<u8> {
        let mut body = vec![4, 0, 0, 0, 0, 0, 8];
        body.extend(named(1, "runtime"));
        for (name, fields) in FIELDS {
            body.extend(named(2, name));
            for (field, offset) in fields.iter().filter(|(field, _)| *field != left_out) {
                body.extend(named(3, field).into_iter().chain([*offset]));
            }
            body.push(0);
        }
        body.extend(named(4, "runtime.newproc1"));
        for (name, is_result) in [("fn", 0), ("callergp", 0), ("~r0", 1)] {
            body.extend(named(5, name).into_iter().chain([is_result]));
        }
        body.extend([0, 0]);
        let mut unit = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        unit.extend(body);
        unit
    }

    fn facts(abbreviations: &[u8], info: &[u8]) -> Result<GoFacts, String> {
        let dwarf = Dwarf::load(|id| {
            let bytes = match id {
                SectionId::DebugAbbrev => abbreviations,
                SectionId::DebugInfo => info,
                _ => &[],
            };
            Ok::<_, String>(EndianSlice::new(bytes, LittleEndian))
        })?;
        look(&dwarf).map_err(|error| error.to_string())?.facts(-8)
    }

    #[test]
    fn all_is_read_by_its_name() {
        let facts = facts(ABBREVIATIONS, &unit("")).unwrap();
        assert_eq!((facts.g.stack_hi, facts.g.m, facts.g.goid), (8, 48, 0x68));
        assert_eq!((facts.g.sched_sp, facts.g.parent_goid), (56, None));
        assert_eq!((facts.panic.sp, facts.panic.argp), (40, None));
        assert_eq!((facts.m.curg, facts.m.procid), (96, 72));
        assert_eq!(facts.newproc1, ["fn", "callergp"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (left_out, named) in
            [("goid", "runtime.g.goid"), ("hi", "runtime.stack.hi"), ("curg", "runtime.m.curg")]
        {
            assert_eq!(facts(ABBREVIATIONS, &unit(left_out)).unwrap_err(), named);
        }
    }

    proptest! {
        #[test]
        fn broken_information_is_an_error_or_ignored(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let (mut abbreviations, mut info) = (ABBREVIATIONS.to_vec(), unit(""));
            for (index, byte) in changes {
                let at = index.index(abbreviations.len() + info.len());
                match abbreviations.get_mut(at) {
                    Some(old) => *old = byte,
                    None => info[at - ABBREVIATIONS.len()] = byte,
                }
            }
            let _ = facts(&abbreviations, &info);
            info.truncate(cut.index(info.len()));
            let _ = facts(&abbreviations, &info);
        }
    }
}
