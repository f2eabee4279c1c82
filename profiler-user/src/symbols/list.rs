//! Every function of an object, for whoever does not know its names yet.

use std::sync::Arc;

use super::function::Language;
use super::name;
use super::table::Kind;
use super::{Function, SymbolError, SymbolSet};
use crate::model::VirtAddr;
use crate::target::ObjectId;

/// A function by its names, its code not yet read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Demangled name with parameter list.
    pub name: Arc<str>,
    /// The same without the parameter list.
    pub base_name: Arc<str>,
    /// The name in the symbol table.
    pub linkage: Arc<str>,
    /// Where it begins, as the ELF file names it.
    pub address: VirtAddr,
    /// Its length, bytes; 0: the symbol table does not say.
    pub size: u64,
}

impl SymbolSet {
    /// The functions of an object whose names in the symbol table are `wanted`, thunks and Go
    /// functions left out.
    /// Only those are demangled, which is what takes the time.
    ///
    /// # Errors
    /// If the object cannot be read.
    pub fn list(
        &self,
        object: ObjectId,
        wanted: &dyn Fn(&[u8]) -> bool,
    ) -> Result<Vec<Listed>, SymbolError> {
        let loaded = self.load(object)?;
        let mut listed = Vec::new();
        for table in &loaded.tables {
            let functions = table.symbols.iter().filter(|symbol| symbol.kind == Kind::Function);
            // Who lists functions means to follow their calls.
            for symbol in functions.filter(|symbol| symbol.language == Language::Native) {
                if !wanted(table.raw_name(symbol)) {
                    continue;
                }
                let linkage = table.name(symbol);
                if name::is_thunk(&linkage) {
                    continue;
                }
                let read = name::read(&linkage);
                listed.push(Listed {
                    name: read.full.into(),
                    base_name: read.base.into(),
                    linkage: name::without_version(&linkage).into(),
                    address: VirtAddr(symbol.address),
                    size: u64::from(symbol.size),
                });
            }
        }
        // A stripped object's names are in one table only, others' exported ones in both.
        listed.sort_by(|a, b| (a.address, &a.linkage).cmp(&(b.address, &b.linkage)));
        listed.dedup_by(|a, b| (a.address, &a.linkage) == (b.address, &b.linkage));
        Ok(listed)
    }

    /// How many functions of an object have a name.
    ///
    /// # Errors
    /// If the object cannot be read.
    pub fn named_functions(&self, object: ObjectId) -> Result<usize, SymbolError> {
        Ok(self.load(object)?.function_names().count())
    }

    /// The code of functions by their addresses; what is broken or gone is left out.
    #[must_use]
    pub fn functions_at(&self, object: ObjectId, addresses: &[VirtAddr]) -> Vec<Function> {
        addresses.iter().filter_map(|address| self.function_at(object, *address)).collect()
    }
}
