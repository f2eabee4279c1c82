//! Stories for the tests of this room: what threads did, as events.

use super::calls::Watched;
use super::{Calls, Slot};
use crate::model::{
    Ahead, Event, EventBody, FrameAddr, Lane, MonoNs, Pid, ProbeId, ReturnAddr, Seen, Tid, Words,
};
use rustc_hash::FxHashMap;

pub(super) struct Story {
    calls: Calls,
    functions: usize,
    slots: Vec<Slot>,
    now: u64,
    sequences: FxHashMap<u32, u32>,
}

impl Story {
    /// Functions whose probes capture arguments 1 and 2 and one word behind argument 1.
    pub(super) fn of(functions: usize) -> Self {
        let slots = vec![Slot::Arg(1), Slot::Arg(2), Slot::ArgWord(1, 32)];
        let sequences = FxHashMap::default();
        let mut this = Self { calls: Calls::default(), functions, slots, now: 1_000, sequences };
        this.slice();
        this
    }

    pub(super) fn slice(&mut self) -> &mut Self {
        let watched = |function| Watched {
            function: Some(function),
            socket: None,
            slots: self.slots.clone(),
        };
        self.calls.slice((0..self.functions).map(watched).collect(), Vec::new());
        self
    }

    pub(super) fn wait(&mut self, nanoseconds: u64) -> &mut Self {
        self.now += nanoseconds;
        self
    }

    pub(super) fn lose(&mut self, thread: u32) -> &mut Self {
        *self.sequences.entry(thread).or_default() += 1;
        self
    }

    pub(super) fn enter(&mut self, thread: u32, function: u16, frame: u64) -> &mut Self {
        self.enter_with(thread, function, frame, &[])
    }

    pub(super) fn enter_with(
        &mut self,
        thread: u32,
        function: u16,
        frame: u64,
        words: &[u64],
    ) -> &mut Self {
        let body = EventBody::Enter {
            contexts: None,
            probe: ProbeId(function),
            frame: FrameAddr(frame),
            return_address: ReturnAddr(frame),
            ahead: Ahead::Nothing,
            words: Words::new(words, 0),
        };
        self.push(thread, body)
    }

    pub(super) fn ret(&mut self, thread: u32, frame: u64) -> &mut Self {
        let frame = FrameAddr(frame);
        self.push(
            thread,
            EventBody::Exit { seen: Seen::Ret, probe: ProbeId(0), frame, words: Words::default() },
        )
    }

    pub(super) fn calls(&self) -> &Calls {
        &self.calls
    }

    fn push(&mut self, thread: u32, body: EventBody) -> &mut Self {
        self.now += 10;
        let sequence = self.sequences.entry(thread).or_default();
        *sequence += 1;
        let (tid, sequence) = (Tid(thread), *sequence);
        let lane = Lane::Thread(Pid(1), tid);
        self.calls.push(&Event { time: MonoNs(self.now), lane, tid, sequence, body });
        self
    }
}
