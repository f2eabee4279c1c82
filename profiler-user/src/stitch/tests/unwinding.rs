//! Calls that are left for good without a `ret`.

use crate::model::{Ahead, EventBody, FrameAddr, ProbeId, ReturnAddr, Rules, Seen, Watches, Words};
use crate::stitch::Limits;
use crate::stitch::generator::{ROOT, TOUCH};

use super::{A, B, C, Lab};

#[test]
fn a_witness_ends_what_an_exception_has_left() {
    let witness = |rules: &mut Rules| {
        rules.probes[usize::from(TOUCH)].watches = Watches::Unwinding;
    };
    let mut lab = Lab::with(Limits::default(), witness);
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).enter(1, B, 700, &[]);
    // Caught by the root: the exception lands in the slot of `a`; then a call deeper than `a` was.
    lab.enter(1, TOUCH, 800, &[]).enter(1, C, 600, &[]).ret(1, 600).ret(1, 900);
    assert_eq!(
        lab.outline(),
        "root 10..70 ret\n  a 20..40 unwound\n    b 30..40 unwound\n  c 50..60 ret\n"
    );
}

#[test]
fn a_jump_ends_what_it_leaves_and_nothing_on_another_stack() {
    let jump = |lab: &mut Lab, slot: u64, below: u64| {
        lab.push(1, EventBody::Unwound { frame: FrameAddr(slot), below: FrameAddr(below) });
    };
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]).enter(1, B, 700, &[]);
    jump(&mut lab, 600, 850);
    lab.enter(1, C, 500, &[]).ret(1, 500).ret(1, 900);
    assert_eq!(
        lab.outline(),
        "root 10..70 ret\n  a 20..40 unwound\n    b 30..40 unwound\n  c 50..60 ret\n"
    );
    // On a stack that is not the thread's own, only among calls that are known: a coroutine above it
    // may be where the jump goes.
    let far = 1 << 40;
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, far + 800, &[]).enter(1, B, far + 700, &[]);
    jump(&mut lab, far + 600, far + 2_000);
    assert_eq!(lab.stats().unknown_jumps, 1);
    jump(&mut lab, far + 600, far + 750);
    lab.ret(1, far + 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..70 ret\n  a 20..60 ret\n    b 30..50 unwound\n");
}

#[test]
fn a_call_that_left_by_a_jump_ends_there_unless_it_is_seen_to_return() {
    let jump = |lab: &mut Lab, slot: u64| {
        lab.push(1, EventBody::Jump { probe: ProbeId(A), frame: FrameAddr(slot) });
    };
    // What is called next may lie deeper: it is no child of what has left.
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]);
    jump(&mut lab, 800);
    lab.enter(1, B, 700, &[]).ret(1, 700).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..60 ret\n  a 20..30 jump\n  b 40..50 ret\n");
    // Its return is seen after all.
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]);
    jump(&mut lab, 800);
    lab.ret(1, 800).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..50 ret\n  a 20..40 ret\n");
    // To a call that is seen: that returns in its stead.
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter_from(1, A, 800, 7, &[]);
    jump(&mut lab, 800);
    lab.enter_from(1, B, 800, 7, &[]).enter(1, C, 700, &[]).ret(1, 700).ret(1, 800).ret(1, 900);
    let nested = "root 10..80 ret\n  a 20..70 ret\n    b 40..70 ret\n      c 50..60 ret\n";
    assert_eq!(lab.outline(), nested);
}

#[test]
fn a_landing_ends_what_awaits_it_and_leaves_behind_what_did_not() {
    let enter = |lab: &mut Lab, probe: u16, slot: u64, awaited: u64| {
        let body = EventBody::Enter {
            contexts: None,
            probe: ProbeId(probe),
            frame: FrameAddr(slot),
            return_address: ReturnAddr(slot + 1),
            ahead: Ahead::Landing(FrameAddr(awaited)),
            words: Words::default(),
        };
        lab.push(1, body);
    };
    let lands = |lab: &mut Lab, slot: u64| {
        let (probe, frame, words) = (ProbeId(A), FrameAddr(slot), Words::default());
        lab.push(1, EventBody::Exit { seen: Seen::Landing, probe, frame, words });
    };
    let mut lab = Lab::new();
    enter(&mut lab, ROOT, 900, 900);
    // `a` returns at once when `b` does; of `c` no end was seen.
    enter(&mut lab, A, 800, 800);
    enter(&mut lab, B, 700, 800);
    lab.enter(1, C, 600, &[]);
    lands(&mut lab, 800);
    lands(&mut lab, 900);
    assert_eq!(
        lab.outline(),
        "root 10..60 landing\n  a 20..50 landing\n    b 30..50 landing\n      c 40..50 inferred\n"
    );
}
