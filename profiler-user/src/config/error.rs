//! What can be wrong with a symbol map or a configuration file, said so that it can be put right.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::map::MapOrigin;

/// Why there is no symbol map.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// The text of a map breaks a rule of the format.
    #[error("{0}")]
    Invalid(Box<Diagnostic>),
    /// `-m NAME`, and no map has that name.
    #[error(
        "no symbol map is called `{name}`{}; there are: {}; a file of yours: `-m ./{name}.toml`, or \
         put it into /etc/qprof/maps",
        did_you_mean(.nearest),
        .known.join(", ")
    )]
    UnknownName {
        /// The name asked for.
        name: String,
        /// The names like it, nearest first.
        nearest: Vec<String>,
        /// All names.
        known: Vec<String>,
    },
    /// The file could not be read.
    #[error("cannot read the symbol map {}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A folder of maps could not be read.
    #[error("cannot read the folder of symbol maps {}; make it readable, or leave it out of `maps_dir`", .path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// No map was named at all.
    #[error("no symbol map is named; name one with `-m`, `qprof maps` lists them")]
    NoMap,
    /// Two of several maps use one name for different hand-offs.
    #[error(
        "the symbol maps `{first}` and `{second}` both declare a hand-off `{handoff}`; rename one, \
         for a span's parent evidence reads `handoff:{handoff}`"
    )]
    HandoffTwice {
        /// The map that came first.
        first: String,
        /// The map that came later.
        second: String,
        /// The hand-off's name.
        handoff: String,
    },
    /// One map was named twice.
    #[error("the symbol map `{name}` is named twice; leave one `-m {name}` out")]
    MapTwice {
        /// Its name.
        name: String,
    },
}

fn did_you_mean(nearest: &[String]) -> String {
    nearest.first().map_or_else(String::new, |name| format!(" (did you mean `{name}`?)"))
}

/// A place in a map, what is wrong there, and how to put it right. Shown as `rustc` shows its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, or which built-in map.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub problem: String,
    /// How to put it right.
    pub help: Option<String>,
    /// That line of the map.
    pub text: String,
    /// How many characters of it are wrong; at least 1.
    pub width: usize,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, problem, help, text, width } = self;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(column - 1);
        writeln!(f, "{problem}")?;
        writeln!(f, "{margin}--> {file}:{line}:{column}")?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{number} | {text}")?;
        write!(f, "{margin} | {indent}{}", "^".repeat(*width))?;
        if let Some(help) = help {
            write!(f, "\n{margin} = help: {help}")?;
        }
        Ok(())
    }
}

/// The text of a map while it is checked.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    file: String,
}

impl<'a> Source<'a> {
    pub(super) fn new(text: &'a str, origin: &MapOrigin) -> Self {
        let file = match origin {
            MapOrigin::BuiltIn => "<built-in>".to_owned(),
            MapOrigin::File(path) => path.display().to_string(),
        };
        Self { text, file }
    }

    /// The text of a file that is no symbol map.
    pub(super) fn of_file(text: &'a str, path: &Path) -> Self {
        Self { text, file: path.display().to_string() }
    }

    /// The line, from 1, that byte `at` is in.
    pub(super) fn line(&self, at: usize) -> usize {
        self.before(at).matches('\n').count() + 1
    }

    /// What is wrong at bytes `span`, and the fix.
    pub(super) fn error(
        &self,
        span: Range<usize>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> MapError {
        MapError::Invalid(Box::new(self.diagnostic(span, problem, help)))
    }

    /// As [`Source::error`], for whatever the file is.
    pub(super) fn diagnostic(
        &self,
        span: Range<usize>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> Diagnostic {
        let help = help.into();
        let before = self.before(span.start);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line_text = self.text[line_start..].lines().next().unwrap_or_default();
        let column = before[line_start..].chars().count() + 1;
        let rest = line_text.chars().count().saturating_sub(column - 1);
        let wrong = self
            .text
            .get(span)
            .map_or(1, |wrong| wrong.lines().next().map_or(0, |first| first.chars().count()));
        Diagnostic {
            file: self.file.clone(),
            line: self.line(before.len()),
            column,
            problem: problem.into(),
            help: (!help.is_empty()).then_some(help),
            text: line_text.chars().map(printable).collect(),
            width: wrong.min(rest).max(1),
        }
    }

    /// The text before byte `at`, or before the character that byte is part of.
    fn before(&self, at: usize) -> &'a str {
        &self.text[..self.text.floor_char_boundary(at)]
    }
}

/// One column for one character, so that the caret stands under what it means; and nothing that a
/// terminal would take for a command.
fn printable(character: char) -> char {
    match character {
        '\t' => ' ',
        control if control.is_control() => '\u{fffd}',
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, span: Range<usize>) -> String {
        let origin = MapOrigin::File(PathBuf::from("my.toml"));
        Source::new(text, &origin).error(span, "wrong", "right").to_string()
    }

    #[test]
    fn the_caret_stands_under_the_error() {
        assert_eq!(
            shown("version = 1\nname = 'ä' x\n", 24..25),
            "wrong\n --> my.toml:2:12\n  |\n2 | name = 'ä' x\n  |            ^\n  = help: right"
        );
    }

    #[test]
    fn a_span_over_several_lines_is_marked_to_the_end_of_the_first() {
        assert!(shown("a = [\n1]", 4..8).contains("1 | a = [\n  |     ^\n"));
    }

    #[test]
    fn no_place_panics() {
        for text in ["", "\n", "ä", "a\n", "a\u{1b}[31m"] {
            for start in 0..8 {
                for end in 0..8 {
                    assert!(!shown(text, start..end).contains('\u{1b}'));
                }
            }
        }
    }
}
