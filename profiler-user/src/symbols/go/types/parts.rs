//! What types are made of.

use super::Type;

/// A field of a struct.
#[derive(Clone, Copy, Debug)]
pub struct Field<'a> {
    /// Its name; of an embedded field, that of its type.
    pub name: &'a str,
    /// Where in the struct it is, bytes.
    pub offset: u64,
    /// Whether it is embedded.
    pub embedded: bool,
    /// Its type.
    pub ty: Type<'a>,
}

/// A method of a type that is no interface.
#[derive(Clone, Copy, Debug)]
pub struct Method<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its parameters and results, without the receiver; none if the linker found that nobody calls
    /// it by reflection or through an interface.
    pub ty: Option<Type<'a>>,
    /// The address of the code that takes the receiver as it is; none as for the type.
    pub code: Option<u64>,
    /// The address of the code that takes the data word of an interface for a receiver; none as for
    /// the type. The same as `code` where that is what the receiver is.
    pub interface_code: Option<u64>,
}

/// A method of an interface.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceMethod<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its parameters and results.
    pub ty: Type<'a>,
}
