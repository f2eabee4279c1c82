//! From the name in a symbol table to the one a person reads and writes.

use std::fmt::{self, Write};

use cpp_demangle::{DemangleOptions, Symbol};

use super::rust_name;

/// No honest name is longer; a hostile one of a few bytes can demangle to gigabytes.
const LONGEST: usize = 64 << 10;

/// A name, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// All of it, without clone suffixes.
    pub(super) full: String,
    /// Without the parameter list and what follows it; Rust names also without generic arguments.
    pub(super) base: String,
    /// The parameter list with its parentheses; none where the mangling does not tell (C, Rust).
    pub(super) parameters: Option<String>,
    /// What follows the parameter list: `const`, `&`, `&&`.
    pub(super) qualifiers: String,
}

/// Reads the name of a function symbol.
pub(super) fn read(linkage: &str) -> Name {
    let linkage = without_version(linkage);
    rust(linkage).or_else(|| cpp(linkage)).unwrap_or_else(|| {
        let name = c_stem(linkage);
        Name { full: name.into(), base: name.into(), parameters: None, qualifiers: String::new() }
    })
}

/// Reads the name of a Go function. A package path has what could be mistaken for the dot behind it
/// escaped: `gopkg.in/yaml%2ev3.Marshal`.
pub(super) fn read_go(linkage: &str) -> Name {
    let name = unescaped(linkage);
    Name { base: name.clone(), full: name, parameters: None, qualifiers: String::new() }
}

fn unescaped(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let digits = digits.filter(|_| byte == b'%').and_then(|digits| str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a symbol's name is one that a Go compiler gives, and no C or C++ one: it has the package
/// before a dot. Dots that C compilers write are clones'.
pub(super) fn is_go_like(linkage: &[u8]) -> bool {
    if linkage.starts_with(b"_Z") || linkage.starts_with(b"_R") {
        return false;
    }
    let name = String::from_utf8_lossy(linkage);
    let name = without_version(&name);
    name.rfind('.').is_some_and(|at| at > 0)
        && c_stem(name) == name
        && !COMPILERS.iter().any(|word| name.contains(word))
}

/// What C compilers write behind a dot, beyond clones.
const COMPILERS: [&str; 6] = ["._omp_fn", "._loopfn", ".resolver", ".avx", ".sse", ".arch"];

/// Without the version the linker writes into `.symtab` (`memcpy@@GLIBC_2.14`).
pub(super) fn without_version(linkage: &str) -> &str {
    match linkage.find('@') {
        Some(at) if at > 0 => &linkage[..at],
        _ => linkage,
    }
}

/// For a part the compiler split off as unlikely (`f.cold`, `f.isra.0.cold.1`): the name of the
/// function it was split from.
pub(super) fn cold_parent(linkage: &str) -> Option<&str> {
    let at = linkage.rfind(".cold")?;
    (at > 0 && only_clones(&linkage[at..])).then(|| &linkage[..at])
}

/// Whether a mangled name is that of a thunk: a few instructions that adjust `this` and go on to
/// the function whose name they carry (Itanium ABI 5.1.4.2).
pub(super) fn is_thunk(linkage: &str) -> bool {
    ["_ZTh", "_ZTv", "_ZTc"].iter().any(|prefix| linkage.starts_with(prefix))
}

/// Names and patterns in the one spelling they are compared in: `> >` as `>>`, no ABI tags.
pub(super) fn normalised(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(['[', ' ']) {
        let (before, here) = rest.split_at(at);
        out.push_str(before);
        if let Some(tag) = here.strip_prefix("[abi:") {
            rest = tag.split_once(']').map_or("", |(_, after)| after);
        } else if here.starts_with(" >") && out.ends_with('>') {
            rest = &here[1..];
        } else {
            out.push_str(&here[..1]);
            rest = &here[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Takes `base(parameters) qualifiers` apart; `None` if it does not end in a parameter list. Used
/// for names and for patterns.
pub(super) fn split_call(name: &str) -> Option<(&str, &str, &str)> {
    let mut end = name;
    while let Some(shorter) = [" const", " volatile", " &&", " &"]
        .iter()
        .find_map(|qualifier| end.strip_suffix(qualifier))
    {
        end = shorter;
    }
    if !end.ends_with(')') {
        return None;
    }
    let mut depth = 0usize;
    let open = end.bytes().rposition(|byte| {
        match byte {
            b')' => depth += 1,
            b'(' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0
    })?;
    let (base, parameters) = end.split_at(open);
    // The parentheses of `operator()` are its name, not its parameters.
    if base.is_empty() || (parameters == "()" && base.ends_with("operator")) {
        return None;
    }
    Some((base, parameters, &name[end.len()..]))
}

fn cpp(linkage: &str) -> Option<Name> {
    if !linkage.starts_with("_Z") {
        return None;
    }
    // A dot is in no mangled name: what follows is the compiler's.
    let (stem, suffix) = linkage.split_at(linkage.find('.').unwrap_or(linkage.len()));
    let symbol = Symbol::new(stem).ok()?;
    let mut out = Bounded(String::new());
    symbol.structured_demangle(&mut out, &DemangleOptions::new().no_return_type()).ok()?;
    let mut full = normalised(&out.0);
    let (base, parameters, qualifiers) = match split_call(&full) {
        Some((base, parameters, qualifiers)) => {
            (base.to_owned(), Some(parameters.to_owned()), qualifiers.to_owned())
        }
        None => (full.clone(), None, String::new()),
    };
    let mut name = Name { full: String::new(), base, parameters, qualifiers };
    if !suffix.is_empty() && !only_clones(suffix) {
        // Another function made from this one: an OpenMP body, a version for another CPU.
        let clone = format!(" [clone {suffix}]");
        full.push_str(&clone);
        name.base.push_str(&clone);
    }
    name.full = full;
    Some(name)
}

fn rust(linkage: &str) -> Option<Name> {
    let stem = if linkage.starts_with("_R") {
        &linkage[..linkage.find('.').unwrap_or(linkage.len())]
    } else {
        legacy_rust_stem(linkage)?
    };
    let demangled = rustc_demangle::try_demangle(stem).ok()?;
    let mut out = Bounded(String::new());
    // The alternate form leaves the hash out.
    write!(out, "{demangled:#}").ok()?;
    Some(Name {
        full: rust_name::readable(&out.0),
        base: rust_name::plain(&out.0),
        parameters: None,
        qualifiers: String::new(),
    })
}

/// `_ZN…17h` and 16 hexadecimal digits and `E`: legacy Rust and no C++.
fn legacy_rust_stem(linkage: &str) -> Option<&str> {
    if !linkage.starts_with("_ZN") {
        return None;
    }
    let at = linkage.rfind("17h")?;
    let hash = linkage.get(at + 3..at + 19)?;
    let end = at + 20;
    let ends = linkage.as_bytes().get(end - 1) == Some(&b'E')
        && matches!(linkage.as_bytes().get(end), None | Some(b'.'));
    (ends && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| &linkage[..end])
}

/// A C name without clone suffixes.
fn c_stem(linkage: &str) -> &str {
    let clones = linkage.match_indices('.').find(|&(at, _)| at > 0 && only_clones(&linkage[at..]));
    clones.map_or(linkage, |(at, _)| &linkage[..at])
}

/// Whether a suffix says no more than that this is the function, or a part of it, as an optimiser
/// left it: `.isra.0`, `.part.1.constprop.0`, `.llvm.123`.
fn only_clones(suffix: &str) -> bool {
    const CLONES: [&str; 9] =
        ["isra", "part", "constprop", "lto_priv", "localalias", "cold", "llvm", "__uniq", "clone"];
    let Some(suffix) = suffix.strip_prefix('.') else { return false };
    let mut after_word = false;
    suffix.split('.').all(|piece| {
        let number = !piece.is_empty() && piece.bytes().all(|byte| byte.is_ascii_digit());
        let fits = CLONES.contains(&piece) || (number && after_word);
        after_word = !number;
        fits
    })
}

/// A string that refuses to grow beyond [`LONGEST`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.0.len() + piece.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.0.push_str(piece);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(linkage: &str) -> (String, String, String) {
        let name = read(linkage);
        (name.base, name.parameters.unwrap_or_default(), name.qualifiers)
    }

    #[test]
    fn cpp_names_come_apart() {
        for (linkage, base, parameters, qualifiers) in [
            ("_Z3foov", "foo", "()", ""),
            ("_ZN3foo3barIiEEvT_", "foo::bar<int>", "(int)", ""),
            ("_ZNK1A1BB5cxx11Ev", "A::B", "()", " const"),
            ("_ZN1AD1Ev", "A::~A", "()", ""),
            ("_ZNK1AcvbEv", "A::operator bool", "()", " const"),
            ("_ZN12_GLOBAL__N_13fooEv", "(anonymous namespace)::foo", "()", ""),
            ("_ZN1AclEi", "A::operator()", "(int)", ""),
            ("_ZNK1AclEv", "A::operator()", "()", " const"),
            ("_ZNO1A1fEv", "A::f", "()", " &&"),
            ("_ZNKR1A1fEv", "A::f", "()", " const &"),
            ("_ZN1A1fEPFvicE", "A::f", "(void (*)(int, char))", ""),
            ("_ZZN3foo3barEiEN5Local4callEv", "foo::bar(int)::Local::call", "()", ""),
            (
                "_ZZNK1a1bEvENKUliE_clEi",
                "a::b() const::{lambda(int)#1}::operator()",
                "(int)",
                " const",
            ),
            ("_Z1fSt6vectorIS_IiEE", "f", "(std::vector<std::vector<int>>)", ""),
        ] {
            let (b, p, q) = parts(linkage);
            assert_eq!(
                (b.as_str(), p.as_str(), q.as_str()),
                (base, parameters, qualifiers),
                "{linkage}"
            );
            assert_eq!(read(linkage).full, format!("{base}{parameters}{qualifiers}"));
        }
    }

    #[test]
    fn go_names_are_read_without_escapes() {
        for (linkage, name) in [
            ("gopkg.in/yaml%2ev3.(*parser).parse", "gopkg.in/yaml.v3.(*parser).parse"),
            ("main.%", "main.%"),
            ("a%+5b.F%2", "a%+5b.F%2"),
            ("main.caf%c3%a9", "main.café"),
        ] {
            assert_eq!(read_go(linkage).full, name);
        }
    }

    #[test]
    fn names_like_gos_have_a_package() {
        for name in ["main.main", "github.com/a/b.(*T).F", "runtime.text", "type:.eq.main.T"] {
            assert!(is_go_like(name.as_bytes()), "{name}");
        }
        for name in ["main", "f.cold", "f.part.0", "_ZN1a1bE", "f._omp_fn.0", ".hidden", "x@V.1"] {
            assert!(!is_go_like(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn clones_are_their_function_and_others_are_not() {
        for (linkage, base) in [
            ("_Z3foov.isra.0", "foo"),
            ("_Z3foov.part.1.constprop.0", "foo"),
            ("_Z3foov.llvm.1234567", "foo"),
            ("foo.lto_priv.0", "foo"),
            ("foo.isra.0.cold", "foo"),
            ("foo.localalias", "foo"),
            ("_Z3foov._omp_fn.0", "foo [clone ._omp_fn.0]"),
            ("foo._omp_fn.0", "foo._omp_fn.0"),
            ("foo.0", "foo.0"),
            ("main.main", "main.main"),
            (".hidden", ".hidden"),
            ("memcpy@@GLIBC_2.14", "memcpy"),
        ] {
            assert_eq!(read(linkage).base, base, "{linkage}");
        }
    }

    #[test]
    fn cold_parts_know_their_function() {
        assert_eq!(cold_parent("f.cold"), Some("f"));
        assert_eq!(cold_parent("f.isra.0.cold"), Some("f.isra.0"));
        assert_eq!(cold_parent("_Z1fv.cold.3"), Some("_Z1fv"));
        for other in ["f", "f.coldness", ".cold", "f.cold.x"] {
            assert_eq!(cold_parent(other), None, "{other}");
        }
    }

    #[test]
    fn names_that_are_not_what_they_begin_like() {
        for name in ["_Z", "_ZN", "_Znonsense!", "_R", "_Rx", "", "@", "_ZN3foo17h0123E"] {
            let read = read(name);
            assert_eq!(read.full, name);
        }
    }

    #[test]
    fn a_name_that_would_fill_memory_stays_as_it_is() {
        // Each substitution doubles the one before.
        let mut hostile = String::from("_Z1fI1aE");
        for level in 0..60 {
            let index = |n: u32| {
                if n == 0 {
                    String::new()
                } else {
                    char::from_digit(n - 1, 36).unwrap().to_ascii_uppercase().to_string()
                }
            };
            let _ = write!(hostile, "1bIS{0}_S{0}_E", index(level.min(30)));
        }
        assert!(read(&hostile).full.len() <= LONGEST);
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "(_ZN|_Z|_R|)[0-9a-zA-Z_.$@<>()éE]{0,60}") {
            let read = read(&name);
            prop_assert!(read.full.len() <= LONGEST);
            let _ = (cold_parent(&name), normalised(&name), split_call(&name));
        }
    }
}
