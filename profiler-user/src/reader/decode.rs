//! Raw records to events and back.

use profiler_common::{
    Ahead as RawAhead, EventHeader, EventKind, FoldedCalls, LaneKind, MAX_WORDS,
};
use thiserror::Error;

use crate::model::{
    Ahead, ContextAddr, Contexts, Event, EventBody, FrameAddr, Goid, Lane, MonoNs, Pid, ProbeId,
    ReturnAddr, Seen, Tid, Wanted, Words,
};

const HEADER: usize = size_of::<EventHeader>();
const WORD: usize = size_of::<u64>();

/// A record that is none: the file is damaged, or was written by another version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Shorter than the fixed part.
    #[error("an event record of {len} bytes is shorter than its header of {HEADER} bytes")]
    Short {
        /// Its length, bytes.
        len: usize,
    },
    /// The length does not fit the number of words it says it has.
    #[error("an event record of {len} bytes says it has {words} words (at most {MAX_WORDS})")]
    Length {
        /// Its length, bytes.
        len: usize,
        /// The words it says it has.
        words: u8,
    },
    /// Not a kind of event that this version knows.
    #[error("event kind {0} is unknown to this version")]
    Kind(u8),
    /// Not a kind of lane that this version knows.
    #[error("lane kind {0} is unknown to this version")]
    LaneKind(u8),
    /// Not an end of a call that this version knows.
    #[error("an exit of kind {0} is unknown to this version")]
    Ahead(u8),
    /// An unwinding that does not say how far.
    #[error("an unwinding without an address")]
    Unwound,
    /// Folded calls without their number and times, or below no event.
    #[error("folded calls without their number and times")]
    Folded,
    /// A question for a landing that is none.
    #[error("a question without an address")]
    Asks,
    /// More words of contexts than there are words.
    #[error("an event of {words} words says that {contexts} of them are contexts")]
    Contexts {
        /// How many words it has.
        words: u8,
        /// How many of them it says are contexts.
        contexts: u8,
    },
    /// A goroutine that is made, or carried, without its number.
    #[error("a goroutine without its number")]
    Goroutine,
    /// A fork that does not say of whom.
    #[error("a fork without the number of the child")]
    Child,
    /// A thread's lane is not its thread id.
    #[error("a thread's lane {lane} is not its thread id {tid}")]
    Lane {
        /// The lane's number.
        lane: u64,
        /// The thread id.
        tid: u32,
    },
}

/// The event of a raw record: an [`EventHeader`] and the words it says follow, in this machine's
/// byte order, at any alignment.
///
/// # Errors
///
/// If it is not exactly one record of this version. Never panics, whatever the bytes.
pub fn decode(raw: &[u8]) -> Result<Event, DecodeError> {
    let len = raw.len();
    let (header, rest) = raw.split_at_checked(HEADER).ok_or(DecodeError::Short { len })?;
    let header: EventHeader = bytemuck::pod_read_unaligned(header);
    let count = usize::from(header.words);
    if count > MAX_WORDS || rest.len() != count * WORD {
        return Err(DecodeError::Length { len, words: header.words });
    }
    let kind = EventKind::from_raw(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    let mut words = [0; MAX_WORDS];
    for (word, bytes) in words.iter_mut().zip(rest.as_chunks::<WORD>().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    let (words, contexts) = contexts(&header, &words[..count])?;
    let probe = ProbeId(header.probe);
    let frame = FrameAddr(header.frame);
    let body = match kind {
        EventKind::Enter => {
            let return_address = ReturnAddr(header.return_address);
            let ahead = ahead(&header)?;
            EventBody::Enter { probe, frame, return_address, ahead, words, contexts }
        }
        EventKind::Ret => EventBody::Exit { seen: Seen::Ret, probe, frame, words },
        EventKind::Landing => EventBody::Exit { seen: Seen::Landing, probe, frame, words },
        EventKind::Jump => EventBody::Jump { probe, frame },
        EventKind::Unwound => {
            let below = FrameAddr(words.get(0).ok_or(DecodeError::Unwound)?);
            EventBody::Unwound { frame, below }
        }
        EventKind::Folded => {
            let words = words.as_slice().first_chunk().ok_or(DecodeError::Folded)?;
            let serial = u32::try_from(header.awaited).map_err(|_larger| DecodeError::Folded)?;
            EventBody::Folded { probe, frame, serial, calls: FoldedCalls::from_words(*words) }
        }
        EventKind::Asks => match ahead(&header)? {
            Ahead::Wanted(wanted, address) => EventBody::Asks { probe, wanted, address },
            Ahead::Nothing | Ahead::Landing(_) => return Err(DecodeError::Asks),
        },
        EventKind::GaveUp => EventBody::GaveUp { probe },
        EventKind::Carries => {
            let goroutine = words.get(0).ok_or(DecodeError::Goroutine)?;
            EventBody::Carries { goroutine: (goroutine != 0).then_some(Goid(goroutine)) }
        }
        EventKind::Spawn => {
            EventBody::Spawn { child: Goid(words.get(0).ok_or(DecodeError::Goroutine)?) }
        }
        EventKind::Born => EventBody::Born { callers: words },
        EventKind::RunsOnce => EventBody::RunsOnce,
        EventKind::LaneEnd => EventBody::LaneEnd,
        EventKind::ProcessEnd => EventBody::ProcessEnd,
        EventKind::Fork => {
            let child = words.get(0).and_then(|word| u32::try_from(word).ok());
            EventBody::Fork { child: Pid(child.ok_or(DecodeError::Child)?) }
        }
        EventKind::Exec => EventBody::Exec,
    };
    Ok(Event {
        time: MonoNs(header.time),
        lane: lane(&header)?,
        tid: Tid(header.tid),
        sequence: header.sequence,
        body,
    })
}

/// The captured words, and the contexts behind them.
fn contexts(header: &EventHeader, words: &[u64]) -> Result<(Words, Option<Contexts>), DecodeError> {
    let EventHeader { words: count, context, faults, .. } = *header;
    let captured = words.len().checked_sub(usize::from(context));
    let parts = captured.and_then(|captured| words.split_at_checked(captured));
    let (captured, contexts) =
        parts.ok_or(DecodeError::Contexts { words: count, contexts: context })?;
    let contexts = match *contexts {
        [] => None,
        [own] => Some(Contexts { own: ContextAddr(own), nearest: None }),
        [own, nearest] => {
            Some(Contexts { own: ContextAddr(own), nearest: Some(ContextAddr(nearest)) })
        }
        _ => return Err(DecodeError::Contexts { words: count, contexts: context }),
    };
    Ok((Words::new(captured, faults), contexts))
}

fn ahead(header: &EventHeader) -> Result<Ahead, DecodeError> {
    let address = ReturnAddr(header.awaited);
    Ok(match RawAhead::from_raw(header.ahead).ok_or(DecodeError::Ahead(header.ahead))? {
        RawAhead::Nothing => Ahead::Nothing,
        RawAhead::Landing => Ahead::Landing(FrameAddr(header.awaited)),
        RawAhead::Unknown => Ahead::Wanted(Wanted::Landing, address),
        RawAhead::WantsPoint => Ahead::Wanted(Wanted::Point, address),
        RawAhead::WantsValue => Ahead::Wanted(Wanted::Value, address),
    })
}

fn raw_ahead(ahead: Ahead) -> (RawAhead, u64) {
    match ahead {
        Ahead::Nothing => (RawAhead::Nothing, 0),
        Ahead::Landing(slot) => (RawAhead::Landing, slot.0),
        Ahead::Wanted(Wanted::Landing, address) => (RawAhead::Unknown, address.0),
        Ahead::Wanted(Wanted::Point, address) => (RawAhead::WantsPoint, address.0),
        Ahead::Wanted(Wanted::Value, address) => (RawAhead::WantsValue, address.0),
    }
}

fn lane(header: &EventHeader) -> Result<Lane, DecodeError> {
    let EventHeader { pid, tid, lane, lane_kind, .. } = *header;
    match LaneKind::from_raw(lane_kind).ok_or(DecodeError::LaneKind(lane_kind))? {
        LaneKind::Thread if lane != u64::from(tid) => Err(DecodeError::Lane { lane, tid }),
        LaneKind::Thread => Ok(Lane::Thread(Pid(pid), Tid(tid))),
        LaneKind::Goroutine => Ok(Lane::Goroutine(Pid(pid), Goid(lane))),
    }
}

/// Appends the raw record of an event: what [`decode`] makes the event of. For events that user
/// space itself makes (a process's end) and that a recording must hold like any other.
#[expect(clippy::too_many_lines, reason = "one arm a kind of event")]
pub fn encode(event: &Event, into: &mut Vec<u8>) {
    let Event { time, lane, tid, sequence, body } = event;
    let (lane_kind, number) = match *lane {
        Lane::Thread(_, tid) => (LaneKind::Thread, u64::from(tid.0)),
        Lane::Goroutine(_, goid) => (LaneKind::Goroutine, goid.0),
    };
    let mut header = EventHeader {
        time: time.0,
        lane: number,
        pid: lane.pid().0,
        tid: tid.0,
        sequence: *sequence,
        lane_kind: lane_kind as u8,
        ..EventHeader::default()
    };
    let words = match body {
        EventBody::Enter { probe, frame, return_address, ahead, words, contexts } => {
            let (kind, awaited) = raw_ahead(*ahead);
            (header.ahead, header.awaited) = (kind as u8, awaited);
            header.kind = EventKind::Enter as u8;
            header.probe = probe.0;
            header.frame = frame.0;
            header.return_address = return_address.0;
            header.context = contexts.map_or(0, |of| 1 + u8::from(of.nearest.is_some()));
            with_contexts(words, *contexts)
        }
        EventBody::Exit { seen, probe, frame, words } => {
            header.kind = match seen {
                Seen::Ret => EventKind::Ret as u8,
                Seen::Landing => EventKind::Landing as u8,
            };
            header.probe = probe.0;
            header.frame = frame.0;
            *words
        }
        EventBody::Jump { probe, frame } => {
            header.kind = EventKind::Jump as u8;
            header.probe = probe.0;
            header.frame = frame.0;
            Words::default()
        }
        EventBody::Unwound { frame, below } => {
            header.kind = EventKind::Unwound as u8;
            header.frame = frame.0;
            Words::new(&[below.0], 0)
        }
        EventBody::Folded { probe, frame, serial, calls } => {
            header.kind = EventKind::Folded as u8;
            header.probe = probe.0;
            header.frame = frame.0;
            header.awaited = u64::from(*serial);
            Words::new(&calls.words(), 0)
        }
        EventBody::Asks { probe, wanted, address } => {
            let (kind, awaited) = raw_ahead(Ahead::Wanted(*wanted, *address));
            (header.ahead, header.awaited) = (kind as u8, awaited);
            header.kind = EventKind::Asks as u8;
            header.probe = probe.0;
            Words::default()
        }
        EventBody::GaveUp { probe } => {
            header.kind = EventKind::GaveUp as u8;
            header.probe = probe.0;
            Words::default()
        }
        EventBody::Carries { goroutine } => {
            header.kind = EventKind::Carries as u8;
            Words::new(&[goroutine.map_or(0, |goid| goid.0)], 0)
        }
        EventBody::Spawn { child } => {
            header.kind = EventKind::Spawn as u8;
            Words::new(&[child.0], 0)
        }
        EventBody::Born { callers } => {
            header.kind = EventKind::Born as u8;
            *callers
        }
        EventBody::RunsOnce => {
            header.kind = EventKind::RunsOnce as u8;
            Words::default()
        }
        EventBody::LaneEnd => {
            header.kind = EventKind::LaneEnd as u8;
            Words::default()
        }
        EventBody::ProcessEnd => {
            header.kind = EventKind::ProcessEnd as u8;
            Words::default()
        }
        EventBody::Fork { child } => {
            header.kind = EventKind::Fork as u8;
            Words::new(&[u64::from(child.0)], 0)
        }
        EventBody::Exec => {
            header.kind = EventKind::Exec as u8;
            Words::default()
        }
    };
    header.words = words.as_slice().len() as u8;
    header.faults = words.faults();
    into.extend_from_slice(bytemuck::bytes_of(&header));
    into.extend_from_slice(bytemuck::cast_slice(words.as_slice()));
}

/// The words of an enter, as they are in its record.
fn with_contexts(words: &Words, contexts: Option<Contexts>) -> Words {
    let Some(contexts) = contexts else { return *words };
    let of = [Some(contexts.own), contexts.nearest];
    let all: Vec<u64> =
        words.as_slice().iter().copied().chain(of.into_iter().flatten().map(|of| of.0)).collect();
    Words::new(&all, words.faults())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn enter() -> Event {
        Event {
            time: MonoNs(123_456_789),
            lane: Lane::Thread(Pid(10), Tid(11)),
            tid: Tid(11),
            sequence: 7,
            body: EventBody::Enter {
                contexts: None,
                probe: ProbeId(513),
                frame: FrameAddr(0x7fff_1234_5678),
                return_address: ReturnAddr(0x40_1234),
                ahead: Ahead::Landing(FrameAddr(0x7fff_1234_5680)),
                words: Words::new(&[1, 0, u64::MAX], 0b010),
            },
        }
    }

    fn encoded(event: &Event) -> Vec<u8> {
        let mut raw = Vec::new();
        encode(event, &mut raw);
        raw
    }

    #[test]
    fn the_record_lies_as_the_kernel_side_writes_it() {
        let raw = encoded(&enter());
        assert_eq!(raw.len(), HEADER + 3 * WORD);
        assert_eq!(raw[0..8], 123_456_789_u64.to_ne_bytes());
        assert_eq!(raw[8..16], 11_u64.to_ne_bytes(), "lane");
        assert_eq!(raw[16..24], 0x7fff_1234_5678_u64.to_ne_bytes(), "frame");
        assert_eq!(raw[24..32], 0x40_1234_u64.to_ne_bytes(), "return address");
        assert_eq!(raw[32..40], 0x7fff_1234_5680_u64.to_ne_bytes(), "awaited");
        assert_eq!(raw[40..44], 10_u32.to_ne_bytes(), "pid");
        assert_eq!(raw[44..48], 11_u32.to_ne_bytes(), "tid");
        assert_eq!(raw[48..52], 7_u32.to_ne_bytes(), "sequence");
        assert_eq!(raw[52..54], 513_u16.to_ne_bytes(), "probe");
        assert_eq!(raw[54..59], [1, 0, 3, 0b010, 1], "kind, lane kind, words, faults, ahead");
    }

    #[test]
    fn every_cut_of_a_record_is_refused() {
        let raw = encoded(&enter());
        for len in 0..raw.len() {
            assert!(decode(&raw[..len]).is_err(), "{len} bytes");
        }
        let mut long = raw;
        long.push(0);
        assert_eq!(decode(&long), Err(DecodeError::Length { len: HEADER + 25, words: 3 }));
    }

    #[test]
    fn what_a_newer_version_writes_is_named_not_guessed() {
        let mut raw = encoded(&enter());
        raw[54] = 99;
        assert_eq!(decode(&raw), Err(DecodeError::Kind(99)));
        let mut raw = encoded(&enter());
        raw[55] = 9;
        assert_eq!(decode(&raw), Err(DecodeError::LaneKind(9)));
        let mut raw = encoded(&enter());
        raw[8] = 12;
        assert_eq!(decode(&raw), Err(DecodeError::Lane { lane: 12, tid: 11 }));
    }

    fn words() -> impl Strategy<Value = Words> {
        (prop::collection::vec(any::<u64>(), 0..=MAX_WORDS), any::<u8>())
            .prop_map(|(words, faults)| Words::new(&words, faults))
    }

    fn ahead_of_a_call() -> impl Strategy<Value = Ahead> {
        prop_oneof![
            Just(Ahead::Nothing),
            any::<u64>().prop_map(|slot| Ahead::Landing(FrameAddr(slot))),
            any::<u64>().prop_map(|at| Ahead::Wanted(Wanted::Landing, ReturnAddr(at))),
            any::<u64>().prop_map(|at| Ahead::Wanted(Wanted::Point, ReturnAddr(at))),
            any::<u64>().prop_map(|at| Ahead::Wanted(Wanted::Value, ReturnAddr(at))),
        ]
    }

    fn body() -> impl Strategy<Value = EventBody> {
        prop_oneof![
            (any::<u16>(), any::<u64>(), any::<u64>(), ahead_of_a_call(), words()).prop_map(
                |(probe, frame, address, ahead, words)| EventBody::Enter {
                    contexts: None,
                    probe: ProbeId(probe),
                    frame: FrameAddr(frame),
                    return_address: ReturnAddr(address),
                    ahead,
                    words,
                }
            ),
            (any::<bool>(), any::<u16>(), any::<u64>(), words()).prop_map(
                |(landed, probe, frame, words)| EventBody::Exit {
                    seen: if landed { Seen::Landing } else { Seen::Ret },
                    probe: ProbeId(probe),
                    frame: FrameAddr(frame),
                    words,
                }
            ),
            (any::<u16>(), any::<u64>()).prop_map(|(probe, frame)| EventBody::Jump {
                probe: ProbeId(probe),
                frame: FrameAddr(frame),
            }),
            (any::<u64>(), any::<u64>()).prop_map(|(frame, below)| EventBody::Unwound {
                frame: FrameAddr(frame),
                below: FrameAddr(below),
            }),
            Just(EventBody::LaneEnd),
            Just(EventBody::ProcessEnd),
            any::<u32>().prop_map(|child| EventBody::Fork { child: Pid(child) }),
            Just(EventBody::Exec),
        ]
    }

    proptest! {
        #[test]
        fn an_event_comes_back_as_it_went(
            (time, pid, tid, sequence) in any::<(u64, u32, u32, u32)>(),
            body in body(),
            shift in 0_usize..8,
        ) {
            let lane = Lane::Thread(Pid(pid), Tid(tid));
            let event = Event { time: MonoNs(time), lane, tid: Tid(tid), sequence, body };
            let mut raw = vec![0; shift];
            encode(&event, &mut raw);
            prop_assert_eq!(decode(&raw[shift..]), Ok(event));
        }

        #[test]
        fn random_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&raw);
        }

        #[test]
        fn a_damaged_record_never_panics(at in 0..HEADER, value: u8) {
            let mut raw = encoded(&enter());
            raw[at] = value;
            let _ = decode(&raw);
        }
    }
}
