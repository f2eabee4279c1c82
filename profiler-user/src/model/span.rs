//! What the stitcher makes of events.

use std::fmt;
use std::sync::Arc;

use super::{Lane, MonoNs, ProbeId, SpanId, Tid, TraceId};

/// Why a span has its parent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The parent's frame was open below it on the same stack.
    Stack,
    /// The parent's frame was open below it, on the other of the two stacks that a goroutine has while it
    /// runs functions in C: its own and the thread's.
    Cgo,
    /// The parent is an open call in whose `context.Context` this call is made.
    Context,
    /// The parent's frame was open when it made the goroutine, and still was when this first call came.
    Spawn,
    /// A key that the parent gave and this call took; the hand-off's name.
    Handoff(Arc<str>),
    /// It has no parent.
    None,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stack => f.write_str("stack"),
            Self::Cgo => f.write_str("cgo"),
            Self::Context => f.write_str("context"),
            Self::Spawn => f.write_str("spawn"),
            Self::Handoff(name) => write!(f, "handoff:{name}"),
            Self::None => f.write_str("none"),
        }
    }
}

/// How the end of a span is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExitKind {
    /// It was seen to come back: exact.
    Landing,
    /// Its `ret` was seen: exact.
    Ret,
    /// A witness saw its frame unwound (thread or process end): exact.
    Unwound,
    /// Its function was left by a jump to another, whose return was not seen: a lower bound.
    Jump,
    /// A later event proves it gone: the end is an upper bound.
    Inferred,
    /// Still running when we stopped, or gave up waiting.
    Open,
}

impl ExitKind {
    /// The word in `qprof.exit`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Landing => "landing",
            Self::Ret => "ret",
            Self::Unwound => "unwound",
            Self::Jump => "jump",
            Self::Inferred => "inferred",
            Self::Open => "open",
        }
    }
}

/// One call (or one wait between the two sides of a hand-off), finished.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    /// Its id, unique in the run.
    pub id: SpanId,
    /// Its parent, if it has one.
    pub parent: Option<SpanId>,
    /// Why it has that parent.
    pub evidence: Evidence,
    /// Its name, from the map.
    pub name: Arc<str>,
    /// Its stage, if the map names one; `queue` for a wait.
    pub stage: Option<Arc<str>>,
    /// The function; none for a wait.
    pub probe: Option<ProbeId>,
    /// Whether the map declares it a root.
    pub root: bool,
    /// When it began.
    pub start: MonoNs,
    /// When it ended.
    pub end: MonoNs,
    /// How its end is known.
    pub exit: ExitKind,
    /// The lane it ran on; a wait: the taker's.
    pub lane: Lane,
    /// The thread it began on.
    pub tid: Tid,
    /// Duration less the union of its children's, clipped to it; nanoseconds.
    pub self_time: u64,
    /// Events lost on its lane while it was open: what it shows may not be all.
    pub lost: u64,
    /// How many requests this call served, where it is more than one.
    pub shared: u32,
    /// The other givers of shared work: span links.
    pub links: Vec<(TraceId, SpanId)>,
    /// How many calls are folded into this span: 1, or more over the bound or `--min-span`.
    pub calls: u64,
    /// Of folded calls: sum, minimum and maximum of their durations, nanoseconds.
    pub folded: Option<Folded>,
}

/// Durations of folded calls, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Their sum.
    pub sum: u64,
    /// The shortest.
    pub min: u64,
    /// The longest.
    pub max: u64,
}

impl Span {
    /// How long it took, nanoseconds.
    #[must_use]
    pub const fn duration(&self) -> u64 {
        self.end.since(self.start)
    }
}

/// Whether a trace is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceEnd {
    /// Its root has closed and nothing under it is open.
    Complete,
    /// Sent before that: the grace time, a bound, or our own end came first.
    Incomplete,
    /// Spans of a trace that was sent before.
    Late,
}

/// The spans of one query. Parents come before their children; siblings by start.
#[derive(Clone, Debug, PartialEq)]
pub struct Trace {
    /// Its id.
    pub id: TraceId,
    /// Whether it is whole.
    pub end: TraceEnd,
    /// Spans of which calls were not seen any more when it was finished, because they cost too much.
    pub detached: Arc<[Arc<str>]>,
    /// The spans; the first is the trace's top, except in a late part.
    pub spans: Vec<Span>,
}

impl Trace {
    /// The top span: the one without a parent.
    #[must_use]
    pub fn root(&self) -> Option<&Span> {
        self.spans.first().filter(|span| span.parent.is_none())
    }
}
