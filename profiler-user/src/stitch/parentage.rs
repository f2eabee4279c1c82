//! Whose child a call is, and what hangs on what it gives and takes.

use std::num::NonZeroU64;

use crate::model::{ExitKind, Lane, Moment, MonoNs, OrphanPolicy, ProbeId, SpanId, TraceId, Words};

use super::frames::{Context, Frame, Via};
use super::goroutines::{Peer, Spawned};
use super::handoff::{self, Asked, Gave, Given, Key};
use super::lane::LaneState;
use super::stitcher::{Call, Core};
use super::trace::{Basis, NewSpan, Rests, SpanRef, TraceKey, What};

/// Whose child a call is.
pub(super) struct Parent {
    context: Context,
    /// The evidence, if it is not the lane's own stack.
    via: Option<Via>,
    /// The frame of another stack from which this stack was entered.
    pub(super) base: Option<u64>,
    /// What was taken, by rule.
    taken: Vec<(u16, Given)>,
    /// The other givers: this call serves them too.
    others: Vec<SpanRef>,
}

/// Lists that are empty between events, to use again.
#[derive(Debug, Default)]
pub(super) struct Spare {
    taken: Vec<(u16, Given)>,
    others: Vec<SpanRef>,
    keys: Vec<Key>,
    traces: Vec<TraceKey>,
}

impl Core {
    /// Whose child the call is: the first evidence that holds. `spawned`: for the first call of a goroutine,
    /// the call it was made in.
    pub(super) fn parent(
        &mut self,
        lane: &LaneState,
        peer: Option<&Peer<'_>>,
        spawned: Option<&Spawned>,
        call: &Call,
    ) -> Parent {
        let is_running =
            |span| lane.is_running(span) || peer.is_some_and(|peer| peer.lane.is_running(span));
        let mut taken = std::mem::take(&mut self.spare.taken);
        self.take(call, &mut taken);
        // Those it runs under anyway are no others.
        let mut others = std::mem::take(&mut self.spare.others);
        let givers = taken.iter().map(|(_, given)| given.giver);
        others.extend(givers.skip(1).filter(|giver| !is_running(*giver)));
        if let Some((number, given)) = taken.first() {
            // Work done by its giver, on the giver's own stack: the stack knows more exactly below
            // which of the giver's calls.
            if !is_running(given.giver) {
                return Parent {
                    context: Context::Span(given.giver),
                    via: self.via(Basis::Handoff(*number), Rests::ANY),
                    base: None,
                    taken,
                    others,
                };
            }
        }
        let inside = lane.inside();
        // A root that begins on a stack of its own is a request of its own: servers that give each
        // request a coroutine run many of them on one thread.
        let outside =
            if inside.is_some() || self.is_root(call.probe) { None } else { lane.outside() };
        let own = inside.or(outside);
        let over = peer.and_then(|peer| peer.over(own));
        let (context, via) = match (over, own) {
            (Some((frame, place)), _) => self.across(frame, place, lane),
            (None, Some(frame)) => self.below(frame),
            (None, None) => self.elsewhere(spawned, call),
        };
        let base = outside.filter(|_| over.is_none()).map(|frame| frame.serial);
        Parent { context, via, base, taken, others }
    }

    /// What a call is to those that begin below it now.
    fn below(&self, frame: &Frame) -> (Context, Option<Via>) {
        match frame.context() {
            _ if frame.is_doubtful() => (Context::Orphan, None),
            _ if frame.via.is_some_and(|via| self.tainted.covers(via.since.get())) => {
                (Context::Orphan, None)
            }
            Context::Span(span) if !self.is_there(span) => (Context::Orphan, None),
            Context::Span(span) => (Context::Span(span), frame.via),
            context => (context, None),
        }
    }

    /// What a call is to those that begin below it now on the other stack of its goroutine.
    fn across(&self, frame: &Frame, place: u32, to: &LaneState) -> (Context, Option<Via>) {
        let (context, via) = self.below(frame);
        let Context::Span(span) = context else { return (context, None) };
        let via = match via.filter(|via| via.basis != Basis::Cgo) {
            // What that rests on, and on its own lane too.
            Some(via) => self.via(via.basis, Rests::ANY),
            // A callback that makes no span, and calls back.
            None if to.is_running(span) => None,
            None => self.via(Basis::Cgo, via.map_or(place, |_| Rests::ANY)),
        };
        (context, via)
    }

    /// The parent of a call that is the outermost of its lane: by its context; else, of the lane's first,
    /// where the lane was made.
    fn elsewhere(&mut self, spawned: Option<&Spawned>, call: &Call) -> (Context, Option<Via>) {
        let made_in = spawned.filter(|spawned| self.is_there(spawned.span));
        let nearest = call.contexts.and_then(|contexts| contexts.nearest);
        let found = nearest.and_then(|nearest| {
            self.contexts.find((call.lane.pid(), nearest), &self.traces, &self.tainted)
        });
        let Some((span, on)) = found else {
            let Some(&Spawned { span, on }) = made_in else { return (Context::Nothing, None) };
            return (Context::Span(span), self.via(Basis::Spawn, on));
        };
        let via = self.via(Basis::Context, on);
        let Some(made_in) = made_in else { return (Context::Span(span), via) };
        if made_in.span.trace != span.trace {
            self.stats.disagreements += 1;
            return (Context::Span(span), via);
        }
        // Made above the call that is known by the context: that may be another for which the context was
        // made too, side by side with this one.
        let trace = self.traces.get(span.trace);
        let above = trace.and_then(|trace| trace.common(span, made_in.span));
        match above {
            Some(above) if above != span => {
                (Context::Span(above), self.via(Basis::Context, Rests::ANY))
            }
            _ => (Context::Span(span), via),
        }
    }

    /// Where a goroutine is made, in a call of that lane.
    pub(super) fn spawned(&self, frame: &Frame, place: u32) -> Option<Spawned> {
        match self.below(frame) {
            (Context::Span(span), None) => Some(Spawned { span, on: place }),
            (Context::Span(span), Some(_)) => Some(Spawned { span, on: Rests::ANY }),
            _ => None,
        }
    }

    /// That the evidence is believed with this event.
    fn via(&self, basis: Basis, on: u32) -> Option<Via> {
        Some(Via { basis, since: NonZeroU64::new(self.stats.events)?, on })
    }

    /// What the call takes: the first span of each hand-off whose key it has.
    fn take(&mut self, call: &Call, taken: &mut Vec<(u16, Given)>) {
        for &(number, at) in self.sides.takes(call.probe) {
            let Some(rule) = self.rules.handoffs.get(usize::from(number)) else { continue };
            let Some((_, indices)) = rule.take.probes.get(at) else { continue };
            let Some(key) = handoff::key(number, rule, indices, &call.words, call.lane) else {
                continue;
            };
            match self.keys.take(&key) {
                Asked::Taken(given) => {
                    let there = self.traces.get(given.giver.trace);
                    if there.is_some_and(|trace| trace.can_be_parent(given.giver)) {
                        self.stats.taken += 1;
                        taken.push((number, given));
                    } else {
                        self.stats.not_given += 1;
                    }
                }
                Asked::Ambiguous => self.stats.ambiguous += 1,
                Asked::NotGiven if self.refusing => {}
                Asked::NotGiven => self.stats.not_given += 1,
            }
        }
    }

    /// Opens the call's frame, and its span if it makes one.
    pub(super) fn open(&mut self, lane: &mut LaneState, call: &Call, mut parent: Parent) -> Frame {
        let mut frame = self.open_below(lane, call, &parent);
        if let (Context::Span(span), Some(contexts)) = (frame.context(), call.contexts) {
            let key = (call.lane.pid(), contexts.own);
            let limit = self.limits.contexts;
            let known = (span, frame.via);
            frame.known_as = self.contexts.add(key, known, call.place, &self.traces, limit);
            self.stats.contexts_full += u64::from(frame.known_as.is_none());
        }
        parent.taken.clear();
        parent.others.clear();
        self.spare.taken = parent.taken;
        self.spare.others = parent.others;
        frame
    }

    fn open_below(&mut self, lane: &mut LaneState, call: &Call, parent: &Parent) -> Frame {
        let mut frame =
            Frame::new(call.slot, call.return_address, call.awaited, call.probe, call.number);
        frame.via = parent.via;
        frame.set_context(parent.context);
        for (number, given) in &parent.taken {
            self.note_wait(call, *number, given);
        }
        let rule = self.rules.probes.get(call.probe.index()).and_then(|probe| probe.span);
        let Some(rule) = rule.and_then(|span| self.rules.spans.get(usize::from(span))) else {
            return frame;
        };
        let keep = rule.root || self.rules.orphans == OrphanPolicy::Keep;
        let new = NewSpan {
            id: self.ids.span(),
            what: What::Call(call.probe),
            root: rule.root,
            basis: match (parent.via, parent.context) {
                (Some(via), _) => via.basis,
                (None, Context::Span(_)) => Basis::Stack,
                (None, _) => Basis::None,
            },
            start: call.time,
            lane: call.lane,
            tid: call.tid,
            lost: std::mem::take(&mut lane.lost_before_next),
            rests: parent.via.map_or(Rests::NOTHING, Via::rests),
        };
        frame.via = None;
        frame.set_context(Context::Orphan);
        match parent.context {
            Context::Span(above) => {
                if let Some(trace) = self.traces.get_mut(above.trace) {
                    let span = trace.add(new, Some(above.index));
                    frame.span = Some(span);
                    let stands_for =
                        trace.stands_for(span, self.limits.spans_per_trace, &self.names);
                    // What this call calls hangs below the one it will be folded into.
                    frame.set_context(Context::Span(stands_for.unwrap_or(span)));
                }
            }
            _ if keep && !self.refusing => {
                if let Some(span) = self.begin_trace(new, call.time) {
                    frame.span = Some(span);
                    frame.set_context(Context::Span(span));
                }
            }
            _ => self.stats.orphans += u64::from(!self.refusing),
        }
        if let Some(span) = frame.span {
            // Shared work hangs under its first giver; the others are linked.
            for giver in &parent.others {
                self.link(span, *giver);
            }
        }
        frame
    }

    /// The wait between give and take, where the map wants it as a span.
    fn note_wait(&mut self, call: &Call, number: u16, given: &Given) {
        let rule = self.rules.handoffs.get(usize::from(number));
        if rule.is_none_or(|rule| rule.span.is_none()) {
            return;
        }
        let wait = NewSpan {
            id: self.ids.span(),
            what: What::Wait(number),
            root: false,
            basis: Basis::Handoff(number),
            start: given.time,
            lane: call.lane,
            tid: call.tid,
            lost: 0,
            rests: Rests { since: self.stats.events, on: Rests::ANY },
        };
        let Some(trace) = self.traces.get_mut(given.giver.trace) else { return };
        let span = trace.add(wait, Some(given.giver.index));
        trace.close(span, call.time, ExitKind::Ret);
        let folded = trace.fold(span, self.limits.spans_per_trace, &self.names);
        self.stats.folded += u64::from(folded);
    }

    fn link(&mut self, span: SpanRef, giver: SpanRef) {
        let Some(link) = self.link_to(giver) else { return };
        let taken = self.stats.events;
        if let Some(trace) = self.traces.get_mut(span.trace)
            && trace.parent_of(span) != Some(giver)
        {
            trace.link(span, link, taken);
        }
    }

    fn link_to(&self, span: SpanRef) -> Option<(TraceId, SpanId)> {
        let trace = self.traces.get(span.trace)?;
        Some((trace.id, trace.get(span)?.id))
    }

    /// The keys a call gives. Given on behalf of nothing we know, a key that was alive is not any
    /// more: its words mean something else from now on.
    pub(super) fn give(
        &mut self,
        probe: ProbeId,
        moment: Moment,
        words: &Words,
        giver: Option<SpanRef>,
        lane: Lane,
        time: MonoNs,
    ) {
        if self.sides.gives(probe).is_empty() {
            return;
        }
        let giver = giver.filter(|giver| self.is_there(*giver));
        for &(number, at) in self.sides.gives(probe) {
            let Some(rule) = self.rules.handoffs.get(usize::from(number)) else { continue };
            if rule.give.moment != moment {
                continue;
            }
            let Some((_, indices)) = rule.give.probes.get(at) else { continue };
            let Some(key) = handoff::key(number, rule, indices, words, lane) else { continue };
            let Some(giver) = giver else {
                self.stats.ambiguous += u64::from(self.keys.revoke(&key));
                continue;
            };
            match self.keys.give(key, rule, giver, time, self.limits.keys) {
                Gave::Well => self.stats.given += 1,
                Gave::Ambiguous => self.stats.ambiguous += 1,
                Gave::Full => self.stats.keys_full += 1,
            }
        }
    }

    /// The keys a call ends. Nobody takes them from now on, and a trace that waited for no more is
    /// over.
    pub(super) fn end_keys(&mut self, probe: ProbeId, moment: Moment, words: &Words, lane: Lane) {
        if self.sides.untils(probe).is_empty() {
            return;
        }
        let mut ended = std::mem::take(&mut self.spare.keys);
        for &(number, at) in self.sides.untils(probe) {
            let Some(rule) = self.rules.handoffs.get(usize::from(number)) else { continue };
            let Some(until) = rule.until.as_ref().filter(|until| until.moment == moment) else {
                continue;
            };
            let Some((_, indices)) = until.probes.get(at) else { continue };
            ended.extend(handoff::key(number, rule, indices, words, lane));
        }
        for key in ended.drain(..) {
            self.end_key(&key);
        }
        self.spare.keys = ended;
    }

    pub(super) fn end_key(&mut self, key: &Key) {
        let mut traces = std::mem::take(&mut self.spare.traces);
        let not_taken = self.keys.end(key, &mut traces);
        self.stats.not_taken += u64::from(not_taken);
        for trace in traces.drain(..) {
            self.send_if_over(trace);
        }
        self.spare.traces = traces;
    }

    fn is_root(&self, probe: ProbeId) -> bool {
        let span = self.rules.probes.get(probe.index()).and_then(|probe| probe.span);
        span.and_then(|span| self.rules.spans.get(usize::from(span))).is_some_and(|span| span.root)
    }
}
