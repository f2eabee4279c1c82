//! Types by name.

use super::region::At;
use super::{GoTypes, Kind, Type};

/// No honest program has more types of one name.
const ALIKE: usize = 256;

/// Where the types with names are, and the pointers to them, by the hash of their names. Two types
/// may have one: those that functions define for themselves.
#[derive(Debug)]
pub(super) struct Names(Vec<(u32, At)>);

impl Names {
    fn new(types: &GoTypes) -> Self {
        // As long as all names together are only in a file that repeats them.
        let mut left = types.region.size();
        let named = types.all().map_while(|one| {
            let (star, named) = pointed_at(one);
            let Some(name) = named.name() else { return Some(None) };
            let package = named.package();
            let dot = if package.is_some() { "." } else { "" };
            let parts = [star, package.unwrap_or_default(), dot, name];
            left = left.checked_sub(parts.iter().map(|part| part.len()).sum())?;
            Some(Some((hash(parts.into_iter()), one.at)))
        });
        let mut all: Vec<(u32, At)> = named.flatten().collect();
        all.sort_unstable();
        all.shrink_to_fit();
        Self(all)
    }
}

/// What a pointer without a name points at.
fn pointed_at(one: Type<'_>) -> (&'static str, Type<'_>) {
    let elem = if one.kind() == Kind::Pointer && one.name().is_none() { one.elem() } else { None };
    elem.map_or(("", one), |elem| ("*", elem))
}

impl GoTypes {
    /// The types of a name with its package's whole path, such as `net/http.Request`, and
    /// `*net/http.Request` for the pointer to it. More than one only of types that functions define
    /// for themselves.
    pub fn all_named(&self, name: &str) -> impl Iterator<Item = Type<'_>> {
        let names = self.names.get_or_init(|| Names::new(self));
        let wanted = hash([name].into_iter());
        let from = names.0.partition_point(|(hash, _)| *hash < wanted);
        let alike = names.0.get(from..).unwrap_or_default().iter();
        let alike = alike.take_while(move |(hash, _)| *hash == wanted).take(ALIKE);
        let types = alike.filter_map(|&(_, at)| self.type_at(at));
        types.filter(move |one| is_called(*one, name))
    }

    /// The type of a name, as [`GoTypes::all_named`], if there is exactly one.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Type<'_>> {
        let mut all = self.all_named(name);
        all.next().filter(|_| all.next().is_none())
    }

    /// The pointer to a type, if the program has it.
    #[must_use]
    pub fn pointer_to<'a>(&'a self, one: Type<'a>) -> Option<Type<'a>> {
        one.told_pointer().or_else(|| {
            let name = format!("*{}", one.full_name()?);
            self.all_named(&name).find(|pointer| pointer.elem() == Some(one))
        })
    }
}

fn is_called(one: Type<'_>, name: &str) -> bool {
    let (star, named) = pointed_at(one);
    let Some(rest) = name.strip_prefix(star) else { return false };
    let rest = match named.package() {
        Some(package) => rest.strip_prefix(package).and_then(|rest| rest.strip_prefix('.')),
        None => Some(rest),
    };
    rest.is_some() && rest == named.name()
}

/// Fowler, Noll, Vo: the same whatever parts a name comes in.
fn hash<'a>(parts: impl Iterator<Item = &'a str>) -> u32 {
    parts
        .flat_map(str::bytes)
        .fold(0x811c_9dc5, |hash: u32, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
