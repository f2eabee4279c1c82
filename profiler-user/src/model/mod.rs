//! The words of the project as types: events, spans, traces, and the numbers they are made of.
//!
//! Pure data: no I/O, no clock, no `unsafe`.
#![forbid(unsafe_code)]

mod event;
mod ids;
mod rules;
mod span;

pub use event::{Ahead, Contexts, Event, EventBody, Seen, Wanted, Words};
pub use ids::{
    ClockOffset, ContextAddr, FileOffset, FrameAddr, Goid, Lane, MonoNs, Pid, ProbeId, ReturnAddr,
    SpanId, ThreadNames, Tid, TraceId, VirtAddr, WallNs,
};
pub use rules::{
    HandoffEnd, HandoffRule, Moment, OrphanPolicy, ProbeRule, Rules, Scope, SourceLine, SpanRule,
    Takes, Watches, WordIndex,
};
pub use span::{Evidence, ExitKind, Folded, Span, Trace, TraceEnd};
