//! Calls that are not recorded one by one: the kernel side adds them up below the call they are
//! made in.

use crate::{LaneKey, ProbeId};

/// How many functions may be folded below one call; further ones are recorded call by call.
pub const MAX_FOLDS: u32 = 8;

/// What calls are added up by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct FoldKey {
    /// On what lane.
    pub lane: LaneKey,
    /// The return slot of the call they are made in.
    pub slot: u64,
    /// The [`ProbeId`] of the function.
    pub probe: u64,
}

impl FoldKey {
    /// The function.
    #[must_use]
    pub const fn probe(&self) -> ProbeId {
        ProbeId(self.probe as u16)
    }
}

/// Calls since they were last sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Fold {
    /// The number of the event with which the call they are made in began.
    pub serial: u64,
    /// The next function folded below the same call: its slot, and its probe plus one; 0: none.
    pub next_slot: u64,
    /// See `next_slot`.
    pub next_probe: u64,
    /// When a call began that ends where its caller does; 0: none is open.
    pub pending: u64,
    /// What is sent.
    pub calls: FoldedCalls,
}

/// The words of an [`crate::EventKind::Folded`] event. Times in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FoldedCalls {
    /// Calls that have begun.
    pub count: u64,
    /// Calls whose end was seen: those that the times are of.
    pub ended: u64,
    /// Of their durations.
    pub sum: u64,
    /// The shortest.
    pub min: u64,
    /// The longest.
    pub max: u64,
    /// When the first began.
    pub first: u64,
    /// When the last that was seen to end did, or began.
    pub last: u64,
}

impl FoldedCalls {
    /// How many words that is.
    pub const WORDS: usize = 7;

    /// As the words of an event.
    #[must_use]
    pub const fn words(&self) -> [u64; Self::WORDS] {
        let Self { count, ended, sum, min, max, first, last } = *self;
        [count, ended, sum, min, max, first, last]
    }

    /// From the words of an event.
    #[must_use]
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        let [count, ended, sum, min, max, first, last] = words;
        Self { count, ended, sum, min, max, first, last }
    }

    /// A call begins.
    pub const fn begin(&mut self, time: u64) {
        if self.count == 0 {
            self.first = time;
        }
        self.count += 1;
        self.last = time;
    }

    /// A call that began then ends.
    pub const fn end(&mut self, start: u64, time: u64) {
        let duration = time.saturating_sub(start);
        if self.ended == 0 || duration < self.min {
            self.min = duration;
        }
        if duration > self.max {
            self.max = duration;
        }
        self.sum += duration;
        self.ended += 1;
        self.last = time;
    }
}

const _: () = {
    assert!(size_of::<FoldKey>() == 24);
    assert!(size_of::<Fold>() == 32 + 56);
    assert!(FoldedCalls::WORDS <= crate::MAX_WORDS);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_add_up() {
        let mut calls = FoldedCalls::default();
        calls.begin(10);
        calls.end(10, 15);
        calls.begin(20);
        calls.end(20, 22);
        calls.begin(30);
        let all = FoldedCalls { count: 3, ended: 2, sum: 7, min: 2, max: 5, first: 10, last: 30 };
        assert_eq!(calls, all);
        assert_eq!(FoldedCalls::from_words(calls.words()), all);
    }
}
