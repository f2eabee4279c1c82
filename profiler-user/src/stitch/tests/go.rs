//! Goroutines: their stack, the threads that run C for them, and how they end.

use profiler_common::{GO_STACK_END, GO_SYSTEM_STACK_END};

use crate::model::Watches;

use super::*;

const G: u32 = GO;
const G2: u32 = GO + 1;

impl Lab {
    fn carries(&mut self, thread: u32, goroutine: Option<u32>) -> &mut Self {
        let goroutine = goroutine.map(|goroutine| Goid(u64::from(goroutine)));
        self.push(thread, EventBody::Carries { goroutine })
    }

    /// One whose probe [`TOUCH`] tells of recovered panics.
    fn with_witness() -> Self {
        Self::with(Limits::default(), |rules| {
            rules.probes[usize::from(TOUCH)].watches = Watches::Unwinding;
        })
    }
}

#[test]
fn a_goroutine_has_one_stack_and_no_thread_of_its_own() {
    let mut lab = Lab::new();
    let far = GO_STACK_END - (1 << 20);
    lab.enter(G, ROOT, GO_STACK_END - 64, &[]).enter(G, A, far, &[]);
    lab.on = 2;
    lab.enter(G, B, GO_SYSTEM_STACK_END - 64, &[]).ret(G, GO_SYSTEM_STACK_END - 64);
    // What ran on the scheduler's stack is over when its own goes on.
    lab.enter(G, B, GO_SYSTEM_STACK_END - 64, &[]).enter(G, C, far - 64, &[]).ret(G, far - 64);
    // Another goroutine on the thread, meanwhile.
    lab.enter(G2, ROOT, GO_STACK_END - 64, &[]).ret(G2, GO_STACK_END - 64);
    lab.on = 3;
    lab.ret(G, far).ret(G, GO_STACK_END - 64);
    let mut traces = lab.traces();
    assert_eq!(outline(&traces[0]), "root 80..90 ret\n");
    let expected = "root 10..110 ret\n  a 20..100 ret\n    b 30..40 ret\n    b 50..60 inferred\n    \
                    c 60..70 ret\n";
    let trace = traces.remove(1);
    assert_eq!(outline(&trace), expected);
    let tids: Vec<u32> = trace.spans.iter().map(|span| span.tid.0).collect();
    assert_eq!(tids, [1, 1, 2, 2, 2]);
    assert!(trace.spans.iter().all(|span| span.lane == Lane::Goroutine(Pid(1), Goid(10))));
}

#[test]
fn a_call_at_the_place_of_one_whose_end_was_not_seen_is_another() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]);
    // From the same line of a loop.
    lab.enter_from(G, A, 800, 7, &[]).enter_from(G, A, 800, 7, &[]).ret(G, 800).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..50 ret\n  a 20..30 inferred\n  a 30..40 ret\n");
    assert_eq!(lab.stats().inferred, 1);
}

#[test]
fn calls_in_c_and_back_hang_below_each_other() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]);
    // Into C, twice; from there back into Go, and into C again.
    lab.carries(1, Some(G)).enter(1, A, 0x7f00, &[]).enter(1, B, 0x7e00, &[]);
    lab.enter(G, C, 500, &[]).enter(1, A, 0x7d00, &[]).ret(1, 0x7d00).ret(G, 500);
    lab.enter(1, C, 0x7d00, &[]).ret(1, 0x7d00).ret(1, 0x7e00).ret(1, 0x7f00);
    lab.enter(G, B, 800, &[]).ret(G, 800).ret(G, 900);
    assert_eq!(
        lab.outline(),
        "root 10..150 ret\n  a 30..120 ret cgo\n    b 40..110 ret\n      c 50..80 ret cgo\n        \
         a 60..70 ret cgo\n      c 90..100 ret\n  b 130..140 ret\n"
    );
}

#[test]
fn a_thread_that_carries_nothing_gets_nothing() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).enter(1, A, 0x7f00, &[]).ret(1, 0x7f00);
    lab.carries(1, Some(G)).carries(1, None).enter(1, A, 0x7f00, &[]).ret(1, 0x7f00);
    // Another thread than the one the goroutine is on.
    lab.carries(1, Some(G)).enter(2, A, 0x7f00, &[]).ret(2, 0x7f00);
    // A goroutine that has no open calls.
    lab.carries(1, Some(G2)).enter(1, A, 0x7f00, &[]).ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..140 ret\n");
    assert_eq!(lab.stats().orphans, 4);
}

#[test]
fn calls_from_before_a_change_are_not_the_next_goroutines() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).enter(G2, ROOT, 900, &[]);
    // The end of `a` is not seen.
    lab.carries(1, Some(G)).enter(1, A, 0x7f00, &[]);
    lab.carries(1, Some(G2)).enter(1, B, 0x7e00, &[]).enter(G2, C, 800, &[]);
    lab.ret(G2, 800).ret(1, 0x7e00).ret(G2, 900);
    assert_eq!(lab.outline(), "root 20..100 ret\n  b 60..90 ret cgo\n    c 70..80 ret cgo\n");
    lab.carries(1, Some(G)).enter(1, C, 0x7e00, &[]).ret(1, 0x7e00).ret(G, 900);
    lab.ret(1, 0x7f00);
    assert_eq!(lab.outline(), "root 10..140 ret\n  a 40..150 ret cgo\n  c 120..130 ret cgo\n");
}

#[test]
fn what_a_call_called_in_c_is_gone_with_it() {
    for elsewhere in [1, 2] {
        let mut lab = Lab::new();
        lab.enter(G, ROOT, 900, &[]).enter(G, A, 800, &[]);
        // The end of `b` is not seen.
        lab.carries(1, Some(G)).enter(1, B, 0x7f00, &[]);
        lab.on = elsewhere;
        lab.ret(G, 800).enter(G, C, 700, &[]).ret(G, 700).ret(G, 900);
        assert_eq!(
            lab.outline(),
            "root 10..80 ret\n  a 20..50 ret\n    b 40..50 inferred cgo\n  c 60..70 ret\n"
        );
    }
}

#[test]
fn a_goroutine_on_another_thread_is_not_in_c_any_more() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).carries(1, Some(G)).enter(1, A, 0x7f00, &[]);
    lab.on = 2;
    lab.enter(G, B, 800, &[]).ret(G, 800);
    lab.on = 1;
    lab.enter(G, B, 800, &[]).ret(G, 800).ret(G, 900);
    assert_eq!(
        lab.outline(),
        "root 10..80 ret\n  a 30..40 inferred cgo\n  b 40..50 ret\n  b 60..70 ret\n"
    );
}

#[test]
fn a_recovered_panic_ends_what_lies_below() {
    let mut lab = Lab::with_witness();
    lab.enter(G, ROOT, 900, &[]).enter(G, A, 800, &[]).enter(G, B, 700, &[]);
    // The function that goes on has its stack pointer at 800: `a`, which lies there, lives on.
    lab.enter(G, TOUCH, 800, &[]).enter(G, C, 600, &[]).ret(G, 600).ret(G, 800).ret(G, 900);
    assert_eq!(
        lab.outline(),
        "root 10..80 ret\n  a 20..70 ret\n    b 30..40 unwound\n    c 50..60 ret\n"
    );
}

#[test]
fn a_panic_that_crosses_c_ends_what_it_crosses() {
    let mut lab = Lab::with_witness();
    lab.enter(G, ROOT, 900, &[]).enter(G, A, 800, &[]);
    lab.carries(1, Some(G)).enter(1, B, 0x7f00, &[]).enter(G, C, 500, &[]);
    lab.enter(1, C, 0x7e00, &[]);
    // Recovered by the root's own deferred call.
    lab.enter(G, TOUCH, 850, &[]).enter(G, B, 700, &[]).ret(G, 700).ret(G, 900);
    assert_eq!(
        lab.outline(),
        "root 10..100 ret\n  a 20..70 unwound\n    b 40..70 inferred cgo\n      c 50..70 unwound cgo\n\
         \x20       c 60..70 inferred cgo\n  b 80..90 ret\n"
    );
    // Below the callback, or above the call in C: that cannot be told, and it is nobody's parent.
    let mut lab = Lab::with_witness();
    lab.enter(G, ROOT, 900, &[]).carries(1, Some(G)).enter(1, B, 0x7f00, &[]);
    lab.enter(G, C, 500, &[]).enter(G, TOUCH, 600, &[]).enter(G, C, 400, &[]).ret(G, 400);
    lab.ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..90 ret\n  b 30..80 ret cgo\n    c 40..50 unwound cgo\n");
    assert_eq!(lab.stats().orphans, 1);
}

#[test]
fn the_end_of_a_goroutine_ends_its_calls_also_those_in_c() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).carries(1, Some(G)).enter(1, A, 0x7f00, &[]).lane_end(G);
    assert_eq!(lab.outline(), "root 10..40 unwound\n  a 30..40 inferred cgo\n");
    lab.enter(1, B, 0x7e00, &[]);
    assert_eq!(lab.stats().orphans, 1);
    lab.enter(G, ROOT, 900, &[]).enter(1, ROOT, 0x7e00, &[]).push(4, EventBody::ProcessEnd);
    assert_eq!(lab.outline(), "root 70..80 unwound\nroot 60..80 unwound\n");
}

#[test]
fn evidence_passes_through_calls_without_spans() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).give(G, GIVE_ONE, 800, 5);
    lab.enter(G2, PASS_ONE, 900, &[5]);
    lab.on = 2;
    lab.carries(2, Some(G2)).enter(2, TOUCH, 0x7f00, &[]).enter(2, A, 0x7e00, &[]);
    lab.enter(G2, TOUCH, 800, &[]).enter(2, B, 0x7d00, &[]).ret(2, 0x7d00).ret(G2, 800);
    lab.ret(2, 0x7e00).ret(2, 0x7f00).ret(G2, 900).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..150 ret\n  a 70..120 ret handoff:one\n    b 90..100 ret\n");
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).carries(1, Some(G)).enter(1, TOUCH, 0x7f00, &[]);
    lab.enter(1, A, 0x7e00, &[]).ret(1, 0x7e00).ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..70 ret\n  a 40..50 ret cgo\n");
}

#[test]
fn what_runs_below_on_the_other_stack_says_more_than_a_key() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).give(G, GIVE_ONE, 800, 5).enter(G, A, 800, &[]);
    lab.carries(1, Some(G)).enter(1, TAKE_ONE, 0x7f00, &[5]).ret(1, 0x7f00);
    lab.ret(G, 800).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..90 ret\n  a 40..80 ret\n    task 60..70 ret cgo\n");
}

#[test]
fn a_gap_on_a_goroutine_is_no_proof_for_c_and_cuts_what_was_believed() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).enter(G, A, 800, &[]).carries(1, Some(G));
    lab.enter(1, B, 0x7f00, &[]).ret(1, 0x7f00);
    // The lost event may have been the end of `a`, before `b`.
    lab.lose(G, 1).ret(G, 700);
    lab.enter(1, C, 0x7f00, &[]).ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..90 inferred lost=1\n  a 20..90 inferred lost=1\n");
    assert_eq!((lab.stats().doubtful, lab.stats().orphans), (1, 1));
    // One on a third lane changes nothing.
    let mut lab = Lab::new();
    lab.enter(3, TOUCH, 900, &[]).enter(G, ROOT, 900, &[]).carries(1, Some(G));
    lab.enter(1, B, 0x7f00, &[]).lose(3, 1).ret(3, 900).ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 20..70 ret\n  b 40..60 ret cgo\n");
}

#[test]
fn a_gap_on_a_thread_makes_it_unknown_whom_it_carries() {
    let mut lab = Lab::new();
    lab.enter(G, ROOT, 900, &[]).carries(1, Some(G)).enter(1, A, 0x7f00, &[]).ret(1, 0x7f00);
    lab.lose(1, 1).enter(1, B, 0x7f00, &[]).ret(1, 0x7f00);
    assert_eq!((lab.stats().unknown_carriers, lab.stats().orphans), (1, 1));
    lab.carries(1, Some(G)).enter(1, C, 0x7f00, &[]).ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..100 ret\n  a 30..40 ret cgo\n  c 80..90 ret cgo\n");
}

#[test]
fn a_thread_that_carries_a_goroutine_is_not_forgotten_for_room() {
    let mut lab = Lab::limited(|limits| limits.lanes = 2);
    lab.enter(G, ROOT, 900, &[]).carries(1, Some(G)).enter(3, A, 0x7f00, &[]);
    lab.enter(1, A, 0x7f00, &[]).ret(1, 0x7f00).ret(G, 900);
    assert_eq!(lab.outline(), "root 10..60 ret\n  a 40..50 ret cgo\n");
}
