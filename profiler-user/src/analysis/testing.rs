//! Small traces for tests.

use crate::model::{
    Evidence, ExitKind, Lane, MonoNs, Pid, Span, SpanId, Tid, Trace, TraceEnd, TraceId,
};

/// A span: id, parent (0: none), name, start, end.
pub(crate) fn span(id: u64, parent: u64, name: &str, start: u64, end: u64) -> Span {
    Span {
        id: SpanId(id),
        parent: (parent != 0).then_some(SpanId(parent)),
        evidence: if parent == 0 { Evidence::None } else { Evidence::Stack },
        name: name.into(),
        stage: None,
        probe: None,
        root: parent == 0,
        start: MonoNs(start),
        end: MonoNs(end),
        exit: ExitKind::Ret,
        lane: Lane::Thread(Pid(1), Tid(1)),
        tid: Tid(1),
        self_time: 0,
        lost: 0,
        shared: 1,
        links: Vec::new(),
        calls: 1,
        folded: None,
    }
}

/// A whole trace of these spans.
pub(crate) fn trace(spans: Vec<Span>) -> Trace {
    Trace { id: TraceId(0xabc), end: TraceEnd::Complete, detached: [].into(), spans }
}
