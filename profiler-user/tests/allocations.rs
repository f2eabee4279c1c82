//! That an event allocates nothing on its way from its record to a trace: only traces do, when they
//! are handed out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use qprof::model::{
    Ahead, Event, EventBody, FrameAddr, HandoffEnd, HandoffRule, Lane, Moment, MonoNs, Pid,
    ProbeId, ProbeRule, ReturnAddr, Rules, Scope, Seen, SpanRule, Takes, Tid, Watches, Words,
};
use qprof::reader;
use qprof::stitch::{IdSource, Limits, Stitcher};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The allocator of the system, with a count of what the thread asks for.
struct Counted;

// SAFETY: everything is passed on to the allocator of the system as it comes.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTED: Counted = Counted;

const NAMES: [&str; 5] = ["query", "plan", "scan", "task", "done"];
const QUERY: u16 = 0;
const PLAN: u16 = 1;
const SCAN: u16 = 2;
const TASK: u16 = 3;
const DONE: u16 = 4;

fn rules() -> Rules {
    let span = |name: &&str| SpanRule {
        name: Arc::from(*name),
        stage: None,
        root: *name == "query",
        system: Arc::from(""),
        operation: None,
    };
    let probe = |at: u16| ProbeRule {
        function: Arc::from(NAMES[usize::from(at)]),
        object: Arc::from("server"),
        span: (at != DONE).then_some(at),
        watches: Watches::Calls,
        source: None,
    };
    let end = |probe| HandoffEnd { probes: vec![(probe, vec![0])], moment: Moment::Enter };
    let handoff = |name: &str, takes, until| HandoffRule {
        name: Arc::from(name),
        give: end(PLAN),
        take: end(TASK),
        until,
        takes,
        scope: Scope::Process,
        span: Some(Arc::from("wait")),
    };
    Rules {
        spans: NAMES.iter().map(span).collect(),
        probes: (0..5).map(probe).collect(),
        handoffs: vec![
            handoff("once", Takes::Times(1), None),
            handoff("until done", Takes::Any, Some(end(DONE))),
        ],
        ..Rules::default()
    }
}

/// The events of one query, on the lane it begins on and on the one that takes its task: (lane,
/// probe, depth, whether it begins).
const STEPS: [(u32, u16, u64, bool); 12] = [
    (0, QUERY, 0, true),
    (0, PLAN, 1, true),
    (0, SCAN, 2, true),
    (0, SCAN, 2, false),
    (0, PLAN, 1, false),
    (1, TASK, 0, true),
    (1, SCAN, 1, true),
    (1, SCAN, 1, false),
    (1, TASK, 0, false),
    (0, DONE, 1, true),
    (0, DONE, 1, false),
    (0, QUERY, 0, false),
];

/// Query `number`, as records; lanes number their events.
fn records(number: u64, lanes: u32, sequences: &mut [u32]) -> Vec<Vec<u8>> {
    let home = (number as u32 % lanes) * 2;
    let words = Words::new(&[0x5000 + number], 0);
    let event = |(step, (lane, probe, depth, begins)): (usize, (u32, u16, u64, bool))| {
        let lane = home + lane;
        let tid = Tid(100 + lane);
        let sequence = &mut sequences[lane as usize];
        *sequence += 1;
        let (probe, frame) = (ProbeId(probe), FrameAddr(0x7f00_0000 - depth * 64));
        let return_address = ReturnAddr(0x1000 + u64::from(probe.0));
        let body = if begins {
            EventBody::Enter {
                probe,
                frame,
                return_address,
                ahead: Ahead::Nothing,
                words,
                contexts: None,
            }
        } else {
            EventBody::Exit { seen: Seen::Ret, probe, frame, words: Words::default() }
        };
        let time = MonoNs(u64::from(*sequence) * 100 + step as u64);
        let mut raw = Vec::new();
        let lane = Lane::Thread(Pid(1), tid);
        reader::encode(&Event { time, lane, tid, sequence: *sequence, body }, &mut raw);
        raw
    };
    STEPS.into_iter().enumerate().map(event).collect()
}

#[test]
fn an_event_allocates_nothing() {
    const LANES: u32 = 50;
    const QUERIES: u64 = 2000;
    let mut sequences = vec![0; 2 * LANES as usize];
    let queries: Vec<Vec<Vec<u8>>> =
        (0..2 * QUERIES).map(|number| records(number, LANES, &mut sequences)).collect();
    let mut stitcher = Stitcher::new(rules(), Limits::default(), IdSource::new(1));
    let (mut traces, mut spans) = (0, 0);
    let mut stitch = |queries: &[Vec<Vec<u8>>]| {
        let before = ALLOCATIONS.get();
        for query in queries {
            for record in query {
                stitcher.push(&reader::decode(record).unwrap());
            }
            for trace in stitcher.take_completed() {
                traces += 1;
                spans += trace.spans.len();
            }
        }
        ALLOCATIONS.get() - before
    };
    let (first, rest) = queries.split_at(QUERIES as usize);
    // Lists and tables get the room they need.
    stitch(first);
    let allocations = stitch(rest);
    // A trace comes with a list of its spans, and in the list of those that are finished.
    assert!(
        allocations <= 2 * QUERIES,
        "{allocations} allocations for {QUERIES} traces, {} events",
        QUERIES * STEPS.len() as u64
    );
    assert_eq!((traces, spans as u64), (2 * QUERIES, 2 * QUERIES * 7));
    assert_eq!(stitcher.stats().taken, 4 * QUERIES);
}
