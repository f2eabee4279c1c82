//! The record the kernel side writes into the ring buffer: a header, then the captured words.

use crate::MAX_WORDS;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum EventKind {
    /// A call has begun.
    Enter = 1,
    /// A `ret` is about to execute: the frames whose return slot is `frame` end now.
    Ret = 2,
    /// The thread or goroutine has ended, and with it all its frames.
    LaneEnd = 3,
    /// The process's last thread has ended.
    ProcessEnd = 4,
    /// The process has made a child process; its id is the one word.
    Fork = 5,
    /// The process has become another program: all its frames are gone, its numbers begin anew.
    Exec = 6,
    /// Calls are gone: those whose return slots lie below the one word. Made by user space, of an
    /// enter whose words it understands; `frame` is that of the enter.
    Unwound = 7,
    /// A call has come back: the frames whose return slot is `frame`, or that await it, end now.
    Landing = 8,
    /// A call leaves its function by a jump to another; it has not returned yet.
    Jump = 9,
    /// Calls that were not recorded one by one: `frame` is the return slot of the call they were made
    /// in, `awaited` the number of the event with which that began; the words are a
    /// [`crate::FoldedCalls`]. What has been sent before is not in it.
    Folded = 10,
    /// A call that is not recorded by itself asks for its landing, as `ahead` and `awaited` say.
    Asks = 11,
    /// Calls of the probe are not seen any more. Made by user space.
    GaveUp = 12,
    /// The thread runs functions in C for the goroutine whose number is the one word, from now on;
    /// 0: for none.
    Carries = 13,
    /// The goroutine has made another, whose number is the one word.
    Spawn = 14,
    /// A goroutine that was made in a call is about to make its first one: the words are the addresses
    /// to which that returns, then its caller, and so on.
    Born = 15,
    /// What a goroutine does it does once: it was made for that. Made by user space, of a
    /// [`EventKind::Born`].
    RunsOnce = 16,
}

impl EventKind {
    /// The kind of a raw value, if it is one.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Enter),
            2 => Some(Self::Ret),
            3 => Some(Self::LaneEnd),
            4 => Some(Self::ProcessEnd),
            5 => Some(Self::Fork),
            6 => Some(Self::Exec),
            7 => Some(Self::Unwound),
            8 => Some(Self::Landing),
            9 => Some(Self::Jump),
            10 => Some(Self::Folded),
            11 => Some(Self::Asks),
            12 => Some(Self::GaveUp),
            13 => Some(Self::Carries),
            14 => Some(Self::Spawn),
            15 => Some(Self::Born),
            16 => Some(Self::RunsOnce),
            _ => None,
        }
    }
}

/// What carries a stack of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LaneKind {
    /// An operating-system thread; the lane's number is its thread id.
    Thread = 0,
    /// A goroutine of Go; the lane's number is its own, which is never given twice in a process. Return
    /// slots are counted from the end of its stack: one at its very end would be [`GO_STACK_END`].
    Goroutine = 1,
}

impl LaneKind {
    /// The kind of a raw value, if it is one.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Thread),
            1 => Some(Self::Goroutine),
            _ => None,
        }
    }
}

/// Where the stack of a goroutine ends, by the addresses of its return slots in events. Stacks move;
/// addresses that are counted from their ends do not.
pub const GO_STACK_END: u64 = 1 << 47;

/// Where the stack of the scheduler ends, by the same count: what runs on it for a goroutine is below all
/// that the goroutine has on its own.
pub const GO_SYSTEM_STACK_END: u64 = GO_STACK_END - (1 << 40);

/// What an enter says of the end that its call will have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ahead {
    /// No landing is possible: a `ret` may be seen, or nothing.
    Nothing = 0,
    /// A landing: [`EventHeader::awaited`] is the return slot it will come with.
    Landing = 1,
    /// The return address [`EventHeader::awaited`] is not known yet.
    Unknown = 2,
    /// The caller returns at once, too many levels deep: the return point at
    /// [`EventHeader::awaited`] is wanted as a landing.
    WantsPoint = 3,
    /// The return value is wanted, and the landing of [`EventHeader::awaited`] does not have it.
    WantsValue = 4,
}

impl Ahead {
    /// What a raw value says, if it is one.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Nothing),
            1 => Some(Self::Landing),
            2 => Some(Self::Unknown),
            3 => Some(Self::WantsPoint),
            4 => Some(Self::WantsValue),
            _ => None,
        }
    }
}

/// The fixed part of every event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventHeader {
    /// `CLOCK_MONOTONIC`, nanoseconds (`bpf_ktime_get_ns`).
    pub time: u64,
    /// The lane's number; what it counts is in `lane_kind`.
    pub lane: u64,
    /// Address of the return slot; 0 where the event has none.
    pub frame: u64,
    /// Enter: the return address that stands in the return slot; else 0.
    pub return_address: u64,
    /// Enter and asks: a return slot or a return address, as `ahead` says; folded: a number of an
    /// event; else 0.
    pub awaited: u64,
    /// Process id (tgid) in the initial pid namespace.
    pub pid: u32,
    /// Thread id in the initial pid namespace.
    pub tid: u32,
    /// Number of this event on its lane, from 1; a jump is a loss on this lane. 0: not numbered,
    /// because the lane table was full.
    pub sequence: u32,
    /// [`crate::ProbeId`], raw.
    pub probe: u16,
    /// An [`EventKind`], raw.
    pub kind: u8,
    /// A [`LaneKind`], raw.
    pub lane_kind: u8,
    /// How many words follow the header: those of the capture program, then `context`.
    pub words: u8,
    /// Bit N: word N could not be read and is 0.
    pub faults: u8,
    /// Enter and asks: an [`Ahead`], raw; else 0.
    pub ahead: u8,
    /// Enter: how many of the words, at their end, say in whose behalf it is called: the call's own
    /// context, and if there is a second the nearest one above it that an open call has.
    pub context: u8,
    /// Always zero.
    pub pad: [u8; 4],
}

/// A header with all the words there can be. In the ring only `words` of them follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EventRecord {
    /// The fixed part.
    pub header: EventHeader,
    /// The captured words.
    pub words: [u64; MAX_WORDS],
}

const _: () = {
    assert!(size_of::<EventHeader>() == 64);
    assert!(align_of::<EventHeader>() == 8);
    assert!(size_of::<EventRecord>() == 64 + 8 * MAX_WORDS);
};
