//! Random programs in Go, with functions in C: goroutines that move between threads, make others, serve
//! each other's contexts, panic and end; what a kernel side reports of them, and what is true.

use std::collections::BTreeSet;

use profiler_common::{GO_STACK_END, GO_SYSTEM_STACK_END};

use crate::model::{
    Ahead, ContextAddr, Contexts, Event, EventBody, ExitKind, FrameAddr, Goid, Lane, MonoNs, Pid,
    ProbeId, ReturnAddr, Rules, Seen, Tid, Watches, Words,
};

use super::{PASS_ONE, PLAIN, ROOT, Step, TOUCH, TraceLife};

const PID: Pid = Pid(7);
/// Here it is called where a panic was recovered.
const WITNESS: u16 = super::MERGE;

/// The rules of these programs.
pub(in crate::stitch) fn rules() -> Rules {
    let mut rules = super::rules();
    rules.handoffs.clear();
    let witness = &mut rules.probes[usize::from(WITNESS)];
    (witness.watches, witness.span) = (Watches::Unwinding, None);
    rules
}

/// How the end of a call is known that is left by its goroutine: of one in C, by that only.
const fn unwound(call: &Call) -> ExitKind {
    if call.c.is_some() { ExitKind::Inferred } else { ExitKind::Unwound }
}

/// What is true of a call of a span function.
#[derive(Clone, Debug)]
pub(in crate::stitch) struct Truth {
    pub(in crate::stitch) name: &'static str,
    pub(in crate::stitch) lane: Lane,
    pub(in crate::stitch) start: u64,
    pub(in crate::stitch) end: Option<u64>,
    pub(in crate::stitch) exit: ExitKind,
    /// The calls that have really led to it: on its stack, in its context, and where it was made.
    pub(in crate::stitch) above: BTreeSet<usize>,
    /// The parent that the rules prove; none of the outer: it is dropped.
    pub(in crate::stitch) proven: Option<Option<usize>>,
    pub(in crate::stitch) evidence: &'static str,
    trace: usize,
}

/// What a call is to those below it, as far as the rules can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    Span(usize),
    Orphan,
    Nothing,
}

#[derive(Clone, Debug)]
struct Call {
    id: u64,
    /// The thread, of a function in C.
    c: Option<usize>,
    slot: u64,
    span: Option<usize>,
    below: Below,
    /// Evidence it passes on.
    via: Option<&'static str>,
    context: Option<usize>,
    above: BTreeSet<usize>,
    /// It may have been left by a panic.
    doubtful: bool,
}

#[derive(Clone, Debug)]
struct Goroutine {
    id: u64,
    thread: usize,
    /// On its two stacks, outermost first.
    calls: Vec<Call>,
    sequence: u32,
    context: Option<usize>,
    /// The call it was made in, as it was then.
    maker: Option<Call>,
    has_called: bool,
}

#[derive(Clone, Debug, Default)]
struct Thread {
    carries: u64,
    sequence: u32,
}

#[derive(Clone, Debug)]
struct Context {
    address: u64,
    parent: Option<usize>,
}

/// A running program.
#[derive(Clone, Debug, Default)]
pub(in crate::stitch) struct GoWorld {
    goroutines: Vec<Goroutine>,
    threads: [Thread; 3],
    contexts: Vec<Context>,
    /// Addresses of contexts that the kernel side takes for open calls', and are not.
    stale: BTreeSet<u64>,
    pub(in crate::stitch) truths: Vec<Truth>,
    pub(in crate::stitch) events: Vec<Event>,
    traces: Vec<TraceLife>,
    now: u64,
    ids: u64,
    goids: u64,
}

impl GoWorld {
    pub(in crate::stitch) fn run(steps: &[Step]) -> Self {
        let mut world = Self::default();
        for _ in 0..3 {
            world.make(None, None);
        }
        for (who, what, one, two) in steps {
            let who = usize::from(*who) % world.goroutines.len();
            world.step(who, *what, usize::from(*one), usize::from(*two));
        }
        world
    }

    fn step(&mut self, who: usize, what: u8, one: usize, two: usize) {
        if !self.schedule(who, two) {
            return;
        }
        let goroutine = &self.goroutines[who];
        let in_c = goroutine.calls.last().is_some_and(|call| call.c.is_some());
        match what % 16 {
            _ if goroutine.calls.len() > 10 => self.ret(who),
            0 => self.call_go(who, ROOT, one, two),
            1..=3 => self.call_go(who, PLAIN[one % 3], one / 3, two),
            4 => self.call_go(who, PASS_ONE, one, two),
            5 | 6 if one < 200 => self.call_c(who, PLAIN[one % 3]),
            5 => self.call_c(who, TOUCH),
            6 => self.call_c(who, ROOT),
            7 if one < 128 || in_c => self.ret(who),
            // On the scheduler's stack.
            7 => self.touch(who, GO_SYSTEM_STACK_END - 0x40 - two as u64),
            8 | 9 => self.spawn(who),
            10 => self.panic(who, 1 + one % 5, two),
            11 if one < 30 && self.goroutines.len() > 2 => self.end(who),
            _ => self.ret(who),
        }
    }

    /// Lets a goroutine run, if a thread is free: on its own, or on another if it is not in C.
    fn schedule(&mut self, who: usize, dice: usize) -> bool {
        let in_c = |goroutine: &Goroutine| goroutine.calls.iter().any(|call| call.c.is_some());
        if in_c(&self.goroutines[who]) {
            return true;
        }
        let pinned =
            |thread| self.goroutines.iter().any(|other| in_c(other) && other.thread == thread);
        if !dice.is_multiple_of(4) && !pinned(self.goroutines[who].thread) {
            return true;
        }
        let free = (0..3).map(|at| (at + dice) % 3).find(|at| !pinned(*at));
        if let Some(free) = free {
            self.goroutines[who].thread = free;
        }
        free.is_some()
    }

    fn emit(&mut self, lane: Lane, thread: usize, sequence: u32, body: EventBody) {
        self.now += 10;
        let (time, tid) = (MonoNs(self.now), Tid(100 + thread as u32));
        self.events.push(Event { time, lane, tid, sequence, body });
    }

    fn emit_go(&mut self, who: usize, body: EventBody) {
        let goroutine = &mut self.goroutines[who];
        goroutine.sequence += 1;
        let (lane, sequence) = (Lane::Goroutine(PID, Goid(goroutine.id)), goroutine.sequence);
        let thread = goroutine.thread;
        self.emit(lane, thread, sequence, body);
    }

    fn emit_c(&mut self, thread: usize, body: EventBody) {
        self.threads[thread].sequence += 1;
        let (tid, sequence) = (Tid(100 + thread as u32), self.threads[thread].sequence);
        self.emit(Lane::Thread(PID, tid), thread, sequence, body);
    }

    fn body(&mut self, probe: u16, slot: u64, contexts: Option<Contexts>) -> EventBody {
        self.ids += 1;
        EventBody::Enter {
            contexts,
            probe: ProbeId(probe),
            frame: FrameAddr(slot),
            return_address: ReturnAddr(0x1000 + self.ids * 16),
            ahead: Ahead::Nothing,
            words: Words::default(),
        }
    }

    fn exit(slot: u64) -> EventBody {
        let (probe, frame) = (ProbeId(1), FrameAddr(slot));
        EventBody::Exit { seen: Seen::Ret, probe, frame, words: Words::default() }
    }

    fn call_go(&mut self, who: usize, probe: u16, one: usize, two: usize) {
        let calls = &self.goroutines[who].calls;
        let above = calls.iter().rev().find(|call| call.c.is_none());
        let lowest = above.map_or(GO_STACK_END - 0x40, |call| call.slot);
        let slot = lowest - 0x40 - ((two as u64) << 12);
        let is_outermost = above.is_none();
        let inherited =
            calls.iter().rev().find_map(|call| call.context).or(self.goroutines[who].context);
        let sent =
            (is_outermost && two.is_multiple_of(3)).then(|| self.context_of_anyone(one)).flatten();
        let context = match one % 4 {
            0 => None,
            1 | 2 => Some(self.derive(sent.or(inherited), one % 4 == 2)),
            _ => sent.or(inherited),
        };
        let nearest = context.filter(|_| is_outermost).and_then(|context| self.nearest(context));
        let contexts = context.map(|context| Contexts {
            own: ContextAddr(self.contexts[context].address),
            nearest: nearest.map(ContextAddr),
        });
        let body = self.body(probe, slot, contexts);
        self.emit_go(who, body);
        self.open(who, probe, None, slot, self.now, context, nearest);
        self.goroutines[who].has_called = true;
    }

    fn call_c(&mut self, who: usize, probe: u16) {
        let Goroutine { id, thread, .. } = self.goroutines[who];
        let slot = self.c_slot(who);
        if slot == 0x7f00_0000 && self.threads[thread].carries != id {
            self.threads[thread].carries = id;
            self.emit_c(thread, EventBody::Carries { goroutine: Some(Goid(id)) });
        }
        let body = self.body(probe, slot, None);
        self.emit_c(thread, body);
        self.open(who, probe, Some(thread), slot, self.now, None, None);
    }

    fn c_slot(&self, who: usize) -> u64 {
        let mut in_c = self.goroutines[who].calls.iter().rev().filter(|call| call.c.is_some());
        in_c.next().map_or(0x7f00_0000, |call| call.slot - 0x40)
    }

    #[expect(clippy::too_many_arguments, reason = "a call has as many sides")]
    fn open(
        &mut self,
        who: usize,
        probe: u16,
        c: Option<usize>,
        slot: u64,
        start: u64,
        context: Option<usize>,
        nearest: Option<u64>,
    ) {
        let lane = c.map_or(Lane::Goroutine(PID, Goid(self.goroutines[who].id)), |thread| {
            Lane::Thread(PID, Tid(100 + thread as u32))
        });
        let (below, evidence) = self.proven(who, lane, nearest);
        let above = self.above(who, c.is_none(), nearest);
        let name = match probe {
            ROOT => "root",
            1 => "a",
            2 => "b",
            3 => "c",
            _ => "",
        };
        self.ids += 1;
        let via = matches!(below, Below::Span(_)).then_some(evidence).filter(|it| *it != "stack");
        let id = self.ids;
        let mut call =
            Call { id, c, slot, span: None, below, via, context, above, doubtful: false };
        if !name.is_empty() {
            let proven = match below {
                Below::Span(span) => Some(Some(span)),
                _ => (probe == ROOT).then_some(None),
            };
            let trace = if let Below::Span(span) = below {
                self.truths[span].trace
            } else {
                self.traces.push(TraceLife::default());
                self.traces.len() - 1
            };
            self.traces[trace].open += 1;
            let at = self.truths.len();
            self.truths.push(Truth {
                name,
                lane,
                start,
                end: None,
                exit: ExitKind::Open,
                above: call.above.clone(),
                proven,
                evidence,
                trace,
            });
            call.span = Some(at);
            call.below = if proven.is_some() { Below::Span(at) } else { Below::Orphan };
            call.via = None;
            call.above.insert(at);
        }
        self.goroutines[who].calls.push(call);
    }

    /// What a new call of a goroutine hangs below by the rules, and by which evidence.
    fn proven(&self, who: usize, lane: Lane, nearest: Option<u64>) -> (Below, &'static str) {
        let goroutine = &self.goroutines[who];
        if let Some(top) = goroutine.calls.last() {
            return match self.below(top) {
                Below::Span(span) if self.truths[span].lane == lane => {
                    (Below::Span(span), top.via.filter(|via| *via != "cgo").unwrap_or("stack"))
                }
                Below::Span(span) => (Below::Span(span), top.via.unwrap_or("cgo")),
                other => (other, "none"),
            };
        }
        let is_open =
            |id: u64| self.goroutines.iter().flat_map(|it| &it.calls).find(|call| call.id == id);
        // A goroutine may run in C before it makes a call in Go that is seen.
        let maker = goroutine.maker.as_ref().filter(|_| !goroutine.has_called);
        let maker = maker.and_then(|maker| is_open(maker.id)).map(|maker| self.below(maker));
        let maker = match (maker, lane) {
            (Some(Below::Span(span)), Lane::Goroutine(..)) => Some(span),
            _ => None,
        };
        let found = nearest.and_then(|nearest| {
            let known = self.in_context(nearest).into_iter();
            let mut spans = known.filter_map(|call| match self.below(call) {
                Below::Span(span) => Some(span),
                _ => None,
            });
            let first = spans.next()?;
            spans.try_fold(first, |top, span| self.common(top, span))
        });
        match (found, maker) {
            (Some(found), Some(maker)) => {
                (Below::Span(self.common(found, maker).unwrap_or(found)), "context")
            }
            (Some(found), None) => (Below::Span(found), "context"),
            (None, Some(maker)) => (Below::Span(maker), "spawn"),
            (None, None) => (Below::Nothing, "none"),
        }
    }

    fn below(&self, call: &Call) -> Below {
        match call.below {
            _ if call.doubtful => Below::Orphan,
            Below::Span(span) if self.is_over(span) => Below::Orphan,
            below => below,
        }
    }

    fn above(&self, who: usize, in_go: bool, nearest: Option<u64>) -> BTreeSet<usize> {
        let goroutine = &self.goroutines[who];
        let mut above: BTreeSet<usize> =
            goroutine.calls.iter().flat_map(|call| call.above.clone()).collect();
        // True too of a call that C has called back, though the rules do not ask there.
        let known = nearest.map_or_else(Vec::new, |nearest| self.in_context(nearest));
        above.extend(known.into_iter().flat_map(|call| call.above.clone()));
        let maker = goroutine.maker.as_ref().filter(|_| in_go && !goroutine.has_called);
        above.extend(maker.into_iter().flat_map(|maker| maker.above.clone()));
        above
    }

    /// What is above both, in one trace.
    fn common(&self, one: usize, other: usize) -> Option<usize> {
        let path = |span: usize| {
            std::iter::successors(Some(span), |span| self.truths[*span].proven.flatten())
        };
        let others: BTreeSet<usize> = path(other).collect();
        path(one).find(|span| others.contains(span))
    }

    /// The open calls that have a context.
    fn in_context(&self, address: u64) -> Vec<&Call> {
        let calls = self.goroutines.iter().flat_map(|goroutine| &goroutine.calls);
        let has =
            |call: &&Call| call.context.is_some_and(|it| self.contexts[it].address == address);
        calls.filter(has).collect()
    }

    /// The nearest context on the chain that the kernel side takes for an open call's.
    fn nearest(&self, context: usize) -> Option<u64> {
        let mut chain =
            std::iter::successors(Some(context), |context| self.contexts[*context].parent);
        let known =
            |address: &u64| !self.in_context(*address).is_empty() || self.stale.contains(address);
        chain.by_ref().map(|context| self.contexts[context].address).find(known)
    }

    fn derive(&mut self, parent: Option<usize>, again: bool) -> usize {
        if let Some(parent) = parent.filter(|_| again) {
            return parent;
        }
        let mut live: BTreeSet<u64> = BTreeSet::new();
        let calls = self.goroutines.iter().flat_map(|it| it.calls.iter().map(|call| call.context));
        let held = calls.chain(self.goroutines.iter().map(|it| it.context)).chain([parent]);
        for context in held.flatten() {
            let chain = std::iter::successors(Some(context), |it| self.contexts[*it].parent);
            live.extend(chain.map(|context| self.contexts[context].address));
        }
        // The memory of those that are gone is used again.
        let count = live.len() as u64 + 1;
        let address = (1..=count).map(|at| at * 0x10).find(|at| !live.contains(at)).unwrap();
        self.contexts.push(Context { address, parent });
        self.contexts.len() - 1
    }

    /// A context that came through a channel.
    fn context_of_anyone(&self, dice: usize) -> Option<usize> {
        let calls = self.goroutines.iter().flat_map(|goroutine| &goroutine.calls);
        let contexts: Vec<usize> = calls.filter_map(|call| call.context).collect();
        contexts.get(dice % contexts.len().max(1)).copied()
    }

    fn make(&mut self, maker: Option<Call>, context: Option<usize>) -> u64 {
        self.goids += 1;
        let (id, thread) = (self.goids, self.goids as usize % 3);
        self.goroutines.push(Goroutine {
            id,
            thread,
            calls: Vec::new(),
            sequence: 0,
            context,
            maker,
            has_called: false,
        });
        id
    }

    /// The goroutine makes another, in Go.
    fn spawn(&mut self, who: usize) {
        if self.goroutines.len() > 9 {
            return;
        }
        let calls = &self.goroutines[who].calls;
        let context = calls.iter().rev().find_map(|call| call.context);
        let maker = calls.last().cloned();
        let is_told = !calls.is_empty();
        let child = self.make(maker, context);
        if !is_told {
            return;
        }
        self.emit_go(who, EventBody::Spawn { child: Goid(child) });
        let made = self.goroutines.len() - 1;
        if child.is_multiple_of(3) {
            // It takes work of whoever comes, so that nothing is said of it.
            self.goroutines[made].maker = None;
        } else {
            self.emit_go(made, EventBody::RunsOnce);
        }
    }

    fn touch(&mut self, who: usize, slot: u64) {
        let body = self.body(TOUCH, slot, None);
        if self.goroutines[who].calls.is_empty() {
            self.goroutines[who].has_called = true;
        }
        self.emit_go(who, body);
        self.emit_go(who, Self::exit(slot));
        self.goroutines[who].has_called = true;
    }

    fn ret(&mut self, who: usize) {
        let Some(call) = self.goroutines[who].calls.pop() else { return };
        match call.c {
            Some(thread) => self.emit_c(thread, Self::exit(call.slot)),
            None => self.emit_go(who, Self::exit(call.slot)),
        }
        self.end_span(call.span, ExitKind::Ret);
    }

    /// The innermost calls are left by a panic; what called them recovers.
    fn panic(&mut self, who: usize, count: usize, dice: usize) {
        let goroutine = &self.goroutines[who];
        let thread = goroutine.thread;
        let kept = goroutine.calls.len().saturating_sub(count);
        // Code in C recovers nothing: an unprobed callback does. Its own panic, at the top, needs one too.
        let left = self.goroutines[who].calls.split_off(kept);
        if left.is_empty() {
            return;
        }
        let calls = &self.goroutines[who].calls;
        let lowest = calls.iter().rev().find(|call| call.c.is_none());
        let lowest = lowest.map_or(GO_STACK_END - 0x40, |call| call.slot);
        let body = self.body(WITNESS, lowest - 0x20, None);
        self.emit_go(who, body);
        let first_in_go = left.iter().position(|call| call.c.is_none());
        let mut unseen = false;
        for (at, call) in left.iter().enumerate() {
            unseen |= first_in_go.is_none_or(|first| at < first);
            self.end_span_of(call.span, unwound(call));
            if let Some(context) = call.context.filter(|_| dice.is_multiple_of(2)) {
                self.stale.insert(self.contexts[context].address);
            }
        }
        let calls = &mut self.goroutines[who].calls;
        for call in calls.iter_mut().rev().take_while(|call| call.c.is_some()) {
            call.doubtful = true;
        }
        if unseen {
            // What is called next in C shows it.
            let slot = self.c_slot(who);
            let body = self.body(TOUCH, slot, None);
            self.emit_c(thread, body);
            self.emit_c(thread, Self::exit(slot));
        }
        for call in left {
            self.close(call.span);
        }
    }

    fn end(&mut self, who: usize) {
        self.emit_go(who, EventBody::LaneEnd);
        let goroutine = self.goroutines.swap_remove(who);
        for call in goroutine.calls {
            self.end_span(call.span, unwound(&call));
        }
    }

    fn end_span(&mut self, span: Option<usize>, exit: ExitKind) {
        self.end_span_of(span, exit);
        self.close(span);
    }

    fn end_span_of(&mut self, span: Option<usize>, exit: ExitKind) {
        if let Some(truth) = span.map(|span| &mut self.truths[span]) {
            (truth.end, truth.exit) = (Some(self.now), exit);
        }
    }

    fn close(&mut self, span: Option<usize>) {
        let Some(truth) = span.map(|span| &self.truths[span]) else { return };
        let trace = &mut self.traces[truth.trace];
        trace.open -= 1;
        trace.root_closed |= truth.proven == Some(None);
    }

    fn is_over(&self, span: usize) -> bool {
        let trace = &self.traces[self.truths[span].trace];
        trace.open == 0 && trace.root_closed
    }
}
