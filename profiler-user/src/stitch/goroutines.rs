//! Goroutines: threads that carry them through functions in C, and where they are made.
//!
//! While a goroutine runs functions in C its calls are on two stacks, its own and the thread's, which call
//! each other in turn: the two lanes are each other's *peers*. Of two open calls that which began later is
//! the inner one. A call ends all that began after it on the other stack.

use crate::model::{Event, Goid, Lane, MonoNs, Tid, Watches};

use super::frames::Frame;
use super::lane::LaneState;
use super::spawns::Maker;
use super::stitcher::{Call, Stitcher};
use super::trace::SpanRef;

/// The lane of the other stack.
pub(super) struct Peer<'a> {
    pub(super) lane: &'a LaneState,
    pub(super) place: u32,
}

impl Peer<'_> {
    /// Its innermost call and its place, if that began after the innermost of the own lane.
    pub(super) fn over(&self, own: Option<&Frame>) -> Option<(&Frame, u32)> {
        let innermost = self.lane.inside().or_else(|| self.lane.outside())?;
        let is_over = own.is_none_or(|own| own.serial < innermost.serial);
        is_over.then_some((innermost, self.place))
    }
}

/// The span below which a goroutine was made, and the lane this rests on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spawned {
    pub(super) span: SpanRef,
    pub(super) on: u32,
}

impl Stitcher {
    /// A call begins, or a witness is called.
    pub(super) fn enter(&mut self, call: &Call) {
        let Self { lanes, core, .. } = self;
        let Some(lane) = lanes.at(call.place) else { return };
        match core.watches(call.probe) {
            Watches::Calls => {}
            Watches::Unwinding => {
                core.landed(lane, call);
                self.after_landing(call);
                return;
            }
            Watches::Loading => return,
            // Of those that are understood comes an `Unwound` event.
            Watches::Jumping => {
                core.stats.unknown_jumps += 1;
                lane.doubt_callers();
                return;
            }
        }
        core.clear(lane, call);
        let is_first = !std::mem::replace(&mut lane.has_called, true);
        let (popped, carries, runs_once) = (lane.take_popped(), lane.carries, lane.runs_once);
        let (mut peer, mut spawned) = (None, None);
        match call.lane {
            Lane::Goroutine(pid, goroutine) => {
                peer = self.carrier(call.lane, call.place, call.tid, call.time);
                if let Some(popped) = popped {
                    self.left(peer, popped, call.time);
                }
                if is_first
                    && let Some(maker) = self.core.spawns.take((pid, goroutine))
                    && runs_once
                {
                    spawned = self.maker(call.place, maker);
                }
            }
            Lane::Thread(pid, _) => {
                self.core.has_cgo = true;
                if let Some(goroutine) = carries {
                    peer = self.lanes.find(Lane::Goroutine(pid, goroutine));
                    if let Some(lane) = peer.and_then(|peer| self.lanes.at(peer)) {
                        lane.carrier = Some(call.tid);
                    }
                }
            }
        }
        let Some((lane, peer)) = self.lanes.pair(call.place, peer) else { return };
        let peer = peer.map(|(place, lane)| Peer { lane, place });
        self.core.begin(lane, peer.as_ref(), spawned.as_ref(), call);
    }

    /// Calls may have ended.
    pub(super) fn after_exit(&mut self, event: &Event, place: u32) {
        let Some(lane) = self.lanes.at(place) else { return };
        if lane.carrier.is_none() {
            return;
        }
        let popped = lane.take_popped();
        let peer = self.carrier(event.lane, place, event.tid, event.time);
        if let Some(popped) = popped {
            self.left(peer, popped, event.time);
        }
        if self.lanes.at(place).is_some_and(|lane| lane.open_frames() == 0) {
            self.give_back(peer);
        }
    }

    /// A goroutine has recovered from a panic. What was called in C by the calls it has left is gone with
    /// them, and nobody has seen it.
    fn after_landing(&mut self, call: &Call) {
        if !matches!(call.lane, Lane::Goroutine(..)) {
            return;
        }
        let Some(lane) = self.lanes.at(call.place) else { return };
        let (popped, kept) = (lane.take_popped(), lane.inside().map_or(0, |frame| frame.serial));
        let peer = self.carrier(call.lane, call.place, call.tid, call.time);
        if let Some(popped) = popped {
            self.left(peer, popped, call.time);
        }
        // Whether that in between was left too depends on calls that are not probed.
        if let Some(thread) = peer.and_then(|peer| self.lanes.at(peer)) {
            thread.doubt_since(kept);
        }
    }

    /// Events of a goroutine were lost: it may have left what it called in C by a panic.
    pub(super) fn doubt_carrier(&mut self, event: &Event, place: u32) {
        if let Some(thread) = self.carrier(event.lane, place, event.tid, event.time)
            && let Some(thread) = self.lanes.at(thread)
        {
            thread.doubt_since(0);
        }
    }

    /// A goroutine has ended: what it called in C has too.
    pub(super) fn after_end(&mut self, event: &Event, place: u32) {
        let Lane::Goroutine(pid, goroutine) = event.lane else { return };
        self.core.spawns.take((pid, goroutine));
        let carrier = self.lanes.at(place).and_then(|lane| lane.carrier);
        let thread = Lane::Thread(pid, carrier.unwrap_or(event.tid));
        let thread = self.carrying(thread, goroutine);
        self.left(thread, 0, event.time);
        if let Some(thread) = thread.and_then(|thread| self.lanes.at(thread)) {
            thread.carries = None;
        }
    }

    /// A thread runs functions in C for a goroutine, or for none, from now on.
    pub(super) fn carries(&mut self, event: &Event, place: u32, goroutine: Option<Goid>) {
        self.core.has_cgo = true;
        let Some(thread) = self.lanes.at(place) else { return };
        thread.carry(goroutine, self.core.stats.events);
        let lane = goroutine.map(|goroutine| Lane::Goroutine(event.lane.pid(), goroutine));
        let lane = lane.and_then(|lane| self.lanes.find(lane));
        if let Some(lane) = lane.and_then(|lane| self.lanes.at(lane)) {
            lane.carrier = Some(event.tid);
        }
    }

    /// A goroutine makes another, in the innermost call of its two stacks.
    pub(super) fn spawn(&mut self, event: &Event, place: u32, child: Goid) {
        let peer = self.carrier(event.lane, place, event.tid, event.time);
        let Some((lane, peer)) = self.lanes.pair(place, peer) else { return };
        let peer = peer.map(|(place, lane)| Peer { lane, place });
        let own = lane.inside();
        let over = peer.as_ref().and_then(|peer| peer.over(own));
        let Some((innermost, place)) = over.or(own.map(|own| (own, place))) else { return };
        if innermost.is_doubtful() {
            return;
        }
        let maker = Maker { place, serial: innermost.serial };
        let frame = self.lanes.at(place).and_then(|lane| lane.frame_mut(maker.serial));
        let Some(frame) = frame else { return };
        frame.has_spawned = true;
        let limit = self.core.limits.spawns;
        let forgot = self.core.spawns.add((event.lane.pid(), child), maker, limit);
        self.core.stats.spawns_full += u64::from(forgot);
    }

    /// The call in which a goroutine was made, if it is still open and nothing of the goroutine was lost: then
    /// this may not be its first call.
    fn maker(&mut self, child: u32, maker: Maker) -> Option<Spawned> {
        if self.lanes.at(child)?.missed {
            return None;
        }
        let frame = *self.lanes.at(maker.place)?.frame_mut(maker.serial)?;
        self.core.spawned(&frame, maker.place)
    }

    /// The place of the thread that carries a goroutine, which has just been seen on the thread `tid`.
    fn carrier(&mut self, lane: Lane, place: u32, tid: Tid, time: MonoNs) -> Option<u32> {
        let Lane::Goroutine(pid, goroutine) = lane else { return None };
        if !self.core.has_cgo {
            return None;
        }
        let before = self.lanes.at(place).and_then(|lane| lane.carrier);
        if let Some(before) = before.filter(|before| *before != tid) {
            // A goroutine stays on its thread until what it has called in C is over.
            let thread = self.carrying(Lane::Thread(pid, before), goroutine);
            // One that threads of C borrow serves one after the other.
            if !self.give_back(thread) {
                self.left(thread, 0, time);
            }
        }
        let thread = self.carrying(Lane::Thread(pid, tid), goroutine);
        let thread = thread.or_else(|| self.borrowing(Lane::Thread(pid, tid), goroutine));
        if let Some(lane) = self.lanes.at(place) {
            lane.carrier = thread.map(|_| tid);
        }
        thread
    }

    /// The place of a thread that was not made by Go, and is in a call: whatever Go runs on it is called from
    /// there, by a goroutine that the runtime lends it for as long (`needm` in `src/runtime/proc.go`).
    fn borrowing(&mut self, thread: Lane, goroutine: Goid) -> Option<u32> {
        let place = self.lanes.find(thread)?;
        let thread = self.lanes.at(place)?;
        thread.calls_back().then(|| {
            thread.borrow(Some(goroutine));
            place
        })
    }

    /// A thread has its goroutine no more, if that was borrowed; whether it was.
    fn give_back(&mut self, thread: Option<u32>) -> bool {
        let thread = thread.and_then(|thread| self.lanes.at(thread));
        thread.filter(|thread| thread.borrows).map(|thread| thread.borrow(None)).is_some()
    }

    /// The place of a thread, if it carries this goroutine.
    fn carrying(&mut self, thread: Lane, goroutine: Goid) -> Option<u32> {
        let place = self.lanes.find(thread)?;
        (self.lanes.at(place)?.carries == Some(goroutine)).then_some(place)
    }

    /// The calls of a thread for the goroutine it carries, begun after the event `since`, are gone: no later
    /// than now, as nobody has seen them go.
    fn left(&mut self, thread: Option<u32>, since: u64, time: MonoNs) {
        let Some(thread) = thread.and_then(|thread| self.lanes.at(thread)) else { return };
        while let Some(gone) = thread.pop_carried(since) {
            self.core.give_up(&gone, time);
        }
    }
}
