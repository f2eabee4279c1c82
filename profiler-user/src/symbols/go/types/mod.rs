//! Types of Go programs, stripped or not: what the runtime itself needs to know of them.
//!
//! The runtime's `moduledata` tells where they lie (`module`). They are read in one piece (`region`),
//! and decoded where they stand when somebody asks (`Type`): neither names nor fields are copied. What
//! takes a look at all of them is made on first use and kept: their list (`walk`), the index of their
//! names (`named`), and that of the methods' code (`signature`). From the types of parameters follow
//! their registers (`registers`), and from all of it where a function finds a `context.Context`, and
//! what its parent is (`context`). What closures hold is told by the code that makes them (`closure`).
//!
//! Formats: Go's `internal/abi/type.go`, since 1.18. Addresses are those of the file: what a process
//! has is higher by its load bias. Like all of a file, every number of it is hostile until checked;
//! what reads many of them is bounded by the size of the whole.

mod closure;
mod context;
mod kind;
mod module;
mod named;
mod parts;
mod region;
mod registers;
mod signature;
#[cfg(test)]
mod tests;
mod ty;
mod walk;

use std::path::Path;
use std::sync::OnceLock;

use self::module::{Layout, Types};
use self::region::{At, Region};
use super::find::Module;
use super::header::{Format, Header};
use super::{find, header};
use crate::symbols::SymbolError;
use crate::symbols::elf::Elf;
use crate::target::go::GoVersion;

pub use self::context::{ContextParent, ContextSource, ContextType};
pub use self::kind::Kind;
pub use self::parts::{Field, InterfaceMethod, Method};
pub use self::registers::{Part, Place, Register};
pub use self::signature::{Signature, Value};
pub use self::ty::Type;

/// Why the types of a Go program are not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Wrong {
    #[error("it is no Go program: it has no .gopclntab")]
    NoGo,
    #[error("it was built by Go 1.17 or older: types are read since Go 1.18")]
    Old,
    #[error(
        "where its types are is not known: the runtime's moduledata, which tells, was not found \
         beside its .gopclntab"
    )]
    NoModule,
    #[error(
        "where its types are is not known: the runtime's moduledata is of none of the layouts of \
         Go 1.18 to 1.27"
    )]
    NoTypes,
    #[error("its moduledata names {size} bytes at {address:#x}, which the file does not hold")]
    Outside { address: u64, size: u64 },
}

/// The types of a Go program.
#[derive(Debug)]
pub struct GoTypes {
    region: Region,
    /// What a map's type takes, bytes.
    map_size: u32,
    roots: Vec<At>,
    contiguous: Option<(At, At)>,
    text: u64,
    /// Whether a field's offset says, too, whether it is embedded.
    packs_offsets: bool,
    all: OnceLock<Vec<At>>,
    names: OnceLock<named::Names>,
    methods: OnceLock<signature::Methods>,
}

impl GoTypes {
    /// Finds and reads the types of a file, about as many bytes as they take.
    ///
    /// # Errors
    /// [`SymbolError`] if the file cannot be read, is no Go program or one of before Go 1.18, or if
    /// its tables do not say where its types are.
    pub fn read(file: &Path) -> Result<Self, SymbolError> {
        Self::of(&Elf::open(file, file)?)
    }

    pub(in crate::symbols) fn of(elf: &Elf) -> Result<Self, SymbolError> {
        let (module, format) = module(elf)?;
        let types = Types::read(elf, &module, format)?;
        let version = super::build_info::version(elf).and_then(|text| text.parse().ok());
        Ok(Self {
            map_size: map_size(types.layout, version.as_ref()),
            packs_offsets: packs_offsets(types.layout, version.as_ref()),
            region: types.region,
            roots: types.roots,
            contiguous: types.contiguous,
            text: types.text,
            all: OnceLock::new(),
            names: OnceLock::new(),
            methods: OnceLock::new(),
        })
    }

    /// The type whose descriptor is at an address of the file: what the second word of an itab, or the
    /// first of an `any`, holds less the load bias.
    #[must_use]
    pub fn at(&self, address: u64) -> Option<Type<'_>> {
        self.type_at(self.region.at(address)?)
    }

    /// All types, by address.
    ///
    /// What never becomes a value of an interface, or is never allocated on the heap, has no
    /// descriptor and is not among them.
    pub fn all(&self) -> impl Iterator<Item = Type<'_>> {
        self.places().iter().filter_map(|&at| self.type_at(at))
    }

    /// All struct types that have names.
    pub fn named_structs(&self) -> impl Iterator<Item = Type<'_>> {
        self.all().filter(|one| one.kind() == Kind::Struct && one.name().is_some())
    }

    fn type_at(&self, at: At) -> Option<Type<'_>> {
        Type::new(self, at)
    }

    fn places(&self) -> &[At] {
        self.all.get_or_init(|| walk::all(self))
    }
}

/// Finds the `moduledata` of a Go program.
fn module(elf: &Elf) -> Result<(Module, Format), SymbolError> {
    let broken = |why: Wrong| elf.broken(why.to_string());
    let place = find::table(elf)?.ok_or_else(|| broken(Wrong::NoGo))?;
    let head = elf.read(place.offset, place.size.min(header::SIZE as u64))?;
    let header = Header::read(&head, place.size);
    let header = header.map_err(|why| elf.broken(why.to_string()))?;
    if header.format == Format::Go116 {
        return Err(broken(Wrong::Old));
    }
    let (first, end) = find::bounds(elf, place, &header)?;
    let module = find::module(elf, place, &header, first, end)?;
    Ok((module.ok_or_else(|| broken(Wrong::NoModule))?, header.format))
}

/// The address that offsets of functions' data count from (`go:func.*`).
pub(super) fn function_data(elf: &Elf) -> Result<Option<u64>, SymbolError> {
    let (module, format) = module(elf)?;
    Ok(module::function_data(elf, &module, format))
}

/// `sizeof internal/abi.MapType`: with Go 1.24 the maps changed, which could be declined up to 1.25.
fn map_size(layout: Layout, version: Option<&GoVersion>) -> u32 {
    let swiss = |version: &GoVersion| {
        version.minor >= 24 && !version.experiments.iter().any(|one| one == "noswissmap")
    };
    match layout {
        Layout::Go120 if version.is_some_and(swiss) => 112,
        Layout::Go118 | Layout::Go120 => 88,
        Layout::Go126 => 112,
        Layout::Go127 => 136,
    }
}

/// Go 1.18 has one layout with 1.19, but for the fields' offsets (`structField.offsetEmbed`).
fn packs_offsets(layout: Layout, version: Option<&GoVersion>) -> bool {
    layout == Layout::Go118 && version.is_some_and(|version| version.minor < 19)
}
