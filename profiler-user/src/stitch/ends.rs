//! How calls end: seen to return, unwound, or known only now to be over.

use crate::model::{Event, ExitKind, FrameAddr, Moment, MonoNs, ProbeId, Words};

use super::frames::{Context, Frame};
use super::lane::LaneState;
use super::stitcher::Core;

/// A call that ends.
pub(super) struct Exit {
    pub(super) kind: ExitKind,
    pub(super) probe: ProbeId,
    pub(super) slot: FrameAddr,
    pub(super) words: Words,
}

impl Core {
    /// Calls below an address of a call's stack have been left.
    pub(super) fn unwind(
        &mut self,
        lane: &mut LaneState,
        slot: FrameAddr,
        below: FrameAddr,
        time: MonoNs,
    ) {
        self.go_to(lane, slot, time);
        if !lane.lands_on_this_stack(below) {
            self.stats.unknown_jumps += 1;
            lane.doubt_callers();
            return;
        }
        while let Some(gone) = lane.pop_below(below, false) {
            let exit = if gone.after_loss { ExitKind::Inferred } else { ExitKind::Unwound };
            self.close(&gone, time, exit);
        }
    }

    pub(super) fn exit(&mut self, lane: &mut LaneState, event: &Event, exit: &Exit) {
        let Exit { kind, probe, slot, ref words } = *exit;
        self.go_to(lane, slot, event.time);
        let (mut matched, mut spoke) = (false, false);
        while let Some(ended) = lane.pop_below(slot, true) {
            // Of those below, the ones that were to come back to here.
            let seen = ended.slot == slot || ended.awaited == slot;
            matched |= seen;
            // The words are those that the probe of this site captures. After a loss it may be
            // another call, at the same place, that ends here.
            if seen && ended.probe == probe && !spoke {
                spoke = true;
                let giver = match ended.context() {
                    Context::Span(giver) if !ended.after_loss => Some(giver),
                    _ => None,
                };
                self.give(probe, Moment::Exit, words, giver, event.lane, event.time);
            }
            if seen && !ended.after_loss {
                self.close(&ended, event.time, kind);
            } else {
                self.give_up(&ended, event.time);
            }
        }
        self.stats.unmatched_exits += u64::from(!matched);
        if !spoke {
            self.give(probe, Moment::Exit, words, None, event.lane, event.time);
        }
        self.end_keys(probe, Moment::Exit, words, event.lane);
    }

    /// A call jumps to another function: if nothing is seen of its return, it ends here.
    pub(super) fn jump(
        &mut self,
        lane: &mut LaneState,
        probe: ProbeId,
        slot: FrameAddr,
        time: MonoNs,
    ) {
        self.go_to(lane, slot, time);
        while let Some(gone) = lane.pop_below(slot, false) {
            self.give_up(&gone, time);
        }
        lane.jumps(probe, slot, time);
    }

    /// Closes a call of which it is known only now that it has ended.
    pub(super) fn give_up(&mut self, frame: &Frame, now: MonoNs) {
        match frame.jumped {
            Some(at) if !frame.after_loss => self.close(frame, at, ExitKind::Jump),
            _ => self.close(frame, now, ExitKind::Inferred),
        }
    }

    pub(super) fn end_lane(&mut self, lane: &mut LaneState, time: MonoNs, exit: ExitKind) {
        while let Some(gone) = lane.pop_any() {
            let exit = if gone.after_loss { ExitKind::Inferred } else { exit };
            self.close(&gone, time, exit);
        }
    }

    pub(super) fn close(&mut self, frame: &Frame, end: MonoNs, exit: ExitKind) {
        if let Some(known_as) = frame.known_as {
            self.contexts.remove(known_as);
        }
        if frame.has_spawned {
            self.spawns.end_call(frame.serial);
        }
        let Some(span) = frame.span else { return };
        let Some(trace) = self.traces.get_mut(span.trace) else { return };
        trace.close(span, end, exit);
        self.stats.inferred += u64::from(exit == ExitKind::Inferred);
        let folded = trace.fold(span, self.limits.spans_per_trace, &self.names);
        self.stats.folded += u64::from(folded);
        self.send_if_over(span.trace);
    }
}
