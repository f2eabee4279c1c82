//! Whose child a call is, and what hangs on what it gives and takes.

use std::sync::Arc;

use crate::model::{
    Evidence, ExitKind, Lane, Moment, MonoNs, OrphanPolicy, ProbeId, SpanId, TraceId, Words,
};

use super::handoff::{self, Asked, Gave, Given, Key};
use super::lane::{Context, Frame, LaneState, Via};
use super::stitcher::{Call, Core};
use super::trace::{NewSpan, SpanRef};

/// Whose child a call is.
pub(super) struct Parent {
    context: Context,
    evidence: Evidence,
    /// The hand-off behind the evidence.
    via: Option<Via>,
    /// The frame of another stack from which this stack was entered.
    pub(super) base: Option<u64>,
    /// What was taken, by rule.
    taken: Vec<(usize, Given)>,
    /// The other givers: this call serves them too.
    others: Vec<SpanRef>,
}

impl Core {
    /// Whose child the call is: the first evidence that holds.
    pub(super) fn parent(&mut self, lane: &LaneState, call: &Call) -> Parent {
        let taken = self.take(call);
        // Those it runs under anyway are no others.
        let others = taken.iter().map(|(_, given)| given.giver);
        let others = others.skip(1).filter(|giver| !lane.is_running(*giver)).collect();
        if let Some((number, given)) = taken.first() {
            // Work done by its giver, on the giver's own stack: the stack knows more exactly below
            // which of the giver's calls.
            if !lane.is_running(given.giver)
                && let Some(rule) = self.rules.handoffs.get(*number)
            {
                return Parent {
                    context: Context::Span(given.giver),
                    evidence: Evidence::Handoff(Arc::clone(&rule.name)),
                    via: u16::try_from(*number)
                        .ok()
                        .map(|rule| Via { rule, taken: self.stats.events }),
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
            evidence: Evidence::None,
            via: None,
            base: outside.map(|frame| frame.serial),
            taken,
            others,
        };
        let Some(frame) = inside.or(outside) else { return parent };
        parent.context = match frame.context {
            _ if frame.is_doubtful() => Context::Orphan,
            _ if frame.via.is_some_and(|via| self.tainted.covers(via.taken)) => Context::Orphan,
            Context::Span(span) if !self.is_there(span) => Context::Orphan,
            context => context,
        };
        if let Context::Span(_) = parent.context {
            let rule = frame.via.and_then(|via| self.rules.handoffs.get(usize::from(via.rule)));
            parent.evidence =
                rule.map_or(Evidence::Stack, |rule| Evidence::Handoff(Arc::clone(&rule.name)));
            parent.via = frame.via;
        }
        parent
    }

    /// What the call takes: the first span of each hand-off whose key it has.
    fn take(&mut self, call: &Call) -> Vec<(usize, Given)> {
        let mut taken: Vec<(usize, Given)> = Vec::new();
        for &(number, at) in self.sides.takes(call.probe) {
            let Some(rule) = self.rules.handoffs.get(number) else { continue };
            let Some((_, indices)) = rule.take.probes.get(at) else { continue };
            let Some(key) = handoff::key(number, rule, indices, &call.words, call.lane) else {
                continue;
            };
            match self.keys.take(&key) {
                Asked::Taken(given) => {
                    let there = self.traces.get(&given.giver.trace);
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
        taken
    }

    /// Opens the call's frame, and its span if it makes one.
    pub(super) fn open(&mut self, lane: &mut LaneState, call: &Call, parent: Parent) -> Frame {
        let mut frame = Frame {
            slot: call.slot,
            return_address: call.return_address,
            awaited: call.awaited,
            jumped: None,
            probe: call.probe,
            number: call.number,
            span: None,
            context: parent.context,
            via: parent.via,
            after_loss: false,
            adrift: false,
            serial: 0,
        };
        for (number, given) in &parent.taken {
            self.note_wait(call, *number, given);
        }
        let rule = self.rules.probes.get(call.probe.index()).and_then(|probe| probe.span);
        let Some(rule) = rule.and_then(|span| self.rules.spans.get(usize::from(span))) else {
            return frame;
        };
        let keep = rule.root || self.rules.orphans == OrphanPolicy::Keep;
        let (name, stage, root) = (Arc::clone(&rule.name), rule.stage.clone(), rule.root);
        let new = NewSpan {
            id: self.ids.span(),
            name,
            stage,
            probe: Some(call.probe),
            root,
            evidence: parent.evidence,
            start: call.time,
            lane: call.lane,
            tid: call.tid,
            lost: std::mem::take(&mut lane.lost_before_next),
            rests_on: parent.via.map_or(0, |via| via.taken),
        };
        frame.via = None;
        frame.context = Context::Orphan;
        match parent.context {
            Context::Span(above) => {
                if let Some(trace) = self.traces.get_mut(&above.trace) {
                    let span = trace.add(new, Some(above.index));
                    frame.span = Some(span);
                    let stands_for = trace.stands_for(span, self.limits.spans_per_trace);
                    // What this call calls hangs below the one it will be folded into.
                    frame.context = Context::Span(stands_for.unwrap_or(span));
                }
            }
            _ if keep && !self.refusing => {
                let span = self.begin_trace(new, call.time);
                frame.span = Some(span);
                frame.context = Context::Span(span);
            }
            _ => self.stats.orphans += u64::from(!self.refusing),
        }
        if let Some(span) = frame.span {
            // Shared work hangs under its first giver; the others are linked.
            for giver in parent.others {
                self.link(span, giver);
            }
        }
        frame
    }

    /// The wait between give and take, where the map wants it as a span.
    fn note_wait(&mut self, call: &Call, number: usize, given: &Given) {
        let Some(rule) = self.rules.handoffs.get(number) else { return };
        let Some(name) = rule.span.clone() else { return };
        let wait = NewSpan {
            id: self.ids.span(),
            name,
            stage: Some(Arc::clone(&self.queue)),
            probe: None,
            root: false,
            evidence: Evidence::Handoff(Arc::clone(&rule.name)),
            start: given.time,
            lane: call.lane,
            tid: call.tid,
            lost: 0,
            rests_on: self.stats.events,
        };
        let Some(trace) = self.traces.get_mut(&given.giver.trace) else { return };
        let span = trace.add(wait, Some(given.giver.index));
        trace.close(span, call.time, ExitKind::Ret);
        self.stats.folded += u64::from(trace.fold(span, self.limits.spans_per_trace));
    }

    fn link(&mut self, span: SpanRef, giver: SpanRef) {
        let Some(link) = self.link_to(giver) else { return };
        let taken = self.stats.events;
        if let Some(trace) = self.traces.get_mut(&span.trace)
            && trace.parent_of(span) != Some(giver)
        {
            trace.link(span, link, taken);
        }
    }

    fn link_to(&self, span: SpanRef) -> Option<(TraceId, SpanId)> {
        let trace = self.traces.get(&span.trace)?;
        Some((trace.id, trace.get(span)?.span.id))
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
            let Some(rule) = self.rules.handoffs.get(number) else { continue };
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
        let mut ended = Vec::new();
        for &(number, at) in self.sides.untils(probe) {
            let Some(rule) = self.rules.handoffs.get(number) else { continue };
            let Some(until) = rule.until.as_ref().filter(|until| until.moment == moment) else {
                continue;
            };
            let Some((_, indices)) = until.probes.get(at) else { continue };
            ended.extend(handoff::key(number, rule, indices, words, lane));
        }
        for key in ended {
            self.end_key(&key);
        }
    }

    pub(super) fn end_key(&mut self, key: &Key) {
        let (traces, not_taken) = self.keys.end(key);
        self.stats.not_taken += u64::from(not_taken);
        for trace in traces {
            self.send_if_over(trace);
        }
    }

    fn is_root(&self, probe: ProbeId) -> bool {
        let span = self.rules.probes.get(probe.index()).and_then(|probe| probe.span);
        span.and_then(|span| self.rules.spans.get(usize::from(span))).is_some_and(|span| span.root)
    }
}
