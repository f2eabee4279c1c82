//! Where lanes are kept: side by side, found by one look-up in a table of numbers.

use rustc_hash::FxHashMap;

use crate::model::{Lane, Pid};

use super::lane::LaneState;

/// The lanes that are known.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Small, so that it stays in the cache when the states do not.
    places: FxHashMap<Lane, u32>,
    states: Vec<LaneState>,
    free: Vec<u32>,
}

impl Lanes {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn has(&self, lane: Lane) -> bool {
        self.places.contains_key(&lane)
    }

    /// Where a lane is, known or new.
    pub(super) fn place(&mut self, lane: Lane) -> u32 {
        let Self { places, states, free } = self;
        *places.entry(lane).or_insert_with(|| {
            let state = LaneState::of(lane);
            let known = free.pop().and_then(|place| Some((place, states.get_mut(place as usize)?)));
            if let Some((place, free)) = known {
                *free = state;
                place
            } else {
                states.push(state);
                (states.len() - 1) as u32
            }
        })
    }

    /// Where a lane is, if it is known.
    pub(super) fn find(&self, lane: Lane) -> Option<u32> {
        self.places.get(&lane).copied()
    }

    pub(super) fn at(&mut self, place: u32) -> Option<&mut LaneState> {
        self.states.get_mut(place as usize)
    }

    /// A lane and another one.
    pub(super) fn pair(
        &mut self,
        place: u32,
        other: Option<u32>,
    ) -> Option<(&mut LaneState, Option<(u32, &LaneState)>)> {
        let Some(other) = other.filter(|other| *other != place) else {
            return Some((self.at(place)?, None));
        };
        let [one, two] = self.states.get_disjoint_mut([place as usize, other as usize]).ok()?;
        Some((one, Some((other, two))))
    }

    /// Forgets a lane.
    pub(super) fn remove(&mut self, lane: Lane) -> Option<LaneState> {
        let place = self.places.remove(&lane)?;
        self.free.push(place);
        self.states.get_mut(place as usize).map(std::mem::take)
    }

    /// Forgets the lanes without open frames.
    pub(super) fn forget_idle(&mut self) {
        let Self { places, states, free } = self;
        places.retain(|_, place| {
            let Some(state) = states.get_mut(*place as usize) else { return false };
            // What a thread carries is told when it changes.
            let is_busy = state.open_frames() > 0 || state.carries.is_some();
            if !is_busy {
                *state = LaneState::default();
                free.push(*place);
            }
            is_busy
        });
    }

    /// Forgets all lanes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The lanes of a process, in order.
    pub(super) fn of(&self, pid: Pid) -> Vec<Lane> {
        let mut lanes: Vec<Lane> =
            self.places.keys().filter(|lane| lane.pid() == pid).copied().collect();
        lanes.sort_unstable();
        lanes
    }
}
