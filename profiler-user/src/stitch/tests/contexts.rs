//! Parents by `context.Context`.

use crate::model::{ContextAddr, Contexts};

use super::*;

const G: [u32; 5] = [GO, GO + 1, GO + 2, GO + 3, GO + 4];

impl Lab {
    /// A call in context `own`; if it is outermost, the kernel side knows `nearest`.
    pub(super) fn within(
        &mut self,
        lane: u32,
        probe: u16,
        slot: u64,
        (own, nearest): (u64, u64),
    ) -> &mut Self {
        let nearest = (nearest != 0).then_some(ContextAddr(nearest));
        let body = EventBody::Enter {
            contexts: Some(Contexts { own: ContextAddr(own), nearest }),
            probe: ProbeId(probe),
            frame: FrameAddr(slot),
            return_address: ReturnAddr(0x1000 + self.now),
            ahead: Ahead::Nothing,
            words: Words::new(&[own], 0),
        };
        self.push(lane, body)
    }
}

#[test]
fn the_outermost_call_of_a_lane_hangs_below_the_one_with_its_context() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], ROOT, 900, (0x20, 0));
    lab.within(G[2], A, 900, (0x11, 0x10)).enter(G[2], B, 800, &[]).ret(G[2], 800).ret(G[2], 900);
    // The same worker, for the other.
    lab.within(G[2], A, 900, (0x20, 0x20)).ret(G[2], 900);
    // A root with a parent is none.
    lab.within(G[2], ROOT, 900, (0x21, 0x20)).ret(G[2], 900).ret(G[0], 900).ret(G[1], 900);
    assert_eq!(
        lab.outline(),
        "root 10..110 ret\n  a 30..60 ret context\n    b 40..50 ret\n\
         root 20..120 ret\n  a 70..80 ret context\n  root 90..100 ret context\n"
    );
}

#[test]
fn the_stack_says_more_than_a_context() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], ROOT, 900, (0x20, 0));
    lab.within(G[1], A, 800, (0x10, 0x10)).ret(G[1], 800);
    // So does the other stack of a goroutine; and a key.
    lab.push(1, EventBody::Carries { goroutine: Some(Goid(u64::from(G[1]))) });
    lab.within(1, B, 0x7f00, (0x10, 0x10)).ret(1, 0x7f00);
    lab.give(G[1], GIVE_ONE, 700, 0x10).within(G[2], TAKE_ONE, 900, (0x10, 0x10)).ret(G[2], 900);
    lab.ret(G[1], 900).ret(G[0], 900);
    assert_eq!(
        lab.outline(),
        "root 20..120 ret\n  a 30..40 ret\n  b 60..70 ret cgo\n  task 100..110 ret handoff:one\n\
         root 10..130 ret\n"
    );
}

#[test]
fn what_the_kernel_side_knows_is_held_against_what_is_open() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[0], A, 800, (0x11, 0)).ret(G[0], 800);
    lab.within(G[1], B, 900, (0x12, 0x11)).ret(G[1], 900);
    lab.ret(G[0], 900).within(G[1], B, 900, (0x12, 0x10)).ret(G[1], 900);
    assert_eq!(lab.outline(), "root 10..60 ret\n  a 20..30 ret\n");
    assert_eq!(lab.stats().orphans, 2);
}

#[test]
fn of_several_calls_with_a_context_what_is_above_all_is_the_parent() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0));
    lab.within(G[1], A, 900, (0x20, 0x10)).within(G[2], A, 900, (0x30, 0x10));
    lab.within(G[1], B, 800, (0x40, 0)).within(G[2], B, 800, (0x40, 0));
    // Siblings: what is above both.
    lab.within(G[3], C, 900, (0x40, 0x40)).ret(G[3], 900);
    lab.ret(G[1], 800);
    // One is left.
    lab.within(G[3], C, 900, (0x40, 0x40)).within(G[4], C, 900, (0x40, 0x40)).ret(G[3], 900);
    lab.ret(G[4], 900).ret(G[2], 800).ret(G[2], 900).ret(G[1], 900).ret(G[0], 900);
    assert_eq!(
        lab.outline(),
        "root 10..160 ret\n  a 20..150 ret context\n    b 40..80 ret\n  \
         a 30..140 ret context\n    b 50..130 ret\n      c 90..110 ret context\n      \
         c 100..120 ret context\n  c 60..70 ret context\n"
    );
}

#[test]
fn a_context_of_several_requests_proves_nothing() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], ROOT, 900, (0x10, 0));
    lab.within(G[2], A, 900, (0x10, 0x10)).ret(G[2], 900).ret(G[0], 900);
    lab.within(G[2], A, 900, (0x10, 0x10)).ret(G[2], 900).ret(G[1], 900);
    assert_eq!(lab.outline(), "root 10..50 ret\nroot 20..80 ret\n  a 60..70 ret context\n");
    assert_eq!(lab.stats().orphans, 1);
}

#[test]
fn a_call_without_a_span_passes_its_context_on() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], TOUCH, 900, (0x11, 0x10));
    lab.within(G[1], A, 800, (0x11, 0)).ret(G[1], 800).within(G[2], B, 900, (0x11, 0x11));
    lab.ret(G[2], 900).ret(G[1], 900).ret(G[0], 900);
    assert_eq!(lab.outline(), "root 10..80 ret\n  a 30..40 ret context\n  b 50..60 ret context\n");
}

#[test]
fn a_call_that_may_be_gone_proves_nothing_and_cuts_what_it_has_proven() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], ROOT, 900, (0x20, 0));
    lab.within(G[2], A, 900, (0x20, 0x20)).within(G[3], A, 900, (0x10, 0x10));
    // The end of the second root may have been lost, and its context used again.
    lab.lose(G[1], 1).ret(G[1], 500).within(G[4], B, 900, (0x20, 0x20)).ret(G[4], 900);
    lab.ret(G[2], 900).ret(G[3], 900).ret(G[1], 900).ret(G[0], 900);
    assert_eq!(
        lab.outline(),
        "root 20..100 inferred lost=1\nroot 10..110 ret\n  a 40..90 ret context\n"
    );
    assert_eq!((lab.stats().doubtful, lab.stats().orphans), (1, 1));
}

#[test]
fn the_bound_on_contexts() {
    let mut lab = Lab::limited(|limits| limits.contexts = 1);
    for _ in 0..3 {
        lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], ROOT, 900, (0x20, 0));
        lab.within(G[2], A, 900, (0x20, 0x20)).within(G[3], A, 900, (0x10, 0x10));
        for lane in [3, 2, 1, 0] {
            lab.ret(G[lane], 900);
        }
    }
    assert_eq!((lab.stats().contexts_full, lab.stats().orphans), (6, 3));
}

#[test]
fn many_calls_with_one_context() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 9000, (0x10, 0));
    for depth in 1..200 {
        lab.within(G[0], A, 9000 - depth * 10, (0x10, 0));
    }
    lab.within(G[1], B, 900, (0x10, 0x10)).ret(G[1], 900);
    for depth in (1..200).rev() {
        lab.ret(G[0], 9000 - depth * 10);
    }
    lab.within(G[1], B, 900, (0x10, 0x10)).ret(G[1], 900).ret(G[0], 9000);
    let traces = lab.traces();
    let top = traces[0].spans[0].id;
    let by_context = traces[0].spans.iter().filter(|span| span.evidence.to_string() == "context");
    assert!(by_context.clone().all(|span| span.parent == Some(top)));
    assert_eq!(by_context.count(), 2);
}
