//! The rules, one by one, on hand-made events; the traces as outlines.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::model::{
    Ahead, Event, EventBody, FrameAddr, Goid, HandoffRule, Lane, Moment, MonoNs, OrphanPolicy, Pid,
    ProbeId, ReturnAddr, Seen, Span, SpanId, Tid, Trace, TraceEnd, Words,
};

use super::generator::{
    GIVE_ANY, GIVE_ONE, MERGE, PASS_ONE, PLAIN, ROOT, TAKE_ANY, TAKE_ONE, TOUCH, rules,
};
use super::{IdSource, Limits, StitchStats, Stitcher};

mod contexts;
mod folded;
mod go;
mod spawns;
mod until;
mod unwinding;

const A: u16 = PLAIN[0];
const B: u16 = PLAIN[1];
const C: u16 = PLAIN[2];

/// Lanes from this number on are goroutines.
const GO: u32 = 10;

/// A few lanes and a stitcher. Every event is 10 ns after the one before.
struct Lab {
    stitcher: Stitcher,
    now: u64,
    numbers: [u32; 24],
    /// The thread that goroutines are on.
    on: u32,
}

impl Lab {
    fn new() -> Self {
        Self::with(Limits::default(), |_| {})
    }

    fn with(limits: Limits, change: impl FnOnce(&mut crate::model::Rules)) -> Self {
        let mut rules = rules();
        change(&mut rules);
        Self {
            stitcher: Stitcher::new(rules, limits, IdSource::new(1)),
            now: 0,
            numbers: [0; 24],
            on: 1,
        }
    }

    fn limited(change: impl FnOnce(&mut Limits)) -> Self {
        let mut limits = Limits::default();
        change(&mut limits);
        Self::with(limits, |_| {})
    }

    fn push(&mut self, lane: u32, body: EventBody) -> &mut Self {
        self.now += 10;
        self.numbers[lane as usize] += 1;
        let sequence = self.numbers[lane as usize];
        let time = MonoNs(self.now);
        let (tid, lane) = if lane < GO {
            (Tid(lane), Lane::Thread(Pid(1), Tid(lane)))
        } else {
            (Tid(self.on), Lane::Goroutine(Pid(1), Goid(u64::from(lane))))
        };
        self.stitcher.push(&Event { time, lane, tid, sequence, body });
        self
    }

    /// A call, its return slot at `slot`, with a return address of its own.
    fn enter(&mut self, lane: u32, probe: u16, slot: u64, words: &[u64]) -> &mut Self {
        self.enter_from(lane, probe, slot, 0x1000 + self.now, words)
    }

    fn enter_from(
        &mut self,
        lane: u32,
        probe: u16,
        slot: u64,
        ra: u64,
        words: &[u64],
    ) -> &mut Self {
        let body = EventBody::Enter {
            contexts: None,
            probe: ProbeId(probe),
            frame: FrameAddr(slot),
            return_address: ReturnAddr(ra),
            ahead: Ahead::Nothing,
            words: Words::new(words, 0),
        };
        self.push(lane, body)
    }

    fn ret(&mut self, lane: u32, slot: u64) -> &mut Self {
        self.ret_with(lane, TOUCH, slot, &[])
    }

    fn ret_with(&mut self, lane: u32, probe: u16, slot: u64, words: &[u64]) -> &mut Self {
        let (probe, frame) = (ProbeId(probe), FrameAddr(slot));
        self.push(
            lane,
            EventBody::Exit { seen: Seen::Ret, probe, frame, words: Words::new(words, 0) },
        )
    }

    /// A call that gives a key and returns at once.
    fn give(&mut self, lane: u32, probe: u16, slot: u64, key: u64) -> &mut Self {
        self.enter(lane, probe, slot, &[key]).ret_with(lane, probe, slot, &[])
    }

    fn lane_end(&mut self, lane: u32) -> &mut Self {
        self.push(lane, EventBody::LaneEnd);
        self.numbers[lane as usize] = 0;
        self
    }

    /// Events of a lane that never come.
    fn lose(&mut self, lane: u32, count: u32) -> &mut Self {
        self.numbers[lane as usize] += count;
        self
    }

    fn tick(&mut self, now: u64) -> &mut Self {
        self.now = now;
        self.stitcher.tick(MonoNs(now));
        self
    }

    fn stats(&self) -> &StitchStats {
        self.stitcher.stats()
    }

    fn traces(&mut self) -> Vec<Trace> {
        self.stitcher.take_completed()
    }

    /// The traces finished since the last time, as outlines.
    fn outline(&mut self) -> String {
        self.traces().iter().map(outline).collect()
    }

    fn finish(&mut self) -> String {
        self.stitcher.finish(MonoNs(self.now));
        self.outline()
    }
}

/// A line a span: name, start..end, exit kind, evidence unless `stack`, and what is unusual.
fn outline(trace: &Trace) -> String {
    let mut text = match trace.end {
        TraceEnd::Complete => String::new(),
        end => format!("{end:?}\n").to_lowercase(),
    };
    for span in &trace.spans {
        let indent = "  ".repeat(depth(trace, span.parent));
        let (start, end) = (span.start, span.end);
        let _ = write!(text, "{indent}{} {start}..{end} {}", span.name, span.exit.as_str());
        if span.parent.is_some() && span.evidence.to_string() != "stack" {
            let _ = write!(text, " {}", span.evidence);
        }
        for (name, value, usual) in [
            ("lost", span.lost, 0),
            ("shared", u64::from(span.shared), 1),
            ("links", span.links.len() as u64, 0),
            ("calls", span.calls, 1),
        ] {
            if value != usual {
                let _ = write!(text, " {name}={value}");
            }
        }
        text.push('\n');
    }
    text
}

fn depth(trace: &Trace, parent: Option<SpanId>) -> usize {
    let above = |id: SpanId| trace.spans.iter().find(|span: &&Span| span.id == id);
    parent.map_or(0, |id| 1 + above(id).map_or(0, |span| depth(trace, span.parent)))
}

#[test]
fn calls_nest() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).enter(1, B, 700, &[]);
    lab.ret(1, 700).enter(1, C, 700, &[]).ret(1, 700).ret(1, 800).ret(1, 900);
    assert_eq!(
        lab.outline(),
        "root 10..80 ret\n  a 20..70 ret\n    b 30..40 ret\n    c 50..60 ret\n"
    );
}

#[test]
fn calls_of_a_function_by_itself_nest() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter_from(1, A, 800, 7, &[]).enter_from(1, A, 700, 7, &[]);
    lab.ret(1, 700).ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..60 ret\n  a 20..50 ret\n    a 30..40 ret\n");
}

#[test]
fn a_root_below_a_root_is_a_span_of_it() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, ROOT, 800, &[]).ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..40 ret\n  root 20..30 ret\n");
}

#[test]
fn an_exception_is_seen_by_what_comes_next() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).enter(1, B, 700, &[]);
    // a and b are unwound; their caller goes on with c, at a's place or above.
    lab.enter(1, C, 800, &[]).ret(1, 800).ret(1, 900);
    let expected = "root 10..60 ret\n  a 20..40 inferred\n    b 30..40 inferred\n  c 40..50 ret\n";
    assert_eq!(lab.outline(), expected);
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).ret(1, 900);
    assert_eq!(lab.outline(), "root 70..90 ret\n  a 80..90 inferred\n");
    assert_eq!(lab.stats().inferred, 3);
}

#[test]
fn the_same_call_again_at_the_same_place_is_another_call() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter_from(1, A, 800, 7, &[]).enter_from(1, A, 800, 7, &[]);
    lab.ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..50 ret\n  a 20..30 inferred\n  a 30..40 ret\n");
}

#[test]
fn one_ret_ends_a_call_and_its_tail_call() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter_from(1, A, 800, 7, &[]).enter_from(1, B, 800, 7, &[]);
    lab.ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..50 ret\n  a 20..40 ret\n    b 30..40 ret\n");
}

const MAIN: u64 = 0x7f00_0000_0000;
const OTHER: u64 = 0x7e00_0000_0000;
const HIGHER: u64 = 0x7fff_0000_0000;

#[test]
fn another_stack_closes_nothing_and_is_entered_from_the_first() {
    for other in [OTHER, HIGHER] {
        let mut lab = Lab::new();
        lab.enter(1, ROOT, MAIN, &[]).enter(1, A, other, &[]).enter(1, B, other - 64, &[]);
        lab.ret(1, other - 64).enter(1, C, MAIN - 64, &[]).ret(1, MAIN - 64);
        // The coroutine is resumed.
        lab.enter(1, C, other - 64, &[]).ret(1, other - 64).ret(1, other).ret(1, MAIN);
        assert_eq!(
            lab.outline(),
            "root 10..100 ret\n  a 20..90 ret\n    b 30..40 ret\n    c 70..80 ret\n  c 50..60 ret\n"
        );
    }
}

#[test]
fn a_suspended_coroutine_is_no_parent_once_its_base_is_gone() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, MAIN, &[]).enter(1, A, OTHER, &[]).ret(1, MAIN);
    lab.enter(1, B, OTHER - 64, &[]).ret(1, OTHER - 64).ret(1, OTHER);
    // It still ends at its own ret; what it called meanwhile has no proven parent.
    assert_eq!(lab.outline(), "root 10..30 ret\n  a 20..60 ret\n");
    assert_eq!(lab.stats().orphans, 1);
}

#[test]
fn a_root_on_another_stack_is_a_request_of_its_own() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, MAIN, &[]).enter(1, ROOT, OTHER, &[]).enter(1, A, OTHER - 64, &[]);
    lab.ret(1, MAIN);
    assert_eq!(lab.outline(), "root 10..40 ret\n");
    lab.enter(1, B, OTHER - 128, &[]).ret(1, OTHER - 128).ret(1, OTHER - 64).ret(1, OTHER);
    assert_eq!(lab.outline(), "root 20..80 ret\n  a 30..70 ret\n    b 50..60 ret\n");
}

#[test]
fn a_call_on_a_third_stack_is_not_ascribed_to_a_coroutine() {
    let mut lab = Lab::new();
    lab.enter(1, TOUCH, MAIN, &[]).enter(1, ROOT, OTHER, &[]).enter(1, A, HIGHER, &[]);
    assert_eq!(lab.finish(), "incomplete\nroot 20..30 open\n");
    assert_eq!(lab.stats().orphans, 1);
}

#[test]
fn the_end_of_a_thread_or_process_ends_its_calls() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).lane_end(1);
    assert_eq!(lab.outline(), "root 10..30 unwound\n  a 20..30 unwound\n");
    lab.enter(2, ROOT, 900, &[]).enter(3, ROOT, 900, &[]).push(4, EventBody::ProcessEnd);
    assert_eq!(lab.outline(), "root 40..60 unwound\nroot 50..60 unwound\n");
}

#[test]
fn work_hangs_below_whoever_gave_it() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).give(1, GIVE_ONE, 700, 5).ret(1, 800);
    lab.enter(2, TAKE_ONE, 400, &[5]).enter(2, B, 300, &[]).ret(2, 300).ret(2, 400).ret(1, 900);
    assert_eq!(
        lab.outline(),
        "root 10..100 ret\n  a 20..50 ret\n    task 60..90 ret handoff:one\n      b 70..80 ret\n"
    );
    assert_eq!((lab.stats().given, lab.stats().taken), (1, 1));
}

#[test]
fn a_key_is_taken_as_often_as_it_may() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5).give(1, GIVE_ANY, 700, 6);
    for lane in [2, 3] {
        lab.enter(lane, TAKE_ONE, 900, &[5]).ret(lane, 900);
        lab.enter(lane, TAKE_ANY, 900, &[6]).ret(lane, 900);
    }
    lab.ret(1, 900);
    assert_eq!(
        lab.outline(),
        "root 10..140 ret\n  task 60..70 ret handoff:one\n  plan 80..90 ret handoff:any\n  \
         plan 120..130 ret handoff:any\n"
    );
    assert_eq!((lab.stats().taken, lab.stats().not_given, lab.stats().orphans), (3, 1, 1));
}

#[test]
fn a_key_may_be_given_again_once_it_was_taken() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(3, TAKE_ONE, 900, &[5]).ret(3, 900);
    lab.enter(2, ROOT, 900, &[]).give(2, GIVE_ONE, 700, 5);
    lab.enter(3, TAKE_ONE, 900, &[5]).ret(3, 900).ret(1, 900).ret(2, 900);
    assert_eq!(
        lab.outline(),
        "root 10..110 ret\n  task 40..50 ret handoff:one\n\
         root 60..120 ret\n  task 90..100 ret handoff:one\n"
    );
}

#[test]
fn a_key_given_twice_while_alive_proves_nothing() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(2, ROOT, 900, &[]).give(2, GIVE_ONE, 700, 5);
    lab.enter(3, TAKE_ONE, 900, &[5]).ret(3, 900).ret(1, 900).enter(3, TAKE_ONE, 900, &[5]);
    lab.ret(2, 900);
    assert_eq!(lab.outline(), "root 10..90 ret\nroot 40..110 ret\n");
    assert_eq!((lab.stats().ambiguous, lab.stats().orphans), (3, 2));
}

#[test]
fn a_key_given_on_behalf_of_nothing_ends_the_one_that_was_alive() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5).give(2, GIVE_ONE, 700, 5);
    lab.enter(3, TAKE_ONE, 900, &[5]).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..70 ret\n");
}

#[test]
fn a_key_dies_with_its_givers_trace() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5).ret(1, 900);
    lab.enter(2, TAKE_ONE, 900, &[5]).ret(2, 900);
    assert_eq!(lab.outline(), "root 10..40 ret\n");
    assert_eq!((lab.stats().not_taken, lab.stats().not_given), (1, 1));
}

#[test]
fn what_its_own_giver_takes_is_a_call_on_the_stack() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(1, A, 800, &[]).enter(1, TAKE_ONE, 700, &[5]).ret(1, 700).ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..80 ret\n  a 40..70 ret\n    task 50..60 ret\n");
}

#[test]
fn a_taker_without_a_span_passes_the_evidence_on() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(2, PASS_ONE, 900, &[5]).enter(2, A, 800, &[]).enter(2, B, 700, &[]);
    lab.ret(2, 700).ret(2, 800).ret(2, 900).ret(1, 900);
    let expected = "root 10..100 ret\n  a 50..80 ret handoff:one\n    b 60..70 ret\n";
    assert_eq!(lab.outline(), expected);
}

fn change_one(rules: &mut crate::model::Rules, change: impl FnOnce(&mut HandoffRule)) {
    change(&mut rules.handoffs[0]);
}

#[test]
fn a_key_can_be_what_a_call_returns() {
    let mut lab = Lab::with(Limits::default(), |rules| {
        change_one(rules, |one| one.give.moment = Moment::Exit);
    });
    lab.enter(1, ROOT, 900, &[]).enter(1, GIVE_ONE, 800, &[9]);
    lab.enter(2, TAKE_ONE, 900, &[9]).ret(2, 900).ret_with(1, GIVE_ONE, 800, &[5]);
    lab.enter(2, TAKE_ONE, 900, &[5]).ret(2, 900).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..80 ret\n  task 60..70 ret handoff:one\n");
}

#[test]
fn the_wait_can_be_a_span() {
    let mut lab = Lab::with(Limits::default(), |rules| {
        change_one(rules, |one| one.span = Some(Arc::from("queued")));
    });
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(2, TAKE_ONE, 900, &[5]).ret(2, 900).ret(1, 900);
    let traces = lab.traces();
    assert_eq!(
        outline(&traces[0]),
        "root 10..60 ret\n  queued 20..40 ret handoff:one\n  task 40..50 ret handoff:one\n"
    );
    assert_eq!(traces[0].spans[1].stage.as_deref(), Some("queue"));
}

#[test]
fn shared_work_is_linked_to_its_other_givers() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(2, ROOT, 900, &[]).give(2, GIVE_ANY, 700, 6);
    lab.enter(3, MERGE, 900, &[5, 6]).ret(3, 900).ret(1, 900).ret(2, 900);
    let traces = lab.traces();
    assert_eq!(
        outline(&traces[0]),
        "root 10..90 ret\n  merge 70..80 ret handoff:one shared=2 links=1\n"
    );
    assert_eq!(traces[0].spans[1].links, [(traces[1].id, traces[1].spans[0].id)]);
}

#[test]
fn orphans_are_dropped_or_kept() {
    let mut lab = Lab::new();
    lab.enter(1, A, 900, &[]).enter(1, B, 800, &[]).ret(1, 800).ret(1, 900);
    assert_eq!((lab.finish().as_str(), lab.stats().orphans), ("", 2));
    let keep = |rules: &mut crate::model::Rules| rules.orphans = OrphanPolicy::Keep;
    let mut lab = Lab::with(Limits::default(), keep);
    lab.enter(1, A, 900, &[]).enter(1, B, 800, &[]).ret(1, 800).ret(1, 900);
    assert_eq!(lab.finish(), "a 10..40 ret\n  b 20..30 ret\n");
}

#[test]
fn a_trace_waits_for_its_last_span_but_not_for_ever() {
    let mut lab = Lab::limited(|limits| limits.grace = 1000);
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5);
    lab.enter(2, TAKE_ONE, 900, &[5]).ret(1, 900);
    lab.tick(900);
    assert_eq!(lab.outline(), "");
    lab.tick(1050);
    let first = lab.traces();
    assert_eq!(outline(&first[0]), "incomplete\nroot 10..50 ret\n  task 40..50 open handoff:one\n");
    lab.enter(2, A, 800, &[]).ret(2, 800).ret(2, 900);
    let late = lab.traces();
    assert_eq!(outline(&late[0]), "late\n  a 1060..1070 ret\n");
    assert_eq!(late[0].id, first[0].id);
    assert_eq!(late[0].spans[0].parent, Some(first[0].spans[1].id));
    assert_eq!((lab.stats().incomplete, lab.stats().late), (1, 1));
    assert_eq!(lab.stitcher.open_traces(), 0);
}

#[test]
fn no_trace_begins_when_refused() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]);
    lab.stitcher.refuse_new_traces();
    lab.enter(2, ROOT, 900, &[]).ret(2, 900).enter(1, A, 800, &[]).ret(1, 800);
    assert_eq!(lab.finish(), "incomplete\nroot 10..50 open\n  a 40..50 ret\n");
}

#[test]
fn a_gap_makes_open_calls_doubtful_and_marks_them() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).lose(1, 2).enter(1, B, 700, &[]);
    lab.ret(1, 700).ret(1, 800).ret(1, 900);
    // Whether the lost events ended a cannot be known, nor whose child b is, nor when a ended.
    assert_eq!(lab.outline(), "root 10..60 inferred lost=2\n  a 20..50 inferred lost=2\n");
    assert_eq!((lab.stats().lost, lab.stats().orphans), (2, 1));
}

#[test]
fn a_gap_anywhere_ends_the_keys_and_cuts_what_was_just_taken() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).enter(4, TOUCH, 900, &[]);
    lab.enter(2, TAKE_ANY, 900, &[5]).enter(2, A, 800, &[]);
    lab.enter(3, PASS_ONE, 900, &[5]).lose(4, 1).ret(4, 900);
    // What was lost may have given the key anew, before it was taken.
    lab.enter(5, TAKE_ANY, 900, &[5]).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..100 ret\n");
    // The key, the taker and the call below it.
    assert_eq!((lab.stats().doubtful, lab.stats().not_given), (3, 2));
}

#[test]
fn what_was_taken_before_a_loss_stays() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5);
    lab.enter(2, TAKE_ANY, 900, &[5]).enter(4, TOUCH, 900, &[]).lose(4, 1).ret(4, 900);
    lab.ret(2, 900).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..80 ret\n  plan 40..70 ret handoff:any\n");
}

#[test]
fn a_falling_number_is_a_new_thread() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]);
    lab.numbers[1] = 0;
    lab.enter(1, B, 700, &[]);
    assert_eq!(lab.outline(), "root 10..30 inferred lost=1\n  a 20..30 inferred lost=1\n");
}

#[test]
fn an_exit_without_its_call_is_counted() {
    let mut lab = Lab::new();
    lab.ret(1, 900).enter(1, ROOT, 900, &[]).ret(1, 800).ret(1, 900);
    assert_eq!((lab.outline().as_str(), lab.stats().unmatched_exits), ("root 20..40 ret\n", 2));
}

#[test]
fn self_time_is_what_no_child_covers() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5);
    // Two tasks that overlap, and one that outlives the root.
    lab.enter(2, TAKE_ANY, 900, &[5]).enter(3, TAKE_ANY, 900, &[5]).ret(2, 900).ret(3, 900);
    lab.enter(2, TAKE_ANY, 900, &[5]).ret(1, 900).ret(2, 900);
    let traces = lab.traces();
    assert_eq!((traces[0].spans[0].duration(), traces[0].spans[0].self_time), (80, 40));
}

#[test]
fn the_bound_on_lanes() {
    let mut lab = Lab::limited(|limits| limits.lanes = 2);
    lab.enter(1, ROOT, 900, &[]).enter(2, ROOT, 900, &[]).enter(3, ROOT, 900, &[]);
    assert_eq!(lab.stats().lanes_full, 1);
    // A lane without open calls makes room. Nothing is known of the numbers it had.
    lab.ret(2, 900).enter(3, ROOT, 900, &[]).ret(3, 900);
    assert_eq!(lab.outline(), "root 20..40 ret\nroot 50..60 ret\n");
    assert_eq!((lab.stats().lanes_full, lab.stats().lost), (1, 0));
}

#[test]
fn the_bound_on_calls_of_a_lane() {
    let mut lab = Lab::limited(|limits| limits.frames_per_lane = 2);
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).enter(1, B, 700, &[]);
    lab.ret(1, 700).ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..60 ret\n  a 20..50 ret\n");
    assert_eq!(lab.stats().frames_full, 1);
}

#[test]
fn the_bound_on_traces() {
    let mut lab = Lab::limited(|limits| limits.traces = 1);
    lab.enter(1, ROOT, 900, &[]).enter(2, ROOT, 900, &[]).enter(1, A, 800, &[]).ret(2, 900);
    assert_eq!(lab.outline(), "incomplete\nroot 10..20 open\nroot 20..40 ret\n");
    assert_eq!((lab.stats().traces_full, lab.stats().orphans), (1, 1));
}

#[test]
fn the_bound_on_keys() {
    let mut lab = Lab::limited(|limits| limits.keys = 1);
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5).give(1, GIVE_ONE, 700, 6);
    assert_eq!((lab.stats().given, lab.stats().keys_full), (1, 1));
}

#[test]
fn the_bound_on_spans_folds_calls_and_what_they_call() {
    let mut lab = Lab::limited(|limits| limits.spans_per_trace = 3);
    lab.enter(1, ROOT, 900, &[]);
    for _ in 0..1000 {
        lab.enter(1, A, 800, &[]).enter(1, B, 700, &[]).ret(1, 700).ret(1, 800);
    }
    lab.ret(1, 900);
    let traces = lab.traces();
    let spans = &traces[0].spans;
    assert!(spans.len() < 10, "{}", outline(&traces[0]));
    for name in ["a", "b"] {
        let calls = spans.iter().filter(|span| &*span.name == name).map(|span| span.calls);
        assert_eq!(calls.sum::<u64>(), 1000, "{}", outline(&traces[0]));
    }
    let folded = spans.iter().find_map(|span| span.folded.filter(|_| &*span.name == "b"));
    assert_eq!(folded.map(|folded| (folded.min, folded.max)), Some((10, 10)));
    assert!(lab.stats().folded > 1900);
}

#[test]
fn a_key_of_a_folded_call_is_not_anothers() {
    let mut lab = Lab::limited(|limits| limits.spans_per_trace = 1);
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).ret(1, 800);
    lab.enter(1, A, 800, &[]).give(1, GIVE_ONE, 700, 5).ret(1, 800);
    lab.enter(1, B, 800, &[]).enter(2, TAKE_ONE, 900, &[5]).ret(2, 900).ret(1, 800).ret(1, 900);
    let outline = lab.outline();
    assert!(!outline.contains("b 80..110 ret\n    task"), "{outline}");
}

#[test]
fn the_same_events_give_the_same_traces() {
    let run = || {
        let mut lab = Lab::new();
        lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ONE, 700, 5).enter(2, TAKE_ONE, 900, &[5]);
        lab.ret(2, 900).ret(1, 900);
        lab.traces()
    };
    assert_eq!(run(), run());
}
