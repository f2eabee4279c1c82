//! What a Go compiler says of its functions' parameters, in the debug information it wrote.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use gimli::{
    AttributeValue, DebugInfoOffset, DebuggingInformationEntry, Dwarf, EndianSlice, LittleEndian,
    Operation, Unit, UnitOffset, UnitRef,
};
use object::{Object as _, ObjectSection as _};

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Entry<'a> = DebuggingInformationEntry<Slice<'a>>;

/// On types: the address of the descriptor.
const GO_RUNTIME_TYPE: gimli::DwAt = gimli::DwAt(0x2904);

/// A function, as its compiler tells.
#[derive(Debug)]
pub struct Told {
    /// Where it begins.
    pub address: u64,
    /// What it takes, the receiver first.
    pub parameters: Vec<Parameter>,
    /// What it returns.
    pub results: Vec<Parameter>,
}

/// A parameter or a result.
#[derive(Debug)]
pub struct Parameter {
    /// Its name; empty if it has none.
    pub name: String,
    /// Its type's name, with the package's whole path; empty if it depends on type parameters.
    pub type_name: String,
    /// Where its type's descriptor is, if the program has one.
    pub type_address: Option<u64>,
    /// Where it is when the function is entered, if that is told.
    pub place: Option<ToldPlace>,
}

/// Where a parameter is.
#[derive(Debug, PartialEq, Eq)]
pub enum ToldPlace {
    /// In registers, by DWARF's numbers, in the order of what they hold of the value.
    Registers(Vec<u16>),
    /// On the stack, from the word behind the return address.
    Stack(i64),
}

/// All functions that a program's debug information tells of. It must not be compressed.
///
/// # Errors
/// When it cannot be read.
pub fn functions(program: &Path) -> Result<Vec<Told>> {
    let bytes = fs::read(program)?;
    let file = object::File::parse(bytes.as_slice())?;
    let dwarf = Dwarf::load(|id| {
        let section = file.section_by_name(id.name());
        let data = section.and_then(|section| section.data().ok()).unwrap_or_default();
        Ok::<_, gimli::Error>(EndianSlice::new(data, LittleEndian))
    })?;
    let mut units = Vec::new();
    let mut headers = dwarf.units();
    while let Some(header) = headers.next()? {
        units.push(dwarf.unit(header)?);
    }
    let all = All { dwarf: &dwarf, units: &units };
    let mut functions = Vec::new();
    for unit in &units {
        let unit = unit.unit_ref(&dwarf);
        let mut entries = unit.entries();
        while let Some(entry) = entries.next_dfs()? {
            if entry.tag() != gimli::DW_TAG_subprogram {
                continue;
            }
            let begin = entry.attr_value(gimli::DW_AT_low_pc);
            if let Some(address) = begin.and_then(|at| unit.attr_address(at).ok()?) {
                functions.push(all.function(unit, entry.offset(), address)?);
            }
        }
    }
    Ok(functions)
}

/// All units, the first first.
struct All<'d, 'a> {
    dwarf: &'d Dwarf<Slice<'a>>,
    units: &'d [Unit<Slice<'a>>],
}

impl<'d, 'a> All<'d, 'a> {
    fn function(&self, unit: UnitRef<'d, Slice<'a>>, at: UnitOffset, address: u64) -> Result<Told> {
        let mut told = Told { address, parameters: Vec::new(), results: Vec::new() };
        let mut tree = unit.entries_tree(Some(at))?;
        let mut children = tree.root()?.children();
        while let Some(child) = children.next()? {
            let entry = child.entry();
            if entry.tag() != gimli::DW_TAG_formal_parameter {
                continue;
            }
            let place = place(unit, entry, address)?;
            // What an inlined function has in common is told where it was written down.
            let origin = self.follow(unit, entry, gimli::DW_AT_abstract_origin)?;
            let (unit, entry) = origin.unwrap_or_else(|| (unit, entry.clone()));
            let name = name(unit, &entry)?;
            let result = entry.attr_value(gimli::DW_AT_variable_parameter);
            let ty = self.follow(unit, &entry, gimli::DW_AT_type)?;
            let (unit, ty) = ty.with_context(|| format!("{name} has no type"))?;
            let type_address = match ty.attr_value(GO_RUNTIME_TYPE) {
                Some(AttributeValue::Addr(at)) => Some(at).filter(|at| *at != 0),
                _ => None,
            };
            let type_name = self::name(unit, &ty)?;
            let generic = type_name.starts_with(".param");
            let type_name = if generic { String::new() } else { type_name };
            let parameter = Parameter { name, type_name, type_address, place };
            if matches!(result, Some(AttributeValue::Flag(true))) {
                told.results.push(parameter);
            } else {
                told.parameters.push(parameter);
            }
        }
        Ok(told)
    }

    /// What an attribute refers to.
    fn follow(
        &self,
        unit: UnitRef<'d, Slice<'a>>,
        entry: &Entry<'a>,
        attribute: gimli::DwAt,
    ) -> Result<Option<(UnitRef<'d, Slice<'a>>, Entry<'a>)>> {
        match entry.attr_value(attribute) {
            Some(AttributeValue::UnitRef(at)) => Ok(Some((unit, unit.entry(at)?))),
            Some(AttributeValue::DebugInfoRef(at)) => self.entry(at).map(Some),
            _ => Ok(None),
        }
    }

    fn entry(&self, at: DebugInfoOffset) -> Result<(UnitRef<'d, Slice<'a>>, Entry<'a>)> {
        let after = self.units.partition_point(|unit| {
            unit.header.debug_info_offset().is_some_and(|start| start.0 <= at.0)
        });
        let unit = after.checked_sub(1).and_then(|index| self.units.get(index));
        let unit = unit.context("a reference before the first unit")?.unit_ref(self.dwarf);
        let at = at.to_unit_offset(&unit.header);
        Ok((unit, unit.entry(at.context("a reference beyond its unit")?)?))
    }
}

fn name<'a>(unit: UnitRef<'_, Slice<'a>>, entry: &Entry<'a>) -> Result<String> {
    let Some(name) = entry.attr_value(gimli::DW_AT_name) else { return Ok(String::new()) };
    Ok(unit.attr_string(name)?.to_string_lossy().into_owned())
}

/// Where a parameter is at an address, the begin of its function.
fn place<'a>(
    unit: UnitRef<'_, Slice<'a>>,
    entry: &Entry<'a>,
    address: u64,
) -> Result<Option<ToldPlace>> {
    let Some(location) = entry.attr_value(gimli::DW_AT_location) else { return Ok(None) };
    if let AttributeValue::Exprloc(expression) = location {
        return expressed(unit, expression);
    }
    let Some(mut locations) = unit.attr_locations(location)? else { return Ok(None) };
    while let Some(location) = locations.next()? {
        if (location.range.begin..location.range.end).contains(&address) {
            return expressed(unit, location.data);
        }
    }
    Ok(None)
}

fn expressed(
    unit: UnitRef<'_, Slice<'_>>,
    expression: gimli::Expression<Slice<'_>>,
) -> Result<Option<ToldPlace>> {
    let (mut parts, mut offset) = (Vec::new(), 0);
    // Where the word is that is being told of, and where by that the value begins.
    let (mut word, mut stack) = (None, None);
    let mut operations = expression.operations(unit.encoding());
    while let Some(operation) = operations.next()? {
        match operation {
            Operation::Register { register } => parts.push(register.0),
            Operation::CallFrameCFA => word = Some(0),
            Operation::FrameOffset { offset } => word = Some(offset),
            Operation::PlusConstant { value } => word = word.map(|at| at + value.cast_signed()),
            Operation::Piece { size_in_bits, .. } => {
                stack = stack.or(word.take().map(|at| at - offset));
                offset += (size_in_bits / 8).cast_signed();
            }
            _ => {}
        }
    }
    let stack = stack.or(word);
    Ok(match (parts.is_empty(), stack) {
        (false, None) => Some(ToldPlace::Registers(parts)),
        (true, Some(at)) => Some(ToldPlace::Stack(at)),
        // Saved in part, or not there at all.
        _ => None,
    })
}
