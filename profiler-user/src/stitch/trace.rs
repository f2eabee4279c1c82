//! The traces that are not finished.

use std::num::NonZeroU64;

use rustc_hash::FxHashMap;

use crate::model::{ExitKind, Folded, Lane, MonoNs, ProbeId, SpanId, Tid, TraceId};

use super::names::Names;

/// A trace: its number, in the order they began, and where it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct TraceKey(NonZeroU64);

impl TraceKey {
    /// The most traces that can be told apart by where they are kept.
    pub(super) const PLACES: usize = 1 << Self::PLACE_BITS;
    const PLACE_BITS: u32 = 24;
    /// The key of no trace.
    const NOBODYS: Self = Self(NonZeroU64::MIN);

    /// The key of the trace `number`, from 1. 2⁴⁰ of them are more than a run can have.
    pub(super) const fn new(number: u64, place: u32) -> Self {
        Self(NonZeroU64::MIN.saturating_add((number << Self::PLACE_BITS | place as u64) - 1))
    }

    pub(super) const fn place(self) -> usize {
        self.0.get() as usize & (Self::PLACES - 1)
    }
}

/// A span of an unfinished trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SpanRef {
    pub(super) trace: TraceKey,
    pub(super) index: u32,
    /// Which of the spans that have used the index, one after the other.
    generation: u32,
}

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A call of the probe.
    Call(ProbeId),
    /// A wait between the two sides of a hand-off, by number.
    Wait(u16),
}

/// Why a span has its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Basis {
    Stack,
    Cgo,
    Context,
    Spawn,
    /// By number of the hand-off.
    Handoff(u16),
    None,
}

/// What a parent rests on that is not the call's own stack: a loss may yet show that it proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rests {
    /// The event with which it was believed; 0: on nothing else.
    pub(super) since: u64,
    /// The place of the lane whose losses matter; or [`Rests::ANY`].
    pub(super) on: u32,
}

impl Rests {
    /// A loss on any lane matters.
    pub(super) const ANY: u32 = u32::MAX;
    pub(super) const NOTHING: Self = Self { since: 0, on: Self::ANY };

    /// Whether something lost after the event `since`, on the lane at `place`, matters.
    const fn matters(self, since: u64, place: u32) -> bool {
        self.since > since && (self.on == Self::ANY || self.on == place)
    }
}

/// What few spans have.
#[derive(Clone, Debug)]
pub(super) struct More {
    pub(super) lost: u64,
    pub(super) links: Vec<(TraceId, SpanId)>,
    pub(super) calls: u64,
    pub(super) folded: Option<Folded>,
    /// Of calls that the kernel side added up: those whose ends it saw.
    pub(super) ended: u64,
}

impl Default for More {
    fn default() -> Self {
        Self { lost: 0, links: Vec::new(), calls: 1, folded: None, ended: 0 }
    }
}

/// A span whose trace is not finished. Small: there may be many, and each is read again when it ends
/// and when its trace does.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) id: SpanId,
    pub(super) start: MonoNs,
    pub(super) end: MonoNs,
    /// What its parent (or its links) rest on.
    rests: Rests,
    pub(super) more: Option<Box<More>>,
    pub(super) lane: Lane,
    pub(super) tid: Tid,
    /// Index of its parent, or [`NO_PARENT`].
    parent: u32,
    children: u32,
    generation: u32,
    pub(super) what: What,
    pub(super) basis: Basis,
    pub(super) exit: ExitKind,
    pub(super) root: bool,
    pub(super) closed: bool,
    /// Not to be sent: it was folded away, cut out, or has been sent before.
    pub(super) gone: bool,
    /// Cut out: what hung here has no proven parent.
    cut: bool,
}

/// No index: the limits keep them far below.
const NO_PARENT: u32 = u32::MAX;

impl Open {
    pub(super) fn parent(&self) -> Option<u32> {
        (self.parent != NO_PARENT).then_some(self.parent)
    }

    /// What few spans have, to be changed.
    pub(super) fn more(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }

    const fn duration(&self) -> u64 {
        self.end.since(self.start)
    }
}

/// What there is of a trace that is over its bound, or that has calls the kernel side added up.
#[derive(Clone, Debug, Default)]
pub(super) struct Folding {
    /// Indices of its spans to use again.
    free: Vec<u32>,
    /// Into which span the calls of a name below a parent are folded.
    into: FxHashMap<(u32, u32), u32>,
    /// The spans of calls that the kernel side adds up, by parent and function.
    pub(super) added_up: FxHashMap<(u32, ProbeId), SpanRef>,
}

/// An unfinished trace.
#[derive(Clone, Debug)]
pub(super) struct OpenTrace {
    key: TraceKey,
    pub(super) id: TraceId,
    pub(super) spans: Vec<Open>,
    pub(super) folding: Option<Box<Folding>>,
    /// The latest event on which something in it rests.
    latest_rest: u64,
    /// When the root closed; none while it is open.
    pub(super) root_closed: Option<MonoNs>,
    open: u32,
    /// A part of it has been sent.
    pub(super) sent: bool,
}

/// What a new span is.
#[derive(Clone, Copy, Debug)]
pub(super) struct NewSpan {
    pub(super) id: SpanId,
    pub(super) what: What,
    pub(super) root: bool,
    pub(super) basis: Basis,
    pub(super) start: MonoNs,
    pub(super) lane: Lane,
    pub(super) tid: Tid,
    pub(super) lost: u64,
    pub(super) rests: Rests,
}

impl OpenTrace {
    /// A place for a trace.
    pub(super) const fn nobodys() -> Self {
        Self {
            key: TraceKey::NOBODYS,
            id: TraceId(0),
            spans: Vec::new(),
            folding: None,
            latest_rest: 0,
            root_closed: None,
            open: 0,
            sent: false,
        }
    }

    /// A trace begins here.
    pub(super) const fn begin(&mut self, key: TraceKey, id: TraceId) {
        (self.key, self.id) = (key, id);
    }

    /// The place is free again, with room for so many spans at most.
    pub(super) fn end(&mut self, kept: usize) {
        let mut spans = std::mem::take(&mut self.spans);
        spans.clear();
        if spans.capacity() > kept {
            spans = Vec::new();
        }
        *self = Self { spans, ..Self::nobodys() };
    }

    pub(super) const fn key(&self) -> TraceKey {
        self.key
    }

    /// Adds an open span.
    pub(super) fn add(&mut self, new: NewSpan, parent: Option<u32>) -> SpanRef {
        let parent = parent.filter(|parent| {
            let parent = self.spans.get_mut(*parent as usize);
            parent.map(|parent| parent.children += 1).is_some()
        });
        let NewSpan { id, what, root, basis, start, lane, tid, lost, rests } = new;
        self.open += 1;
        self.latest_rest = self.latest_rest.max(rests.since);
        let mut open = Open {
            id,
            start,
            end: start,
            rests,
            more: (lost > 0).then(|| Box::new(More { lost, ..More::default() })),
            lane,
            tid,
            parent: parent.unwrap_or(NO_PARENT),
            children: 0,
            generation: 0,
            what,
            basis,
            exit: ExitKind::Open,
            root,
            closed: false,
            gone: false,
            cut: false,
        };
        if let Some(folding) = &mut self.folding
            && let Some(index) = folding.free.pop()
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

    /// The innermost span that is above both, or one of them.
    pub(super) fn common(&self, one: SpanRef, other: SpanRef) -> Option<SpanRef> {
        let (mut one, mut other) = (one, other);
        let (mut depth, mut other_depth) = (self.depth(one), self.depth(other));
        while one != other {
            if depth >= other_depth {
                one = self.parent_of(one)?;
                depth = depth.saturating_sub(1);
            } else {
                other = self.parent_of(other)?;
                other_depth = other_depth.saturating_sub(1);
            }
        }
        Some(one)
    }

    fn depth(&self, span: SpanRef) -> u32 {
        let mut depth = 0;
        let mut above = self.get(span).and_then(Open::parent);
        while let Some(open) = above.and_then(|above| self.spans.get(above as usize)) {
            depth += 1;
            above = open.parent();
        }
        depth
    }

    pub(super) fn parent_of(&self, span: SpanRef) -> Option<SpanRef> {
        let index = self.get(span)?.parent()?;
        let generation = self.spans.get(index as usize)?.generation;
        Some(SpanRef { trace: self.key, index, generation })
    }

    /// Links a span to another giver of its work.
    pub(super) fn link(&mut self, span: SpanRef, link: (TraceId, SpanId), taken: u64) {
        let Some(open) = self.get_mut(span) else { return };
        let links = &mut open.more().links;
        if links.contains(&link) {
            return;
        }
        links.push(link);
        open.rests = Rests { since: taken, on: Rests::ANY };
        self.latest_rest = self.latest_rest.max(taken);
    }

    /// Closes a span. An upper bound on the end of a call below another on the stack never reaches
    /// beyond the other's end. Work that was handed over may outlive its giver.
    pub(super) fn close(&mut self, span: SpanRef, end: MonoNs, exit: ExitKind) {
        let Some(open) = self.get(span).filter(|open| !open.closed) else { return };
        let bound = if exit == ExitKind::Inferred { self.bound(open.parent, end) } else { end };
        let Some(open) = self.get_mut(span) else { return };
        open.closed = true;
        open.exit = exit;
        open.end = end.min(bound).max(open.start);
        let end = open.end;
        self.open -= 1;
        if span.index == 0 {
            self.root_closed = Some(end);
        }
    }

    /// The earliest end among what has closed above.
    fn bound(&self, mut above: u32, end: MonoNs) -> MonoNs {
        let mut bound = end;
        while let Some(open) = self.spans.get(above as usize) {
            if open.closed {
                bound = bound.min(open.end);
            }
            above = open.parent;
        }
        bound
    }

    fn is_over_its_bound(&self, limit: usize) -> bool {
        self.spans.len() > limit
            && self.spans.len() - self.folding.as_ref().map_or(0, |it| it.free.len()) > limit
    }

    /// The span that stands for all calls of a name below a parent, once the trace is over its
    /// bound and there is one.
    pub(super) fn stands_for(&self, span: SpanRef, limit: usize, names: &Names) -> Option<SpanRef> {
        if !self.is_over_its_bound(limit) {
            return None;
        }
        let open = self.get(span)?;
        let name = (open.parent()?, names.of(open.what));
        let index = *self.folding.as_ref()?.into.get(&name)?;
        let first = self.spans.get(index as usize).filter(|first| !first.gone)?;
        Some(SpanRef { trace: self.key, index, generation: first.generation })
    }

    /// Folds a closed leaf into its first sibling of the same name, if the trace is over its bound.
    /// Whether it did.
    pub(super) fn fold(&mut self, span: SpanRef, limit: usize, names: &Names) -> bool {
        if !self.is_over_its_bound(limit) {
            return false;
        }
        let Some(open) = self.get(span).filter(|open| !open.gone) else { return false };
        let (Some(parent), true) = (open.parent(), open.closed) else { return false };
        let name = (parent, names.of(open.what));
        let (is_leaf, duration) = (open.children == 0, open.duration());
        let lost = open.more.as_ref().map_or(0, |more| more.lost);
        let folding = self.folding.get_or_insert_default();
        let into = *folding.into.entry(name).or_insert(span.index);
        if !is_leaf {
            // What hangs below it stays; later calls, and what they call, fold into these.
            return false;
        }
        let sibling = self.spans.get_mut(into as usize).filter(|_| into != span.index);
        let Some(sibling) = sibling else { return false };
        if sibling.gone {
            // It has been sent or cut out.
            folding.into.insert(name, span.index);
            return false;
        }
        folding.free.push(span.index);
        let first = sibling.duration();
        let into = sibling.more();
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
        true
    }

    /// Undoes what rests on the lane at `place` and was believed after the event `since`: spans that
    /// hang by it go, with all below them, and links. How many spans and links that were.
    pub(super) fn cut_since(&mut self, since: u64, place: u32) -> u64 {
        if self.latest_rest <= since {
            return 0;
        }
        let (mut count, mut latest) = (0, 0);
        let mut children: Vec<Vec<u32>> = vec![Vec::new(); self.spans.len()];
        let mut next = Vec::new();
        for (index, open) in (0_u32..).zip(&mut self.spans) {
            if open.gone && open.cut {
                continue;
            }
            if let Some(list) = children.get_mut(open.parent as usize) {
                list.push(index);
            }
            if !open.rests.matters(since, place) {
                latest = latest.max(open.rests.since);
            } else if matches!(open.basis, Basis::Stack | Basis::None) {
                let links = open.more.as_mut().map(|more| std::mem::take(&mut more.links));
                count += links.map_or(0, |links| links.len() as u64);
                open.rests = Rests::NOTHING;
            } else {
                next.push(index);
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
        self.latest_rest = latest;
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
