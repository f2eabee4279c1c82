//! Which file an address of a running process comes from.

use std::fs;

use super::maps::{self, Mapping};
use super::{Inode, MappedObject, TargetError, open, process};
use crate::model::{FileOffset, Pid};

/// The files that are mapped executable into a process, by address, at one moment.
#[derive(Debug)]
pub struct CodeMap {
    pid: Pid,
    mappings: Vec<Mapping>,
}

/// Where in a file an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MappedCode {
    /// The file.
    pub inode: Inode,
    /// Where in it.
    pub offset: FileOffset,
}

impl CodeMap {
    /// Reads what is mapped.
    ///
    /// # Errors
    /// [`TargetError`] if the process is gone or may not be read.
    pub fn read(pid: Pid) -> Result<Self, TargetError> {
        let file = process::file(pid, "maps");
        let text = fs::read(&file).map_err(|error| TargetError::reading(pid, &file, error))?;
        // The kernel lists them in the order of their addresses.
        Ok(Self { pid, mappings: maps::executable(&text).collect() })
    }

    /// The process.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// The place of an address; none if no file is mapped there executable.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<MappedCode> {
        let mapping = self.around(address)?;
        let offset = mapping.offset.checked_add(address.checked_sub(mapping.start)?)?;
        Some(MappedCode { inode: mapping.inode, offset: FileOffset(offset) })
    }

    /// The addresses at which a byte of a file is mapped.
    pub fn addresses(&self, code: MappedCode) -> impl Iterator<Item = u64> {
        self.mappings.iter().filter(move |mapping| mapping.inode == code.inode).filter_map(
            move |mapping| {
                let into = code.offset.0.checked_sub(mapping.offset)?;
                let address = mapping.start.checked_add(into)?;
                (address < mapping.end).then_some(address)
            },
        )
    }

    /// The file that is mapped at an address, if it can be opened and is code for this machine.
    #[must_use]
    pub fn object(&self, address: u64) -> Option<MappedObject> {
        open::object(self.pid, self.around(address)?.clone())
    }

    fn around(&self, address: u64) -> Option<&Mapping> {
        let after = self.mappings.partition_point(|mapping| mapping.start <= address);
        self.mappings.get(after.checked_sub(1)?).filter(|mapping| address < mapping.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_code_is_found_in_our_own_file() {
        let map = CodeMap::read(Pid(std::process::id())).unwrap();
        let here = our_own_code_is_found_in_our_own_file as *const () as u64;
        let exe = fs::canonicalize("/proc/self/exe").unwrap();
        assert_eq!(map.object(here).unwrap().path, exe);
        let (place, next) = (map.at(here).unwrap(), map.at(here + 1).unwrap());
        assert_eq!(map.addresses(place).collect::<Vec<_>>(), [here]);
        assert_eq!((place.inode, place.offset.0 + 1), (next.inode, next.offset.0));
        let on_the_stack = 0_u8;
        for no_code in [0, u64::MAX, std::ptr::from_ref(&on_the_stack).addr() as u64] {
            assert_eq!(map.at(no_code), None);
        }
    }
}
