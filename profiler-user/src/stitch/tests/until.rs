//! Keys that a call ends, and the traces that wait for it.

use crate::model::{EventBody, HandoffEnd, Moment, TraceEnd};
use crate::stitch::Limits;
use crate::stitch::generator::{GIVE_ANY, ROOT, TAKE_ANY, TOUCH};

use super::{A, Lab};

/// Rules whose keys of any number of takes end where `TOUCH` is called with them.
fn with_until(limits: Limits) -> Lab {
    Lab::with(limits, |rules| {
        if let Some(any) = rules.handoffs.get_mut(1) {
            any.until = Some(HandoffEnd { probes: vec![(TOUCH, vec![0])], moment: Moment::Enter });
        }
    })
}

#[test]
fn a_trace_waits_for_the_call_that_ends_its_key() {
    let mut lab = with_until(Limits::default());
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).ret(1, 900);
    assert_eq!(lab.outline(), "", "a task may still come");
    lab.enter(2, TAKE_ANY, 900, &[5]).ret(2, 900);
    // That of another key changes nothing.
    lab.give(1, TOUCH, 900, 6);
    lab.enter(2, TAKE_ANY, 900, &[5]).enter(1, TOUCH, 900, &[5]);
    assert_eq!(lab.outline(), "", "a task is not done");
    lab.ret(2, 900).ret(1, 900);
    assert_eq!(
        lab.outline(),
        "root 10..40 ret\n  plan 50..60 ret handoff:any\n  plan 90..110 ret handoff:any\n"
    );
    // The same words mean something else now.
    lab.enter(2, TAKE_ANY, 900, &[5]).ret(2, 900);
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).give(1, TOUCH, 700, 5).ret(1, 900);
    assert_eq!(lab.outline(), "root 150..200 ret\n");
    assert_eq!((lab.stats().not_given, lab.stats().ambiguous, lab.stats().not_taken), (1, 0, 1));
}

#[test]
fn a_key_with_an_end_outlives_the_grace_time() {
    let mut lab = with_until(Limits { grace: 1000, ..Limits::default() });
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).ret(1, 900).tick(2000);
    assert_eq!(lab.outline(), "incomplete\nroot 10..40 ret\n");
    lab.enter(2, TAKE_ANY, 900, &[5]).ret(2, 900).give(1, TOUCH, 900, 5);
    let late = lab.traces();
    assert_eq!(late.len(), 1);
    assert_eq!((late[0].end, late[0].spans.len()), (TraceEnd::Late, 1));
    assert_eq!((lab.stats().incomplete, lab.stats().late, lab.stats().orphans), (1, 1, 0));
    assert_eq!(lab.stitcher.open_traces(), 0);
}

#[test]
fn a_gap_lets_a_trace_go_that_waits_for_the_end_of_a_key() {
    let mut lab = with_until(Limits::default());
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).ret(1, 900);
    // What was lost may have been that end.
    lab.enter(2, A, 900, &[]).lose(2, 1).ret(2, 900);
    assert_eq!(lab.outline(), "root 10..40 ret\n");
    assert_eq!(lab.stitcher.open_traces(), 0);
}

#[test]
fn the_end_of_a_process_is_the_end_of_its_keys() {
    let mut lab = with_until(Limits::default());
    lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).ret(1, 900);
    lab.enter(2, TAKE_ANY, 900, &[5]).push(2, EventBody::ProcessEnd);
    assert_eq!(lab.outline(), "root 10..40 ret\n  plan 50..60 unwound handoff:any\n");
    assert_eq!(lab.stitcher.open_traces(), 0);
}

#[test]
fn two_traces_that_gave_one_key_wait_for_its_end() {
    let mut lab = with_until(Limits::default());
    for lane in [1, 2] {
        lab.enter(lane, ROOT, 900, &[]).give(lane, GIVE_ANY, 700, 5).ret(lane, 900);
    }
    lab.enter(3, TAKE_ANY, 900, &[5]).ret(3, 900);
    assert_eq!(lab.outline(), "", "whose work it is cannot be told");
    lab.give(3, TOUCH, 900, 5);
    assert_eq!(lab.outline(), "root 10..40 ret\nroot 50..80 ret\n");
    assert_eq!(lab.stitcher.open_traces(), 0);
}

#[test]
fn the_bound_on_traces_holds_for_those_that_wait_for_the_end_of_a_key() {
    let mut lab = with_until(Limits { traces: 1, ..Limits::default() });
    for _ in 0..3 {
        lab.enter(1, ROOT, 900, &[]).give(1, GIVE_ANY, 700, 5).ret(1, 900);
    }
    assert_eq!(lab.traces().len(), 2);
    assert_eq!((lab.stitcher.open_traces(), lab.stats().ambiguous), (1, 0));
}
