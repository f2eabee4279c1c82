//! Calls that the kernel side has added up: one span below the call they were made in.

use std::sync::Arc;

use profiler_common::FoldedCalls;

use crate::model::{Event, Evidence, ExitKind, Folded, FrameAddr, MonoNs, ProbeId};

use super::lane::{Context, LaneState};
use super::stitcher::Core;
use super::trace::{NewSpan, OpenTrace, SpanRef};

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
            .map(|frame| frame.context);
        let rule = self.rules.probes.get(folded.probe.index()).and_then(|probe| probe.span);
        let rule = rule.and_then(|span| self.rules.spans.get(usize::from(span)));
        let (Some(Context::Span(parent)), Some(rule)) = (around, rule) else {
            self.stats.orphans += u64::from(!self.refusing);
            return;
        };
        let Some(trace) = self.traces.get_mut(&parent.trace).filter(|t| t.can_be_parent(parent))
        else {
            self.stats.orphans += 1;
            return;
        };
        let known = trace.kernel_fold(parent, folded.probe);
        let span = known.unwrap_or_else(|| {
            let new = NewSpan {
                id: self.ids.span(),
                name: Arc::clone(&rule.name),
                stage: rule.stage.clone(),
                probe: Some(folded.probe),
                root: false,
                evidence: Evidence::Stack,
                start: MonoNs(folded.calls.first),
                lane: event.lane,
                tid: event.tid,
                lost: 0,
                rests_on: 0,
            };
            trace.begin_kernel_fold(parent, folded.probe, new)
        });
        trace.add_calls(span, &folded.calls);
    }
}

impl OpenTrace {
    /// The span that the calls of a function below another are added to.
    fn kernel_fold(&self, parent: SpanRef, probe: ProbeId) -> Option<SpanRef> {
        let span = *self.kernel_folds.get(&(parent.index, probe))?;
        self.get(span).filter(|open| !open.gone && !open.cut())?;
        Some(span)
    }

    fn begin_kernel_fold(&mut self, parent: SpanRef, probe: ProbeId, new: NewSpan) -> SpanRef {
        let start = new.start;
        let span = self.add(new, Some(parent.index));
        // What comes is told when it is over.
        self.close(span, start, ExitKind::Landing);
        if let Some(open) = self.get_mut(span) {
            open.span.calls = 0;
        }
        self.kernel_folds.insert((parent.index, probe), span);
        span
    }

    fn add_calls(&mut self, span: SpanRef, calls: &FoldedCalls) {
        let Some(open) = self.get_mut(span) else { return };
        let into = &mut open.span;
        into.calls += calls.count;
        into.start = into.start.min(MonoNs(calls.first));
        into.end = into.end.max(MonoNs(calls.last));
        open.ended += calls.ended;
        if calls.ended > 0 {
            let (min, max) = (calls.min, calls.max);
            let folded = into.folded.get_or_insert(Folded { sum: 0, min, max });
            folded.sum += calls.sum;
            folded.min = folded.min.min(min);
            folded.max = folded.max.max(max);
        }
        let all = open.ended >= into.calls;
        into.exit = if all { ExitKind::Landing } else { ExitKind::Inferred };
    }
}
