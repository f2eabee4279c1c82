//! Open calls by their `context.Context`.
//!
//! Go hands a request's context on from call to call, through goroutines and queues. A call whose chain of
//! contexts leads to that of an open one is made in its behalf. Several open calls may have the same: the
//! call then belongs below what is above all of them.

use std::num::{NonZeroU32, NonZeroU64};

use rustc_hash::FxHashMap;

use crate::model::{ContextAddr, Pid};

use super::frames::Via;
use super::tainted::Tainted;
use super::trace::{Rests, SpanRef};
use super::traces::Traces;

/// Of more calls than these with one context, what is above all is not looked for again when one ends.
const MANY: u32 = 64;

/// Where an open call is known by its context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ContextRef(NonZeroU32);

impl ContextRef {
    const fn at(index: usize) -> Self {
        Self(NonZeroU32::MIN.saturating_add(index as u32))
    }

    const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// An open call. They are linked to lists, one a context.
#[derive(Clone, Copy, Debug)]
struct Known {
    key: (Pid, ContextAddr),
    span: SpanRef,
    /// The place of its lane; or [`Rests::ANY`] with `passes_on`.
    on: u32,
    /// It has no span, and passes on what it was believed to be below with that event.
    passes_on: Option<NonZeroU64>,
    /// It may be gone: events of its lane were lost.
    doubtful: bool,
    next: Option<ContextRef>,
    previous: Option<ContextRef>,
}

/// The open calls of one context.
#[derive(Clone, Copy, Debug)]
struct Node {
    first: ContextRef,
    count: u32,
    /// What is above all of them, once it has been looked for.
    top: Option<Top>,
}

/// What is above all open calls of one context.
#[derive(Clone, Copy, Debug)]
struct Top {
    span: SpanRef,
    /// The place of its lane if it is one of the calls itself; else [`Rests::ANY`].
    on: u32,
}

/// The open calls that are known by their contexts.
#[derive(Debug, Default)]
pub(super) struct Contexts {
    nodes: FxHashMap<(Pid, ContextAddr), Node>,
    known: Vec<Known>,
    free: Vec<ContextRef>,
}

impl Contexts {
    fn len(&self) -> usize {
        self.known.len() - self.free.len()
    }

    /// A call has begun whose lane is at `on`. None if there are too many.
    pub(super) fn add(
        &mut self,
        key: (Pid, ContextAddr),
        (span, via): (SpanRef, Option<Via>),
        on: u32,
        traces: &Traces,
        limit: usize,
    ) -> Option<ContextRef> {
        if self.len() >= limit {
            return None;
        }
        let passes_on = via.map(|via| via.since);
        let on = if via.is_some() { Rests::ANY } else { on };
        let next = self.nodes.get(&key).map(|node| node.first);
        let known = Known { key, span, on, passes_on, doubtful: false, next, previous: None };
        let place = self.free.pop().unwrap_or_else(|| ContextRef::at(self.known.len()));
        match self.known.get_mut(place.index()) {
            Some(slot) => *slot = known,
            None => self.known.push(known),
        }
        if let Some(next) = next.and_then(|next| self.known.get_mut(next.index())) {
            next.previous = Some(place);
        }
        let new = Node { first: place, count: 0, top: Some(Top { span, on }) };
        let node = self.nodes.entry(key).or_insert(new);
        node.first = place;
        node.count += 1;
        if node.count > 1 {
            node.top = node.top.and_then(|top| join(traces, top, Top { span, on }));
        }
        if passes_on.is_some() {
            // Whether that still holds is asked each time.
            node.top = None;
        }
        Some(place)
    }

    /// A call has ended.
    pub(super) fn remove(&mut self, place: ContextRef) {
        let Some(&Known { key, span, next, previous, .. }) = self.known.get(place.index()) else {
            return;
        };
        self.free.push(place);
        if let Some(next) = next.and_then(|next| self.known.get_mut(next.index())) {
            next.previous = previous;
        }
        if let Some(previous) = previous.and_then(|it| self.known.get_mut(it.index())) {
            previous.next = next;
        }
        let Some(node) = self.nodes.get_mut(&key) else { return };
        node.count -= 1;
        let first = if previous.is_none() { next } else { Some(node.first) };
        let Some(first) = first.filter(|_| node.count > 0) else {
            self.nodes.remove(&key);
            return;
        };
        node.first = first;
        // One that is one of the calls stays above the others. What is only above them may not be the
        // innermost such any more.
        let stays = |top: &Top| top.span != span && (top.on != Rests::ANY || node.count > MANY);
        node.top = node.top.filter(stays);
    }

    /// Events of a call's lane were lost: it may have ended.
    pub(super) fn doubt(&mut self, place: ContextRef) {
        let Some(known) = self.known.get_mut(place.index()) else { return };
        known.doubtful = true;
        if let Some(node) = self.nodes.get_mut(&known.key) {
            node.top = None;
        }
    }

    /// The span below which calls in a context belong, and the lane this rests on: what is above all open
    /// calls that have this context. None if there are none, or if they are of several traces.
    pub(super) fn find(
        &mut self,
        key: (Pid, ContextAddr),
        traces: &Traces,
        tainted: &Tainted,
    ) -> Option<(SpanRef, u32)> {
        let Self { nodes, known, .. } = self;
        let node = nodes.get_mut(&key)?;
        let is_there =
            |span: SpanRef| traces.get(span.trace).is_some_and(|trace| trace.can_be_parent(span));
        if let Some(top) = node.top.filter(|top| is_there(top.span)) {
            return Some((top.span, top.on));
        }
        let calls = || {
            let at = |place: ContextRef| known.get(place.index());
            std::iter::successors(at(node.first), move |known| at(known.next?))
                .filter(|known| is_there(known.span))
                .filter(|known| !known.passes_on.is_some_and(|it| tainted.covers(it.get())))
        };
        let mut top = None;
        for call in calls().filter(|call| !call.doubtful) {
            let call = Top { span: call.span, on: call.on };
            top = Some(top.map_or(Some(call), |top| join(traces, top, call))?);
        }
        let sound: Top = top?;
        // One that may be gone counts as long as it may not be another request's: addresses of contexts
        // are used again.
        let mut top = sound;
        for call in calls().filter(|call| call.doubtful && call.span.trace == sound.span.trace) {
            top = join(traces, top, Top { span: call.span, on: Rests::ANY })?;
        }
        if calls().all(|call| call.passes_on.is_none()) {
            node.top = Some(top);
        }
        Some((top.span, top.on))
    }
}

/// What is above both.
fn join(traces: &Traces, one: Top, other: Top) -> Option<Top> {
    if one.span.trace != other.span.trace {
        return None;
    }
    let span = traces.get(one.span.trace)?.common(one.span, other.span)?;
    let on = if span == one.span {
        one.on
    } else if span == other.span {
        other.on
    } else {
        Rests::ANY
    };
    Some(Top { span, on })
}
