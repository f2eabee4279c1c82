//! A finished trace: its spans in order, with their self times.

use crate::model::{ExitKind, MonoNs, Span, SpanId, Trace, TraceEnd};

use super::names::Names;
use super::trace::{More, Open, OpenTrace, What};

/// No index.
const NONE: u32 = u32::MAX;

/// Room for putting spans in order, used again for every trace.
#[derive(Debug, Default)]
pub(super) struct Arranger {
    /// Indices of the spans to send, by start.
    order: Vec<u32>,
    /// By index: where the span is in `order`, if it is sent.
    place: Vec<u32>,
    /// By place in `order`.
    slots: Vec<Slot>,
    pending: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Places in `order`: of its parent, its first child, its next sibling.
    parent: u32,
    first: u32,
    next: u32,
    end: MonoNs,
    /// What its children cover of it, nanoseconds, and until when.
    covered: u64,
    until: MonoNs,
}

impl Arranger {
    /// Takes what there is of a trace. Spans that are still open are in it as such, ending with the
    /// root if that has closed: that they went on is known no further than that. Else they end at
    /// `now`.
    pub(super) fn finish(
        &mut self,
        trace: &mut OpenTrace,
        end: TraceEnd,
        now: MonoNs,
        names: &Names,
    ) -> Trace {
        let now = trace.root_closed.unwrap_or(now);
        let top = self.link(&trace.spans, now);
        let mut spans = Vec::with_capacity(self.order.len());
        self.pending.clear();
        self.pending.push(top);
        while let Some(at) = self.pending.pop() {
            let Some(slot) = self.slots.get(at as usize) else { continue };
            self.pending.push(slot.next);
            self.pending.push(slot.first);
            let open = self.order.get(at as usize).and_then(|at| trace.spans.get(*at as usize));
            let Some(open) = open else { continue };
            let parent = open.parent().and_then(|parent| trace.spans.get(parent as usize));
            spans.push(span(open, parent.map(|parent| parent.id), slot, names));
        }
        // What is sent is not sent again, though it may still be a parent.
        for open in &mut trace.spans {
            open.gone = true;
        }
        trace.sent = true;
        Trace { id: trace.id, end, detached: names.detached(), spans }
    }

    /// Puts what is to be sent in order by start, and links children to parents as lists: the first
    /// child of each, and the next sibling of each. The first without a parent.
    fn link(&mut self, spans: &[Open], now: MonoNs) -> u32 {
        let Self { order, place, slots, .. } = self;
        order.clear();
        order.extend((0_u32..).zip(spans).filter(|(_, open)| !open.gone).map(|(at, _)| at));
        let by_start = |at: &u32| spans.get(*at as usize).map(|open| (open.start, open.id));
        // As a rule they are: calls are added as they begin.
        if !order.is_sorted_by_key(by_start) {
            order.sort_unstable_by_key(by_start);
        }
        place.clear();
        place.resize(spans.len(), NONE);
        for (at, index) in (0_u32..).zip(&*order) {
            if let Some(place) = place.get_mut(*index as usize) {
                *place = at;
            }
        }
        slots.clear();
        slots.extend(order.iter().filter_map(|index| {
            let open = spans.get(*index as usize)?;
            let parent = open.parent().and_then(|parent| place.get(parent as usize).copied());
            let end = if open.closed { open.end } else { now.max(open.start) };
            let (parent, until) = (parent.unwrap_or(NONE), open.start);
            Some(Slot { parent, first: NONE, next: NONE, end, covered: 0, until })
        }));
        // By start: each interval is compared with what its elder siblings cover.
        for at in 0..slots.len() {
            let Some(&Slot { parent, end, .. }) = slots.get(at) else { continue };
            let index = order.get(at).and_then(|index| spans.get(*index as usize));
            let (Some(open), Some(parent)) = (index, slots.get_mut(parent as usize)) else {
                continue;
            };
            let (from, to) = (open.start.max(parent.until), end.min(parent.end));
            if let Some(folded) = open.more.as_ref().and_then(|more| more.folded) {
                // Between its calls it left room for others.
                parent.covered += folded.sum.min(end.since(open.start));
            } else if to > from {
                parent.covered += to.since(from);
                parent.until = to;
            }
        }
        // From the last, so that they come out by start.
        let mut top = NONE;
        for at in (0..slots.len()).rev() {
            let Some(&Slot { parent, .. }) = slots.get(at) else { continue };
            let head = slots.get_mut(parent as usize).map_or(&mut top, |parent| &mut parent.first);
            let next = std::mem::replace(head, at as u32);
            if let Some(slot) = slots.get_mut(at) {
                slot.next = next;
            }
        }
        top
    }
}

/// A span as it is sent. Its self time is its duration less the union of its children's intervals,
/// clipped to it; of folded calls the sum of their times counts.
fn span(open: &Open, parent: Option<SpanId>, slot: &Slot, names: &Names) -> Span {
    let (name, stage) = names.name(open.what);
    let More { lost, links, calls, folded, .. } = open.more.as_deref().cloned().unwrap_or_default();
    let time = folded.map_or_else(|| slot.end.since(open.start), |folded| folded.sum);
    Span {
        id: open.id,
        parent,
        evidence: names.evidence(open.basis),
        name,
        stage,
        probe: match open.what {
            What::Call(probe) => Some(probe),
            What::Wait(_) => None,
        },
        root: open.root,
        start: open.start,
        end: slot.end,
        exit: if open.closed { open.exit } else { ExitKind::Open },
        lane: open.lane,
        tid: open.tid,
        self_time: time.saturating_sub(slot.covered),
        lost,
        shared: 1 + links.len() as u32,
        links,
        calls,
        folded,
    }
}
