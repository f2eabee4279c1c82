//! What the stitcher must know of the plan: which probe is which span, and how work is handed over.
//!
//! Serialisable, because a recording carries the rules it was made under.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ProbeId;

/// All that the stitcher must know.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// The symbol map's name.
    pub map: String,
    /// The span declarations, in the map's order.
    pub spans: Vec<SpanRule>,
    /// The probes, by [`ProbeId`].
    pub probes: Vec<ProbeRule>,
    /// The hand-offs, in the map's order.
    pub handoffs: Vec<HandoffRule>,
    /// What becomes of a span that has no parent and is no root.
    pub orphans: OrphanPolicy,
}

/// One `[[span]]` of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpanRule {
    /// The span's name.
    pub name: Arc<str>,
    /// The stage, if the map names one.
    pub stage: Option<Arc<str>>,
    /// Whether it starts a trace.
    pub root: bool,
    /// `db.system.name` (roots).
    pub system: Arc<str>,
    /// `db.operation.name`, if the map names one (roots).
    pub operation: Option<Arc<str>>,
}

/// What the calls of a probed function tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watches {
    /// Themselves: the map names the function.
    #[default]
    Calls,
    /// That an exception has landed: calls below it on the stack are gone.
    Unwinding,
    /// That calls are left by `longjmp`; its word says which.
    Jumping,
    /// That the dynamic loader has mapped or unmapped an object.
    Loading,
}

/// One probed function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeRule {
    /// The function, demangled, without its parameter list (`code.function.name`).
    pub function: Arc<str>,
    /// The object it lives in, by file name.
    pub object: Arc<str>,
    /// Index into [`Rules::spans`]; none if it is probed for a hand-off only.
    pub span: Option<u16>,
    /// What its calls tell.
    pub watches: Watches,
    /// Where it stands in its source, if the debug information tells.
    pub source: Option<SourceLine>,
}

/// A place in a source file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    /// The file, as the compiler was given it.
    pub file: Arc<str>,
    /// The line, from 1.
    pub line: Option<u32>,
}

/// A word of a capture program, by position.
pub type WordIndex = u8;

/// When in a call a hand-off happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// As the call begins; the words are those of the enter.
    Enter,
    /// As the call returns; the words are those of the exit.
    Exit,
}

/// One side of a hand-off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffEnd {
    /// The functions on this side (raw [`ProbeId`]s), with the words that make the key there.
    pub probes: Vec<(u16, Vec<WordIndex>)>,
    /// When in the call.
    pub moment: Moment,
}

impl HandoffEnd {
    /// The words that make the key on this side of `probe`, if it is on this side.
    #[must_use]
    pub fn key_of(&self, probe: ProbeId) -> Option<&[WordIndex]> {
        self.probes.iter().find(|(id, _)| *id == probe.0).map(|(_, key)| key.as_slice())
    }
}

/// How often a given key may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Takes {
    /// At most so many times.
    Times(u32),
    /// As often as it is asked for.
    Any,
}

/// Where a key means the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Within one process.
    #[default]
    Process,
    /// In the whole target: several processes.
    Target,
}

/// One `[[handoff]]` of the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandoffRule {
    /// The hand-off's name; the evidence reads `handoff:NAME`.
    pub name: Arc<str>,
    /// Who gives.
    pub give: HandoffEnd,
    /// Who takes.
    pub take: HandoffEnd,
    /// Who ends a key; none: the end of its giver's trace does.
    #[serde(default)]
    pub until: Option<HandoffEnd>,
    /// How often.
    pub takes: Takes,
    /// Where the key is unique.
    pub scope: Scope,
    /// If set, the wait between give and take becomes a span of this name and stage `queue`.
    pub span: Option<Arc<str>>,
}

/// What becomes of a span that has no parent and is no root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrphanPolicy {
    /// Dropped, and counted.
    #[default]
    Drop,
    /// Kept as a trace of its own.
    Keep,
}
