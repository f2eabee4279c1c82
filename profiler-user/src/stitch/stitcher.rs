//! The rules: what an event does to the frames of its lane, and whose child a call is.

use crate::model::{
    Ahead, Contexts as CallContexts, Event, EventBody, ExitKind, FrameAddr, Lane, Moment, MonoNs,
    Pid, ProbeId, ReturnAddr, Rules, Seen, Tid, Trace, TraceEnd, Watches, Words,
};

use super::build::Arranger;
use super::contexts::Contexts;
use super::ends::Exit;
use super::fold::FoldedEvent;
use super::frames::Context;
use super::goroutines::{Peer, Spawned};
use super::handoff::{Keys, Sides};
use super::ids::IdSource;
use super::lane::LaneState;
use super::lanes::Lanes;
use super::limits::{Limits, StitchStats};
use super::names::Names;
use super::parentage::Spare;
use super::spawns::Spawns;
use super::tainted::Tainted;
use super::trace::{NewSpan, Open, OpenTrace, SpanRef, TraceKey};
use super::traces::Traces;

/// Makes traces of events.
#[derive(Debug)]
pub struct Stitcher {
    pub(super) lanes: Lanes,
    pub(super) core: Core,
    /// After how many events lanes may be swept again.
    sweep_at: u64,
}

/// Everything but the lanes.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) rules: Rules,
    pub(super) sides: Sides,
    pub(super) limits: Limits,
    pub(super) ids: IdSource,
    pub(super) names: Names,
    pub(super) traces: Traces,
    pub(super) keys: Keys,
    pub(super) contexts: Contexts,
    pub(super) spawns: Spawns,
    /// A thread has said that it carries a goroutine.
    pub(super) has_cgo: bool,
    pub(super) tainted: Tainted,
    pub(super) forgot_lanes: bool,
    pub(super) completed: Vec<Trace>,
    pub(super) stats: StitchStats,
    pub(super) refusing: bool,
    pub(super) ticked: MonoNs,
    arranger: Arranger,
    pub(super) spare: Spare,
}

/// A call that begins.
pub(super) struct Call {
    pub(super) time: MonoNs,
    pub(super) lane: Lane,
    pub(super) tid: Tid,
    /// Where its lane is.
    pub(super) place: u32,
    pub(super) probe: ProbeId,
    /// The number of its event.
    pub(super) number: u32,
    pub(super) slot: FrameAddr,
    pub(super) return_address: ReturnAddr,
    /// The slot whose return ends it.
    pub(super) awaited: FrameAddr,
    pub(super) words: Words,
    pub(super) contexts: Option<CallContexts>,
}

impl Stitcher {
    /// A stitcher for what the rules describe.
    #[must_use]
    pub fn new(rules: Rules, limits: Limits, ids: IdSource) -> Self {
        let core = Core {
            sides: Sides::of(&rules.handoffs, rules.probes.len()),
            names: Names::of_rules(&rules),
            rules,
            limits,
            ids,
            traces: Traces::default(),
            keys: Keys::default(),
            contexts: Contexts::default(),
            spawns: Spawns::default(),
            has_cgo: false,
            tainted: Tainted::default(),
            forgot_lanes: false,
            completed: Vec::new(),
            stats: StitchStats::default(),
            refusing: false,
            ticked: MonoNs(0),
            arranger: Arranger::default(),
            spare: Spare::default(),
        };
        Self { lanes: Lanes::default(), core, sweep_at: 0 }
    }

    /// Knows more probes, spans and hand-offs from now on. Those known keep their places: `rules`
    /// begin with what they were.
    pub fn grow(&mut self, rules: Rules) {
        self.core.sides = Sides::of(&rules.handoffs, rules.probes.len());
        self.core.names.grow(&rules);
        self.core.rules = rules;
    }

    /// The rules it stitches by.
    #[must_use]
    pub const fn rules(&self) -> &Rules {
        &self.core.rules
    }

    /// Takes the next event, in ring order.
    pub fn push(&mut self, event: &Event) {
        self.core.stats.events += 1;
        match event.body {
            EventBody::ProcessEnd | EventBody::Exec => {
                self.end_process(event.lane.pid(), event.time);
                return;
            }
            EventBody::GaveUp { probe } => {
                self.core.names.detach(probe);
                return;
            }
            EventBody::Fork { .. } => return,
            EventBody::Enter { .. }
            | EventBody::Exit { .. }
            | EventBody::Jump { .. }
            | EventBody::Unwound { .. }
            | EventBody::Folded { .. }
            | EventBody::Asks { .. }
            | EventBody::Carries { .. }
            | EventBody::Spawn { .. }
            | EventBody::Born { .. }
            | EventBody::RunsOnce
            | EventBody::LaneEnd => {}
        }
        if self.lanes.len() >= self.core.limits.lanes && !self.make_room(event.lane) {
            self.core.stats.lanes_full += 1;
            return;
        }
        let place = self.lanes.place(event.lane);
        let Some(lane) = self.lanes.at(place) else { return };
        let lost = self.core.check_number(lane, event, place);
        lane.take_popped();
        if lost {
            self.doubt_carrier(event, place);
        }
        let Some(lane) = self.lanes.at(place) else { return };
        match event.body {
            EventBody::Enter { probe, frame, return_address, ahead, words, contexts } => {
                let awaited = match ahead {
                    Ahead::Landing(slot) => slot,
                    Ahead::Nothing | Ahead::Wanted(..) => frame,
                };
                let (time, lane_of, tid) = (event.time, event.lane, event.tid);
                let call = Call {
                    time,
                    lane: lane_of,
                    tid,
                    place,
                    probe,
                    number: event.sequence,
                    slot: frame,
                    return_address,
                    awaited,
                    words,
                    contexts,
                };
                self.enter(&call);
            }
            EventBody::Exit { seen, probe, frame, words } => {
                let kind = match seen {
                    Seen::Ret => ExitKind::Ret,
                    Seen::Landing => ExitKind::Landing,
                };
                self.core.exit(lane, event, &Exit { kind, probe, slot: frame, words });
                self.after_exit(event, place);
            }
            EventBody::Jump { probe, frame } => self.core.jump(lane, probe, frame, event.time),
            EventBody::Unwound { frame, below } => {
                self.core.unwind(lane, frame, below, event.time);
            }
            EventBody::Folded { probe, frame, serial, calls } => {
                let folded = FoldedEvent { probe, slot: frame, number: serial, calls };
                self.core.folded(lane, event, &folded);
            }
            EventBody::LaneEnd => {
                self.core.end_lane(lane, event.time, ExitKind::Unwound);
                self.after_end(event, place);
                self.lanes.remove(event.lane);
            }
            EventBody::Carries { goroutine } => self.carries(event, place, goroutine),
            EventBody::Spawn { child } => self.spawn(event, place, child),
            EventBody::RunsOnce => {
                if let Some(lane) = self.lanes.at(place) {
                    lane.runs_once = true;
                }
            }
            EventBody::ProcessEnd
            | EventBody::Exec
            | EventBody::Fork { .. }
            | EventBody::Asks { .. }
            | EventBody::Born { .. }
            | EventBody::GaveUp { .. } => {}
        }
    }

    /// Whether an event of this lane may be taken though the bound is reached. Lanes without open
    /// frames are forgotten to make it so, at most once for every so many events.
    fn make_room(&mut self, lane: Lane) -> bool {
        if self.lanes.has(lane) {
            return true;
        }
        if self.core.stats.events < self.sweep_at {
            return false;
        }
        self.sweep_at = self.core.stats.events + self.core.limits.lanes as u64;
        self.lanes.forget_idle();
        // The numbers of those that were forgotten and come back start anywhere.
        self.core.forgot_lanes = true;
        self.lanes.len() < self.core.limits.lanes
    }

    fn end_process(&mut self, pid: Pid, time: MonoNs) {
        for id in self.lanes.of(pid) {
            if let Some(mut lane) = self.lanes.remove(id) {
                self.core.end_lane(&mut lane, time, ExitKind::Unwound);
            }
        }
        let mut keys = self.core.keys.held_in(pid);
        keys.sort_unstable();
        for key in keys {
            self.core.end_key(&key);
        }
    }

    /// Lets time pass: traces that have waited long enough for their last span are sent as they
    /// are.
    pub fn tick(&mut self, now: MonoNs) {
        self.core.tick(now);
    }

    /// From now on no trace begins; those that have begun go on.
    pub const fn refuse_new_traces(&mut self) {
        self.core.refusing = true;
    }

    /// How many traces have begun and are not finished.
    #[must_use]
    pub fn open_traces(&self) -> usize {
        self.core.traces.len()
    }

    /// Ends everything: what is still open is sent as such.
    pub fn finish(&mut self, now: MonoNs) {
        for key in self.core.traces.keys() {
            self.core.send(key, now);
            self.core.traces.end(key);
        }
        self.lanes.clear();
    }

    /// The traces finished since the last call, in the order they were.
    pub fn take_completed(&mut self) -> Vec<Trace> {
        std::mem::take(&mut self.core.completed)
    }

    /// What was seen, dropped and bounded so far.
    #[must_use]
    pub const fn stats(&self) -> &StitchStats {
        &self.core.stats
    }
}

impl Core {
    /// Holds an event's number against its lane's: a jump is a loss on this lane. Whether there is one.
    fn check_number(&mut self, lane: &mut LaneState, event: &Event, place: u32) -> bool {
        let since = std::mem::replace(&mut lane.seen, self.stats.events);
        let number = event.sequence;
        if number == 0 {
            return false;
        }
        let mut expected = lane.sequence.checked_add(1).unwrap_or(1);
        if lane.sequence == 0 && self.forgot_lanes {
            expected = number;
        }
        let mut lost = u64::from(number.saturating_sub(expected));
        lane.missed |= lane.sequence == 0 && number > 1;
        if number < expected {
            // The thread's number is used by a new thread, and at least the end of the old one is
            // lost.
            lost = u64::from(number);
            self.mark_lost(lane, 1);
            self.end_lane(lane, event.time, ExitKind::Inferred);
            lane.begin_anew();
            lane.missed |= number > 1;
        } else if lost > 0 {
            self.mark_lost(lane, lost);
            self.doubt_calls(lane);
        }
        lane.sequence = number;
        if lost > 0 {
            self.stats.lost += lost;
            lane.lost_before_next += lost;
            self.doubt_evidence(since, place);
        }
        lost > 0
    }

    fn mark_lost(&mut self, lane: &LaneState, lost: u64) {
        for span in lane.frames().filter_map(|frame| frame.span) {
            if let Some(open) = self.open_mut(span) {
                open.more().lost += lost;
            }
        }
    }

    /// Events of a lane were lost: calls may have ended, and whom a thread runs for may have changed.
    fn doubt_calls(&mut self, lane: &mut LaneState) {
        lane.doubt_all();
        self.stats.unknown_carriers += u64::from(lane.carries.take().is_some());
        (lane.borrows, lane.was_told) = (false, true);
        for known_as in lane.frames().filter_map(|frame| frame.known_as) {
            self.contexts.doubt(known_as);
        }
    }

    /// Events of the lane at `place` were lost after the event `since`. Any key that is alive may have been
    /// taken by then, and given again for something else; what has been taken since proves nothing. Nor
    /// does what was believed of the lane's calls.
    fn doubt_evidence(&mut self, since: u64, place: u32) {
        self.stats.doubtful += self.keys.doubt_all();
        self.tainted.add(since, self.stats.events);
        for key in self.traces.keys() {
            let Some(trace) = self.traces.get_mut(key) else { continue };
            self.stats.doubtful += trace.cut_since(since, place);
            // Nothing of it may be open now, and no key holds it any more.
            self.send_if_over(key);
        }
    }

    pub(super) fn watches(&self, probe: ProbeId) -> Watches {
        let probe = self.rules.probes.get(probe.index());
        probe.map_or(Watches::Calls, |probe| probe.watches)
    }

    /// An exception has landed, or a panic was recovered.
    pub(super) fn landed(&mut self, lane: &mut LaneState, call: &Call) {
        self.go_to(lane, call.slot, call.time);
        // A witness of threads is called where an exception has landed, in the slot of the call that it
        // has left. That of goroutines tells the stack pointer they go on with, and the calls of the
        // function that has it then lie below.
        let equal = !lane.is_goroutine();
        while let Some(gone) = lane.pop_below(call.slot, equal) {
            let exit = if gone.after_loss { ExitKind::Inferred } else { ExitKind::Unwound };
            self.close(&gone, call.time, exit);
        }
    }

    /// Ends what a call that begins now proves gone.
    pub(super) fn clear(&mut self, lane: &mut LaneState, call: &Call) {
        self.go_to(lane, call.slot, call.time);
        while let Some(gone) = lane.pop_below(call.slot, false) {
            self.give_up(&gone, call.time);
        }
        // Whether what it jumped to has made this call, or has returned to what makes it, cannot be
        // told. It has done its part.
        while let Some(gone) = lane.pop_jumped(call.slot) {
            self.give_up(&gone, call.time);
        }
        let handed_on = lane.innermost().is_some_and(|frame| {
            frame.slot == call.slot
                && frame.return_address == call.return_address
                && frame.return_address.0 != 0
                && frame.probe != call.probe
        });
        if !handed_on {
            while let Some(gone) = lane.pop_below(call.slot, true) {
                self.give_up(&gone, call.time);
            }
        }
        lane.handed_on();
    }

    /// Begins a call.
    pub(super) fn begin(
        &mut self,
        lane: &mut LaneState,
        peer: Option<&Peer<'_>>,
        spawned: Option<&Spawned>,
        call: &Call,
    ) {
        if lane.open_frames() >= self.limits.frames_per_lane {
            self.stats.frames_full += 1;
            // They may be those of stacks that are no more.
            for gone in lane.forget_stack() {
                self.close(&gone, call.time, ExitKind::Inferred);
            }
            return;
        }
        let parent = self.parent(lane, peer, spawned, call);
        let base = parent.base;
        let frame = self.open(lane, call, parent);
        lane.push(frame, base);
        let giver = match frame.context() {
            Context::Span(giver) => Some(giver),
            Context::Orphan | Context::Nothing => None,
        };
        self.give(call.probe, Moment::Enter, &call.words, giver, call.lane, call.time);
        self.end_keys(call.probe, Moment::Enter, &call.words, call.lane);
    }

    /// Goes to the stack of an event. Frames on a stack that is forgotten are given up.
    pub(super) fn go_to(&mut self, lane: &mut LaneState, slot: FrameAddr, time: MonoNs) {
        for gone in lane.go_to(slot, self.stats.events) {
            self.close(&gone, time, ExitKind::Inferred);
        }
    }

    /// Whether a span can be a parent: its trace is not over and it was not cut out.
    pub(super) fn is_there(&self, span: SpanRef) -> bool {
        self.traces.get(span.trace).is_some_and(|trace| trace.can_be_parent(span))
    }

    fn open_mut(&mut self, span: SpanRef) -> Option<&mut Open> {
        self.traces.get_mut(span.trace)?.get_mut(span)
    }

    pub(super) fn begin_trace(&mut self, top: NewSpan, now: MonoNs) -> Option<SpanRef> {
        if self.traces.len() >= self.limits.traces.min(TraceKey::PLACES)
            && let Some(oldest) = self.traces.oldest()
        {
            self.stats.traces_full += 1;
            self.send(oldest, now);
            self.stats.not_taken += self.keys.end_trace(oldest);
            self.traces.end(oldest);
        }
        let id = self.ids.trace();
        Some(self.traces.begin(id)?.add(top, None))
    }

    pub(super) fn send_if_over(&mut self, key: TraceKey) {
        let Some(trace) = self.traces.get_mut(key).filter(|trace| trace.is_over()) else { return };
        if self.keys.hold(key) {
            return;
        }
        self.stats.not_taken += self.keys.end_trace(key);
        let end = if trace.sent { TraceEnd::Late } else { TraceEnd::Complete };
        if !trace.sent || trace.has_unsent() {
            self.stats.late += u64::from(trace.sent);
            self.completed.push(self.arranger.finish(trace, end, MonoNs(0), &self.names));
        }
        self.traces.end(key);
    }

    /// Sends a trace as it is. Its keys die, but for those that a call will end; its open calls go
    /// on as parents of late spans.
    fn send(&mut self, key: TraceKey, now: MonoNs) {
        let Some(trace) = self.traces.get_mut(key) else { return };
        self.stats.not_taken += self.keys.lapse(key);
        let end = if trace.sent { TraceEnd::Late } else { TraceEnd::Incomplete };
        if trace.sent && !trace.has_unsent() {
            return;
        }
        self.stats.incomplete += u64::from(end == TraceEnd::Incomplete);
        self.stats.late += u64::from(end == TraceEnd::Late);
        self.completed.push(self.arranger.finish(trace, end, now, &self.names));
    }

    fn tick(&mut self, now: MonoNs) {
        // Often enough for the grace time, seldom enough to cost nothing.
        if now.since(self.ticked) < self.limits.grace / 16 {
            return;
        }
        self.ticked = now;
        let waited = |trace: &OpenTrace| {
            !trace.sent && trace.root_closed.is_some_and(|at| now.since(at) >= self.limits.grace)
        };
        let over = self.traces.those(waited);
        for key in over {
            self.send(key, now);
        }
    }
}
