//! Calls that are left for good without a `ret`.

use crate::model::{EventBody, FrameAddr, Rules, Watches};
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
