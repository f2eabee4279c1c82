//! Functions of ELF objects: names, addresses, code.
//!
//! The way from a pattern to a function: [`SymbolSet`] chooses the objects; each object's string
//! tables are scanned for an identifier that every match must contain (`pattern`, `table`); the few
//! names that pass are demangled and compared (`name`, `rust_name`); the code is read from the
//! object itself (`elf`), also where the names come from a debug file (`debug_file`).
//!
//! Every file here is hostile until checked: no number of it is used unchecked, and what is broken
//! is a [`SymbolError`] that names the file.

mod containing;
mod debug_file;
mod elf;
mod error;
mod frames;
mod function;
mod go;
mod go_pattern;
mod list;
mod loaded;
mod markers;
mod name;
mod nearest;
mod pattern;
mod rust_name;
mod set;
mod source;
mod stubs;
mod table;
#[cfg(test)]
mod tests;

pub use containing::demangled;
pub use elf::{EntryPoint, build_id, build_id_of, entry_point};
pub use error::SymbolError;
pub use function::{CodePart, Found, Function, Language, Nothing};
pub use go::types as go_types;
pub use go::{ArgumentShape, Shape};
pub use list::Listed;
pub use pattern::{glob, without_arguments};
pub use set::SymbolSet;
pub use stubs::Stub;
