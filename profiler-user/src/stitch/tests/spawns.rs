//! Parents by where a goroutine was made.

use super::*;

const G: [u32; 5] = [GO, GO + 1, GO + 2, GO + 3, GO + 4];

impl Lab {
    fn spawn(&mut self, lane: u32, child: u32) -> &mut Self {
        let now = self.now;
        self.push(lane, EventBody::Spawn { child: Goid(u64::from(child)) });
        let made = std::mem::replace(&mut self.now, now);
        self.push(child, EventBody::RunsOnce);
        self.now = made;
        self
    }
}

#[test]
fn the_first_call_of_a_goroutine_hangs_below_the_one_that_made_it() {
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]).enter(G[0], A, 800, &[]).spawn(G[0], G[1]).spawn(G[0], G[2]);
    lab.enter(G[1], B, 900, &[]).enter(G[1], C, 800, &[]).ret(G[1], 800).ret(G[1], 900);
    // The second call of one that lives on may be for anyone.
    lab.enter(G[1], B, 900, &[]).ret(G[1], 900);
    lab.enter(G[2], B, 900, &[]).ret(G[0], 800).ret(G[0], 900);
    lab.ret(G[2], 900);
    assert_eq!(
        lab.outline(),
        "root 10..130 ret\n  a 20..120 ret\n    b 50..80 ret spawn\n      c 60..70 ret\n    \
         b 110..140 ret spawn\n"
    );
    assert_eq!(lab.stats().orphans, 1);
}

#[test]
fn only_while_that_call_is_open() {
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]).enter(G[0], A, 800, &[]).spawn(G[0], G[1]).ret(G[0], 800);
    // Another call at the same place.
    lab.enter(G[0], A, 800, &[]).enter(G[1], B, 900, &[]).ret(G[1], 900).ret(G[0], 800);
    // Made in no call, and by a goroutine that is no more.
    lab.spawn(G[3], G[4]).enter(G[4], B, 900, &[]).ret(G[4], 900);
    lab.enter(G[2], A, 900, &[]).spawn(G[2], G[3]).lane_end(G[2]);
    lab.numbers[G[3] as usize] = 0;
    lab.enter(G[3], B, 900, &[]).ret(G[0], 900);
    assert_eq!(lab.outline(), "root 10..160 ret\n  a 20..40 ret\n  a 50..80 ret\n");
    assert_eq!(lab.stats().orphans, 4);
}

#[test]
fn what_a_goroutine_has_else_says_more() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).within(G[1], ROOT, 900, (0x20, 0));
    // A worker that was started for the first and serves the second.
    lab.spawn(G[0], G[2]).within(G[2], A, 900, (0x20, 0x20)).ret(G[2], 900);
    lab.give(G[1], GIVE_ONE, 800, 5).spawn(G[0], G[3]).enter(G[3], TAKE_ONE, 900, &[5]);
    lab.ret(G[3], 900).ret(G[0], 900).ret(G[1], 900);
    assert_eq!(
        lab.outline(),
        "root 10..110 ret\nroot 20..120 ret\n  a 40..50 ret context\n  \
         task 90..100 ret handoff:one\n"
    );
    assert_eq!(lab.stats().disagreements, 1);
}

#[test]
fn goroutines_made_side_by_side_for_one_context_are_siblings() {
    let mut lab = Lab::new();
    lab.within(G[0], ROOT, 900, (0x10, 0)).spawn(G[0], G[1]).spawn(G[0], G[2]);
    lab.within(G[1], A, 900, (0x20, 0x10)).within(G[2], A, 900, (0x20, 0x20));
    lab.ret(G[1], 900).ret(G[2], 900).ret(G[0], 900);
    assert_eq!(lab.outline(), "root 10..80 ret\n  a 40..60 ret context\n  a 50..70 ret context\n");
    assert_eq!(lab.stats().disagreements, 0);
}

#[test]
fn a_goroutine_made_in_a_callback_from_c() {
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]);
    lab.push(1, EventBody::Carries { goroutine: Some(Goid(u64::from(G[0]))) });
    lab.enter(1, A, 0x7f00, &[]).spawn(G[0], G[1]).enter(G[0], B, 500, &[]).spawn(G[0], G[2]);
    lab.on = 2;
    lab.enter(G[1], C, 900, &[]).enter(G[2], C, 900, &[]).ret(G[1], 900).ret(G[2], 900);
    lab.on = 1;
    lab.ret(G[0], 500).ret(1, 0x7f00).ret(G[0], 900);
    assert_eq!(
        lab.outline(),
        "root 10..130 ret\n  a 30..120 ret cgo\n    b 50..110 ret cgo\n      c 80..100 ret spawn\n    \
         c 70..90 ret spawn\n"
    );
}

#[test]
fn a_call_without_a_span_passes_it_on() {
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]).spawn(G[0], G[1]).enter(G[1], TOUCH, 900, &[]);
    lab.enter(G[1], A, 800, &[]).ret(G[1], 800).enter(G[1], B, 800, &[]).ret(G[1], 800);
    lab.ret(G[1], 900).enter(G[1], C, 900, &[]).ret(G[0], 900);
    assert_eq!(lab.outline(), "root 10..100 ret\n  a 40..50 ret spawn\n  b 60..70 ret spawn\n");
}

#[test]
fn after_a_gap_it_proves_nothing() {
    // On the creator's lane, before the first call and after it.
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]).spawn(G[0], G[1]).spawn(G[0], G[2]);
    lab.enter(G[1], A, 900, &[]).lose(G[0], 1).ret(G[0], 500).enter(G[2], A, 900, &[]);
    lab.ret(G[0], 900);
    assert_eq!(lab.outline(), "root 10..70 inferred lost=1\n");
    assert_eq!((lab.stats().doubtful, lab.stats().orphans), (1, 1));
    // On the child's: the first call was another one.
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]).spawn(G[0], G[1]).lose(G[1], 2).enter(G[1], A, 900, &[]);
    lab.ret(G[1], 900).ret(G[0], 900);
    assert_eq!((lab.outline().as_str(), lab.stats().orphans), ("root 10..50 ret\n", 1));
}

#[test]
fn the_bound_on_those_that_have_not_called_yet() {
    let mut lab = Lab::limited(|limits| limits.spawns = 2);
    lab.enter(G[0], ROOT, 900, &[]).spawn(G[0], G[1]).spawn(G[0], G[2]).spawn(G[0], G[3]);
    assert_eq!(lab.stats().spawns_full, 1);
    for lane in [1, 2, 3] {
        lab.enter(G[lane], A, 900, &[]).ret(G[lane], 900);
    }
    // Those that have called or ended make room.
    lab.spawn(G[0], G[4]).lane_end(G[4]).spawn(G[0], 20).spawn(G[0], 21);
    lab.enter(20, B, 900, &[]).ret(20, 900).enter(21, B, 900, &[]).ret(21, 900).ret(G[0], 900);
    assert_eq!(
        lab.outline(),
        "root 10..190 ret\n  a 70..80 ret spawn\n  a 90..100 ret spawn\n  b 150..160 ret spawn\n  \
         b 170..180 ret spawn\n"
    );
    assert_eq!((lab.stats().spawns_full, lab.stats().orphans), (1, 1));
}

#[test]
fn the_end_of_a_process_forgets_what_waits() {
    let mut lab = Lab::new();
    lab.enter(G[0], ROOT, 900, &[]).spawn(G[0], G[1]).push(4, EventBody::ProcessEnd);
    lab.numbers = [0; 24];
    lab.enter(G[0], ROOT, 900, &[]).enter(G[1], A, 900, &[]).ret(G[0], 900);
    assert_eq!(lab.outline(), "root 10..30 unwound\nroot 40..60 ret\n");
}
