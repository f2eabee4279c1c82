//! Where unfinished traces are kept: side by side, found by their keys without a search.

use std::collections::VecDeque;

use crate::model::TraceId;

use super::trace::{OpenTrace, TraceKey};

/// For how many spans a place keeps its room for the next trace.
const KEPT: usize = 32;

/// The unfinished traces.
#[derive(Debug, Default)]
pub(super) struct Traces {
    places: Vec<OpenTrace>,
    /// Places without a trace. The one used last is taken first: it is still in the cache.
    free: Vec<u32>,
    /// All keys, oldest first, and some of traces that are no more.
    ages: VecDeque<TraceKey>,
    begun: u64,
}

impl Traces {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn get(&self, key: TraceKey) -> Option<&OpenTrace> {
        self.places.get(key.place()).filter(|trace| trace.key() == key)
    }

    pub(super) fn get_mut(&mut self, key: TraceKey) -> Option<&mut OpenTrace> {
        self.places.get_mut(key.place()).filter(|trace| trace.key() == key)
    }

    /// Begins a trace. The limit keeps their number at most at [`TraceKey::PLACES`].
    pub(super) fn begin(&mut self, id: TraceId) -> Option<&mut OpenTrace> {
        if self.ages.len() > 2 * self.len() + KEPT {
            let places = &self.places;
            self.ages.retain(|key| places.get(key.place()).is_some_and(|it| it.key() == *key));
        }
        self.begun += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(OpenTrace::nobodys());
            (self.places.len() - 1) as u32
        });
        let key = TraceKey::new(self.begun, place);
        self.ages.push_back(key);
        let trace = self.places.get_mut(key.place())?;
        trace.begin(key, id);
        Some(trace)
    }

    /// Forgets a trace.
    pub(super) fn end(&mut self, key: TraceKey) {
        if let Some(trace) = self.get_mut(key) {
            trace.end(KEPT);
            self.free.push(key.place() as u32);
        }
    }

    /// The one that began first.
    pub(super) fn oldest(&self) -> Option<TraceKey> {
        self.ages.iter().copied().find(|key| self.get(*key).is_some())
    }

    /// Their keys, oldest first.
    pub(super) fn keys(&self) -> Vec<TraceKey> {
        self.ages.iter().copied().filter(|key| self.get(*key).is_some()).collect()
    }

    /// Those that are sent as they are, oldest first.
    pub(super) fn those(&self, wanted: impl Fn(&OpenTrace) -> bool) -> Vec<TraceKey> {
        let is_wanted = |key: &TraceKey| self.get(*key).is_some_and(&wanted);
        self.ages.iter().copied().filter(is_wanted).collect()
    }
}
