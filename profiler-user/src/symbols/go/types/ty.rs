//! A type, decoded where it stands (`internal/abi/type.go`).

use std::fmt;

use super::region::At;
use super::{Field, GoTypes, InterfaceMethod, Kind, Method};

/// Offsets in a type's header.
const TFLAG: u32 = 20;
const ALIGN: u32 = 21;
const KIND: u32 = 23;
const NAME: u32 = 40;
const POINTER: u32 = 44;
/// What follows it: for kinds that have one, the type of the elements; …
const ELEM: u32 = 48;
/// … the fields of a struct, the methods of an interface, behind the package; …
const LIST: u32 = 56;
/// … the counts of parameters and results; how long an array is.
const IN: u32 = 48;
const OUT: u32 = 50;
const LENGTH: u32 = 64;
/// In the flags: methods and a package follow the type, its name begins with a `*` that is not its own,
/// it has a name, its values are the data word of an interface.
const UNCOMMON: u8 = 1;
const EXTRA_STAR: u8 = 2;
const NAMED: u8 = 4;
const DIRECT: u8 = 32;
/// In the kind: the same as [`DIRECT`], up to Go 1.25.
const KIND_DIRECT: u8 = 32;
const KIND_MASK: u8 = 31;
/// In the number of results: the last parameter is variadic.
const VARIADIC: u16 = 1 << 15;
/// What a package and methods take that follow a type.
const UNCOMMON_SIZE: u32 = 16;
const FIELD: u32 = 24;
const METHOD: u32 = 16;
const INTERFACE_METHOD: u32 = 8;
const POINTER_SIZE: u32 = 8;

/// A type of a Go program.
#[derive(Clone, Copy)]
pub struct Type<'a> {
    types: &'a GoTypes,
    pub(super) at: At,
    kind: Kind,
}

/// Elements that lie one behind the other: where, how many, how large each.
#[derive(Clone, Copy, Default)]
struct List {
    first: At,
    count: u32,
    size: u32,
}

impl List {
    fn places(self) -> impl Iterator<Item = At> {
        (0..self.count).map(move |index| self.first + index * self.size)
    }
}

/// A method that nobody calls has 0 for its type and code, or −1.
const fn is_there(offset: u32) -> bool {
    !matches!(offset, 0 | u32::MAX)
}

impl<'a> Type<'a> {
    /// What begins at a place; none if it is no type.
    pub(super) fn new(types: &'a GoTypes, at: At) -> Option<Self> {
        let kind = Kind::of(types.region.byte(at, KIND)? & KIND_MASK)?;
        let header_is_whole = types.region.int(at, POINTER).is_some();
        (header_is_whole && at.is_multiple_of(8)).then_some(Self { types, at, kind })
    }

    /// Where its descriptor is: what the runtime knows it by, less the load bias.
    #[must_use]
    pub fn address(self) -> u64 {
        self.types.region.address(self.at)
    }

    /// What kind of type it is.
    #[must_use]
    pub const fn kind(self) -> Kind {
        self.kind
    }

    /// What a value takes, bytes.
    #[must_use]
    pub fn size(self) -> u64 {
        self.types.region.word(self.at, 0).unwrap_or_default()
    }

    /// What addresses of its values are multiples of.
    #[must_use]
    pub fn align(self) -> u64 {
        self.types.region.byte(self.at, ALIGN).map_or(1, |align| u64::from(align).max(1))
    }

    /// Whether an interface holds its value and not the address of one.
    #[must_use]
    pub fn is_direct(self) -> bool {
        let kind = self.types.region.byte(self.at, KIND).unwrap_or_default();
        kind & KIND_DIRECT != 0 || self.has(DIRECT)
    }

    fn has(self, flag: u8) -> bool {
        self.types.region.byte(self.at, TFLAG).is_some_and(|flags| flags & flag != 0)
    }

    /// The type as Go's `%T` shows it, with the last part of its package only: `*http.Request`.
    #[must_use]
    pub fn shown(self) -> &'a str {
        let name = self.types.region.name_by_offset(self.at, NAME);
        let text = name.map(|name| name.text).unwrap_or_default();
        if self.has(EXTRA_STAR) { text.strip_prefix('*').unwrap_or(text) } else { text }
    }

    /// Its name without the package, if it has one: `Request`, `Pair[int,example.org/a.Key]`.
    #[must_use]
    pub fn name(self) -> Option<&'a str> {
        if !self.has(NAMED) {
            return None;
        }
        let shown = self.shown();
        let (plain, _) = shown.split_once('[').unwrap_or((shown, ""));
        let begin = plain.rfind('.').map_or(0, |dot| dot + 1);
        shown.get(begin..).filter(|name| !name.is_empty())
    }

    /// The path of the package that it was defined in: `net/http`. None for what has neither name nor
    /// methods, and for Go's own types.
    #[must_use]
    pub fn package(self) -> Option<&'a str> {
        let package = self.types.region.name_by_offset(self.uncommon()?, 0)?;
        Some(package.text).filter(|path| !path.is_empty())
    }

    /// Package and name, as functions are named: `net/http.Request`. None for what has no name; just
    /// that for Go's own types.
    #[must_use]
    pub fn full_name(self) -> Option<String> {
        let name = self.name()?;
        Some(self.package().map_or_else(|| name.to_owned(), |package| format!("{package}.{name}")))
    }

    /// What a pointer points at; what arrays, slices, channels and maps hold.
    #[must_use]
    pub fn elem(self) -> Option<Self> {
        match self.kind {
            Kind::Array | Kind::Chan | Kind::Pointer | Kind::Slice => self.child(ELEM),
            Kind::Map => self.child(ELEM + POINTER_SIZE),
            _ => None,
        }
    }

    /// A map's keys.
    #[must_use]
    pub fn key(self) -> Option<Self> {
        if self.kind == Kind::Map { self.child(ELEM) } else { None }
    }

    /// How many elements an array has.
    #[must_use]
    pub fn length(self) -> Option<u64> {
        if self.kind == Kind::Array { self.types.region.word(self.at, LENGTH) } else { None }
    }

    /// What its descriptor names besides its parts: the slice that is made of an array, the struct
    /// that a map's entries lie in.
    pub(super) fn companion(self) -> Option<Self> {
        match self.kind {
            Kind::Array => self.child(ELEM + POINTER_SIZE),
            Kind::Map => self.child(ELEM + 2 * POINTER_SIZE),
            _ => None,
        }
    }

    /// The fields of a struct, in their order; what is broken is left out.
    pub fn fields(self) -> impl Iterator<Item = Field<'a>> {
        let region = &self.types.region;
        let list = if self.kind == Kind::Struct { self.list(FIELD) } else { None };
        list.unwrap_or_default().places().filter_map(move |at| {
            let name = region.name(region.pointer(at, 0)?)?;
            let ty = self.types.type_at(region.pointer(at, 8)?)?;
            let offset = region.word(at, 16)?;
            let (offset, embedded) = if self.types.packs_offsets {
                (offset >> 1, offset & 1 != 0)
            } else {
                (offset, name.is_embedded())
            };
            Some(Field { name: name.text, offset, embedded, ty })
        })
    }

    /// The field of a struct that has a name.
    #[must_use]
    pub fn field(self, name: &str) -> Option<Field<'a>> {
        self.fields().find(|field| field.name == name)
    }

    /// How many fields a struct has.
    pub(super) fn field_count(self) -> usize {
        let list = if self.kind == Kind::Struct { self.list(FIELD) } else { None };
        list.unwrap_or_default().count as usize
    }

    /// The methods that an interface asks for, by name.
    pub fn interface_methods(self) -> impl Iterator<Item = InterfaceMethod<'a>> {
        let region = &self.types.region;
        let is_one = self.kind == Kind::Interface;
        let list = if is_one { self.list(INTERFACE_METHOD) } else { None };
        list.unwrap_or_default().places().filter_map(move |at| {
            let name = region.name_by_offset(at, 0)?.text;
            Some(InterfaceMethod { name, ty: self.types.type_at(region.int(at, 4)?)? })
        })
    }

    /// The methods of what is no interface, by name; those of embedded types are among them.
    pub fn methods(self) -> impl Iterator<Item = Method<'a>> {
        (0..self.method_count()).filter_map(move |index| self.method(index))
    }

    /// How many methods it has.
    pub(super) fn method_count(self) -> u32 {
        self.method_list().unwrap_or_default().count
    }

    /// A method by its number.
    pub(super) fn method(self, index: u32) -> Option<Method<'a>> {
        let at = self.method_at(index)?;
        let [code, interface_code] = self.method_codes(index);
        let region = &self.types.region;
        let ty = region.int(at, 4).filter(|at| is_there(*at));
        let name = region.name_by_offset(at, 0)?.text;
        Some(Method { name, ty: ty.and_then(|at| self.types.type_at(at)), code, interface_code })
    }

    /// The code of a method by its number, and that for interfaces.
    pub(super) fn method_codes(self, index: u32) -> [Option<u64>; 2] {
        [12, 8].map(|into| {
            let at = self.method_at(index)?;
            let from_text = self.types.region.int(at, into).filter(|at| is_there(*at))?;
            Some(self.types.text.wrapping_add(u64::from(from_text)))
        })
    }

    fn method_at(self, index: u32) -> Option<At> {
        let list = self.method_list().filter(|list| index < list.count)?;
        Some(list.first + index * list.size)
    }

    /// A function's parameters; none for what is no type.
    pub fn parameters(self) -> impl Iterator<Item = Option<Type<'a>>> {
        let [ins, _] = self.values().unwrap_or_default();
        ins.places().map(move |at| self.types.type_at(self.types.region.pointer(at, 0)?))
    }

    /// A function's results; none for what is no type.
    pub fn results(self) -> impl Iterator<Item = Option<Type<'a>>> {
        let [_, outs] = self.values().unwrap_or_default();
        outs.places().map(move |at| self.types.type_at(self.types.region.pointer(at, 0)?))
    }

    /// Whether the last parameter of a function is variadic: a slice, in fact.
    #[must_use]
    pub fn is_variadic(self) -> bool {
        let outs = self.types.region.half(self.at, OUT).unwrap_or_default();
        self.kind == Kind::Func && outs & VARIADIC != 0
    }

    /// The pointer to it, if its descriptor tells.
    pub(super) fn told_pointer(self) -> Option<Self> {
        let at = self.types.region.int(self.at, POINTER).filter(|at| *at != 0)?;
        let pointer = self.types.type_at(at)?;
        (pointer.elem() == Some(self)).then_some(pointer)
    }

    /// The size of its descriptor, as far as it is in one piece, since Go 1.27 (`DescriptorSize`).
    pub(super) fn descriptor_size(self) -> Option<u32> {
        let uncommon = if self.has(UNCOMMON) { UNCOMMON_SIZE } else { 0 };
        let size = |list: List| list.count.checked_mul(list.size);
        let methods = size(self.method_list().unwrap_or_default())?;
        let parts = self
            .child_lists()
            .into_iter()
            .try_fold(methods, |sum, list| sum.checked_add(size(list)?))?;
        parts.checked_add(self.own_size() + uncommon)
    }

    /// How much there is to be looked at in it.
    pub(super) fn children(self) -> usize {
        let lists = self.child_lists().into_iter().chain(self.method_list());
        lists.map(|list| list.count as usize).sum()
    }

    fn child_lists(self) -> [List; 2] {
        let list = |size| [self.list(size).unwrap_or_default(), List::default()];
        match self.kind {
            Kind::Struct => list(FIELD),
            Kind::Interface => list(INTERFACE_METHOD),
            Kind::Func => self.values().unwrap_or_default(),
            _ => [List::default(); 2],
        }
    }

    /// The slice that structs and interfaces have.
    fn list(self, size: u32) -> Option<List> {
        let (first, count) = self.types.region.slice(self.at, LIST, size)?;
        Some(List { first, count, size })
    }

    fn method_list(self) -> Option<List> {
        let region = &self.types.region;
        let uncommon = self.uncommon()?;
        let count = u32::from(region.half(uncommon, 4)?);
        let first = uncommon.checked_add(region.int(uncommon, 8)?)?;
        let (first, count) = region.array(first, count, METHOD)?;
        Some(List { first, count, size: METHOD })
    }

    /// The types of parameters and results.
    fn values(self) -> Option<[List; 2]> {
        if self.kind != Kind::Func {
            return None;
        }
        let region = &self.types.region;
        let ins = u32::from(region.half(self.at, IN)?);
        let outs = u32::from(region.half(self.at, OUT)? & !VARIADIC);
        let uncommon = if self.has(UNCOMMON) { UNCOMMON_SIZE } else { 0 };
        let first = self.at.checked_add(self.own_size() + uncommon)?;
        let (first, _) = region.array(first, ins + outs, POINTER_SIZE)?;
        let list = |first, count| List { first, count, size: POINTER_SIZE };
        Some([list(first, ins), list(first + ins * POINTER_SIZE, outs)])
    }

    /// What follows the type, if it has a name or methods.
    fn uncommon(self) -> Option<At> {
        if self.has(UNCOMMON) { self.at.checked_add(self.own_size()) } else { None }
    }

    /// The size of its descriptor up to where package and methods follow.
    const fn own_size(self) -> u32 {
        match self.kind {
            Kind::Struct | Kind::Interface => 80,
            Kind::Array => 72,
            Kind::Chan => 64,
            Kind::Pointer | Kind::Func | Kind::Slice => 56,
            Kind::Map => self.types.map_size,
            _ => 48,
        }
    }

    fn child(self, into: u32) -> Option<Self> {
        self.types.type_at(self.types.region.pointer(self.at, into)?)
    }

    pub(super) const fn types(self) -> &'a GoTypes {
        self.types
    }
}

impl PartialEq for Type<'_> {
    /// Whether both are one descriptor: of one program no type has two.
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.types, other.types) && self.at == other.at
    }
}

impl Eq for Type<'_> {}

impl fmt::Debug for Type<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.shown(), self.address())
    }
}
