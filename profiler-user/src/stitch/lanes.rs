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

    /// A lane, known or new.
    pub(super) fn get(&mut self, lane: Lane) -> Option<&mut LaneState> {
        let Self { places, states, free } = self;
        let place = *places.entry(lane).or_insert_with(|| {
            free.pop().unwrap_or_else(|| {
                states.push(LaneState::default());
                (states.len() - 1) as u32
            })
        });
        states.get_mut(place as usize)
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
            let is_busy = state.open_frames() > 0;
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
