//! Patterns on function names: what they match, and what a mangled name must contain to match.

use memchr::memmem;

use super::function::Language;
use super::go_pattern::GoPattern;
use super::name::{self, Name};
use super::rust_name;

/// `*` stands for anything (also nothing, `::` and spaces), `?` for one byte, all else for itself:
/// brackets and braces are common in names.
#[must_use]
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut p, mut t) = (0, 0);
    // Where to go on if what follows the last star does not fit here.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                p += 1;
                retry = Some((p, t));
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((after_star, at)) = retry else { return false };
                p = after_star;
                t = at + 1;
                retry = Some((p, t));
            }
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// A pattern, read once and matched often.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    form: Form,
    /// The base as Rust names are spelt here, if it was written otherwise: `<T>::f`.
    rust: Option<String>,
    /// Whether it asks for thunks by name.
    thunks: bool,
    fragments: Vec<Fragment>,
    /// The same pattern on Go names, which are written by other rules.
    go: GoPattern,
    go_fragments: Vec<Fragment>,
    go_component: String,
}

#[derive(Clone, Debug)]
enum Form {
    /// No parameter list: `ns::Type::method`.
    Base(String),
    /// With one. Qualifiers count only where the pattern has some: `f(*)` is also `f() const`.
    Call { base: String, parameters: String, qualifiers: String },
    /// Parentheses, but not at the end: `(anonymous namespace)::f`, `*lambda(int)*`.
    Whole(String),
}

impl Pattern {
    /// Reads a pattern.
    pub(super) fn new(text: &str) -> Self {
        let go = GoPattern::new(text);
        let go_fragments = go.words().iter().map(|word| Fragment::new(word, false)).collect();
        let go_component = GoPattern::last_component(text.trim()).to_owned();
        let text = name::normalised(text.trim());
        let form = if !text.contains('(') {
            Form::Base(text.clone())
        } else if let Some((base, parameters, qualifiers)) = name::split_call(&text) {
            Form::Call {
                base: base.into(),
                parameters: parameters.into(),
                qualifiers: qualifiers.into(),
            }
        } else {
            Form::Whole(text.clone())
        };
        let (Form::Base(base) | Form::Call { base, .. } | Form::Whole(base)) = &form;
        let fragments = fragments(base);
        let rust = Some(rust_name::readable(base)).filter(|rust| rust != base);
        let thunks = text.contains("thunk");
        Self { form, rust, thunks, fragments, go, go_fragments, go_component }
    }

    /// Whether a symbol of a language, with this name in the symbol table and this readable name,
    /// matches.
    pub(super) fn matches(&self, language: Language, linkage: &str, name: &Name) -> bool {
        match language {
            Language::Native => self.matches_native(linkage, name),
            Language::Go | Language::GccGo | Language::TinyGo => self.go.matches(&name.full),
        }
    }

    fn matches_native(&self, linkage: &str, name: &Name) -> bool {
        if name::is_thunk(linkage) && !self.thunks {
            return false;
        }
        if name.parameters.is_none()
            && let Some(rust) = &self.rust
            && (glob(rust, &name.base) || glob(rust, &name.full))
        {
            return true;
        }
        match &self.form {
            Form::Base(base) => {
                glob(base, &name.base)
                    // Rust: the generic arguments may be asked for.
                    || (name.parameters.is_none() && glob(base, &name.full))
            }
            Form::Call { base, parameters, qualifiers } => {
                let same_parameters = match &name.parameters {
                    Some(theirs) => glob(parameters, theirs),
                    // C and Rust names do not tell: any parameter list is this one.
                    None => parameters == "(*)",
                };
                same_parameters
                    && (qualifiers.is_empty() || *qualifiers == name.qualifiers)
                    && glob(base, &name.base)
            }
            Form::Whole(whole) => glob(whole, &name.full) || glob(whole, &name.base),
        }
    }

    /// What every mangled name that matches contains; the best to look for first. Empty: nothing
    /// is certain.
    pub(super) fn fragments(&self, language: Language) -> &[Fragment] {
        match language {
            Language::Native => &self.fragments,
            Language::Go | Language::GccGo | Language::TinyGo => &self.go_fragments,
        }
    }

    /// The last component, for the search for Go names that are near.
    pub(super) fn go_component(&self) -> &str {
        &self.go_component
    }

    /// The last component, for the search for names that are near.
    pub(super) fn last_component(&self) -> String {
        let outside = without_arguments(self.base());
        outside.rsplit("::").find(|part| !part.is_empty()).unwrap_or_default().to_owned()
    }

    /// The pattern without its parameter list.
    pub(super) fn base(&self) -> &str {
        match &self.form {
            Form::Base(base) | Form::Call { base, .. } | Form::Whole(base) => base,
        }
    }

    /// Whether the pattern speaks of parameters.
    pub(super) fn has_parameters(&self) -> bool {
        !matches!(self.form, Form::Base(_))
    }
}

/// A piece of an identifier that a mangled name must contain.
#[derive(Clone, Debug)]
pub(super) struct Fragment {
    finder: memmem::Finder<'static>,
    /// The same with its length before it, as manglings write a whole identifier.
    prefixed: Option<memmem::Finder<'static>>,
}

impl Fragment {
    fn new(text: &str, whole: bool) -> Self {
        let prefixed = whole.then(|| format!("{}{text}", text.len()));
        Self {
            finder: memmem::Finder::new(text).into_owned(),
            prefixed: prefixed.map(|text| memmem::Finder::new(&text).into_owned()),
        }
    }

    /// What to look for in a whole string table.
    pub(super) fn finder(&self) -> &memmem::Finder<'static> {
        &self.finder
    }

    /// Whether a name in the symbol table contains it.
    pub(super) fn is_in(&self, linkage: &[u8]) -> bool {
        match &self.prefixed {
            Some(prefixed) if linkage.starts_with(b"_Z") || linkage.starts_with(b"_R") => {
                prefixed.find(linkage).is_some()
            }
            _ => self.finder.find(linkage).is_some(),
        }
    }
}

/// The identifiers, or pieces of them, of a pattern that appear literally in the mangled name of
/// everything it matches. Both manglings write an identifier out where it first occurs (later ones
/// may be back references, Itanium ABI 5.1.10 and Rust RFC 2603), so only what the demangler makes
/// up is uncertain: see [`MADE_UP`]. Best first: the last if it is long enough, else the longest.
fn fragments(pattern: &str) -> Vec<Fragment> {
    let bytes = pattern.as_bytes();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let mut found: Vec<(&str, bool)> = Vec::new();
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        if !is_word(byte) {
            match byte {
                // Types and parameters: builtin types and abbreviations are written otherwise.
                b'<' | b'(' | b'{' | b'[' => depth += 1,
                b'>' | b')' | b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            at += 1;
            continue;
        }
        let end = bytes[at..].iter().position(|&b| !is_word(b)).map_or(bytes.len(), |n| at + n);
        let word = &pattern[at..end];
        let before = at.checked_sub(1).map(|at| bytes[at]);
        let after = bytes.get(end).copied();
        let wild = |byte: Option<u8>| matches!(byte, Some(b'*' | b'?'));
        let clear = matches!(before, None | Some(b':' | b'~' | b'*' | b'?'))
            && matches!(after, None | Some(b':' | b'<' | b'(' | b'*' | b'?'));
        let partial = wild(before) || wild(after);
        let certain = if partial {
            !MADE_UP.iter().any(|made_up| made_up.contains(word))
        } else {
            !MADE_UP.contains(&word)
        };
        if depth == 0 && clear && certain {
            // v0 may put an underscore between the length and such a beginning.
            let plain_start = bytes[at].is_ascii_alphabetic();
            found.push((word, !partial && after.is_none() && plain_start));
        }
        at = end;
    }
    let last_is_good = found.last().is_some_and(|(word, _)| word.len() >= 4);
    if last_is_good {
        found.reverse();
    } else {
        found.sort_by_key(|(word, _)| std::cmp::Reverse(word.len()));
    }
    found.into_iter().map(|(word, whole)| Fragment::new(word, whole)).collect()
}

/// Words a demangler writes that are not in the mangled name: the abbreviations of `std`, builtin
/// types, operators, unnamed things, and what we rewrite ourselves.
const MADE_UP: [&str; 83] = [
    "std",
    "allocator",
    "basic_string",
    "string",
    "basic_istream",
    "basic_ostream",
    "basic_iostream",
    "istream",
    "ostream",
    "iostream",
    "char_traits",
    "char",
    "signed",
    "unsigned",
    "short",
    "int",
    "long",
    "__int64",
    "__int128",
    "bool",
    "float",
    "double",
    "__float128",
    "half",
    "_Float16",
    "void",
    "wchar_t",
    "char8_t",
    "char16_t",
    "char32_t",
    "auto",
    "decltype",
    "nullptr_t",
    "const",
    "volatile",
    "restrict",
    "complex",
    "imaginary",
    "operator",
    "new",
    "delete",
    "co_await",
    "lambda",
    "unnamed",
    "type",
    "anonymous",
    "namespace",
    "non-virtual",
    "virtual",
    "override",
    "thunk",
    "covariant",
    "return",
    "guard",
    "variable",
    "transaction",
    "clone",
    "vtable",
    "typeinfo",
    "initialization",
    "function",
    "reference",
    "temporary",
    "closure",
    "shim",
    "drop_in_place",
    "impl",
    "dyn",
    "str",
    "i8",
    "i16",
    "i32",
    "i64",
    "i128",
    "isize",
    "usize",
    "u8",
    "u16",
    "u32",
    "u64",
    "u128",
    "f32",
    "f64",
];

/// `a::B<c, d>::e` → `a::B::e`.
#[must_use]
pub fn without_arguments(base: &str) -> String {
    let mut depth = 0_usize;
    let mut in_receiver = false;
    let mut plain = String::with_capacity(base.len());
    for (at, character) in base.char_indices() {
        // A method of Go: `package.(*Type).Method`.
        if depth == 0 && base.get(at..).is_some_and(|rest| rest.starts_with("(*")) {
            in_receiver = plain.ends_with('.');
        }
        match character {
            '(' if in_receiver && depth == 0 => plain.push(character),
            ')' if in_receiver && depth == 0 => {
                in_receiver = false;
                plain.push(character);
            }
            '<' | '(' | '{' | '[' => depth += 1,
            '>' | ')' | '}' | ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(character),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, linkage: &str) -> bool {
        let pattern = Pattern::new(pattern);
        let found = pattern.matches(Language::Native, linkage, &name::read(linkage));
        if found {
            assert!(
                pattern.fragments(Language::Native).iter().all(|f| f.is_in(linkage.as_bytes())),
                "the filter hides {linkage} from {pattern:?}"
            );
        }
        found
    }

    #[test]
    fn what_is_in_brackets_goes_but_for_the_receiver_of_a_method_in_go() {
        for (base, plain) in [
            ("web/api/v1.(*API).queryRange", "web/api/v1.(*API).queryRange"),
            ("main.(*List[...]).Push.func1", "main.(*List).Push.func1"),
            ("milvus::Search<int>::run", "milvus::Search::run"),
            ("(anonymous namespace)::scan(int)", "::scan"),
            ("void (*f(int))(char)", "void "),
        ] {
            assert_eq!(without_arguments(base), plain, "{base}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text) in [
            ("*", ""),
            ("a*", "a"),
            ("*b*", "abc"),
            ("a?c", "abc"),
            ("a**c", "abbc"),
            ("*aab", "aaaab"),
        ] {
            assert!(glob(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("a", ""), ("a*b", "abc"), ("?", ""), ("operator[]", "operatora")]
        {
            assert!(!glob(pattern, text), "{pattern} {text}");
        }
    }

    /// `ns::A::f(int) const`, overloads, a lambda in it, and more.
    const METHOD: &str = "_ZNK2ns1A6searchEi";
    const LAMBDA: &str = "_ZZNK2ns1A6searchEiENUliE_clEi";
    const TEMPLATE: &str = "_ZN2ns7collectIiEEvT_";

    #[test]
    fn with_and_without_parameters() {
        for pattern in [
            "ns::A::search",
            "ns::*::search",
            "*search",
            "ns::A::search(int)",
            "ns::A::search(*)",
            "ns::A::search(*) const",
            "ns::A::search(int) const",
            "*::search(*)",
        ] {
            assert!(matches(pattern, METHOD), "{pattern}");
        }
        for pattern in [
            "search",
            "ns::A::search()",
            "ns::A::search(int) &",
            "ns::A::searc",
            "ns::A::search(long)",
        ] {
            assert!(!matches(pattern, METHOD), "{pattern}");
        }
    }

    #[test]
    fn a_parameter_list_is_not_a_lambda_inside() {
        assert!(!matches("ns::*::search(*)", LAMBDA));
        assert!(!matches("ns::*::search", LAMBDA));
        for pattern in [
            "ns::A::search*lambda*",
            "ns::A::search(int)*::{lambda(int)#1}::operator()",
            "*::operator()(int)",
            "*::operator()",
        ] {
            assert!(matches(pattern, LAMBDA), "{pattern}");
        }
    }

    #[test]
    fn templates_have_no_return_type_and_their_arguments_count() {
        for pattern in
            ["ns::collect<int>", "ns::collect<*>(*)", "ns::collect*", "ns::collect<int>(int)"]
        {
            assert!(matches(pattern, TEMPLATE), "{pattern}");
        }
        assert!(!matches("ns::collect", TEMPLATE));
        assert!(!matches("void ns::collect<int>", TEMPLATE));
    }

    #[test]
    fn abbreviations_and_made_up_words_hide_nothing() {
        for (pattern, linkage) in [
            ("std::string::append*", "_ZNSs6appendEPKc"),
            ("std::string::string", "_ZNSsC1Ev"),
            ("*strin*::*", "_ZNSsC1Ev"),
            ("std::vector<*>::push_back(*)", "_ZNSt6vectorIiSaIiEE9push_backERKi"),
            ("ns::A::operator bool", "_ZNK2ns1AcvbEv"),
            ("ns::A::operator()", "_ZN2ns1AclEi"),
            ("ns::A::operator[](*)", "_ZN2ns1AixEi"),
            ("ns::A::~A", "_ZN2ns1AD2Ev"),
            ("ns::A::A", "_ZN2ns1AC1Ev"),
            ("ns::A::tag", "_ZN2ns1A3tagB5cxx11Ev"),
            ("(anonymous namespace)::go", "_ZN12_GLOBAL__N_12goEv"),
            ("*anonymous*go", "_ZN12_GLOBAL__N_12goEv"),
            ("AsyncSearch", "AsyncSearch"),
            ("AsyncSearch(*)", "AsyncSearch"),
            ("go", "go.part.0"),
            ("core::ptr::drop_in_place*", "_RINvNtCs1_4core3ptr9drop_glueNtCs2_1a1TEB4_"),
            ("a::go::{{closure}}", "_RNCNvCs1_1a2go0B3_"),
            ("a::go::{{closure}}", "_ZN1a2go28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE"),
            ("*::_go", "_RNvCs1_1a3__go"),
            ("<a::T>::go", "_RNvMCs1_1aNtB2_1T2go"),
            ("a::T::go", "_RNvMCs1_1aNtB2_1T2go"),
            ("a::go::{closure#0}", "_RNCNvCs1_1a2go0B3_"),
        ] {
            assert!(matches(pattern, linkage), "{pattern}: {:?}", name::read(linkage));
        }
    }

    #[test]
    fn thunks_only_on_demand() {
        let thunk = "_ZThn16_N2ns1A2goEv";
        assert!(!matches("*ns::A::go(*)", thunk));
        assert!(matches("*thunk*ns::A::go(*)*", thunk));
    }

    #[test]
    fn last_components() {
        for (pattern, last) in [
            ("ns::A::search(*)", "search"),
            ("ns::collect<*>", "collect"),
            ("*::Search*", "Search*"),
            ("a::go::{{closure}}", "go"),
            ("ns::collect<ns::A>", "collect"),
            ("f", "f"),
            ("*", "*"),
        ] {
            assert_eq!(Pattern::new(pattern).last_component(), last, "{pattern}");
        }
    }

    proptest! {
        /// What a pattern made from a name matches, the filter lets through.
        #[test]
        fn the_filter_is_sound(cuts in proptest::collection::vec((0usize..60, 0usize..12), 0..4), which in 0usize..8) {
            let linkage = [METHOD, LAMBDA, TEMPLATE, "_ZNSs6appendEPKc", "_ZNSt6vectorIiSaIiEE9push_backERKi",
                "_ZN12_GLOBAL__N_12goEv", "_RNvMs_NtCs1_4core3numj3pow", "_RNCNvCs1_1a2go0B3_"][which];
            let mut pattern = name::read(linkage).full;
            for (at, len) in cuts {
                let at = at.min(pattern.len());
                let end = (at + len).min(pattern.len());
                pattern.replace_range(at..end, "*");
            }
            matches(&pattern, linkage);
        }
    }
}
