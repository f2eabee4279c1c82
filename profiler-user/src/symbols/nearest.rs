//! Names that are near one that was not found.

use std::borrow::Cow;

use rustc_hash::FxHashMap;

use super::function::Language;
use super::go_pattern::GoPattern;
use super::loaded::{Loaded, SymbolId};
use super::name::{self, Name};
use super::pattern::Pattern;

/// How many are told.
const TOLD: usize = 5;
/// How many last components are looked at whole.
const COMPONENTS: usize = 48;
/// How many names are demangled to find the best.
const DEMANGLED: usize = 256;
/// Longer names are compared by their beginnings.
const COMPARED: usize = 100;
/// By how much a component is nearer in the class, type or package that was written: a function of
/// another version keeps these rather than its name.
const SCOPED: usize = 2;
/// Where nothing is near, names are compared by so much of their beginnings.
const GLANCED: usize = 24;

/// A name and the same as the symbol table has it.
pub(super) struct Near {
    pub(super) name: Name,
    pub(super) linkage: String,
}

/// The last components of an object's names, which can be compared without demangling.
#[derive(Debug, Default)]
pub(super) struct Components(Vec<Component>);

#[derive(Debug)]
struct Component {
    /// In lower case.
    text: String,
    language: Language,
    names: Vec<SymbolId>,
}

impl Components {
    pub(super) fn of<'n>(names: impl Iterator<Item = (SymbolId, Language, &'n [u8])>) -> Self {
        let mut by_text: FxHashMap<(Language, String), Vec<SymbolId>> = FxHashMap::default();
        for (id, language, name) in names {
            let text = match language {
                Language::Native => String::from_utf8_lossy(&last_component(name)).to_lowercase(),
                Language::Go | Language::GccGo | Language::TinyGo => {
                    GoPattern::last_component(&String::from_utf8_lossy(name)).to_lowercase()
                }
            };
            by_text.entry((language, text)).or_default().push(id);
        }
        let all = by_text.into_iter().map(|((language, text), names)| Component {
            text,
            language,
            names,
        });
        let mut all: Vec<Component> = all.collect();
        all.sort_unstable_by(|a, b| (&a.text, a.language).cmp(&(&b.text, b.language)));
        Self(all)
    }
}

/// Five names near a pattern, nearest first. First the last components of all mangled names are
/// compared, which needs no demangling; then the names that have one of the best. Where none is
/// likely to be meant and `any` is enough, the nearest are told all the same: they show what names
/// look like here.
pub(super) fn nearest(objects: &[&Loaded], pattern: &Pattern, any: bool) -> Vec<Near> {
    let plain = |component: &str| component.replace(['*', '?'], "").to_lowercase();
    let (wanted, wanted_go) = (plain(&pattern.last_component()), plain(pattern.go_component()));
    if wanted.is_empty() && wanted_go.is_empty() {
        return Vec::new();
    }
    let ranked = |how: fn(&str, &str) -> Option<usize>| {
        let all = objects.iter().flat_map(|&object| {
            object.components().0.iter().map(move |component| (object, component))
        });
        all.filter_map(|(object, Component { text, language, names })| {
            let wanted = if *language == Language::Native { &wanted } else { &wanted_go };
            Some((how(wanted, text)?, text.as_str(), object, names.as_slice()))
        })
        .collect::<Vec<_>>()
    };
    let mut best = ranked(distance);
    if best.is_empty() && any {
        best = ranked(far_distance);
    }
    best.sort_by_key(|&(far, text, ..)| (far, text));
    best.truncate(COMPONENTS);

    let base = start(pattern.base(), COMPARED);
    let mut near: Vec<_> = best
        .iter()
        .flat_map(|&(far, _, object, names)| names.iter().map(move |&id| (far, object, id)))
        .take(DEMANGLED)
        .map(|(far, object, id)| {
            let linkage = object.linkage(id).into_owned();
            let name = object.name(id);
            let compared = GoPattern::as_far_as(pattern.base(), &name.base);
            let same_scope = scope(pattern.base()).is_some_and(|at| scope(compared) == Some(at));
            let far = if same_scope { far.saturating_sub(SCOPED) } else { far };
            let unlike = strsim::osa_distance(base, start(compared, COMPARED));
            (far, unlike, Near { name, linkage })
        })
        .collect();
    near.sort_by(|a, b| (a.0, a.1, &a.2.name.base).cmp(&(b.0, b.1, &b.2.name.base)));
    near.dedup_by(|a, b| {
        a.2.name.base == b.2.name.base && a.2.name.parameters == b.2.name.parameters
    });
    near.into_iter().map(|(_, _, near)| near).take(TOLD).collect()
}

/// How far a component is from the one wanted; none: too far to be told.
fn distance(wanted: &str, component: &str) -> Option<usize> {
    let longer = wanted.len().max(component.len());
    let shorter = wanted.len().min(component.len());
    if shorter == 0 || longer > COMPARED {
        return None;
    }
    // `Search` for `SearchOnGrowing`: no slip of the finger, but what was meant.
    let extends = wanted.len() >= 4 && component.contains(wanted);
    let shortens = 2 * component.len() >= wanted.len() && wanted.contains(component);
    if extends || shortens {
        return Some((longer - shorter).div_ceil(3));
    }
    let tolerated = (wanted.len() / 3).max(1);
    if longer - shorter > tolerated {
        return None;
    }
    let far = strsim::osa_distance(wanted, component);
    (far <= tolerated).then_some(far)
}

/// How far a component is, however far; by their beginnings, as this is asked of all there are.
fn far_distance(wanted: &str, component: &str) -> Option<usize> {
    // What the compiler and the C library bring along is nobody's stage.
    let own = !component.is_empty() && !component.starts_with('_') && component.len() <= COMPARED;
    own.then(|| strsim::osa_distance(start(wanted, GLANCED), start(component, GLANCED)))
}

/// What stands before the last component of a name.
fn scope(name: &str) -> Option<&str> {
    name.rfind(['.', ':']).map(|at| &name[..at])
}

fn start(name: &str, most: usize) -> &str {
    let end = (0..=most.min(name.len())).rev().find(|&at| name.is_char_boundary(at));
    &name[..end.unwrap_or(0)]
}

/// The last identifier of the qualified name in a mangled name, the whole name if it is not
/// mangled. Read off an Itanium name without demangling it, which is a guess where it is intricate
/// but good enough to look closer.
fn last_component(linkage: &[u8]) -> Cow<'_, [u8]> {
    if linkage.starts_with(b"_R") {
        let name = name::read(&String::from_utf8_lossy(linkage));
        return Cow::Owned(Pattern::new(&name.full).last_component().into_bytes());
    }
    match linkage.strip_prefix(b"_Z") {
        Some(mangled) => Cow::Borrowed(last_source_name(mangled).unwrap_or(linkage)),
        None => Cow::Borrowed(linkage),
    }
}

/// The last `<source-name>` of an Itanium `<encoding>` that is outside template arguments.
fn last_source_name(mangled: &[u8]) -> Option<&[u8]> {
    let mut last = None;
    // Depth of template arguments and of the names within them.
    let mut depth = 0usize;
    let mut at = 0;
    while let Some(&byte) = mangled.get(at) {
        match byte {
            b'0'..=b'9' => {
                let digits = mangled[at..].iter().take_while(|b| b.is_ascii_digit()).count();
                let size = str::from_utf8(&mangled[at..at + digits]).ok();
                let size: usize = size.and_then(|size| size.parse().ok()).unwrap_or(0);
                let from = at + digits;
                let Some(identifier) = mangled.get(from..from.saturating_add(size)) else { break };
                let hash = size == 17 && identifier[0] == b'h';
                if depth == 0 && size > 0 && !hash && !identifier.starts_with(b"_$u7b$") {
                    last = Some(identifier);
                }
                at = from + size;
            }
            // Closures, constructors, operators: no identifiers, and no digits to misread.
            b'I' => {
                depth += 1;
                at += 1;
            }
            b'N' | b'X' | b'J' | b'F' if depth > 0 => {
                depth += 1;
                at += 1;
            }
            b'L' if depth > 0 => {
                // A literal: `Li3E`.
                let end = memchr::memchr(b'E', &mangled[at..]);
                at = end.map_or(mangled.len(), |end| at + end + 1);
            }
            b'S' | b'T' => {
                // A substitution: `S1_`, `T_`; `St` and the like are two letters.
                let run = mangled[at + 1..].iter().take_while(|b| b.is_ascii_alphanumeric());
                let run = run.count();
                let ended = mangled.get(at + 1 + run) == Some(&b'_') && run <= 4;
                at += if ended { run + 2 } else { 1 + usize::from(byte == b'S') };
            }
            b'E' => {
                if depth == 0 {
                    break;
                }
                depth -= 1;
                at += 1;
            }
            _ => at += 1,
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_components_of_mangled_names() {
        for (linkage, last) in [
            ("AsyncSearch", "AsyncSearch"),
            ("_Z3foov", "foo"),
            ("_ZNK6milvus7segcore24SegmentInternalInterface6SearchEPKNS_5query4PlanE", "Search"),
            ("_ZN2ns1AIN2ns1BEE3barEv", "bar"),
            ("_ZN2ns7collectIiEEvT_", "collect"),
            ("_ZN2nsL5LocalE3foo", "Local"),
            ("_ZN1a2go17h0123456789abcdefE", "go"),
            ("_RNvMs_NtCs1_4core3numj3pow", "pow"),
            ("_RNvCs1_1a2go", "go"),
            ("_RINvCs1_1a2goNtB2_1TEB2_", "go"),
            ("_RNCNvCs1_1a2go0B3_", "go"),
        ] {
            let found = last_component(linkage.as_bytes());
            assert_eq!(str::from_utf8(&found).unwrap(), last, "{linkage}");
        }
    }

    #[test]
    fn what_stands_before_the_last_component() {
        assert_eq!(scope("promql.(*Engine).exec"), Some("promql.(*Engine)"));
        assert_eq!(scope("ns::A::bar"), scope("ns::A::baz"));
        assert_ne!(scope("ns::A::bar"), scope("ns::B::bar"));
        assert_eq!(scope("main"), None);
    }

    #[test]
    fn distances() {
        assert_eq!(distance("search", "search"), Some(0));
        assert_eq!(distance("serach", "search"), Some(1));
        assert!(distance("search", "searchongrowing").is_some());
        assert_eq!(distance("search", "insert"), None);
    }
}
