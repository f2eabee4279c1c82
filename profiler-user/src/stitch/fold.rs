//! Calls that the kernel side has added up: one span below the call they were made in.

use profiler_common::FoldedCalls;

use crate::model::{Event, ExitKind, Folded, FrameAddr, MonoNs, ProbeId};

use super::frames::{Context, Frame};
use super::lane::LaneState;
use super::stitcher::Core;
use super::trace::{Basis, More, NewSpan, OpenTrace, Rests, SpanRef, What};

/// What the kernel side tells.
pub(super) struct FoldedEvent {
    pub(super) probe: ProbeId,
    /// The return slot of the call they were made in, and the number of its event.
    pub(super) slot: FrameAddr,
    pub(super) number: u32,
    pub(super) calls: FoldedCalls,
}

impl Core {
    pub(super) fn folded(&mut self, lane: &LaneState, event: &Event, folded: &FoldedEvent) {
        let around = lane
            .frames()
            .find(|frame| frame.slot == folded.slot && frame.number == folded.number)
            .filter(|frame| !frame.is_doubtful())
            .map(Frame::context);
        let is_span = self.rules.probes.get(folded.probe.index()).is_some_and(|p| p.span.is_some());
        let (Some(Context::Span(parent)), true) = (around, is_span) else {
            self.stats.orphans += u64::from(!self.refusing);
            return;
        };
        let trace = self.traces.get_mut(parent.trace).filter(|t| t.can_be_parent(parent));
        let Some(trace) = trace else {
            self.stats.orphans += 1;
            return;
        };
        let known = trace.added_up(parent, folded.probe);
        let span = known.unwrap_or_else(|| {
            let new = NewSpan {
                id: self.ids.span(),
                what: What::Call(folded.probe),
                root: false,
                basis: Basis::Stack,
                start: MonoNs(folded.calls.first),
                lane: event.lane,
                tid: event.tid,
                lost: 0,
                rests: Rests::NOTHING,
            };
            trace.begin_adding_up(parent, folded.probe, new)
        });
        trace.add_calls(span, &folded.calls);
    }
}

impl OpenTrace {
    /// The span that the calls of a function below another are added to.
    fn added_up(&self, parent: SpanRef, probe: ProbeId) -> Option<SpanRef> {
        let span = *self.folding.as_ref()?.added_up.get(&(parent.index, probe))?;
        self.get(span).filter(|open| !open.gone && !open.is_cut())?;
        Some(span)
    }

    fn begin_adding_up(&mut self, parent: SpanRef, probe: ProbeId, new: NewSpan) -> SpanRef {
        let start = new.start;
        let span = self.add(new, Some(parent.index));
        // What comes is told when it is over.
        self.close(span, start, ExitKind::Landing);
        if let Some(open) = self.get_mut(span) {
            *open.more() = More { calls: 0, ..More::default() };
        }
        let folding = self.folding.get_or_insert_default();
        folding.added_up.insert((parent.index, probe), span);
        span
    }

    fn add_calls(&mut self, span: SpanRef, calls: &FoldedCalls) {
        let Some(open) = self.get_mut(span) else { return };
        open.start = open.start.min(MonoNs(calls.first));
        open.end = open.end.max(MonoNs(calls.last));
        let more = open.more();
        more.calls += calls.count;
        more.ended += calls.ended;
        if calls.ended > 0 {
            let (min, max) = (calls.min, calls.max);
            let folded = more.folded.get_or_insert(Folded { sum: 0, min, max });
            folded.sum += calls.sum;
            folded.min = folded.min.min(min);
            folded.max = folded.max.max(max);
        }
        let all = more.ended >= more.calls;
        open.exit = if all { ExitKind::Landing } else { ExitKind::Inferred };
    }
}
