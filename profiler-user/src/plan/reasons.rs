//! What the user reads when a selector found nothing to probe.

use super::{Missing, Skipped};
use crate::config::{Select, Selector, SpanDecl};
use crate::symbols::Nothing;

/// A selector as the map has it.
pub(super) fn pattern(selector: &Selector) -> String {
    let what = match &selector.select {
        Select::Function(glob) => glob.clone(),
        Select::Linkage(name) => name.clone(),
        Select::Address(address) => address.to_string(),
    };
    match &selector.object {
        Some(object) => format!("{what} in {object}"),
        None => what,
    }
}

pub(super) fn missing(span: &SpanDecl, reasons: &[Skipped]) -> Missing {
    let why: Vec<String> = match reasons {
        [only] if only.what == pattern(&span.selector) => vec![only.why.clone()],
        several => several.iter().map(|s| format!("{}: {}", s.what, s.why)).collect(),
    };
    Missing {
        span: span.name.to_string(),
        what: pattern(&span.selector),
        why: why.join("; "),
        line: span.line,
    }
}

/// Why a selector found nothing, and what to do.
pub(super) fn why_nothing(nothing: Option<&Nothing>) -> String {
    let list = |names: &[String]| names.join(", ");
    match nothing {
        Some(Nothing::NoObject(objects)) => {
            format!("no mapped object has this name; mapped are: {}", list(objects))
        }
        Some(Nothing::Stripped(objects)) => format!(
            "stripped of function symbols ({}): install the debug symbols, or give `address = 0x…`",
            objects.join("; ")
        ),
        Some(Nothing::NotCompared) => {
            "no function has this name: it may be spelled differently or have been inlined away; \
             names near it are looked for only for the first that are missing (`qprof symbols` \
             shows what there is)"
                .to_owned()
        }
        Some(Nothing::NoName(nearest)) if nearest.is_empty() => {
            "no function has this name: it may be spelled differently or have been inlined away"
                .to_owned()
        }
        Some(Nothing::NoName(nearest)) => {
            format!(
                "no function has this name: it may be spelled differently or have been inlined \
                 away; the nearest are {}",
                list(nearest)
            )
        }
        Some(Nothing::NoCode(names)) => format!(
            "has no code here: {} inlined away or imported from another object; choose a caller, \
             or name the object that has it",
            list(names)
        ),
        Some(Nothing::NoGo(reasons)) => {
            format!("no function has this name, and Go functions are not known: {}", list(reasons))
        }
        Some(Nothing::NoAddress(address)) => format!(
            "{address} lies in no function and no executable segment; addresses are those of the \
             ELF file, before it is loaded"
        ),
        None => "found nothing".to_owned(),
    }
}
