//! Goroutines that have been made and have made no call yet, and in which calls that was.

use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::model::{Goid, Pid};

/// A call in which a goroutine was made: where its lane is, and its serial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Maker {
    pub(super) place: u32,
    pub(super) serial: u64,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    child: (Pid, Goid),
    maker: Maker,
    /// The others made in the same call, as numbers.
    next: Option<u64>,
    previous: Option<u64>,
}

/// The goroutines that wait for their first call, by number: each is the next one made. So many are
/// remembered; a further one takes the place of the oldest.
#[derive(Debug, Default)]
pub(super) struct Spawns {
    /// Number N is at N modulo the limit.
    places: Vec<Option<Pending>>,
    /// The number of the next.
    next: u64,
    numbers: FxHashMap<(Pid, Goid), u64>,
    /// By the serial of a call: the latest made in it.
    of_call: FxHashMap<u64, u64>,
}

impl Spawns {
    /// A call has made a goroutine. Whether another was forgotten for it.
    pub(super) fn add(&mut self, child: (Pid, Goid), maker: Maker, limit: usize) -> bool {
        self.take(child);
        let number = self.next;
        let Some(place) = number.checked_rem(limit as u64) else { return true };
        let place = place as usize;
        self.next += 1;
        let oldest = self.places.get(place).copied().flatten();
        let forgot = oldest.is_some_and(|oldest| self.take(oldest.child).is_some());
        let previous = self.of_call.insert(maker.serial, number);
        if let Some(previous) = previous.and_then(|it| self.pending(it, limit)) {
            previous.next = Some(number);
        }
        let pending = Some(Pending { child, maker, next: None, previous });
        match self.places.get_mut(place) {
            Some(slot) => *slot = pending,
            None => self.places.push(pending),
        }
        self.numbers.insert(child, number);
        forgot
    }

    /// A goroutine makes its first call, or ends: the call in which it was made, if that is open.
    pub(super) fn take(&mut self, child: (Pid, Goid)) -> Option<Maker> {
        let number = self.numbers.remove(&child)?;
        let Pending { maker, next, previous, .. } = self.remove(number)?;
        let len = self.places.len();
        if let Some(next) = next.and_then(|it| self.pending(it, len)) {
            next.previous = previous;
        } else if let Entry::Occupied(mut latest) = self.of_call.entry(maker.serial) {
            match previous {
                Some(previous) => *latest.get_mut() = previous,
                None => drop(latest.remove()),
            }
        }
        if let Some(previous) = previous.and_then(|it| self.pending(it, len)) {
            previous.next = next;
        }
        Some(maker)
    }

    /// A call has ended: what it has made proves nothing any more.
    pub(super) fn end_call(&mut self, serial: u64) {
        let mut latest = self.of_call.remove(&serial);
        while let Some(pending) = latest.and_then(|number| self.remove(number)) {
            self.numbers.remove(&pending.child);
            latest = pending.previous;
        }
    }

    fn pending(&mut self, number: u64, limit: usize) -> Option<&mut Pending> {
        let place = number.checked_rem(limit as u64)?;
        self.places.get_mut(place as usize)?.as_mut()
    }

    fn remove(&mut self, number: u64) -> Option<Pending> {
        let place = number.checked_rem(self.places.len() as u64)?;
        self.places.get_mut(place as usize)?.take()
    }
}
