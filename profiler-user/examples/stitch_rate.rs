//! Spans stitched per second, for 1, 100 and 10,000 lanes at once, as JSON lines. A root with three
//! calls below it, two of them nested, over and over; every number is the best of three runs.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::sync::Arc;
use std::time::Instant;

use qprof::model::{
    Ahead, Event, EventBody, FrameAddr, Lane, MonoNs, Pid, ProbeId, ProbeRule, ReturnAddr, Rules,
    Seen, SpanRule, Tid, Watches, Words,
};
use qprof::stitch::{IdSource, Limits, Stitcher};

const SPANS: usize = 400_000;

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

fn run(events: &[Event]) -> (usize, f64) {
    let limits = Limits { traces: 20_000, ..Limits::default() };
    let mut stitcher = Stitcher::new(rules(), limits, IdSource::new(1));
    let (mut spans, start) = (0, Instant::now());
    // In portions, as they are read from the ring.
    for portion in events.chunks(4096) {
        for event in portion {
            stitcher.push(event);
        }
        spans += stitcher.take_completed().iter().map(|trace| trace.spans.len()).sum::<usize>();
    }
    (spans, start.elapsed().as_secs_f64())
}

fn main() {
    let asked = std::env::args().nth(1).and_then(|lanes| lanes.parse().ok());
    for lanes in asked.map_or_else(|| vec![1, 100, 10_000], |lanes| vec![lanes]) {
        let events = events(lanes);
        let rate = (0..3).map(|_| run(&events)).map(|(spans, time)| spans as f64 / time);
        let best = rate.fold(0.0, f64::max);
        println!("{{\"lanes\":{lanes},\"spans_per_s\":{best:.0}}}");
    }
}
