//! Go's names of its versions, as they stand in programs.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A version of Go: `go1.20.7`, `go1.22rc1`, `devel go1.27-abcdef Tue…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoVersion {
    /// 1 of `go1.20.7`.
    pub major: u16,
    /// 20 of `go1.20.7`.
    pub minor: u16,
    /// 7 of `go1.20.7`; 0 where none is named (`go1.20` is the first release of its minor).
    pub patch: u16,
    /// Whether it was released: no beta, no release candidate, no development tree.
    pub released: bool,
    /// What was tried out when the toolchain was built: the words after `X:`.
    pub experiments: Vec<String>,
}

/// What is no version of Go.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "`{0}` is no release of Go, which look like go1.20.7: with --go-offsets-from FILE what must be known \
     is read from any program built by the same Go with its debug information (no -w, no strip)"
)]
pub struct NotAGoVersion(pub String);

impl FromStr for GoVersion {
    type Err = NotAGoVersion;

    fn from_str(text: &str) -> Result<Self, NotAGoVersion> {
        parse(text).ok_or_else(|| NotAGoVersion(shortened(text)))
    }
}

fn parse(text: &str) -> Option<GoVersion> {
    let mut words = text.split_ascii_whitespace();
    let first = words.next()?;
    let devel = first == "devel";
    let name = if devel { words.next()? } else { first };
    let (major, rest) = number(name.strip_prefix("go")?)?;
    let (minor, rest) = number(rest.strip_prefix('.')?)?;
    let (patch, rest) = match rest.strip_prefix('.') {
        Some(rest) => number(rest)?,
        None => (0, rest),
    };
    // Vendors add words of their own: `go1.22.3-microsoft`. Those of a tree before its release
    // are `-devel_abcdef`, or `-abcdef` after `devel`.
    let suffix = rest.strip_prefix(['-', '+']);
    let pre = ["rc", "beta", "alpha"].iter().any(|word| rest.starts_with(word));
    if !rest.is_empty() && suffix.is_none() && !pre {
        return None;
    }
    let unreleased = suffix.is_some_and(|word| word.starts_with("devel"));
    let experiments = words.find_map(|word| word.strip_prefix("X:"));
    Some(GoVersion {
        major,
        minor,
        patch,
        released: !devel && !pre && !unreleased,
        experiments: experiments
            .map(|list| list.split(',').map(str::to_owned).collect())
            .unwrap_or_default(),
    })
}

fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at_checked(end)?;
    Some((digits.parse().ok()?, rest))
}

/// Enough of a text that came out of a file to recognise it by.
fn shortened(text: &str) -> String {
    text.chars().take(60).filter(|c| !c.is_control()).collect()
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.patch > 0 {
            write!(f, ".{}", self.patch)?;
        }
        if self.released { Ok(()) } else { f.write_str(" before its release") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn versions_in_the_wild() {
        for (text, numbers, released, experiments) in [
            ("go1.20.7", (1, 20, 7), true, &[][..]),
            ("go1.18", (1, 18, 0), true, &[]),
            ("go1.22rc1", (1, 22, 0), false, &[]),
            ("go1.18beta2", (1, 18, 0), false, &[]),
            ("devel go1.27-abcdef Tue Jan 6 10:00:00 2026 +0000", (1, 27, 0), false, &[]),
            ("go1.27-devel_0cf1b1 Mon Dec 1", (1, 27, 0), false, &[]),
            ("go1.21.3 X:nocoverageredesign", (1, 21, 3), true, &["nocoverageredesign"]),
            ("go1.24.1 X:a,b", (1, 24, 1), true, &["a", "b"]),
            ("go1.22.3-microsoft", (1, 22, 3), true, &[]),
            ("go1.22.5 (Red Hat 1.22.5-1.el9)", (1, 22, 5), true, &[]),
        ] {
            let version: GoVersion = text.parse().unwrap();
            assert_eq!((version.major, version.minor, version.patch), numbers, "{text}");
            assert_eq!(version.released, released, "{text}");
            assert_eq!(version.experiments, experiments, "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused_with_what_they_are() {
        for text in
            ["", "devel", "1.20", "go", "go1", "go1.", "go1.x", "go1.20.", "go1.99999", "go1.2x"]
        {
            let error = text.parse::<GoVersion>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", tail in ".*") {
            let _ = text.parse::<GoVersion>();
            let _ = format!("go1.2{tail}").parse::<GoVersion>();
        }
    }
}
