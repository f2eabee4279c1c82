//! Stubs of the linker that lead back into their own object: a library calls what it exports
//! through its PLT, so that another object may take its place.

use object::elf::{self, Rela64, Sym64};
use object::{LittleEndian as LE, pod};
use rustc_hash::FxHashMap;

use super::elf::Elf;
use super::{SymbolError, SymbolSet};
use crate::model::VirtAddr;
use crate::target::ObjectId;

/// `jmp [rip + disp32]`.
const JUMP: [u8; 2] = [0xff, 0x25];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
const BND: u8 = 0xf2;

/// A stub that jumps to a function of its own object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stub {
    /// Where the stub begins: what is called.
    pub address: VirtAddr,
    /// Where the function begins, unless another object takes its place.
    pub function: VirtAddr,
}

impl SymbolSet {
    /// The stubs of an object that lead to functions of its own.
    ///
    /// # Errors
    /// If the object cannot be read.
    pub fn stubs(&self, object: ObjectId) -> Result<Vec<Stub>, SymbolError> {
        stubs(self.load(object)?.elf())
    }
}

fn stubs(elf: &Elf) -> Result<Vec<Stub>, SymbolError> {
    let functions = functions_by_slot(elf)?;
    let mut stubs = Vec::new();
    if functions.is_empty() {
        return Ok(stubs);
    }
    for section in elf.sections.iter().filter(|section| section.name.starts_with(b".plt")) {
        let code = elf.section_bytes(section)?;
        for at in memchr::memmem::find_iter(&code, &JUMP) {
            let behind = at + JUMP.len() + 4;
            let Some(&by) = code.get(at + JUMP.len()..).and_then(<[u8]>::first_chunk::<4>) else {
                break;
            };
            let slot = section
                .address
                .wrapping_add(behind as u64)
                .wrapping_add_signed(i64::from(i32::from_le_bytes(by)));
            let Some(&function) = functions.get(&slot) else { continue };
            let before = code.get(..at).unwrap_or_default();
            let before = before.strip_suffix(&[BND]).unwrap_or(before);
            let start = before.strip_suffix(&ENDBR64).unwrap_or(before).len();
            let address = section.address.wrapping_add(start as u64);
            stubs.push(Stub { address: VirtAddr(address), function: VirtAddr(function) });
        }
    }
    stubs.sort_unstable();
    Ok(stubs)
}

/// By the address of the word that a stub jumps through: the function of this object that the
/// dynamic linker puts there.
fn functions_by_slot(elf: &Elf) -> Result<FxHashMap<u64, u64>, SymbolError> {
    let mut functions = FxHashMap::default();
    for section in elf.sections.iter().filter(|section| section.kind == elf::SHT_RELA.0) {
        let symbols = elf.sections.get(section.link as usize);
        let Some(symbols) = symbols.filter(|symbols| symbols.kind == elf::SHT_DYNSYM.0) else {
            continue;
        };
        let symbols = elf.section_bytes(symbols)?;
        let relocations = elf.section_bytes(section)?;
        let count = relocations.len() / size_of::<Rela64<LE>>();
        let (relocations, _) = pod::slice_from_bytes::<Rela64<LE>>(&relocations, count)
            .map_err(|()| elf.broken("a table of relocations is cut short"))?;
        let count = symbols.len() / size_of::<Sym64<LE>>();
        let (symbols, _) = pod::slice_from_bytes::<Sym64<LE>>(&symbols, count)
            .map_err(|()| elf.broken("a symbol table is cut short"))?;
        for relocation in relocations {
            let kind = relocation.r_type(LE, false);
            if ![elf::R_X86_64_JUMP_SLOT, elf::R_X86_64_GLOB_DAT].contains(&kind) {
                continue;
            }
            let Some(symbol) = symbols.get(relocation.r_sym(LE, false) as usize) else { continue };
            let address = symbol.st_value.get(LE);
            if symbol.st_type() == elf::STT_FUNC
                && symbol.st_shndx.get(LE) != elf::SHN_UNDEF
                && elf.code_range(address).is_some()
            {
                functions.insert(relocation.r_offset.get(LE), address);
            }
        }
    }
    Ok(functions)
}
