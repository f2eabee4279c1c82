//! Why there is no plan.

use std::fmt;

use crate::plan::Skipped;

/// A required span that cannot be observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The span.
    pub span: String,
    /// The pattern, linkage name or address it asks for.
    pub what: String,
    /// Why it cannot be observed, and what comes near.
    pub why: String,
    /// Line in the map; from 1.
    pub line: usize,
}

/// Why there is no plan. Nothing has been attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Required spans cannot be observed.
    #[error(
        "symbol map `{map}` requires what this target does not have:{}\nSet `required = false` \
         on these spans to run without them, or adapt their patterns (`qprof symbols` shows what \
         there is).",
        Lines(missing)
    )]
    Required {
        /// The symbol map.
        map: String,
        /// All of them.
        missing: Vec<Missing>,
    },
    /// Not a single function can be probed.
    #[error(
        "symbol map `{map}`: nothing to probe in this target.{}\nIs it the right map \
         (`qprof maps`) and the right process? `qprof symbols` shows what functions there are.",
        Lines(skipped)
    )]
    Nothing {
        /// The symbol map.
        map: String,
        /// What was tried.
        skipped: Vec<Skipped>,
    },
    /// Functions for which the hand-offs ask for more words than one event holds.
    #[error(
        "symbol map `{map}`: the hand-off keys ask for more than {max} words of one call: {}. Use \
         fewer hand-offs on this function, or shorter keys.",
        functions.join("; ")
    )]
    TooManyWords {
        /// The symbol map.
        map: String,
        /// Each function, with the number of words and, where its exits are shared, with whom.
        functions: Vec<String>,
        /// How many words an event holds.
        max: usize,
    },
    /// More functions than there can be probes.
    #[error(
        "symbol map `{map}`: {count} functions match, {max} can be probed at once. Narrow the \
         patterns; the widest are: {widest}."
    )]
    TooManyProbes {
        /// The symbol map.
        map: String,
        /// How many functions match.
        count: usize,
        /// How many there can be.
        max: usize,
        /// The patterns that match most, with their counts.
        widest: String,
    },
    /// The symbol map has a key that cannot be captured where it is asked for.
    #[error(
        "symbol map `{map}`: hand-off `{handoff}`: {what}. Arguments 1–6 of C, C++ and Rust, \
         words 1–9 of those of Go can be captured as the call begins, `ret` as it returns."
    )]
    BadKey {
        /// The symbol map.
        map: String,
        /// The hand-off.
        handoff: String,
        /// The word, and what is wrong with it.
        what: String,
    },
    /// More spans than a plan can number, or results that do not belong to this map.
    #[error("symbol map `{map}`: {what}")]
    Unusable {
        /// The symbol map.
        map: String,
        /// What is wrong.
        what: String,
    },
}

/// One indented line each.
struct Lines<'a, T>(&'a [T]);

impl fmt::Display for Lines<'_, Missing> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|missing| {
            let Missing { span, what, why, line } = missing;
            write!(f, "\n  span `{span}` (line {line}, `{what}`): {why}")
        })
    }
}

impl fmt::Display for Lines<'_, Skipped> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|skipped| {
            let Skipped { wanted_by, what, why, line } = skipped;
            write!(f, "\n  {wanted_by} (line {line}, `{what}`): {why}")
        })
    }
}
