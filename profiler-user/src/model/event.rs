//! What the kernel side saw, decoded.

use profiler_common::{FoldedCalls, MAX_WORDS};

use super::{ContextAddr, FrameAddr, Goid, Lane, MonoNs, Pid, ProbeId, ReturnAddr, Tid};

/// The words a site captured, in the order of its capture program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    list: [u64; MAX_WORDS],
    len: u8,
    faults: u8,
}

impl Words {
    /// From raw words; those beyond [`MAX_WORDS`] are cut off. Bit N of `faults`: word N is unknown.
    #[must_use]
    pub fn new(words: &[u64], faults: u8) -> Self {
        let mut this = Self { faults, ..Self::default() };
        for (slot, word) in this.list.iter_mut().zip(words) {
            *slot = *word;
            this.len += 1;
        }
        this
    }

    /// The raw words; those that could not be read are 0, see [`Self::faults`].
    #[must_use]
    pub fn as_slice(&self) -> &[u64] {
        &self.list[..usize::from(self.len)]
    }

    /// Bit N: word N could not be read.
    #[must_use]
    pub const fn faults(&self) -> u8 {
        self.faults
    }

    /// Word `index`, unless it was not captured or could not be read.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<u64> {
        let readable = index < usize::from(self.len) && self.faults & (1 << index) == 0;
        readable.then(|| self.list[index])
    }
}

/// One event of one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: MonoNs,
    /// On which lane.
    pub lane: Lane,
    /// On which thread.
    pub tid: Tid,
    /// Its number on the lane, from 1; 0: not numbered.
    pub sequence: u32,
    /// What.
    pub body: EventBody,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventBody {
    /// A call has begun.
    Enter {
        /// The called function.
        probe: ProbeId,
        /// Its return slot.
        frame: FrameAddr,
        /// What stands in the return slot.
        return_address: ReturnAddr,
        /// How it will end.
        ahead: Ahead,
        /// The captured words.
        words: Words,
        /// In whose behalf it is called, if it has a context.
        contexts: Option<Contexts>,
    },
    /// The frames whose return slot this is end, and those that await it.
    Exit {
        /// Where it was seen.
        seen: Seen,
        /// The probe that it was seen for (not necessarily the function that opened the frame:
        /// tail calls).
        probe: ProbeId,
        /// The return slot.
        frame: FrameAddr,
        /// The captured words.
        words: Words,
    },
    /// A call leaves its function by a jump to another one, whose end is not seen.
    Jump {
        /// The probe of the function that is left.
        probe: ProbeId,
        /// Its return slot.
        frame: FrameAddr,
    },
    /// Calls have been left for good, as by `longjmp`.
    Unwound {
        /// The return slot of the call that tells: the stack they are on.
        frame: FrameAddr,
        /// Those whose return slots lie below are gone.
        below: FrameAddr,
    },
    /// Calls that were not recorded one by one, since the last such event.
    Folded {
        /// The called function.
        probe: ProbeId,
        /// The return slot of the call they were made in.
        frame: FrameAddr,
        /// The number of the event with which that began.
        serial: u32,
        /// What they add up to.
        calls: FoldedCalls,
    },
    /// A call that is not recorded by itself wants a landing.
    Asks {
        /// The called function.
        probe: ProbeId,
        /// What it wants.
        wanted: Wanted,
        /// Where.
        address: ReturnAddr,
    },
    /// From now on calls are not seen any more, because they cost too much. Made by user space.
    GaveUp {
        /// The function.
        probe: ProbeId,
    },
    /// The thread runs functions in C for this goroutine from now on, or for none.
    Carries {
        /// The goroutine.
        goroutine: Option<Goid>,
    },
    /// The goroutine has made another.
    Spawn {
        /// The other.
        child: Goid,
    },
    /// A goroutine that was made in a call is about to make its first one.
    Born {
        /// To where that returns, then its caller, and so on.
        callers: Words,
    },
    /// The same, and the goroutine does once what it does: it was made for that.
    RunsOnce,
    /// The lane has ended.
    LaneEnd,
    /// The process has ended, and all its lanes.
    ProcessEnd,
    /// The process has made a child process.
    Fork {
        /// The child.
        child: Pid,
    },
    /// The process has become another program; all its lanes have ended.
    Exec,
}

/// A call's `context.Context`, and the nearest one above it that the kernel side knows to be an open
/// call's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Contexts {
    /// The call's own.
    pub own: ContextAddr,
    /// The nearest above that is known; it may be the same.
    pub nearest: Option<ContextAddr>,
}

/// Where an exit is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Seen {
    /// At its `ret`.
    Ret,
    /// Where it comes back.
    Landing,
}

/// What is known, when a call begins, of how its exit will be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ahead {
    /// By no landing.
    Nothing,
    /// By the landing for this return slot: its own, or that of a caller that returns at once.
    Landing(FrameAddr),
    /// It would take another landing.
    Wanted(Wanted, ReturnAddr),
}

/// What is wanted at a return address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// A landing, or the caller's.
    Landing,
    /// The return point itself.
    Point,
    /// A landing at which the return value is still there.
    Value,
}
