//! Patterns on Go names, as users write them.
//!
//! A Go name is a package path, a dot, and the function: `a.com/b/pkg.(*Type).Method.func1`. Stars,
//! brackets and dots belong to names here, so a pattern is read by rules of its own:
//!
//! - it is compared with the whole name, and with what follows each `/` of the package path;
//! - `*` stands for anything, but directly behind `(` it is the star of a pointer receiver; `(*)` is any
//!   pointer receiver;
//! - `[...]` is any type arguments; the table of functions does not tell them apart;
//! - `(*)` at the end, any parameters, says nothing: Go names have none.

/// A piece of a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Byte(u8),
    One,
    Any,
}

/// A pattern on Go names.
#[derive(Clone, Debug)]
pub(super) struct GoPattern {
    tokens: Vec<Token>,
}

impl GoPattern {
    /// Reads a pattern.
    pub(super) fn new(text: &str) -> Self {
        let text = text.trim();
        // Behind a dot it is a receiver that something has to follow.
        let whole = text.strip_suffix("(*)").filter(|base| !base.ends_with('.')).unwrap_or(text);
        let mut tokens = Vec::with_capacity(whole.len());
        let mut rest = whole.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match byte {
                b'(' if after.first() == Some(&b'*') => {
                    tokens.extend([Token::Byte(b'('), Token::Byte(b'*')]);
                    rest = after.get(1..).unwrap_or_default();
                    if rest.first() == Some(&b')') {
                        tokens.push(Token::Any);
                    }
                }
                b'[' if after.starts_with(b"...]") => {
                    tokens.extend([Token::Byte(b'['), Token::Any]);
                    rest = after.get(3..).unwrap_or_default();
                }
                b'*' => tokens.push(Token::Any),
                b'?' => tokens.push(Token::One),
                byte => tokens.push(Token::Byte(byte)),
            }
        }
        Self { tokens }
    }

    /// Whether a name is meant, or what follows a slash of its package path.
    pub(super) fn matches(&self, name: &str) -> bool {
        let bytes = name.as_bytes();
        let path = bytes.iter().position(|byte| matches!(byte, b'(' | b'[')).unwrap_or(bytes.len());
        let path = bytes.get(..path).unwrap_or_default();
        let behind = memchr::memchr_iter(b'/', path).map(|slash| slash + 1);
        std::iter::once(0)
            .chain(behind)
            .any(|from| bytes.get(from..).is_some_and(|name| self.fits(name)))
    }

    /// As [`glob`](super::pattern::glob) does.
    fn fits(&self, name: &[u8]) -> bool {
        let (mut at, mut seen) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while let Some(&byte) = name.get(seen) {
            match self.tokens.get(at) {
                Some(Token::Any) => {
                    at += 1;
                    retry = Some((at, seen));
                }
                Some(Token::One) => (at, seen) = (at + 1, seen + 1),
                Some(Token::Byte(wanted)) if *wanted == byte => (at, seen) = (at + 1, seen + 1),
                _ => {
                    let Some((behind, from)) = retry else { return false };
                    (at, seen) = (behind, from + 1);
                    retry = Some((behind, from + 1));
                }
            }
        }
        self.tokens.iter().skip(at).all(|token| *token == Token::Any)
    }

    /// Words that every name contains that is meant, the longest first: escapes of a package path
    /// are of nothing that is in a word.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = vec![String::new()];
        let mut in_arguments = false;
        for token in &self.tokens {
            match token {
                Token::Byte(b'[') => in_arguments = true,
                Token::Byte(b']') => in_arguments = false,
                _ => {}
            }
            match token {
                Token::Byte(byte)
                    if (byte.is_ascii_alphanumeric() || *byte == b'_') && !in_arguments =>
                {
                    if let Some(word) = words.last_mut() {
                        word.push(char::from(*byte));
                    }
                }
                _ => words.push(String::new()),
            }
        }
        words.retain(|word| !word.is_empty());
        words.sort_by_key(|word| std::cmp::Reverse(word.len()));
        words
    }

    /// So much of a name's path as a pattern has of one: C++ names have none.
    pub(super) fn as_far_as<'n>(pattern: &str, name: &'n str) -> &'n str {
        let path = |name: &str| name.find(['(', '[', ' ', ':']).unwrap_or(name.len());
        let slashes = pattern.get(..path(pattern)).map_or(0, |path| path.matches('/').count());
        let mut behind = name.get(..path(name)).unwrap_or_default().rmatch_indices('/');
        behind.nth(slashes).map_or(name, |(slash, _)| name.get(slash + 1..).unwrap_or(name))
    }

    /// The last component, for the search for names that are near: closures are their function's.
    pub(super) fn last_component(text: &str) -> &str {
        let outside = text.split('[').next().unwrap_or(text);
        let mut parts = outside.rsplit(['.', '/']).map(|part| part.trim_matches(['(', ')', '*']));
        parts.find(|part| !is_numbered(part)).unwrap_or(outside)
    }
}

/// `func1`, `2`, `gowrap1`, `deferwrap1`: what the compiler calls a function in another.
fn is_numbered(part: &str) -> bool {
    let bare = part.strip_suffix("-fm").unwrap_or(part);
    let named = ["func", "gowrap", "deferwrap"].iter().find_map(|word| bare.strip_prefix(word));
    named.unwrap_or(bare).bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const METHOD: &str = "github.com/milvus-io/milvus/internal/querynodev2.(*QueryNode).Search";

    fn matches(pattern: &str, name: &str) -> bool {
        let pattern = GoPattern::new(pattern);
        let found = pattern.matches(name);
        assert!(!found || pattern.words().iter().all(|word| name.contains(word)), "{pattern:?}");
        found
    }

    #[test]
    fn the_import_path_need_not_be_whole() {
        for pattern in [
            METHOD,
            "internal/querynodev2.(*QueryNode).Search",
            "querynodev2.(*QueryNode).Search",
            "*.(*QueryNode).Search",
            "querynodev2.*.Search",
            "querynodev2.(*).Search",
            "querynodev2.(**).Search",
            "querynodev2.(*Query*).Search",
            "*Search",
            "*/querynodev2.(*QueryNode).Sear?h",
            "internal/querynodev2.(*QueryNode).Search(*)",
        ] {
            assert!(matches(pattern, METHOD), "{pattern}");
        }
        for pattern in [
            "nodev2.(*QueryNode).Search",
            "(*QueryNode).Search",
            "internal/querynodev2.(*QueryNode)",
            "querynodev2.(*QueryNode).Search.func1",
            "Search",
            "",
        ] {
            assert!(!matches(pattern, METHOD), "{pattern}");
        }
    }

    #[test]
    fn the_star_of_a_receiver_is_a_star() {
        assert!(matches("a.(*T).F", "a.(*T).F"));
        assert!(!matches("a.(*T).F", "a.(*GreatT).F"), "no glob behind a parenthesis");
        assert!(!matches("a.(*T).F", "a.T.F"));
        assert!(!matches("a.(*).F", "a.T.F"));
        assert!(matches("a.(**T).F", "a.(*GreatT).F"));
        assert!(matches("a.*.F", "a.T.F"));
    }

    #[test]
    fn closures_wrappers_and_generics_are_names_like_others() {
        for (pattern, name) in [
            ("a.(*T).F.func1", "x/a.(*T).F.func1"),
            ("a.(*T).F.func*", "x/a.(*T).F.func1.2"),
            ("a.(*T).F-fm", "x/a.(*T).F-fm"),
            ("a.Sum[...]", "x/a.Sum[...]"),
            ("a.Sum[...]", "x/a.Sum[go.shape.int]"),
            ("a.Sum[...].func1", "x/a.Sum[go.shape.int].func1"),
            ("a.(*List[...]).Push", "x/a.(*List[...]).Push"),
            ("a.Sum*", "x/a.Sum[...]"),
        ] {
            assert!(matches(pattern, name), "{pattern}");
        }
        assert!(!matches("a.Sum", "x/a.Sum[...]"));
        assert!(!matches("a.F", "x/a.F.func1"));
        assert!(!matches("b.T]", "a.F[x/b.T]"), "no path inside of type arguments");
    }

    #[test]
    fn names_are_compared_as_far_as_the_pattern_goes() {
        for (pattern, compared) in [
            ("querynodev2.(*Node).Search", "querynodev2.(*QueryNode).Search"),
            ("internal/querynodev2.Search", "internal/querynodev2.(*QueryNode).Search"),
            ("a/b/c/d/e/f.G", METHOD),
        ] {
            assert_eq!(GoPattern::as_far_as(pattern, METHOD), compared);
        }
        assert_eq!(GoPattern::as_far_as("f", "ns::operator/(int)"), "ns::operator/(int)");
    }

    #[test]
    fn last_components_pass_over_closures() {
        for (name, last) in [
            (METHOD, "Search"),
            ("a/b.(*T).F.func1.2", "F"),
            ("a/b.(*T).F-fm", "F-fm"),
            ("a/b.Sum[...]", "Sum"),
            ("main.main.gowrap3", "main"),
            ("a/b.(*T)", "T"),
        ] {
            assert_eq!(GoPattern::last_component(name), last, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_pattern_panics(pattern in ".{0,40}", name in ".{0,60}") {
            matches(&pattern, &name);
            let _ = GoPattern::last_component(&name);
        }
    }
}
