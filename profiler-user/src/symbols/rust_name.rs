//! One spelling for Rust names of every compiler, so that one symbol map serves all.
//!
//! | legacy mangling | v0 mangling | here |
//! |---|---|---|
//! | `a::T<S>::f` | `<a::T<u8>>::f` | `a::T::f` |
//! | `a::f` | `a::f::<u8>` | `a::f` |
//! | `a::<impl a::Tr for b::T>::f` | `<b::T as a::Tr>::f` | `<b::T as a::Tr>::f` |
//! | `{{closure}}` | `{closure#0}` | `{{closure}}` |
//! | `core::ptr::drop_in_place<T>` | `core::ptr::drop_glue::<T>` | `core::ptr::drop_in_place` |

/// Deeper nesting than any compiler makes is left as it is.
const DEEPEST: usize = 48;

/// Whether generic arguments are kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Generics {
    Kept,
    Dropped,
}

/// The name in our spelling, with generic arguments as far as the mangling tells them.
pub(super) fn readable(name: &str) -> String {
    spelt(name, Generics::Kept)
}

/// The same without generic arguments: what all compilers agree on.
pub(super) fn plain(name: &str) -> String {
    spelt(name, Generics::Dropped)
}

fn spelt(name: &str, generics: Generics) -> String {
    let name = rewritten(name, generics, 0);
    match name.strip_prefix("core::ptr::drop_glue") {
        Some(of) if of.is_empty() || of.starts_with('<') => format!("core::ptr::drop_in_place{of}"),
        _ => name,
    }
}

fn rewritten(name: &str, generics: Generics, depth: usize) -> String {
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find(['<', '{']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (piece, after) = if rest.starts_with('<') {
            let Some(inner) = angle(rest) else { break };
            (angled(inner, &mut out, generics, depth), &rest[inner.len() + 2..])
        } else {
            braced(rest)
        };
        out.push_str(&piece);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// `{closure#N}` and `{shim:vtable#N}` as the legacy mangling has them; other braces stay.
fn braced(rest: &str) -> (String, &str) {
    let end = rest.find('}').map_or(rest.len(), |at| at + 1);
    let (piece, after) = rest.split_at(end);
    let piece = if piece.starts_with("{closure#") {
        "{{closure}}"
    } else if piece.starts_with("{shim:vtable#") {
        "{{vtable.shim}}"
    } else {
        piece
    };
    (piece.to_owned(), after)
}

/// What becomes of `<inner>`, given what is written already.
fn angled(inner: &str, out: &mut String, generics: Generics, depth: usize) -> String {
    if depth >= DEEPEST {
        return format!("<{inner}>");
    }
    let deeper = |piece: &str| rewritten(piece, generics, depth + 1);
    let qualified = |kind: &str, of: &str| format!("<{} as {}>", deeper(kind), deeper(of));
    if let Some(body) = inner.strip_prefix("impl ")
        && out.ends_with("::")
    {
        // The path before it is where the impl was written, which v0 does not tell.
        let path = |c: char| !(c.is_alphanumeric() || c == '_' || c == ':');
        out.truncate(out.rfind(path).map_or(0, |at| at + 1));
        return match outer(body, " for ") {
            Some((of, kind)) => qualified(kind, of),
            None => of_type(&deeper(body)),
        };
    }
    let turbofish = out.ends_with("::");
    if turbofish {
        out.truncate(out.len() - 2);
    }
    if turbofish || out.ends_with(|c: char| c.is_alphanumeric() || c == '_') {
        return match generics {
            Generics::Kept => format!("<{}>", deeper(inner)),
            Generics::Dropped => String::new(),
        };
    }
    match outer(inner, " as ") {
        Some((kind, of)) => qualified(kind, of),
        None => of_type(&deeper(inner)),
    }
}

/// The type an inherent method belongs to: a path needs no brackets.
fn of_type(kind: &str) -> String {
    let is_path =
        kind.starts_with(|c: char| c.is_alphabetic() || c == '_') && outer(kind, " ").is_none();
    if is_path { kind.to_owned() } else { format!("<{kind}>") }
}

/// What stands between the `<` a text begins with and the `>` that closes it.
fn angle(text: &str) -> Option<&str> {
    let mut depth = 0usize;
    let mut before = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' if before != b'-' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return text.get(1..at);
        }
        before = byte;
    }
    None
}

/// Splits at the first separator that is inside no brackets.
fn outer<'a>(text: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    let mut depth = 0usize;
    let mut before = 0;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'<' | b'(' | b'[' => depth += 1,
            b'>' if before == b'-' => {}
            b'>' | b')' | b']' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 && text[at..].starts_with(separator) => {
                return Some((&text[..at], &text[at + separator.len()..]));
            }
            _ => {}
        }
        before = byte;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_manglings_meet() {
        for (legacy, v0, here) in [
            ("a::T::f", "<a::T>::f", "a::T::f"),
            ("a::T<S>::f", "<a::T<u8>>::f", "a::T::f"),
            ("a::f", "a::f::<alloc::vec::Vec<u8>>", "a::f"),
            ("a::f::{{closure}}", "a::f::<u8>::{closure#0}", "a::f::{{closure}}"),
            (
                "a::f::{{closure}}::{{closure}}",
                "a::f::{closure#0}::{closure#3}",
                "a::f::{{closure}}::{{closure}}",
            ),
            (
                "<a::T<S> as core::fmt::Display>::fmt",
                "<a::T<u8> as core::fmt::Display>::fmt",
                "<a::T as core::fmt::Display>::fmt",
            ),
            (
                "a::m::<impl core::fmt::Display for b::T<S>>::fmt",
                "<b::T<u8> as core::fmt::Display>::fmt",
                "<b::T as core::fmt::Display>::fmt",
            ),
            ("core::num::<impl u32>::pow", "<u32>::pow", "u32::pow"),
            ("alloc::slice::<impl [T]>::sort", "<[T]>::sort", "<[T]>::sort"),
            (
                "core::ptr::drop_in_place<a::T>",
                "core::ptr::drop_glue::<a::T>",
                "core::ptr::drop_in_place",
            ),
            ("<F as a::Fn<(A,)>>::call", "<F as a::Fn<(A,)>>::call", "<F as a::Fn>::call"),
            (
                "<&dyn Fn(A) -> B as a::T>::f",
                "<&dyn Fn(A) -> B as a::T>::f",
                "<&dyn Fn(A) -> B as a::T>::f",
            ),
            ("f::call_once{{vtable.shim}}", "f::call_once::{shim:vtable#0}", "f::call_once"),
        ] {
            assert_eq!(plain(v0).replace("::{{vtable.shim}}", ""), here, "{v0}");
            assert_eq!(plain(legacy).replace("{{vtable.shim}}", ""), here, "{legacy}");
        }
    }

    #[test]
    fn generic_arguments_where_they_are_told() {
        for (v0, here) in [
            ("<a::T<u8>>::f::<b::U>", "a::T<u8>::f<b::U>"),
            ("a::f::<alloc::vec::Vec<u8>>::{closure#1}", "a::f<alloc::vec::Vec<u8>>::{{closure}}"),
            ("core::ptr::drop_glue::<<a::T>::U>", "core::ptr::drop_in_place<a::T::U>"),
            ("<a::T<fn(u8) -> u16> as b::Tr<u8>>::f", "<a::T<fn(u8) -> u16> as b::Tr<u8>>::f"),
            ("<&a::T>::f", "<&a::T>::f"),
            ("<dyn a::T>::f", "<dyn a::T>::f"),
        ] {
            assert_eq!(readable(v0), here, "{v0}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(name in "[<>{}()a-c: é#as-]{0,80}") {
            let _ = (plain(&name), readable(&name));
        }
    }

    #[test]
    fn deep_nesting_ends() {
        let deep = "<".repeat(60_000) + &">".repeat(60_000);
        assert!(plain(&deep).len() <= deep.len());
    }
}
