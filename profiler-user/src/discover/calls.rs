//! The calls that were seen, each below the one that was open on its stack.

use rustc_hash::FxHashMap;

use super::SocketUse;
use crate::config::KeyExpr;
use crate::model::{Event, EventBody, FrameAddr, Lane, ProbeId, ReturnAddr, Words};

/// A candidate function, by its place in the list of candidates.
pub type FunctionId = usize;
/// A call, by its place in [`Calls::list`].
pub type CallId = usize;
/// Where a captured word comes from.
pub type Slot = KeyExpr;

/// More calls are counted, not kept: some 40 MiB.
const MOST_CALLS: usize = 300_000;

/// One call of a candidate.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Whose.
    pub function: FunctionId,
    /// On which thread.
    pub lane: Lane,
    /// The candidate below which it ran on its stack.
    pub parent: Option<CallId>,
    /// The outermost candidate on its stack; itself if it is that.
    pub tree: CallId,
    /// The address of its return slot: the higher, the nearer to the thread's beginning.
    pub frame: FrameAddr,
    /// Though no caller was seen, there was one: it began before it was watched.
    pub hidden: bool,
    /// When it began, nanoseconds.
    pub start: u64,
    /// When it ended, where that was seen.
    pub end: Option<u64>,
    /// What was captured when it began.
    pub words: Words,
    probe: ProbeId,
    slice: usize,
}

/// Bytes came or went through a socket.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    /// On which thread.
    pub lane: Lane,
    /// When, nanoseconds.
    pub time: u64,
    /// In which direction.
    pub usage: SocketUse,
    /// Within which call.
    pub within: Option<CallId>,
}

/// What a probe of one slice stands for.
#[derive(Clone, Debug)]
pub struct Watched {
    /// The candidate; none for a function of the C library.
    pub function: Option<FunctionId>,
    /// What it does with sockets.
    pub socket: Option<SocketUse>,
    /// What its words are.
    pub slots: Vec<Slot>,
}

struct Open {
    call: CallId,
    frame: FrameAddr,
    return_address: ReturnAddr,
}

#[derive(Default)]
struct Stack {
    open: Vec<Open>,
    /// The calls of this slice for which no caller was seen.
    outermost: Vec<CallId>,
    sequence: u32,
}

/// All that was seen, slice by slice.
#[derive(Default)]
pub struct Calls {
    list: Vec<Call>,
    exchanges: Vec<Exchange>,
    slices: Vec<Vec<Watched>>,
    stacks: FxHashMap<Lane, Stack>,
    sockets: Vec<u64>,
    /// Calls that were not kept because there were too many.
    pub dropped: u64,
}

impl Calls {
    /// A slice of watching begins: what its probes stand for, and which file descriptors are
    /// sockets. Nothing that was open before is open any more, as far as anybody knows.
    pub fn slice(&mut self, probes: Vec<Watched>, sockets: Vec<u64>) {
        self.slices.push(probes);
        self.sockets = sockets;
        self.stacks.clear();
    }

    /// Every call, in the order they began.
    #[must_use]
    pub fn list(&self) -> &[Call] {
        &self.list
    }

    /// Every use of a socket.
    #[must_use]
    pub fn exchanges(&self) -> &[Exchange] {
        &self.exchanges
    }

    /// The words of a call and where each comes from; those that could not be read are left out.
    pub fn words(&self, call: &Call) -> impl Iterator<Item = (Slot, u64)> {
        let slots = self
            .slices
            .get(call.slice)
            .and_then(|probes| probes.get(call.probe.index()))
            .map_or(&[][..], |watched| watched.slots.as_slice());
        let words = call.words;
        slots.iter().enumerate().filter_map(move |(at, slot)| Some((*slot, words.get(at)?)))
    }

    /// One event of the current slice.
    pub fn push(&mut self, event: &Event) {
        let stack = self.stacks.entry(event.lane).or_default();
        if event.sequence != 0 {
            // Something was lost on this thread: who is open cannot be told.
            if stack.sequence != 0 && event.sequence != stack.sequence.wrapping_add(1) {
                stack.open.clear();
            }
            stack.sequence = event.sequence;
        }
        match event.body {
            EventBody::Enter { probe, frame, return_address, words, .. } => {
                self.enter(event, probe, frame, return_address, words);
            }
            EventBody::Exit { frame, .. } => {
                let mut known = false;
                while let Some(open) = stack.open.last()
                    && open.frame <= frame
                {
                    if open.frame == frame
                        && let Some(call) = self.list.get_mut(open.call)
                    {
                        call.end = Some(event.time.0);
                    }
                    known |= open.frame == frame;
                    stack.open.pop();
                }
                if !known && stack.open.is_empty() {
                    // Its begin was not seen: what ran below it was not the outermost.
                    for call in stack.outermost.drain(..) {
                        if let Some(call) = self.list.get_mut(call)
                            && call.frame < frame
                        {
                            call.hidden = true;
                        }
                    }
                }
            }
            EventBody::Jump { .. }
            | EventBody::Unwound { .. }
            | EventBody::Folded { .. }
            | EventBody::Asks { .. }
            | EventBody::GaveUp { .. }
            | EventBody::Carries { .. }
            | EventBody::Spawn { .. }
            | EventBody::Born { .. }
            | EventBody::RunsOnce
            | EventBody::Fork { .. } => {}
            EventBody::LaneEnd | EventBody::ProcessEnd | EventBody::Exec => {
                self.stacks.remove(&event.lane);
            }
        }
    }

    fn enter(
        &mut self,
        event: &Event,
        probe: ProbeId,
        frame: FrameAddr,
        return_address: ReturnAddr,
        words: Words,
    ) {
        let Some(slice) = self.slices.len().checked_sub(1) else { return };
        let watched = self.slices.get(slice).and_then(|probes| probes.get(probe.index()));
        let (Some(watched), Some(stack)) = (watched, self.stacks.get_mut(&event.lane)) else {
            return;
        };
        // A younger frame cannot be open any more. One in the same slot with the same return
        // address has jumped here and ends with us.
        let gone = |open: &Open| {
            open.frame < frame || (open.frame == frame && open.return_address != return_address)
        };
        while stack.open.last().is_some_and(gone) {
            stack.open.pop();
        }
        let parent = stack.open.last().map(|open| open.call);
        let Some(function) = watched.function else {
            if let Some(usage) = watched.socket
                && words.get(0).is_some_and(|descriptor| self.sockets.contains(&descriptor))
            {
                let exchange =
                    Exchange { lane: event.lane, time: event.time.0, usage, within: parent };
                self.exchanges.push(exchange);
            }
            return;
        };
        if self.list.len() >= MOST_CALLS {
            self.dropped += 1;
            return;
        }
        let call = self.list.len();
        let tree =
            parent.and_then(|parent| self.list.get(parent)).map_or(call, |parent| parent.tree);
        self.list.push(Call {
            function,
            lane: event.lane,
            parent,
            tree,
            frame,
            hidden: false,
            start: event.time.0,
            end: None,
            words,
            probe,
            slice,
        });
        if parent.is_none() {
            stack.outermost.push(call);
        }
        stack.open.push(Open { call, frame, return_address });
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Story;

    #[test]
    fn calls_nest_by_their_frames() {
        let mut story = Story::of(3);
        story.enter(1, 0, 900).enter(1, 1, 800).ret(1, 800).enter(1, 2, 800).ret(1, 800);
        story.ret(1, 900).enter(2, 1, 500);
        let calls = story.calls();
        let parents: Vec<_> = calls.list().iter().map(|call| call.parent).collect();
        assert_eq!(parents, [None, Some(0), Some(0), None]);
        let trees: Vec<_> = calls.list().iter().map(|call| call.tree).collect();
        assert_eq!(trees, [0, 0, 0, 3]);
        assert!(calls.list()[..3].iter().all(|call| call.end.is_some()));
        assert!(calls.list()[3].end.is_none());
    }

    #[test]
    fn a_frame_left_by_an_exception_is_nobodys_parent() {
        let mut story = Story::of(3);
        story.enter(1, 0, 900).enter(1, 1, 800).enter(1, 2, 850);
        let calls = story.calls();
        assert_eq!(calls.list()[2].parent, Some(0));
        assert!(calls.list()[1].end.is_none());
    }

    #[test]
    fn after_a_loss_nobody_is_a_parent() {
        let mut story = Story::of(2);
        story.enter(1, 0, 900).lose(1).enter(1, 1, 800);
        assert_eq!(story.calls().list()[1].parent, None);
    }

    #[test]
    fn whoever_ends_and_did_not_begin_was_the_caller() {
        let mut story = Story::of(2);
        story.enter(1, 1, 700).ret(1, 700).ret(1, 900).enter(1, 0, 900);
        let hidden: Vec<_> = story.calls().list().iter().map(|call| call.hidden).collect();
        assert_eq!(hidden, [true, false]);
    }

    #[test]
    fn a_new_slice_knows_of_no_open_call() {
        let mut story = Story::of(2);
        story.enter(1, 0, 900).slice().enter(1, 1, 800);
        assert_eq!(story.calls().list()[1].parent, None);
    }
}
