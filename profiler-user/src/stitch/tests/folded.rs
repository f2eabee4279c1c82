//! Calls that the kernel side has added up, and those that are not seen any more.

use profiler_common::FoldedCalls;

use super::*;

/// So many calls of 2 ns, all of whose ends were seen.
fn calls(count: u64, first: u64, last: u64) -> FoldedCalls {
    FoldedCalls { count, ended: count, sum: 2 * count, min: 2, max: 2, first, last }
}

impl Lab {
    /// Calls of a function in the call at `slot`, which began with event `number` of its lane.
    fn folded(
        &mut self,
        lane: u32,
        probe: u16,
        (slot, number): (u64, u32),
        calls: FoldedCalls,
    ) -> &mut Self {
        let (probe, frame) = (ProbeId(probe), FrameAddr(slot));
        self.push(lane, EventBody::Folded { probe, frame, serial: number, calls })
    }
}

#[test]
fn they_are_one_span_of_the_call_they_were_made_in() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).enter(1, A, 800, &[]);
    lab.folded(1, C, (800, 2), calls(3, 21, 29)).folded(1, B, (800, 2), calls(1, 30, 32));
    lab.folded(1, C, (800, 2), calls(4, 33, 45)).ret(1, 800);
    lab.folded(1, C, (900, 1), calls(5, 61, 69)).ret(1, 900);
    let traces = lab.traces();
    let [trace] = traces.as_slice() else { panic!() };
    let expected = "root 10..80 ret\n  a 20..60 ret\n    c 21..45 landing calls=7\n    \
                    b 30..32 landing\n  c 61..69 landing calls=5\n";
    assert_eq!(outline(trace), expected);
    let of = |name: &str| trace.spans.iter().find(|span| &*span.name == name).unwrap();
    let folded = of("c").folded.unwrap();
    assert_eq!((folded.sum, folded.min, folded.max, of("c").self_time), (14, 2, 2, 14));
    // What it did between them is its own.
    assert_eq!((of("a").self_time, of("root").self_time), (40 - 16, 70 - 40 - 8));
}

#[test]
fn those_whose_ends_were_not_seen_are_counted() {
    let mut lab = Lab::new();
    let none = FoldedCalls { count: 2, first: 11, last: 12, ..FoldedCalls::default() };
    lab.enter(1, ROOT, 900, &[]).folded(1, C, (900, 1), none).ret(1, 900);
    assert_eq!(lab.outline(), "root 10..30 ret\n  c 11..12 inferred calls=2\n");
    // One begins before and ends after it is told.
    let begun = FoldedCalls { count: 1, first: 41, last: 41, ..FoldedCalls::default() };
    let ended = FoldedCalls { ended: 1, sum: 9, min: 9, max: 9, last: 50, ..calls(0, 50, 50) };
    lab.enter(1, ROOT, 900, &[]).folded(1, C, (900, 4), begun);
    lab.folded(1, C, (900, 4), ended).ret(1, 900);
    assert_eq!(lab.outline(), "root 40..70 ret\n  c 41..50 landing\n");
}

#[test]
fn without_that_call_they_are_orphans() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]);
    // Another call had that slot; another lane; a call that is nobody's.
    lab.folded(1, C, (900, 7), calls(3, 11, 12)).folded(2, C, (900, 1), calls(3, 11, 12));
    lab.ret(1, 900).folded(1, C, (900, 1), calls(3, 11, 12));
    assert_eq!(lab.outline(), "root 10..40 ret\n");
    assert_eq!(lab.stats().orphans, 3);
    // After a loss it may be another call's.
    lab.enter(1, ROOT, 900, &[]).lose(1, 1).folded(1, C, (900, 4), calls(3, 61, 62)).ret(1, 900);
    assert_eq!(lab.outline(), "root 60..80 inferred lost=1\n");
    assert_eq!(lab.stats().orphans, 4);
}

#[test]
fn what_is_given_up_is_on_every_trace_from_then_on() {
    let mut lab = Lab::new();
    lab.enter(1, ROOT, 900, &[]).ret(1, 900).enter(1, ROOT, 900, &[]);
    let give_up = |lab: &mut Lab, probe| {
        let (lane, tid) = (Lane::Thread(Pid(7), Tid(7)), Tid(7));
        let body = EventBody::GaveUp { probe: ProbeId(probe) };
        lab.stitcher.push(&Event { time: MonoNs(1), lane, tid, sequence: 0, body });
    };
    give_up(&mut lab, A);
    lab.ret(1, 900);
    give_up(&mut lab, A);
    give_up(&mut lab, B);
    lab.enter(1, ROOT, 900, &[]).ret(1, 900);
    let detached: Vec<String> = lab.traces().iter().map(|trace| trace.detached.join(" ")).collect();
    assert_eq!(detached, ["", "a", "a b"]);
}
