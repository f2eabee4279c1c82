//! Whose child a call is, and what hangs on what it gives and takes.

use std::num::NonZeroU64;

use crate::model::{ExitKind, Lane, Moment, MonoNs, OrphanPolicy, ProbeId, SpanId, TraceId, Words};

use super::frames::{Context, Frame, Via};
use super::handoff::{self, Asked, Gave, Given, Key};
use super::lane::LaneState;
use super::stitcher::{Call, Core};
use super::trace::{Basis, NewSpan, SpanRef, TraceKey, What};

/// Whose child a call is.
pub(super) struct Parent {
    context: Context,
    basis: Basis,
    /// The hand-off behind the evidence.
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
    /// Whose child the call is: the first evidence that holds.
    pub(super) fn parent(&mut self, lane: &LaneState, call: &Call) -> Parent {
        let mut taken = std::mem::take(&mut self.spare.taken);
        self.take(call, &mut taken);
        // Those it runs under anyway are no others.
        let mut others = std::mem::take(&mut self.spare.others);
        let givers = taken.iter().map(|(_, given)| given.giver);
        others.extend(givers.skip(1).filter(|giver| !lane.is_running(*giver)));
        if let Some((number, given)) = taken.first() {
            // Work done by its giver, on the giver's own stack: the stack knows more exactly below
            // which of the giver's calls.
            if !lane.is_running(given.giver) {
                return Parent {
                    context: Context::Span(given.giver),
                    basis: Basis::Handoff(*number),
                    via: self.via(*number),
                    base: None,
                    taken,
                    others,
                };
            }
        }
        let inside = lane.innermost();
        // A root that begins on a stack of its own is a request of its own: servers that give each
        // request a coroutine run many of them on one thread.
        let outside =
            if inside.is_some() || self.is_root(call.probe) { None } else { lane.outside() };
        let mut parent = Parent {
            context: Context::Nothing,
            basis: Basis::None,
            via: None,
            base: outside.map(|frame| frame.serial),
            taken,
            others,
        };
        let Some(frame) = inside.or(outside) else { return parent };
        parent.context = match frame.context() {
            _ if frame.is_doubtful() => Context::Orphan,
            _ if frame.via.is_some_and(|via| self.tainted.covers(via.taken.get())) => {
                Context::Orphan
            }
            Context::Span(span) if !self.is_there(span) => Context::Orphan,
            context => context,
        };
        if let Context::Span(_) = parent.context {
            parent.basis = frame.via.map_or(Basis::Stack, |via| Basis::Handoff(via.rule));
            parent.via = frame.via;
        }
        parent
    }

    /// That this event takes a key of the rule.
    fn via(&self, rule: u16) -> Option<Via> {
        Some(Via { rule, taken: NonZeroU64::new(self.stats.events)? })
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
        let frame = self.open_below(lane, call, &parent);
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
            basis: parent.basis,
            start: call.time,
            lane: call.lane,
            tid: call.tid,
            lost: std::mem::take(&mut lane.lost_before_next),
            rests_on: parent.via.map_or(0, |via| via.taken.get()),
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
            rests_on: self.stats.events,
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
