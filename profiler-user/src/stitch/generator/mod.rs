//! Random programs, what they make a kernel side report, and what is true of them.
//!
//! A program is a list of steps. Each step lets one of a few threads do something; the world keeps
//! what is physically true (who called whom, who gave whom work) beside what the rules can prove.
#![expect(clippy::option_option, reason = "whether something is there, and whether it has one")]

pub(super) mod go;
mod rules;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Ahead, Event, EventBody, ExitKind, FrameAddr, Lane, MonoNs, Pid, ProbeId, ReturnAddr, Seen,
    Tid, Words,
};

pub(super) use rules::{
    GIVE_ANY, GIVE_ONE, MERGE, PASS_ONE, PLAIN, ROOT, TAKE_ANY, TAKE_ONE, TOUCH, rules,
};

/// What is true of a call of a span function.
#[derive(Clone, Debug)]
pub(super) struct Truth {
    pub(super) name: &'static str,
    pub(super) lane: Lane,
    pub(super) start: u64,
    pub(super) end: Option<u64>,
    pub(super) exit: ExitKind,
    /// Whose child it is.
    pub(super) real_parent: Option<usize>,
    /// The givers of what it takes: shared work has several parents in truth.
    pub(super) givers: Vec<usize>,
    /// Which calls it was made from on its stack: several, if one between took work and has no span.
    pub(super) callers: Vec<usize>,
    /// What the rules can prove of that; none of the outer: it is dropped.
    pub(super) proven: Option<Option<usize>>,
    pub(super) by_handoff: bool,
    pub(super) links: usize,
    trace: usize,
}

#[derive(Clone, Debug)]
struct Call {
    id: u64,
    slot: u64,
    return_address: u64,
    span: Option<usize>,
    /// What calls below it are children of, really and provably.
    real: Option<usize>,
    proven: Option<usize>,
    callers: Vec<usize>,
    /// It passes a hand-off on to the calls below.
    pass: bool,
}

#[derive(Clone, Debug, Default)]
struct Stack {
    calls: Vec<Call>,
    base: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    stacks: [Stack; 3],
    on: usize,
    sequence: u32,
}

#[derive(Clone, Debug, Default)]
struct TraceLife {
    open: usize,
    root_closed: bool,
}

#[derive(Clone, Debug, Default)]
struct Key {
    /// The real giver of what is in the queue; none: it was taken or thrown away.
    real: Option<Option<usize>>,
    /// The calls that gave it, as the stack shows them.
    callers: Vec<usize>,
    /// Who gave it while it was alive.
    givers: BTreeSet<usize>,
    /// It was given on behalf of nothing known, while it was alive.
    revoked: bool,
}

/// A running program.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    threads: [Thread; 4],
    pub(super) truths: Vec<Truth>,
    pub(super) events: Vec<Event>,
    traces: Vec<TraceLife>,
    keys: BTreeMap<(u16, u64), Key>,
    now: u64,
    calls: u64,
}

/// One step: which thread, what, and two choices.
pub(super) type Step = (u8, u8, u8, u8);

const PID: Pid = Pid(7);

const fn top(stack: usize) -> u64 {
    0x7f00_0000_0000 - 0x10_0000 * stack as u64
}

impl World {
    pub(super) fn run(steps: &[Step]) -> Self {
        let mut world = Self::default();
        for (thread, what, one, two) in steps {
            world.step(usize::from(*thread) % 4, *what, *one, *two);
        }
        world
    }

    fn step(&mut self, thread: usize, what: u8, one: u8, two: u8) {
        let depth = self.stack(thread).calls.len();
        let key = u64::from(two % 6) + 1;
        match what % 16 {
            _ if depth > 12 => self.ret(thread),
            0 => self.call(thread, ROOT, &[]),
            1..=3 => self.call(thread, PLAIN[usize::from(one) % 3], &[]),
            4 => self.touch(thread),
            5..=7 => self.ret(thread),
            8 => self.throw(thread, 1 + usize::from(one) % 5),
            9 => self.tail_call(thread, PLAIN[usize::from(one) % 3]),
            10 if one < 128 => self.switch(thread, 1 + usize::from(two) % 2),
            10 => self.switch(thread, 0),
            11 => self.give(thread, GIVE_ONE, key, one < 20),
            12 => self.give(thread, GIVE_ANY, key, one < 20),
            13 if one < 160 => self.call(thread, TAKE_ONE, &[(0, key)]),
            13 => self.call(thread, PASS_ONE, &[(0, key)]),
            14 if one < 160 => self.call(thread, TAKE_ANY, &[(1, key)]),
            14 => self.call(thread, MERGE, &[(0, key), (1, u64::from(one % 6) + 1)]),
            _ if one < 40 => self.end_thread(thread),
            _ => self.ret(thread),
        }
    }

    fn stack(&self, thread: usize) -> &Stack {
        &self.threads[thread].stacks[self.threads[thread].on]
    }

    fn emit(&mut self, thread: usize, body: EventBody) {
        self.now += 10;
        let state = &mut self.threads[thread];
        state.sequence += 1;
        let tid = Tid(100 + thread as u32);
        self.events.push(Event {
            time: MonoNs(self.now),
            lane: Lane::Thread(PID, tid),
            tid,
            sequence: state.sequence,
            body,
        });
    }

    fn enter(&mut self, thread: usize, probe: u16, slot: u64, ra: u64, words: &[u64]) {
        let body = EventBody::Enter {
            contexts: None,
            probe: ProbeId(probe),
            frame: FrameAddr(slot),
            return_address: ReturnAddr(ra),
            ahead: Ahead::Nothing,
            words: Words::new(words, 0),
        };
        self.emit(thread, body);
    }

    fn emit_ret(&mut self, thread: usize, probe: u16, slot: u64) {
        let (probe, frame) = (ProbeId(probe), FrameAddr(slot));
        self.emit(
            thread,
            EventBody::Exit { seen: Seen::Ret, probe, frame, words: Words::default() },
        );
    }

    fn next_slot(&self, thread: usize) -> u64 {
        let lowest = top(self.threads[thread].on);
        self.stack(thread).calls.last().map_or(lowest, |call| call.slot - 0x40)
    }

    /// The call under which a new one on an empty stack runs, if it can be proven, and in truth.
    fn around(&self, thread: usize, root: bool) -> (Option<&Call>, Option<&Call>) {
        let state = &self.threads[thread];
        let main = &state.stacks[0];
        if let Some(inside) = self.stack(thread).calls.last() {
            return (Some(inside), Some(inside));
        }
        if state.on == 0 {
            return (None, None);
        }
        let real = main.calls.last();
        (real.filter(|_| !root), real)
    }

    fn base(&self, thread: usize) -> Option<&Call> {
        let base = self.stack(thread).base?;
        self.threads[thread].stacks[0].calls.iter().find(|call| call.id == base)
    }

    fn call(&mut self, thread: usize, probe: u16, takes: &[(u16, u64)]) {
        let slot = self.next_slot(thread);
        self.calls += 1;
        self.call_at(thread, probe, takes, slot, 0x1000 + self.calls * 16);
    }

    fn call_at(&mut self, thread: usize, probe: u16, takes: &[(u16, u64)], slot: u64, ra: u64) {
        let words: Vec<u64> = takes.iter().map(|(_, key)| *key).collect();
        let (proven, real) = self.around(thread, probe == ROOT);
        let on_own_stack = self.stack(thread).calls.is_empty();
        let base = proven.filter(|_| on_own_stack).map(|call| call.id);
        let mut pass = proven.is_some_and(|call| call.pass);
        let mut proven = proven.and_then(|call| call.proven).filter(|span| !self.is_over(*span));
        let callers = real.map_or_else(Vec::new, |call| call.callers.clone());
        let mut real = real.and_then(|call| call.real);
        let (mut by_handoff, mut links, mut any) = (pass, 0, false);
        let (mut base, mut givers) = (base, Vec::new());
        for (rule, key) in takes {
            let (giver, really) = self.take(*rule, *key);
            if let Some(really) = really {
                givers.extend(really);
                givers.extend(self.keys[&(*rule, *key)].callers.iter());
            }
            let first = !any && giver.is_some();
            any |= giver.is_some();
            if let Some(giver) = giver {
                if first && !self.is_running(thread, giver) {
                    (proven, by_handoff, pass, base) = (Some(giver), true, true, None);
                } else if !first && proven != Some(giver) && !self.is_running(thread, giver) {
                    links = 1;
                }
            }
            if let Some(Some(giver)) = really
                && (first || !any)
                && !self.is_running(thread, giver)
            {
                real = Some(giver);
            }
        }
        self.enter(thread, probe, slot, ra, &words);
        let name = match probe {
            ROOT => "root",
            1 => "a",
            2 => "b",
            3 => "c",
            TAKE_ONE => "task",
            TAKE_ANY => "plan",
            MERGE => "merge",
            _ => "",
        };
        let mut call = Call {
            id: self.calls,
            slot,
            return_address: ra,
            span: None,
            real,
            proven,
            callers,
            pass,
        };
        call.callers.extend(givers.iter().filter(|_| probe == PASS_ONE));
        self.calls += 1;
        call.id = self.calls;
        if !name.is_empty() {
            let there = proven.is_some() || probe == ROOT;
            let trace = proven.map_or(self.traces.len(), |parent| self.truths[parent].trace);
            if proven.is_none() {
                self.traces.push(TraceLife::default());
            }
            self.traces[trace].open += 1;
            let at = self.truths.len();
            self.truths.push(Truth {
                name,
                lane: self.events[self.events.len() - 1].lane,
                start: self.now,
                end: None,
                exit: ExitKind::Open,
                real_parent: real,
                givers,
                callers: call.callers.clone(),
                proven: there.then_some(proven),
                by_handoff: by_handoff && proven.is_some(),
                links: if proven.is_some() { links } else { 0 },
                trace,
            });
            call.span = Some(at);
            call.real = Some(at);
            call.callers = vec![at];
            call.proven = there.then_some(at);
            call.pass = false;
        }
        let on = self.threads[thread].on;
        let stack = &mut self.threads[thread].stacks[on];
        if stack.calls.is_empty() {
            stack.base = base;
        }
        stack.calls.push(call);
    }

    /// Whether the giver is among the calls that have led to here, as far as that can be seen.
    fn is_running(&self, thread: usize, giver: usize) -> bool {
        let mine = |stack: &Stack| stack.calls.iter().any(|call| call.span == Some(giver));
        let stack = self.stack(thread);
        let below = stack.calls.is_empty() || self.base(thread).is_some();
        mine(stack) || (below && mine(&self.threads[thread].stacks[0]))
    }

    fn take(&mut self, rule: u16, name: u64) -> (Option<usize>, Option<Option<usize>>) {
        let Some(key) = self.keys.get_mut(&(rule, name)) else { return (None, None) };
        let real = key.real;
        let mut giver = None;
        if key.givers.len() == 1 && !key.revoked {
            giver = key.givers.first().copied();
            if rule == 0 {
                key.givers.clear();
            }
        }
        if rule == 0 {
            key.real = None;
        }
        (giver, real)
    }

    fn give(&mut self, thread: usize, probe: u16, name: u64, reuse: bool) {
        let rule = u16::from(probe == GIVE_ANY);
        let key = self.keys.entry((rule, name)).or_default();
        if key.real.is_some() && !reuse {
            return;
        }
        let slot = self.next_slot(thread);
        let (proven, real) = self.around(thread, false);
        let giver = proven.and_then(|call| call.proven).filter(|span| !self.is_over(*span));
        let callers = real.map_or_else(Vec::new, |call| call.callers.clone());
        let real = real.and_then(|call| call.real);
        let key = self.keys.entry((rule, name)).or_default();
        key.real = Some(real);
        key.callers = callers;
        match giver {
            Some(giver) => key.givers.extend([giver]),
            None if !key.givers.is_empty() => key.revoked = true,
            None => {}
        }
        self.note_base(thread);
        self.calls += 1;
        self.enter(thread, probe, slot, 0x1000 + self.calls * 16, &[name]);
        self.emit_ret(thread, probe, slot);
    }

    /// A call that ends at once, on an empty stack, also shows what the stack was entered from.
    fn note_base(&mut self, thread: usize) {
        let base = self.around(thread, false).0.map(|call| call.id);
        let on = self.threads[thread].on;
        let stack = &mut self.threads[thread].stacks[on];
        if stack.calls.is_empty() {
            stack.base = base;
        }
    }

    fn touch(&mut self, thread: usize) {
        let slot = self.next_slot(thread);
        self.note_base(thread);
        self.calls += 1;
        self.enter(thread, TOUCH, slot, 0x1000 + self.calls * 16, &[]);
        self.emit_ret(thread, TOUCH, slot);
    }

    /// A direct jump to another function at the end of one.
    fn tail_call(&mut self, thread: usize, probe: u16) {
        let Some(call) = self.stack(thread).calls.last().cloned() else { return };
        if self.events.iter().rev().any(|event| {
            matches!(event.body, EventBody::Enter { probe: of, frame, return_address, .. }
                if of.0 == probe && frame.0 == call.slot && return_address.0 == call.return_address)
        }) {
            return;
        }
        self.call_at(thread, probe, &[], call.slot, call.return_address);
    }

    fn ret(&mut self, thread: usize) {
        let Some(slot) = self.stack(thread).calls.last().map(|call| call.slot) else { return };
        self.leave(thread, slot);
        self.emit_ret(thread, 1, slot);
        self.end_from(thread, slot, Some(ExitKind::Ret));
    }

    /// Several calls are unwound; their catcher goes on.
    fn throw(&mut self, thread: usize, frames: usize) {
        let calls = &self.stack(thread).calls;
        if calls.is_empty() {
            return;
        }
        let slot = calls[calls.len().saturating_sub(frames)].slot;
        self.leave(thread, slot);
        self.now += 10;
        self.end_from(thread, slot, None);
        self.touch(thread);
        self.close_traces();
    }

    /// The calls from `slot` on end. Without a kind: unseen, to be inferred.
    fn end_from(&mut self, thread: usize, slot: u64, exit: Option<ExitKind>) {
        let on = self.threads[thread].on;
        while let Some(call) = self.threads[thread].stacks[on].calls.pop_if(|it| it.slot <= slot) {
            self.end_span(call.span, exit.unwrap_or(ExitKind::Inferred));
        }
        if exit.is_some() {
            self.close_traces();
        }
    }

    fn end_span(&mut self, span: Option<usize>, exit: ExitKind) {
        let Some(truth) = span.map(|span| &mut self.truths[span]) else { return };
        (truth.end, truth.exit) = (Some(self.now), exit);
        let trace = &mut self.traces[truth.trace];
        trace.open -= 1;
        trace.root_closed |= truth.proven == Some(None);
    }

    fn is_over(&self, span: usize) -> bool {
        let trace = &self.traces[self.truths[span].trace];
        trace.open == 0 && trace.root_closed
    }

    fn close_traces(&mut self) {
        let (traces, truths) = (&self.traces, &self.truths);
        for key in self.keys.values_mut() {
            let over = |giver: &usize| {
                let trace = &traces[truths[*giver].trace];
                trace.open == 0 && trace.root_closed
            };
            // An ambiguous key lives until all who gave it are over.
            if key.givers.iter().all(over) {
                key.givers.clear();
                key.revoked = false;
            }
        }
    }

    /// Coroutines that were resumed from calls that end now are destroyed before; a later call
    /// shows it.
    fn leave(&mut self, thread: usize, slot: u64) {
        if self.threads[thread].on != 0 {
            return;
        }
        for stack in 1..3 {
            let base = self.threads[thread].stacks[stack].base;
            let ends = |call: &&Call| call.slot <= slot && Some(call.id) == base;
            let calls = &self.threads[thread].stacks[0].calls;
            if calls.iter().any(|call| ends(&call))
                && !self.threads[thread].stacks[stack].calls.is_empty()
            {
                self.threads[thread].on = stack;
                self.now += 10;
                self.end_from(thread, top(stack), None);
                self.touch(thread);
                self.close_traces();
                self.threads[thread].on = 0;
            }
        }
    }

    /// Resumes a coroutine, or suspends the one that runs.
    fn switch(&mut self, thread: usize, to: usize) {
        if to == 0 || self.threads[thread].on != 0 {
            self.threads[thread].on = 0;
        } else {
            self.touch(thread);
            self.threads[thread].on = to;
        }
    }

    fn end_thread(&mut self, thread: usize) {
        self.emit(thread, EventBody::LaneEnd);
        let state = std::mem::take(&mut self.threads[thread]);
        for call in state.stacks.iter().flat_map(|stack| &stack.calls) {
            self.end_span(call.span, ExitKind::Unwound);
        }
        self.close_traces();
    }
}
