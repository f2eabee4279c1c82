//! What may stand in the fields of a symbol map: functions, globs, names, words.

use std::ops::Range;
use std::sync::Arc;

use super::error::{MapError, Source};
use super::load::names_a_file;
use super::map::{Select, Selector};
use super::raw::At;
use crate::model::VirtAddr;

/// The three ways to choose a function, as typed.
pub(super) struct RawSelector<'a> {
    pub(super) function: Option<&'a At<String>>,
    pub(super) linkage: Option<&'a At<String>>,
    pub(super) address: Option<&'a At<i64>>,
    pub(super) object: Option<&'a At<String>>,
    /// The declaration it belongs to.
    pub(super) whole: Range<usize>,
}

impl Source<'_> {
    /// The name `-m` takes.
    pub(super) fn map_name(&self, name: &At<String>) -> Result<String, MapError> {
        let plain =
            |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        let given = name.get();
        if given.is_empty() || !given.chars().all(plain) || names_a_file(given) {
            return Err(self.error(
                name.span(),
                format!("`{given}` cannot name a symbol map"),
                "use letters, digits, `.`, `_` and `-`, and no `.toml` at the end: `-m` takes the \
                 name",
            ));
        }
        Ok(given.clone())
    }

    /// Where bytes `part` of the string value `text` stand; the whole value if it has escapes.
    pub(super) fn inside(
        &self,
        span: &Range<usize>,
        text: &str,
        part: &Range<usize>,
    ) -> Range<usize> {
        let content = span.start + 1..span.start + 1 + text.len();
        if self.text.get(content.clone()) == Some(text) && content.end < span.end {
            content.start + part.start..content.start + part.end
        } else {
            span.clone()
        }
    }

    pub(super) fn selector(&self, raw: &RawSelector<'_>) -> Result<Selector, MapError> {
        let RawSelector { function, linkage, address, object, whole } = raw;
        let choose = "say exactly one of `function` (glob on the demangled name), `linkage` (name \
                      in the symbol table) and `address`";
        let select = match (function, linkage, address) {
            (Some(function), None, None) => Select::Function(self.function_glob(function)?),
            (None, Some(linkage), None) => {
                let name = self.line_of_text(linkage, "a linkage name")?;
                if name.contains(char::is_whitespace) {
                    return Err(self.error(
                        linkage.span(),
                        format!("`{name}` is no name in a symbol table"),
                        "demangled names go into `function`",
                    ));
                }
                Select::Linkage(name)
            }
            (None, None, Some(address)) => match u64::try_from(*address.get()) {
                Ok(value) if value > 0 => Select::Address(VirtAddr(value)),
                _ => {
                    return Err(self.error(
                        address.span(),
                        format!("{} is no address of a function", address.get()),
                        "write the address that `nm` or `qprof symbols` shows: 0x…",
                    ));
                }
            },
            (None, None, None) => {
                return Err(self.error(whole.clone(), "this names no function", choose));
            }
            _ => {
                let second = linkage.filter(|_| function.is_some()).map(At::span);
                let second = second.or(address.map(At::span)).unwrap_or(whole.clone());
                return Err(self.error(second, "functions are chosen in two ways here", choose));
            }
        };
        Ok(Selector { select, object: object.map(|object| self.glob(object)).transpose()? })
    }

    pub(super) fn function_glob(&self, at: &At<String>) -> Result<String, MapError> {
        let glob = self.glob(at)?;
        // The Itanium C++ and the two Rust manglings.
        if glob.starts_with("_ZN") || glob.starts_with("_ZZ") || glob.starts_with("_R") {
            return Err(self.error(
                at.span(),
                "this is a mangled name; `function` matches demangled ones",
                format!("write `linkage = \"{glob}\"`"),
            ));
        }
        if open_parenthesis(&glob) {
            return Err(self.error(
                at.span(),
                "the parameter list of this name has no end",
                "close it, end it with `*`, or leave the whole list out",
            ));
        }
        Ok(glob)
    }

    pub(super) fn glob(&self, at: &At<String>) -> Result<String, MapError> {
        let glob = self.line_of_text(at, "a glob")?;
        if glob.chars().all(|character| character == '*' || character == '?') {
            return Err(self.error(
                at.span(),
                format!("`{glob}` matches everything"),
                "name at least a part of what it is to match",
            ));
        }
        if let Some(at_backslash) = glob.find('\\') {
            return Err(self.error(
                self.inside(&at.span(), &glob, &(at_backslash..at_backslash + 1)),
                "a glob has no escapes",
                "`*` stands for any text and `?` for one character; all else stands for itself",
            ));
        }
        Ok(glob)
    }

    pub(super) fn stage(&self, stage: &At<String>) -> Result<Arc<str>, MapError> {
        self.word(
            stage,
            "a stage",
            "_",
            "use lower-case letters, digits and `_`, as in parse, plan, queue, search, segment, \
             index, merge, io",
        )
        .map(Arc::from)
    }

    /// A word that becomes an attribute's value: it begins with a letter, in lower case, and goes on
    /// with letters, digits and the characters `besides`.
    pub(super) fn word(
        &self,
        at: &At<String>,
        what: &str,
        besides: &str,
        help: &str,
    ) -> Result<String, MapError> {
        let word = at.get();
        let plain = |character: char| {
            character.is_ascii_lowercase()
                || character.is_ascii_digit()
                || besides.contains(character)
        };
        if !word.starts_with(|first: char| first.is_ascii_lowercase()) || !word.chars().all(plain) {
            return Err(self.error(at.span(), format!("`{word}` cannot name {what}"), help));
        }
        Ok(word.clone())
    }

    /// One line of text with something in it.
    pub(super) fn line_of_text(&self, at: &At<String>, what: &str) -> Result<String, MapError> {
        let text = at.get();
        if text.trim().is_empty() {
            return Err(self.error(
                at.span(),
                format!("{what} is empty"),
                "write one, or remove it",
            ));
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(self.error(
                at.span(),
                format!("{what} has blanks around it or a control character in it"),
                "it must be one line without blanks around it",
            ));
        }
        Ok(text.clone())
    }
}

/// Whether a parameter list is begun that neither ends nor goes on in a `*`.
fn open_parenthesis(glob: &str) -> bool {
    !glob.ends_with('*') && glob.matches('(').count() > glob.matches(')').count()
}
