//! The function that an address lies in: for many addresses that a run comes upon, one by one.

use super::loaded::Loaded;
use super::name::{self, Name};
use super::{Function, SymbolError, SymbolSet};
use crate::model::{FileOffset, VirtAddr};
use crate::target::ObjectId;

/// How many symbols before an address are asked whether they reach it: hand-written code has labels
/// inside its functions.
const ASKED: usize = 16;

impl SymbolSet {
    /// The function that has an instruction's byte at `address`, in its code or its cold part; by
    /// `.eh_frame` where no symbol tells. For a return address ask for the byte before it: the call
    /// may be the last instruction of its function.
    ///
    /// Its names are those of the symbol table, or its address: to demangle takes longer than all
    /// the rest. [`demangled`] makes one readable.
    #[must_use]
    pub fn containing(&self, object: ObjectId, address: VirtAddr) -> Option<Function> {
        self.load(object).ok()?.containing(object, address.0)
    }

    /// Where in an object's file the code at an address is.
    #[must_use]
    pub fn offset_of(&self, object: ObjectId, address: VirtAddr) -> Option<FileOffset> {
        self.load(object).ok()?.elf().offset(address.0).map(FileOffset)
    }

    /// The address, as the ELF file names it, of a byte of an object's file.
    #[must_use]
    pub fn address_of(&self, object: ObjectId, offset: FileOffset) -> Option<VirtAddr> {
        self.load(object).ok()?.elf().address_of(offset.0).map(VirtAddr)
    }

    /// Shows all code of an object to `look`, piece by piece, with the address of each; consecutive
    /// pieces have `overlap` bytes in common.
    ///
    /// # Errors
    /// If the object cannot be read.
    pub fn each_piece_of_code(
        &self,
        object: ObjectId,
        overlap: usize,
        look: &mut dyn FnMut(VirtAddr, &[u8]),
    ) -> Result<(), SymbolError> {
        self.load(object)?.elf().each_piece_of_code(overlap as u64, look)
    }
}

/// A name of a symbol table as a person reads it, with its parameters.
#[must_use]
pub fn demangled(linkage: &str) -> String {
    name::read(linkage).full
}

impl Loaded {
    fn containing(&self, object: ObjectId, address: u64) -> Option<Function> {
        let has = |function: &Function| function.contains(VirtAddr(address));
        // What cannot be read of what the symbols say is passed over.
        let symbolised = self.reaching(address, ASKED).find_map(|start| {
            let function = self.symbolised(object, start, as_linked).ok().flatten()?;
            has(&function).then_some(function)
        });
        symbolised.or_else(|| self.framed(object, address)).filter(has)
    }
}

/// A name as the symbol table has it.
fn as_linked(linkage: &str) -> Name {
    let linkage = name::without_version(linkage).to_owned();
    Name { base: linkage.clone(), full: linkage, parameters: None, qualifiers: String::new() }
}
