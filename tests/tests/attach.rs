//! The kernel side, attached to a program whose every instruction is known: the events are exact.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _};
use profiler_common::{Capture, CaptureProgram, Cookie, Counter, MAX_WORDS, ProbeId, Role, Source};
use profiler_tests::environment::can_probe;
use qprof::attach::{AttachError, AttachOptions, Attached, Targets};
use qprof::model::{Event, EventBody, FileOffset, FrameAddr, Lane, Pid, Tid, VirtAddr};
use qprof::plan::{CostClass, PlannedProbe, ProbePlan, Site};
use qprof::reader::{Ring, decode};
use qprof::target::{MappedObject, ObjectId, Target};

const KEY: u64 = 0x1234;
const NO_CAPTURE: &[Capture] = &[];

/// What the fixture is compiled to, once for all tests.
fn binary() -> &'static Path {
    static BINARY: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BINARY.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("attach");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/attach.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O1", "-pthread", "-o"]).arg(&path).arg(source);
        assert!(gcc.status().unwrap().success(), "{gcc:?}");
        (dir, path)
    });
    path
}

/// The running fixture.
struct Fixture {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The address of its `plan`.
    plan: u64,
}

impl Fixture {
    fn start() -> Self {
        let mut command = Command::new(binary());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut this = Self { child, input, output, plan: 0 };
        let plan = this.line();
        this.plan = u64::from_str_radix(plan.trim_start_matches("0x"), 16).unwrap();
        this
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Has it call a function, and returns how long that took: nanoseconds.
    fn call(&mut self, name: &str, count: u64, argument: u64) -> u64 {
        writeln!(self.input, "{name} {count} {argument}").unwrap();
        self.line().parse().unwrap()
    }

    fn pid(&self) -> Pid {
        Pid(self.child.id())
    }

    fn target(&self) -> Target {
        let path = binary().to_owned();
        let open_path = PathBuf::from(format!("/proc/{}/exe", self.child.id()));
        let meta = std::fs::metadata(&open_path).unwrap();
        let file = (meta.dev(), meta.ino());
        let object = MappedObject { path, open_path, inode: file, file };
        Target {
            pid: self.pid(),
            name: String::from("attach"),
            objects: vec![object],
            passed_over: Vec::new(),
        }
    }

    /// The bytes of its text in memory, as the kernel has left them.
    fn text(&self) -> Vec<u8> {
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", self.child.id())).unwrap();
        let text = maps.lines().find(|line| line.contains("r-xp") && line.contains("/attach"));
        let (start, end) = text.unwrap().split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        let mut bytes = vec![0; (end - start) as usize];
        let memory = File::open(format!("/proc/{}/mem", self.child.id())).unwrap();
        memory.read_exact_at(&mut bytes, start).unwrap();
        bytes
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a symbol of the fixture lies: in the file, and as the file names it.
fn place(symbol: &str) -> (FileOffset, VirtAddr) {
    let bytes = std::fs::read(binary()).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let address = file.symbols().find(|found| found.name() == Ok(symbol)).unwrap().address();
    let segment = file
        .segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))
        .unwrap();
    (FileOffset(address - segment.address() + segment.file_range().0), VirtAddr(address))
}

fn site(symbol: &str, role: Role, flags: u16) -> Site {
    let (offset, address) = place(symbol);
    Site {
        object: ObjectId(0),
        offset,
        address,
        role,
        slot_offset: 0,
        flags,
        cost: CostClass::Emulated,
        instruction: String::new(),
    }
}

fn program(captures: &[Capture]) -> CaptureProgram {
    let mut program = CaptureProgram { len: captures.len() as u8, ..CaptureProgram::default() };
    program.captures[..captures.len()].copy_from_slice(captures);
    program
}

/// A probe with an enter at `NAME` and an exit at `NAME_ret`.
fn probe(name: &str, at_enter: &[Capture], at_ret: &[Capture]) -> PlannedProbe {
    let flag = |captures: &[Capture]| if captures.is_empty() { 0 } else { Cookie::HAS_CAPTURE };
    PlannedProbe {
        id: ProbeId(0),
        function: Arc::from(name),
        object: ObjectId(0),
        span: None,
        copies: 1,
        sites: vec![
            site(name, Role::Enter, flag(at_enter)),
            site(&format!("{name}_ret"), Role::Ret, flag(at_ret)),
        ],
        at_enter: program(at_enter),
        at_ret: program(at_ret),
        exits_with: ProbeId(0),
        notes: Vec::new(),
    }
}

fn plan(mut probes: Vec<PlannedProbe>) -> ProbePlan {
    for (id, probe) in probes.iter_mut().enumerate() {
        probe.id = ProbeId(id as u16);
    }
    ProbePlan { probes, ..ProbePlan::default() }
}

/// Attached, with its ring; nothing if this machine cannot.
fn attached(fixture: &Fixture, plan: &ProbePlan, ring_bytes: u32) -> Option<(Attached, Ring)> {
    if !can_probe().unwrap() {
        return None;
    }
    let options = AttachOptions { ring_bytes, ..AttachOptions::default() };
    let mut attached = attach(plan, &fixture.target(), options).unwrap();
    let ring = attached.take_ring().unwrap();
    assert!(attached.take_ring().is_none());
    Some((attached, ring))
}

fn drain(ring: &mut Ring) -> Vec<Event> {
    let mut events = Vec::new();
    while ring.drain(|raw| events.push(decode(raw).unwrap())) > 0 {}
    events
}

/// What the fixture does, as events.
fn events(probes: Vec<PlannedProbe>, acts: impl FnOnce(&mut Fixture)) -> Option<Seen> {
    let mut fixture = Fixture::start();
    let (attached, mut ring) = attached(&fixture, &plan(probes), 1 << 20)?;
    acts(&mut fixture);
    let events = drain(&mut ring);
    Some(Seen { events, attached, fixture })
}

struct Seen {
    events: Vec<Event>,
    attached: Attached,
    fixture: Fixture,
}

/// Loads the kernel side for one process and attaches a plan to it.
fn attach(
    plan: &ProbePlan,
    target: &Target,
    options: AttachOptions,
) -> Result<Attached, AttachError> {
    let mut attached = Attached::load(Targets::One(target.pid), &options)?;
    attached.attach(plan, target)?;
    Ok(attached)
}

impl Seen {
    fn count(&self, counter: Counter) -> u64 {
        self.attached.counters().unwrap().get(counter)
    }
}

/// An event in short: what happened to which probe.
fn short(event: &Event) -> (&'static str, u16) {
    match event.body {
        EventBody::Enter { probe, .. } => ("enter", probe.0),
        EventBody::Exit { probe, .. } => ("ret", probe.0),
        EventBody::Jump { probe, .. } => ("jump", probe.0),
        EventBody::Unwound { .. } => ("unwound", 0),
        EventBody::Folded { probe, .. } => ("folded", probe.0),
        EventBody::Asks { probe, .. } => ("asks", probe.0),
        EventBody::GaveUp { probe } => ("gave up", probe.0),
        EventBody::Carries { .. } => ("carries", 0),
        EventBody::Spawn { .. } => ("spawn", 0),
        EventBody::Born { .. } => ("born", 0),
        EventBody::RunsOnce => ("runs once", 0),
        EventBody::LaneEnd => ("lane end", 0),
        EventBody::ProcessEnd => ("process end", 0),
        EventBody::Fork { .. } => ("fork", 0),
        EventBody::Exec => ("exec", 0),
    }
}

fn frame(event: &Event) -> FrameAddr {
    match event.body {
        EventBody::Enter { frame, .. } | EventBody::Exit { frame, .. } => frame,
        _ => panic!("{event:?} has no frame"),
    }
}

#[test]
fn a_call_is_an_enter_and_a_ret_of_one_frame_with_its_words() {
    let at_enter = [
        Capture::register(Source::Rdi),
        Capture::register(Source::Rsi),
        Capture::word_at(Source::Rsi, 8),
    ];
    let at_ret = [Capture::register(Source::RET)];
    let probes = vec![probe("work", &at_enter, &at_ret)];
    let Some(seen) = events(probes, |fixture| _ = fixture.call("work", 3, 7)) else { return };
    assert_eq!(seen.events.len(), 6, "{:#?}", seen.events);
    let pid = seen.fixture.pid();
    let mut from = Vec::new();
    for (number, event) in seen.events.iter().enumerate() {
        assert_eq!(event.sequence, number as u32 + 1);
        assert_eq!((event.lane, event.tid), (Lane::Thread(pid, Tid(pid.0)), Tid(pid.0)));
        match event.body {
            EventBody::Enter { words, return_address, .. } => {
                assert_eq!(
                    (words.as_slice(), words.faults()),
                    (&[7, seen.fixture.plan, KEY][..], 0)
                );
                from.push(return_address);
            }
            EventBody::Exit { words, .. } => assert_eq!(words.as_slice(), [7 + KEY]),
            _ => panic!("{event:?}"),
        }
    }
    for call in seen.events.chunks(2) {
        assert_eq!((short(&call[0]), short(&call[1])), (("enter", 0), ("ret", 0)));
        assert_eq!(frame(&call[0]), frame(&call[1]));
    }
    assert!(seen.events.is_sorted_by_key(|event| event.time));
    assert!(from[0].0 != 0 && from.iter().all(|address| *address == from[0]), "{from:?}");
    assert_eq!(seen.count(Counter::Emitted), 6);
    assert_eq!(seen.attached.counters().unwrap().hits(ProbeId(0)), 6);
    assert_eq!(seen.attached.refused(), []);
}

#[test]
fn an_inner_call_lies_below_the_outer_one() {
    let probes =
        vec![probe("outer", NO_CAPTURE, NO_CAPTURE), probe("work", NO_CAPTURE, NO_CAPTURE)];
    let Some(seen) = events(probes, |fixture| _ = fixture.call("outer", 1, 1)) else { return };
    let kinds: Vec<_> = seen.events.iter().map(short).collect();
    assert_eq!(kinds, [("enter", 0), ("enter", 1), ("ret", 1), ("ret", 0)]);
    // `outer` pushes a register, its call the return address.
    assert_eq!(frame(&seen.events[1]).0, frame(&seen.events[0]).0 - 16);
}

#[test]
fn every_thread_numbers_its_own_events_and_says_when_it_ends() {
    let probes = vec![probe("work", NO_CAPTURE, NO_CAPTURE)];
    let Some(seen) = events(probes, |fixture| _ = fixture.call("threads", 1000, 4)) else {
        return;
    };
    let mut lanes: BTreeMap<Lane, Vec<Event>> = BTreeMap::new();
    for event in &seen.events {
        lanes.entry(event.lane).or_default().push(*event);
    }
    // The main thread joined them, then called nothing named "threads".
    assert_eq!(lanes.len(), 4);
    for events in lanes.values() {
        let numbers: Vec<_> = events.iter().map(|event| event.sequence).collect();
        assert_eq!(numbers, (1..=2001).collect::<Vec<_>>());
        assert_eq!(short(&events[2000]), ("lane end", 0));
        assert!(events[..2000].chunks(2).all(|call| frame(&call[0]) == frame(&call[1])));
    }
    assert_eq!(seen.count(Counter::RingFull), 0);
    assert_eq!(seen.count(Counter::LaneTableFull), 0);
}

#[test]
fn an_exit_in_shared_code_counts_only_for_the_frame_that_is_open() {
    let mut tail = probe("tail", NO_CAPTURE, NO_CAPTURE);
    tail.sites.push(site("shared_ret", Role::Ret, 0));
    let Some(seen) = events(vec![tail], |fixture| {
        fixture.call("shared", 5, 0);
        fixture.call("tail", 2, 0);
        // By its own ret; then the slot must not be open any more.
        fixture.call("tail", 1, 1);
        fixture.call("shared", 5, 0);
    }) else {
        return;
    };
    let kinds: Vec<_> = seen.events.iter().map(|event| short(event).0).collect();
    assert_eq!(kinds, ["enter", "ret", "enter", "ret", "enter", "ret"]);
    assert!(seen.events.chunks(2).all(|call| frame(&call[0]) == frame(&call[1])));
    assert_eq!(seen.events.last().unwrap().sequence, 6, "an exit that is not sent has no number");
    assert_eq!(seen.count(Counter::UnmatchedExit), 10);
}

#[test]
fn one_exit_is_seen_once_however_many_probes_have_it() {
    let mut tail = probe("tail", NO_CAPTURE, NO_CAPTURE);
    tail.sites.push(site("shared_ret", Role::Ret, 0));
    let shared = probe("shared", NO_CAPTURE, NO_CAPTURE);
    let Some(seen) = events(vec![tail, shared], |fixture| {
        fixture.call("tail", 1, 0);
        fixture.call("shared", 1, 0);
    }) else {
        return;
    };
    // Which of the two the kernel runs first is its own affair.
    let kinds: Vec<_> = seen.events.iter().map(|event| short(event).0).collect();
    assert_eq!(kinds, ["enter", "enter", "ret", "enter", "ret"]);
    assert_eq!(seen.count(Counter::UnmatchedExit), 2);
}

#[test]
fn a_word_that_cannot_be_read_is_unknown_not_zero() {
    let words = [Capture::word_at(Source::Rsi, 0), Capture::register(Source::Rdi)];
    let probes = vec![probe("peek", &words, NO_CAPTURE)];
    let Some(seen) = events(probes, |fixture| _ = fixture.call("peek", 1, 9)) else { return };
    let EventBody::Enter { words, .. } = seen.events[0].body else { panic!() };
    assert_eq!((words.get(0), words.get(1), words.faults()), (None, Some(9), 0b01));
    assert_eq!(seen.count(Counter::CaptureFault), 1);
}

#[test]
fn as_many_words_as_there_can_be() {
    let words: Vec<_> = (0..MAX_WORDS)
        .map(|place| match Source::arg(place as u8 + 1) {
            Some(argument) => Capture::register(argument),
            None => Capture::word_at(Source::Rsi, 8),
        })
        .collect();
    let probes = vec![probe("work", &words, &words)];
    let Some(seen) = events(probes, |fixture| _ = fixture.call("work", 1, 5)) else { return };
    for event in &seen.events {
        let (EventBody::Enter { words, .. } | EventBody::Exit { words, .. }) = event.body else {
            panic!("{event:?}")
        };
        assert_eq!(words.as_slice().len(), MAX_WORDS);
        assert_eq!((words.get(0), words.get(6), words.get(7)), (Some(5), Some(KEY), Some(KEY)));
    }
}

#[test]
fn what_is_lost_is_counted_and_leaves_a_gap_of_that_size() {
    let mut fixture = Fixture::start();
    let plan = plan(vec![probe("work", NO_CAPTURE, NO_CAPTURE)]);
    let Some((attached, mut ring)) = attached(&fixture, &plan, 4096) else { return };
    fixture.call("work", 10_000, 0);
    let before = drain(&mut ring);
    fixture.call("work", 1, 0);
    let after = drain(&mut ring);
    assert_eq!(after.len(), 2);
    let counts = attached.counters().unwrap();
    let lost = counts.lost(ProbeId(0));
    assert!(lost > 0);
    assert_eq!(u64::from(after[0].sequence - before.last().unwrap().sequence - 1), lost);
    assert_eq!(counts.get(Counter::RingFull), lost);
    assert_eq!(counts.get(Counter::Emitted), (before.len() + after.len()) as u64);
    assert_eq!(counts.hits(ProbeId(0)), 20_002);
}

#[test]
fn the_reader_is_woken_when_the_ring_is_half_full_and_not_before() {
    let mut fixture = Fixture::start();
    let plan = plan(vec![probe("work", NO_CAPTURE, NO_CAPTURE)]);
    let Some((_attached, mut ring)) = attached(&fixture, &plan, 1 << 16) else { return };
    let long = Duration::from_secs(20);
    fixture.call("work", 10, 0);
    let start = Instant::now();
    ring.wait(Duration::from_millis(200)).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(200), "woken by {:?}", drain(&mut ring));
    // 72 bytes an event: half of the ring is 455 events.
    let waiting = thread::spawn(move || {
        let start = Instant::now();
        ring.wait(long).unwrap();
        (start.elapsed(), drain(&mut ring).len())
    });
    thread::sleep(Duration::from_millis(100));
    fixture.call("work", 300, 0);
    let (waited, seen) = waiting.join().unwrap();
    assert!(waited < long && seen > 455, "{waited:?}, {seen} events");
}

#[test]
fn a_forked_child_sends_nothing() {
    let probes = vec![probe("work", NO_CAPTURE, NO_CAPTURE)];
    let Some(seen) = events(probes, |fixture| {
        fixture.call("fork", 100, 0);
        fixture.call("work", 1, 0);
    }) else {
        return;
    };
    assert_eq!(seen.events.len(), 2, "{:#?}", seen.events);
}

#[test]
fn a_site_that_the_kernel_refuses_takes_only_its_function_along() {
    let mut fixture = Fixture::start();
    let plan = plan(vec![
        probe("work", NO_CAPTURE, NO_CAPTURE),
        probe("refused", NO_CAPTURE, NO_CAPTURE),
        probe("peek", NO_CAPTURE, NO_CAPTURE),
    ]);
    let Some((attached, mut ring)) = attached(&fixture, &plan, 1 << 16) else { return };
    let refused: Vec<_> =
        attached.refused().iter().map(|site| (&*site.function, site.dropped)).collect();
    assert_eq!(refused, [("refused", true)]);
    assert!(attached.refused()[0].why.contains("524"), "{:?}", attached.refused());
    for name in ["work", "refused", "peek"] {
        fixture.call(name, 1, 0);
    }
    let kinds: Vec<_> = drain(&mut ring).iter().map(short).collect();
    assert_eq!(kinds, [("enter", 0), ("ret", 0), ("enter", 2), ("ret", 2)]);
}

#[test]
fn detaching_the_enters_leaves_the_exits_and_detaching_all_leaves_nothing() {
    let mut fixture = Fixture::start();
    let before = fixture.text();
    let plan = plan(vec![probe("work", NO_CAPTURE, NO_CAPTURE)]);
    let Some((mut attached, mut ring)) = attached(&fixture, &plan, 1 << 16) else { return };
    assert_ne!(fixture.text(), before);
    attached.detach_enters();
    fixture.call("work", 1, 0);
    assert_eq!(drain(&mut ring), []);
    let exits = attached.counters().unwrap().get(Counter::UnmatchedExit);
    assert_eq!(exits, 1, "the exit is still there, but nothing was open");
    attached.detach();
    assert_eq!(fixture.text(), before);
    fixture.call("work", 1, 0);
    assert_eq!(drain(&mut ring), []);
}

#[test]
fn two_of_us_see_the_same_and_one_may_go() {
    let mut fixture = Fixture::start();
    let plan = plan(vec![probe("work", NO_CAPTURE, NO_CAPTURE)]);
    let Some((mut first, mut first_ring)) = attached(&fixture, &plan, 1 << 16) else { return };
    let Some((_second, mut second_ring)) = attached(&fixture, &plan, 1 << 16) else { return };
    fixture.call("work", 1, 0);
    first.detach();
    fixture.call("work", 1, 0);
    assert_eq!(drain(&mut first_ring).len(), 2);
    assert_eq!(drain(&mut second_ring).len(), 4);
}

#[test]
fn a_target_that_is_killed_ends_its_lanes() {
    let probes = vec![probe("work", NO_CAPTURE, NO_CAPTURE)];
    let mut fixture = Fixture::start();
    let Some((mut attached, mut ring)) = attached(&fixture, &plan(probes), 1 << 16) else { return };
    fixture.call("work", 1, 0);
    fixture.child.kill().unwrap();
    fixture.child.wait().unwrap();
    let kinds: Vec<_> = drain(&mut ring).iter().map(short).collect();
    assert_eq!(kinds, [("enter", 0), ("ret", 0), ("lane end", 0)]);
    attached.detach();
}

#[test]
fn the_kernel_sides_log_does_not_change_what_is_seen() {
    if !can_probe().unwrap() {
        return;
    }
    let mut fixture = Fixture::start();
    let plan = plan(vec![probe("work", NO_CAPTURE, NO_CAPTURE)]);
    let options = AttachOptions { kernel_log: true, ..AttachOptions::default() };
    let mut attached = attach(&plan, &fixture.target(), options).unwrap();
    fixture.call("work", 2, 0);
    attached.flush_kernel_log();
    let kinds: Vec<_> = drain(&mut attached.take_ring().unwrap()).iter().map(short).collect();
    assert_eq!(kinds, [("enter", 0), ("ret", 0), ("enter", 0), ("ret", 0)]);
}

#[test]
fn what_cannot_be_attached_is_refused_with_its_reason() {
    if !can_probe().unwrap() {
        return;
    }
    let mut fixture = Fixture::start();
    let work = plan(vec![probe("work", NO_CAPTURE, NO_CAPTURE)]);
    for ring_bytes in [0, 1000, 4095, 12_288, 1 << 31] {
        let options = AttachOptions { ring_bytes, ..AttachOptions::default() };
        let error = attach(&work, &fixture.target(), options).err().unwrap();
        assert!(matches!(error, AttachError::RingSize { bytes } if bytes == ring_bytes), "{error}");
    }
    let attach = |plan: &ProbePlan, target: &Target| {
        attach(plan, target, AttachOptions::default()).err().unwrap()
    };
    let refused = attach(&plan(vec![probe("refused", NO_CAPTURE, NO_CAPTURE)]), &fixture.target());
    assert!(matches!(refused, AttachError::Nothing(_)), "{refused}");
    let mut unmapped = fixture.target();
    unmapped.objects[0].open_path = PathBuf::from("/proc/self/map_files/1-2");
    let unmapped = attach(&work, &unmapped);
    assert!(matches!(unmapped, AttachError::Object { .. }) && unmapped.is_target(), "{unmapped}");
    let target = fixture.target();
    fixture.child.kill().unwrap();
    fixture.child.wait().unwrap();
    let gone = attach(&work, &target);
    assert!(matches!(gone, AttachError::TargetGone { .. }) && gone.is_target(), "{gone}");
}
