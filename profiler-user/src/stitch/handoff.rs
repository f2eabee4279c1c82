//! The live hand-off keys: what some call gave and another may take.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use profiler_common::MAX_WORDS;
use rustc_hash::FxHashMap;

use crate::model::{HandoffRule, Lane, MonoNs, Pid, ProbeId, Scope, Takes, WordIndex, Words};

use super::trace::{SpanRef, TraceKey};

/// The words of a key, in place: keys come and go with events.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyWords {
    list: [u64; MAX_WORDS],
    count: u8,
}

impl KeyWords {
    fn as_slice(&self) -> &[u64] {
        self.list.get(..usize::from(self.count)).unwrap_or_default()
    }
}

impl PartialEq for KeyWords {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for KeyWords {}

impl PartialOrd for KeyWords {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for KeyWords {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_slice().cmp(other.as_slice())
    }
}

impl Hash for KeyWords {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_slice().hash(state);
    }
}

/// A key: the hand-off, where it is valid, and its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) rule: u16,
    pub(super) pid: Option<Pid>,
    pub(super) words: KeyWords,
}

/// What was given.
#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    /// The span below which takers hang.
    pub(super) giver: SpanRef,
    /// When.
    pub(super) time: MonoNs,
    /// How often it may still be taken; none: as often as one likes.
    left: Option<u32>,
    taken: bool,
    /// Given again, by another span, while it was alive: it proves nothing.
    ambiguous: bool,
    /// A call is known that will end it: its trace waits for that.
    held: bool,
    /// How many live traces have given it: an ambiguous key lives until all of them have ended.
    traces: u32,
}

/// What came of asking for a key.
#[derive(Debug)]
pub(super) enum Asked {
    Taken(Given),
    Ambiguous,
    NotGiven,
}

/// What came of giving one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gave {
    Well,
    Ambiguous,
    Full,
}

/// The live keys.
#[derive(Debug, Default)]
pub(super) struct Keys {
    live: FxHashMap<Key, Given>,
    of_trace: FxHashMap<TraceKey, Vec<Key>>,
    /// Lists that are empty, to use again.
    spare: Vec<Vec<Key>>,
}

/// How many empty lists are kept, and for how many keys each.
const SPARE: usize = 64;

/// The words of a key in what a call captured; none if one could not be read.
pub(super) fn words(indices: &[WordIndex], words: &Words) -> Option<KeyWords> {
    let mut key = KeyWords::default();
    for index in indices {
        *key.list.get_mut(usize::from(key.count))? = words.get(usize::from(*index))?;
        key.count += 1;
    }
    Some(key)
}

/// The key of a rule's side for a call.
pub(super) fn key(
    number: u16,
    rule: &HandoffRule,
    indices: &[WordIndex],
    captured: &Words,
    lane: Lane,
) -> Option<Key> {
    let pid = match rule.scope {
        Scope::Process => Some(lane.pid()),
        Scope::Target => None,
    };
    Some(Key { rule: number, pid, words: words(indices, captured)? })
}

impl Keys {
    /// A call gives a key on behalf of `giver`.
    pub(super) fn give(
        &mut self,
        key: Key,
        rule: &HandoffRule,
        giver: SpanRef,
        time: MonoNs,
        limit: usize,
    ) -> Gave {
        let left = match rule.takes {
            Takes::Any => None,
            Takes::Times(times) => Some(times),
        };
        if let Some(given) = self.live.get_mut(&key) {
            // Given again by the same span: the same thing said twice. By another: whose it is
            // cannot be told, for this one and for all that take it later.
            if given.giver != giver {
                given.ambiguous = true;
                let keys = self.of_trace.entry(giver.trace).or_default();
                if !keys.contains(&key) {
                    given.traces += 1;
                    keys.push(key);
                }
                return Gave::Ambiguous;
            }
            given.left = left;
            return Gave::Well;
        }
        if self.live.len() >= limit {
            return Gave::Full;
        }
        let spare = &mut self.spare;
        let keys = self.of_trace.entry(giver.trace);
        keys.or_insert_with(|| spare.pop().unwrap_or_default()).push(key);
        let held = rule.until.is_some();
        let new = Given { giver, time, left, taken: false, ambiguous: false, held, traces: 1 };
        self.live.insert(key, new);
        Gave::Well
    }

    /// A call asks for a key.
    pub(super) fn take(&mut self, key: &Key) -> Asked {
        let Some(given) = self.live.get_mut(key) else { return Asked::NotGiven };
        if given.ambiguous {
            return Asked::Ambiguous;
        }
        given.taken = true;
        let answer = *given;
        if let Some(left) = &mut given.left {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.remove(key);
            }
        }
        Asked::Taken(answer)
    }

    /// A key is given on behalf of nothing known: if it was alive, it proves nothing any more.
    /// Whether it did.
    pub(super) fn revoke(&mut self, key: &Key) -> bool {
        self.live.get_mut(key).is_some_and(|given| !std::mem::replace(&mut given.ambiguous, true))
    }

    /// A call ends a key. `givers` become the traces that have given it, none if it was not alive.
    /// Whether nobody took it.
    pub(super) fn end(&mut self, key: &Key, givers: &mut Vec<TraceKey>) -> bool {
        givers.clear();
        let Some(given) = self.live.remove(key) else { return false };
        if given.traces == 1 {
            givers.push(given.giver.trace);
        } else {
            let gave = self.of_trace.iter().filter(|(_, keys)| keys.contains(key));
            givers.extend(gave.map(|(trace, _)| *trace));
            givers.sort_unstable();
        }
        for trace in &*givers {
            self.forget(*trace, key);
        }
        !given.taken
    }

    /// The keys that a call was to end, in a process that is no more.
    pub(super) fn held_in(&self, pid: Pid) -> Vec<Key> {
        let mine = |(key, given): &(&Key, &Given)| given.held && key.pid == Some(pid);
        self.live.iter().filter(mine).map(|(key, _)| *key).collect()
    }

    /// Whether a trace has given a key that a call will end.
    pub(super) fn hold(&self, trace: TraceKey) -> bool {
        let keys = self.of_trace.get(&trace).into_iter().flatten();
        keys.filter_map(|key| self.live.get(key)).any(|given| given.held)
    }

    /// The keys of a trace that has waited long enough, but for those that a call will end; how
    /// many of them nobody took.
    pub(super) fn lapse(&mut self, trace: TraceKey) -> u64 {
        let keys = self.of_trace.remove(&trace).unwrap_or_default();
        let (held, ending): (Vec<Key>, Vec<Key>) =
            keys.into_iter().partition(|key| self.live.get(key).is_some_and(|given| given.held));
        self.of_trace.insert(trace, ending);
        let not_taken = self.end_trace(trace);
        if !held.is_empty() {
            self.of_trace.insert(trace, held);
        }
        not_taken
    }

    /// The keys of a trace that has ended; how many of them nobody took.
    pub(super) fn end_trace(&mut self, trace: TraceKey) -> u64 {
        let mut not_taken = 0;
        let Some(keys) = self.of_trace.remove(&trace) else { return 0 };
        for key in &keys {
            let Some(given) = self.live.get_mut(key) else { continue };
            given.traces -= 1;
            if given.traces == 0 {
                not_taken += u64::from(!given.taken);
                self.live.remove(key);
            }
        }
        self.keep_room(keys);
        not_taken
    }

    /// Keeps the room of a list for others, within bounds.
    fn keep_room(&mut self, mut keys: Vec<Key>) {
        if self.spare.len() < SPARE && keys.capacity() <= SPARE {
            keys.clear();
            self.spare.push(keys);
        }
    }

    /// Forgets all keys: events were lost, and each key may since have been taken, and given again
    /// on behalf of something else. How many there were.
    pub(super) fn doubt_all(&mut self) -> u64 {
        let count = self.live.len() as u64;
        self.live.clear();
        self.of_trace.clear();
        count
    }

    /// Forgets a key that has been taken as often as it may; it has one giver.
    fn remove(&mut self, key: &Key) {
        if let Some(given) = self.live.remove(key) {
            self.forget(given.giver.trace, key);
        }
    }

    fn forget(&mut self, trace: TraceKey, key: &Key) {
        if let Some(keys) = self.of_trace.get_mut(&trace) {
            // From the end: what was given last is taken first, mostly.
            if let Some(at) = keys.iter().rposition(|other| other == key) {
                keys.swap_remove(at);
            }
            if keys.is_empty()
                && let Some(keys) = self.of_trace.remove(&trace)
            {
                self.keep_room(keys);
            }
        }
    }
}

/// The sides of every hand-off on which a probe stands, found once.
#[derive(Clone, Debug, Default)]
pub(super) struct Sides {
    /// By probe: (rule, index into the side's probes).
    gives: Vec<Vec<(u16, usize)>>,
    takes: Vec<Vec<(u16, usize)>>,
    untils: Vec<Vec<(u16, usize)>>,
}

impl Sides {
    pub(super) fn of(rules: &[HandoffRule], probes: usize) -> Self {
        let none = vec![Vec::new(); probes];
        let mut sides = Self { gives: none.clone(), takes: none.clone(), untils: none };
        for (number, rule) in (0_u16..).zip(rules) {
            let all = [
                (&mut sides.gives, Some(&rule.give)),
                (&mut sides.takes, Some(&rule.take)),
                (&mut sides.untils, rule.until.as_ref()),
            ];
            for (lists, end) in all {
                let Some(end) = end else { continue };
                for (at, (probe, _)) in end.probes.iter().enumerate() {
                    if let Some(list) = lists.get_mut(usize::from(*probe)) {
                        list.push((number, at));
                    }
                }
            }
        }
        sides
    }

    pub(super) fn gives(&self, probe: ProbeId) -> &[(u16, usize)] {
        self.gives.get(probe.index()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn untils(&self, probe: ProbeId) -> &[(u16, usize)] {
        self.untils.get(probe.index()).map_or(&[], Vec::as_slice)
    }

    pub(super) fn takes(&self, probe: ProbeId) -> &[(u16, usize)] {
        self.takes.get(probe.index()).map_or(&[], Vec::as_slice)
    }
}
