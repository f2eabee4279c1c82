//! What functions take and return, as far as the tables of methods tell.
//!
//! Each type with a name tells of its methods: the code, and the type of parameters and results. That
//! of what is no method is nowhere; nor is that of a method which the linker found to be called
//! directly only, but its name still tells the receiver.

use std::borrow::Cow;

use super::region::At;
use super::registers::Places;
use super::{GoTypes, Place, Type};

/// What a function takes and returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature<'a> {
    /// The receiver, the first of what it takes.
    pub receiver: Value<'a>,
    /// What it takes behind the receiver; none: not known.
    pub parameters: Option<Vec<Value<'a>>>,
    /// What it returns; none: not known.
    pub results: Option<Vec<Value<'a>>>,
}

/// A parameter or a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// Its type.
    pub ty: Type<'a>,
    /// Where it is when the function is entered; of a result, when it returns.
    pub place: Place,
}

/// The code of methods, by address.
#[derive(Debug)]
pub(super) struct Methods(Vec<Code>);

/// A method's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Code {
    /// From the text's start. No text is larger than 32 bits tell: so are offsets in the file.
    from_text: u32,
    /// Whether it takes the data word of an interface.
    of_interface: bool,
    at: At,
    index: u16,
}

impl Methods {
    fn new(types: &GoTypes) -> Self {
        // Each takes 16 bytes: there are no more in an honest file.
        let most = types.region.size() / 16;
        let methods =
            types.all().flat_map(|one| (0..one.method_count()).map(move |index| (one, index)));
        let codes = methods.take(most).flat_map(|(one, index)| {
            let [code_of, interface_code] = one.method_codes(index);
            let other = interface_code.filter(|code| code_of != Some(*code));
            let code = move |address: u64, of_interface| {
                let from_text = u32::try_from(address.wrapping_sub(types.text)).ok()?;
                let index = u16::try_from(index).ok()?;
                Some(Code { from_text, of_interface, at: one.at, index })
            };
            let own = code_of.and_then(|address| code(address, false));
            [own, other.and_then(|address| code(address, true))].into_iter().flatten()
        });
        let mut all: Vec<Code> = codes.collect();
        all.sort_unstable();
        all.shrink_to_fit();
        Self(all)
    }

    /// What begins at an address; that which takes its receiver as it is comes first.
    fn at(&self, from_text: u32) -> impl Iterator<Item = &Code> {
        let first = self.0.partition_point(|code| code.from_text < from_text);
        let rest = self.0.get(first..).unwrap_or_default();
        rest.iter().take_while(move |code| code.from_text == from_text)
    }
}

impl GoTypes {
    /// What the function at an address of the file takes and returns; `linkage` is its name as the
    /// table of functions has it, and tells the receiver where nothing else is known.
    ///
    /// None for what is no method, and for the bodies of generic methods, which take more than
    /// their sources say.
    #[must_use]
    pub fn signature(&self, address: u64, linkage: &str) -> Option<Signature<'_>> {
        let methods = self.methods.get_or_init(|| Methods::new(self));
        let from_text = u32::try_from(address.checked_sub(self.text)?).ok()?;
        methods
            .at(from_text)
            .find_map(|code| self.of_method(*code))
            .or_else(|| self.by_receiver(linkage))
    }

    fn of_method(&self, code: Code) -> Option<Signature<'_>> {
        let one = self.type_at(code.at)?;
        let method = one.method(u32::from(code.index))?;
        let by_address = code.of_interface && !one.is_direct();
        let receiver = if by_address { self.pointer_to(one)? } else { one };
        signature(receiver, method.ty)
    }

    /// By the name: `path/package.(*Type).Method`, `path/package.Type.Method`.
    fn by_receiver(&self, linkage: &str) -> Option<Signature<'_>> {
        let path = linkage.rfind('/').map_or(0, |slash| slash + 1);
        let (package, function) = linkage.get(path..)?.split_once('.')?;
        let package = linkage.get(..path + package.len())?;
        let (star, name, method) = if let Some(rest) = function.strip_prefix("(*") {
            let (name, method) = rest.split_once(").")?;
            ("*", name, method)
        } else {
            let (name, method) = function.split_once('.')?;
            ("", name, method)
        };
        // Closures in it are `.func1`, its bound values `-fm`; type arguments are not told apart.
        if method.contains(['.', '-', '[']) || name.contains('[') {
            return None;
        }
        let receiver = self.named(&format!("{star}{}.{name}", unescaped(package)?))?;
        signature(receiver, None)
    }
}

fn signature<'a>(receiver: Type<'a>, function: Option<Type<'a>>) -> Option<Signature<'a>> {
    let mut places = Places::default();
    let receiver = Value { ty: receiver, place: places.next(receiver)? };
    let Some(function) = function else {
        return Some(Signature { receiver, parameters: None, results: None });
    };
    let parameters = values(function.parameters(), &mut places);
    let results = values(function.results(), &mut places.results());
    // The places of results depend on those of the parameters.
    let results = results.filter(|_| parameters.is_some());
    Some(Signature { receiver, parameters, results })
}

fn values<'a>(
    types: impl Iterator<Item = Option<Type<'a>>>,
    places: &mut Places,
) -> Option<Vec<Value<'a>>> {
    types.map(|one| one.and_then(|ty| Some(Value { ty, place: places.next(ty)? }))).collect()
}

/// A package's path without what the linker writes for dots in its last part, and the like.
fn unescaped(path: &str) -> Option<Cow<'_, str>> {
    let mut parts = path.split('%');
    let first = parts.next()?;
    if first.len() == path.len() {
        return Some(path.into());
    }
    let mut whole = first.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        whole.push(u8::from_str_radix(digits, 16).ok()?);
        whole.extend(rest.as_bytes());
    }
    String::from_utf8(whole).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_the_linker() {
        for (path, expected) in [
            ("net/http", Some("net/http")),
            ("gopkg.in/yaml%2ev3", Some("gopkg.in/yaml.v3")),
            ("a/%22b%22", Some("a/\"b\"")),
            ("a%2", None),
            ("a%zz", None),
            ("a%é", None),
        ] {
            assert_eq!(unescaped(path).as_deref(), expected, "{path}");
        }
    }
}
