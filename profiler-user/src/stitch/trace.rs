//! The traces that are not finished.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Evidence, ExitKind, Folded, Lane, MonoNs, ProbeId, Span, SpanId, Tid, TraceId};

/// A trace, in the order they began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TraceKey(pub(super) u64);

/// A span of an unfinished trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SpanRef {
    pub(super) trace: TraceKey,
    pub(super) index: u32,
    /// Which of the spans that have used the index, one after the other.
    generation: u32,
}

/// A span whose trace is not finished.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) span: Span,
    parent: Option<u32>,
    pub(super) closed: bool,
    children: u32,
    generation: u32,
    /// The event that took the key this span (or its links) rests on; 0: none.
    rests_on: u64,
    /// Not to be sent: it was folded away, cut out, or has been sent before.
    pub(super) gone: bool,
    /// Cut out: what hung here has no proven parent.
    cut: bool,
    /// Of calls that the kernel side added up: those whose ends it saw.
    pub(super) ended: u64,
}

impl Open {
    pub(super) const fn cut(&self) -> bool {
        self.cut
    }
}

/// An unfinished trace.
#[derive(Clone, Debug)]
pub(super) struct OpenTrace {
    key: TraceKey,
    pub(super) id: TraceId,
    pub(super) spans: Vec<Open>,
    /// Indices of `spans` to use again.
    free: Vec<u32>,
    /// Into which span the calls of a name below a parent are folded.
    folds: FxHashMap<(u32, Arc<str>), u32>,
    /// The spans of calls that the kernel side adds up, by parent and function.
    pub(super) kernel_folds: FxHashMap<(u32, ProbeId), SpanRef>,
    open: usize,
    /// The latest event that took a key for it.
    latest_take: u64,
    /// When the root closed; none while it is open.
    pub(super) root_closed: Option<MonoNs>,
    /// A part of it has been sent.
    pub(super) sent: bool,
}

/// What a new span is.
#[derive(Clone, Debug)]
pub(super) struct NewSpan {
    pub(super) id: SpanId,
    pub(super) name: Arc<str>,
    pub(super) stage: Option<Arc<str>>,
    pub(super) probe: Option<ProbeId>,
    pub(super) root: bool,
    pub(super) evidence: Evidence,
    pub(super) start: MonoNs,
    pub(super) lane: Lane,
    pub(super) tid: Tid,
    pub(super) lost: u64,
    /// The event that took the key it hangs by; 0: none.
    pub(super) rests_on: u64,
}

impl OpenTrace {
    pub(super) fn new(key: TraceKey, id: TraceId) -> Self {
        Self {
            key,
            id,
            spans: Vec::new(),
            free: Vec::new(),
            folds: FxHashMap::default(),
            kernel_folds: FxHashMap::default(),
            open: 0,
            latest_take: 0,
            root_closed: None,
            sent: false,
        }
    }

    /// Adds an open span.
    pub(super) fn add(&mut self, new: NewSpan, parent: Option<u32>) -> SpanRef {
        let parent_id = parent.and_then(|parent| {
            let parent = self.spans.get_mut(parent as usize)?;
            parent.children += 1;
            Some(parent.span.id)
        });
        let NewSpan { id, name, stage, probe, root, evidence, start, lane, tid, lost, rests_on } =
            new;
        let span = Span {
            id,
            parent: parent_id,
            evidence,
            name,
            stage,
            probe,
            root,
            start,
            end: start,
            exit: ExitKind::Open,
            lane,
            tid,
            self_time: 0,
            lost,
            shared: 1,
            links: Vec::new(),
            calls: 1,
            folded: None,
        };
        self.open += 1;
        self.latest_take = self.latest_take.max(rests_on);
        let mut open = Open {
            span,
            parent,
            closed: false,
            children: 0,
            generation: 0,
            rests_on,
            gone: false,
            cut: false,
            ended: 0,
        };
        if let Some(index) = self.free.pop()
            && let Some(slot) = self.spans.get_mut(index as usize)
        {
            open.generation = slot.generation.wrapping_add(1);
            let generation = open.generation;
            *slot = open;
            return SpanRef { trace: self.key, index, generation };
        }
        self.spans.push(open);
        // Bounded by the limit of spans, and by the frames that can be open, far below 2³².
        let index = (self.spans.len() - 1) as u32;
        SpanRef { trace: self.key, index, generation: 0 }
    }

    /// A span, unless it was folded away.
    pub(super) fn get(&self, span: SpanRef) -> Option<&Open> {
        self.spans.get(span.index as usize).filter(|open| open.generation == span.generation)
    }

    pub(super) fn get_mut(&mut self, span: SpanRef) -> Option<&mut Open> {
        let found = self.spans.get_mut(span.index as usize);
        found.filter(|open| open.generation == span.generation)
    }

    /// Whether a span can be a parent.
    pub(super) fn can_be_parent(&self, span: SpanRef) -> bool {
        self.get(span).is_some_and(|open| !open.cut)
    }

    pub(super) fn parent_of(&self, span: SpanRef) -> Option<SpanRef> {
        let index = self.get(span)?.parent?;
        let generation = self.spans.get(index as usize)?.generation;
        Some(SpanRef { trace: self.key, index, generation })
    }

    /// Links a span to another giver of its work.
    pub(super) fn link(&mut self, span: SpanRef, link: (TraceId, SpanId), taken: u64) {
        let Some(open) = self.get_mut(span) else { return };
        if open.span.links.contains(&link) {
            return;
        }
        open.span.links.push(link);
        open.span.shared += 1;
        open.rests_on = taken;
        self.latest_take = self.latest_take.max(taken);
    }

    /// Closes a span. An upper bound on the end of a call below another on the stack never reaches
    /// beyond the other's end. Work that was handed over may outlive its giver.
    pub(super) fn close(&mut self, span: SpanRef, end: MonoNs, exit: ExitKind) {
        let Some(open) = self.get(span).filter(|open| !open.closed) else { return };
        let bound = if exit == ExitKind::Inferred { self.bound(open.parent, end) } else { end };
        let Some(open) = self.get_mut(span) else { return };
        open.closed = true;
        open.span.exit = exit;
        open.span.end = end.min(bound).max(open.span.start);
        let end = open.span.end;
        self.open -= 1;
        if span.index == 0 {
            self.root_closed = Some(end);
        }
    }

    /// The earliest end among what has closed above.
    fn bound(&self, mut above: Option<u32>, end: MonoNs) -> MonoNs {
        let mut bound = end;
        while let Some(open) = above.and_then(|index| self.spans.get(index as usize)) {
            if open.closed {
                bound = bound.min(open.span.end);
            }
            above = open.parent;
        }
        bound
    }

    /// The span that stands for all calls of a name below a parent, once the trace is over its
    /// bound and there is one.
    pub(super) fn stands_for(&self, span: SpanRef, limit: usize) -> Option<SpanRef> {
        if self.spans.len() - self.free.len() <= limit {
            return None;
        }
        let open = self.get(span)?;
        let index = *self.folds.get(&(open.parent?, Arc::clone(&open.span.name)))?;
        let first = self.spans.get(index as usize).filter(|first| !first.gone)?;
        Some(SpanRef { trace: self.key, index, generation: first.generation })
    }

    /// Folds a closed leaf into its first sibling of the same name, if the trace is over its bound.
    /// Whether it did.
    pub(super) fn fold(&mut self, span: SpanRef, limit: usize) -> bool {
        if self.spans.len() - self.free.len() <= limit {
            return false;
        }
        let Some(open) = self.get(span).filter(|open| !open.gone) else { return false };
        let (Some(parent), true) = (open.parent, open.closed) else { return false };
        if open.children > 0 {
            // What hangs below it stays; later calls, and what they call, fold into these.
            let name = (parent, Arc::clone(&open.span.name));
            self.folds.entry(name).or_insert(span.index);
            return false;
        }
        let duration = open.span.duration();
        let lost = open.span.lost;
        let name = (parent, Arc::clone(&open.span.name));
        let into = *self.folds.entry(name.clone()).or_insert(span.index);
        let sibling = self.spans.get_mut(into as usize).filter(|_| into != span.index);
        let Some(sibling) = sibling else { return false };
        if sibling.gone {
            // It has been sent or cut out.
            self.folds.insert(name, span.index);
            return false;
        }
        let first = sibling.span.duration();
        let into = &mut sibling.span;
        let folded = into.folded.get_or_insert(Folded { sum: first, min: first, max: first });
        folded.sum += duration;
        folded.min = folded.min.min(duration);
        folded.max = folded.max.max(duration);
        into.calls += 1;
        into.lost += lost;
        if let Some(parent) = self.spans.get_mut(parent as usize) {
            parent.children -= 1;
        }
        if let Some(open) = self.get_mut(span) {
            open.gone = true;
            // Whoever still holds it must not take the next user of its place for it.
            open.generation = open.generation.wrapping_add(1);
        }
        self.free.push(span.index);
        true
    }

    /// Undoes what rests on keys taken after the event `since`: spans that hang by them go, with
    /// all below them, and links. How many spans and links that were.
    pub(super) fn cut_since(&mut self, since: u64) -> u64 {
        if self.latest_take <= since {
            return 0;
        }
        let mut count = 0;
        let mut children: Vec<Vec<u32>> = vec![Vec::new(); self.spans.len()];
        let mut next = Vec::new();
        for (index, open) in (0_u32..).zip(&mut self.spans) {
            if open.gone && open.cut {
                continue;
            }
            if let Some(list) = open.parent.and_then(|parent| children.get_mut(parent as usize)) {
                list.push(index);
            }
            if open.rests_on > since {
                if matches!(open.span.evidence, Evidence::Handoff(_)) {
                    next.push(index);
                } else {
                    count += open.span.links.len() as u64;
                    open.span.links.clear();
                    open.span.shared = 1;
                    open.rests_on = 0;
                }
            }
        }
        while let Some(index) = next.pop() {
            let Some(open) = self.spans.get_mut(index as usize).filter(|open| !open.cut) else {
                continue;
            };
            count += u64::from(!open.gone);
            open.gone = true;
            open.cut = true;
            if !open.closed {
                open.closed = true;
                self.open -= 1;
            }
            next.append(&mut children[index as usize]);
        }
        self.latest_take = since;
        count
    }

    /// Something of it is still to be sent.
    pub(super) fn has_unsent(&self) -> bool {
        self.spans.iter().any(|open| !open.gone)
    }

    /// Nothing of it is open.
    pub(super) const fn is_over(&self) -> bool {
        self.open == 0 && self.root_closed.is_some()
    }
}
