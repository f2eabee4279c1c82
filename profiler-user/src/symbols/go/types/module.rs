//! Where a program's types are, by the runtime's `moduledata`.
//!
//! Its fields behind the bounds of the data have moved three times (`runtime/symtab.go` of Go 1.18,
//! 1.20, 1.26, 1.27). Which of the four a program has is told by what stands there, not by its
//! version: slices are as long as their room, and what follows one another lies in that order.

use super::Wrong;
use super::region::{At, Region};
use crate::symbols::SymbolError;
use crate::symbols::elf::Elf;
use crate::symbols::go::find::Module;
use crate::symbols::go::header::Format;

/// The types of no honest program take more.
const LARGEST: u64 = 256 << 20;
/// Tables of itabs that lie farther apart are not looked through.
const ITABS: u64 = 64 << 20;
/// `sizeof` a type's header, the least there can be.
const SMALLEST: u64 = 48;

/// How `moduledata` and the types are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Layout {
    /// Go 1.18 and 1.19.
    Go118,
    /// Go 1.20 to 1.25.
    Go120,
    /// Go 1.26.
    Go126,
    /// Since Go 1.27: types stand one behind the other, and so do itabs behind them.
    Go127,
}

/// Where the first types are found, from which all others can be reached.
#[derive(Debug)]
enum Roots {
    /// Some types, up to Go 1.26: a slice of offsets, and one of addresses of itabs.
    Listed { types: (u64, u64), itabs: (u64, u64) },
    /// All types, from the first place to the second.
    Contiguous(At, At),
}

/// Where in a program its types are.
#[derive(Debug)]
pub(super) struct Types {
    pub(super) layout: Layout,
    pub(super) region: Region,
    /// Some types, from which the others can be reached.
    pub(super) roots: Vec<At>,
    /// Since Go 1.27: all types, from the first place to the second.
    pub(super) contiguous: Option<(At, At)>,
    /// The address that offsets of code count from.
    pub(super) text: u64,
}

/// What `moduledata` says.
struct Found {
    layout: Layout,
    types: u64,
    end: u64,
    roots: Roots,
    function_data: u64,
}

impl Types {
    pub(super) fn read(elf: &Elf, module: &Module, format: Format) -> Result<Self, SymbolError> {
        let found = find(elf, module, format);
        let found = found.ok_or_else(|| elf.broken(Wrong::NoTypes.to_string()))?;
        let bytes = bytes(elf, found.types, found.end - found.types)?;
        let region = Region { base: found.types, bytes };
        let (roots, contiguous) = match found.roots {
            Roots::Listed { types, itabs } => {
                let mut roots = listed(elf, types)?;
                roots.extend(of_itabs(elf, itabs, &region)?);
                (roots, None)
            }
            Roots::Contiguous(from, to) => (Vec::new(), Some((from, to))),
        };
        Ok(Self { layout: found.layout, region, roots, contiguous, text: module.text() })
    }
}

/// The address that offsets of functions' data count from.
pub(super) fn function_data(elf: &Elf, module: &Module, format: Format) -> Option<u64> {
    find(elf, module, format).map(|found| found.function_data)
}

fn find(elf: &Elf, module: &Module, format: Format) -> Option<Found> {
    match format {
        Format::Go116 => None,
        Format::Go118 => with_lists(elf, module, Layout::Go118, [280, 304, 336, 360]),
        Format::Go120 => contiguous(elf, module)
            .or_else(|| with_lists(elf, module, Layout::Go126, [296, 320, 360, 384]))
            .or_else(|| with_lists(elf, module, Layout::Go120, [296, 320, 352, 376])),
    }
}

/// Up to Go 1.26; `at` are the offsets of types, the data of functions, and both lists.
fn with_lists(elf: &Elf, module: &Module, layout: Layout, at: [usize; 4]) -> Option<Found> {
    let [types_at, data_at, list_at, itabs_at] = at;
    let (types, end) = (module.word(types_at)?, module.word(types_at + 8)?);
    let slice = |at: usize, size: u64| {
        let (first, count) = (module.word(at)?, module.word(at + 8)?);
        let there = count == 0 || is_there(elf, first, count.checked_mul(size)?);
        (module.word(at + 16)? == count && there).then_some((first, count))
    };
    let roots = Roots::Listed { types: slice(list_at, 4)?, itabs: slice(itabs_at, 8)? };
    let function_data = module.word(data_at)?;
    is_range(elf, types, end).then_some(Found { layout, types, end, roots, function_data })
}

/// Since Go 1.27.
fn contiguous(elf: &Elf, module: &Module) -> Option<Found> {
    let (types, first_types, end) = (module.word(296)?, module.word(304)?, module.word(312)?);
    let (itabs, itabs_size) = (module.word(320)?, module.word(328)?);
    let size = end.checked_sub(types)?;
    let in_order = first_types <= itabs && itabs.checked_add(itabs_size)? <= size;
    // Behind a word that holds nothing.
    let roots = Roots::Contiguous(8, At::try_from(itabs).ok()?);
    let (layout, function_data) = (Layout::Go127, module.word(344)?);
    let found = Found { layout, types, end, roots, function_data };
    (in_order && first_types > 0 && is_range(elf, types, end)).then_some(found)
}

fn is_range(elf: &Elf, start: u64, end: u64) -> bool {
    let size = end.saturating_sub(start);
    (SMALLEST..=LARGEST).contains(&size) && start.is_multiple_of(8) && is_there(elf, start, size)
}

fn is_there(elf: &Elf, start: u64, size: u64) -> bool {
    elf.loaded_at(start).is_some_and(|(_, left)| size <= left)
}

fn bytes(elf: &Elf, address: u64, size: u64) -> Result<Vec<u8>, SymbolError> {
    let outside = || elf.broken(Wrong::Outside { address, size }.to_string());
    let (offset, left) = elf.loaded_at(address).ok_or_else(outside)?;
    if size > left.min(LARGEST) {
        return Err(outside());
    }
    elf.read(offset, size)
}

/// The offsets in a list (`typelinks`).
fn listed(elf: &Elf, (first, count): (u64, u64)) -> Result<Vec<At>, SymbolError> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let bytes = bytes(elf, first, count.saturating_mul(4))?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|offset| At::from_le_bytes(*offset)).collect())
}

/// The types in the itabs of a list (`itablinks`): of the interface and of what implements it.
fn of_itabs(elf: &Elf, list: (u64, u64), region: &Region) -> Result<Vec<At>, SymbolError> {
    let (first, count) = list;
    if count == 0 {
        return Ok(Vec::new());
    }
    let addresses = words(&bytes(elf, first, count.saturating_mul(8))?);
    let (lowest, highest) = (addresses.iter().min(), addresses.iter().max());
    let (Some(&lowest), Some(&highest)) = (lowest, highest) else { return Ok(Vec::new()) };
    // They lie together: read at once. Those of a file that says otherwise are left out.
    let size = highest.saturating_sub(lowest).saturating_add(16);
    if size > ITABS || !is_there(elf, lowest, size) {
        return Ok(Vec::new());
    }
    let itabs = bytes(elf, lowest, size)?;
    let types = addresses.iter().filter_map(|address| {
        let itab = itabs.get(usize::try_from(address - lowest).ok()?..)?.first_chunk::<16>()?;
        Some(words(itab))
    });
    Ok(types.flatten().filter_map(|address| region.at(address)).collect())
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}
