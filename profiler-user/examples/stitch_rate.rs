//! Spans stitched per second, for 1, 100 and 10,000 lanes at once (or as many as its argument says),
//! the memory a lane takes and how often an event allocates, as JSON lines. A root with three calls
//! below it, two of them nested, over and over; every rate is the best of five runs, in turn.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Instant;

use qprof::model::{
    Ahead, Event, EventBody, FrameAddr, Lane, MonoNs, Pid, ProbeId, ProbeRule, ReturnAddr, Rules,
    Seen, SpanRule, Tid, Watches, Words,
};
use qprof::stitch::{IdSource, Limits, Stitcher};

const SPANS: usize = 400_000;
const RUNS: usize = 5;

thread_local! {
    /// How often memory was asked for, and how many bytes are in use: what one thread frees another may
    /// have asked for, so it may be less than none.
    static MEMORY: Cell<(u64, usize)> = const { Cell::new((0, 0)) };
}

/// The allocator of the system, with a count.
struct Counted;

// SAFETY: everything is passed on to the allocator of the system as it comes.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (times, used) = MEMORY.get();
        MEMORY.set((times + 1, used.wrapping_add(layout.size())));
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let (times, used) = MEMORY.get();
        MEMORY.set((times, used.wrapping_sub(layout.size())));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

fn rules() -> Rules {
    let names = ["query", "plan", "scan", "filter"];
    let span = |name: &&str| SpanRule {
        name: Arc::from(*name),
        stage: None,
        root: *name == "query",
        system: Arc::from(""),
        operation: None,
    };
    let probe = |at: u16| ProbeRule {
        function: Arc::from(names[usize::from(at)]),
        object: Arc::from("server"),
        span: Some(at),
        watches: Watches::Calls,
        source: None,
    };
    Rules {
        spans: names.iter().map(span).collect(),
        probes: (0..4).map(probe).collect(),
        ..Rules::default()
    }
}

/// The events of one query on one lane: (probe, depth, whether it begins).
const QUERY: [(u16, u64, bool); 8] = [
    (0, 0, true),
    (1, 1, true),
    (1, 1, false),
    (2, 1, true),
    (3, 2, true),
    (3, 2, false),
    (2, 1, false),
    (0, 0, false),
];

/// All lanes run their queries side by side.
fn events(lanes: u32) -> Vec<Event> {
    let rounds = SPANS / 4 / lanes as usize;
    let mut events = Vec::with_capacity(SPANS * 2);
    for round in 0..rounds {
        for (step, (probe, depth, begins)) in QUERY.into_iter().enumerate() {
            for lane in 0..lanes {
                let tid = Tid(1000 + lane);
                let (probe, frame) = (ProbeId(probe), FrameAddr(0x7f00_0000 - depth * 64));
                let words = Words::default();
                let return_address = ReturnAddr(0x1000 + u64::from(probe.0));
                events.push(Event {
                    time: MonoNs(events.len() as u64),
                    lane: Lane::Thread(Pid(1), tid),
                    tid,
                    sequence: (round * QUERY.len() + step + 1) as u32,
                    body: if begins {
                        EventBody::Enter {
                            probe,
                            frame,
                            return_address,
                            ahead: Ahead::Nothing,
                            words,
                            contexts: None,
                        }
                    } else {
                        EventBody::Exit { seen: Seen::Ret, probe, frame, words }
                    },
                });
            }
        }
    }
    events
}

struct Run {
    spans_per_s: f64,
    allocations_an_event: f64,
    /// In use when the last query of every lane is half done.
    bytes: usize,
}

fn run(events: &[Event], lanes: u32) -> Run {
    let limits = Limits { traces: 20_000, ..Limits::default() };
    let (_, used_before) = MEMORY.get();
    let mut stitcher = Stitcher::new(rules(), limits, IdSource::new(1));
    let (mut spans, start) = (0, Instant::now());
    let (allocations_before, _) = MEMORY.get();
    let half = events.len() - QUERY.len() / 2 * lanes as usize;
    let mut bytes = 0;
    for part in [&events[..half], &events[half..]] {
        // In portions, as they are read from the ring.
        for portion in part.chunks(4096) {
            for event in portion {
                stitcher.push(event);
            }
            spans += stitcher.take_completed().iter().map(|trace| trace.spans.len()).sum::<usize>();
        }
        let (_, used) = MEMORY.get();
        bytes = bytes.max(used.wrapping_sub(used_before));
    }
    let took = start.elapsed().as_secs_f64();
    let (allocations, _) = MEMORY.get();
    Run {
        spans_per_s: spans as f64 / took,
        allocations_an_event: (allocations - allocations_before) as f64 / events.len() as f64,
        bytes,
    }
}

fn main() {
    let asked = std::env::args().nth(1).and_then(|lanes| lanes.parse().ok());
    let lanes = asked.map_or_else(|| vec![1, 100, 10_000], |lanes| vec![lanes]);
    let worlds: Vec<(u32, Vec<Event>)> =
        lanes.into_iter().map(|lanes| (lanes, events(lanes))).collect();
    let mut best: Vec<Option<Run>> = worlds.iter().map(|_| None).collect();
    for _ in 0..RUNS {
        for ((lanes, events), best) in worlds.iter().zip(&mut best) {
            let run = run(events, *lanes);
            if best.as_ref().is_none_or(|best| best.spans_per_s < run.spans_per_s) {
                *best = Some(run);
            }
        }
    }
    for ((lanes, _), run) in worlds.iter().zip(best.iter().flatten()) {
        let Run { spans_per_s, allocations_an_event, bytes } = run;
        let bytes_a_lane = *bytes as f64 / f64::from(*lanes);
        println!(
            "{{\"lanes\":{lanes},\"spans_per_s\":{spans_per_s:.0},\"bytes_a_lane\":{bytes_a_lane:.0},\"allocations_an_event\":{allocations_an_event:.4}}}"
        );
    }
}
