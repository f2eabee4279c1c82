//! Work that changes threads: the same word on both sides of the hop.
//!
//! A word of an outermost call on one thread (a task's address, say) that some call on another
//! thread had before, while the tree of that call was open. What every tree has (a scheduler, a
//! pool) or what two open trees have at once tells nobody apart and is no key.

use std::cmp::Reverse;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Call, CallId, Calls, FunctionId, Slot};

/// A hand-off that the words speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Who gives.
    pub give: FunctionId,
    /// Which of its words.
    pub give_slot: Slot,
    /// Who takes.
    pub take: FunctionId,
    /// Which of its words.
    pub take_slot: Slot,
    /// The outermost candidate of the taking stack: mostly the taker itself.
    pub outermost: FunctionId,
    /// The outermost candidate of the giving stack.
    pub from: FunctionId,
    /// Calls of the taker that were looked at.
    pub takes: u64,
    /// Of these, those whose word exactly one open tree had.
    pub proven: u64,
    /// How many different words those were.
    pub words: u64,
    /// In how many different trees they were given.
    pub trees: u64,
    /// Whether one given word is taken more than once.
    pub many: bool,
    /// The time from give to take, nanoseconds, in the middle.
    pub wait_ns: u64,
}

impl Hop {
    /// The share of calls whose word proves where the work came from.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.proven as f64 / self.takes.max(1) as f64
    }
}

/// Fewer calls prove nothing.
const FEWEST: u64 = 20;
/// The share of a taker's calls that must be proven.
const NEARLY_ALL: f64 = 0.8;
/// How many givers of one word are looked at, the latest first.
const LOOK_BACK: usize = 256;

type Side = (FunctionId, Slot);
/// The outermost function of a stack, and the one that takes: the same, or one right below it.
type Taker = (FunctionId, FunctionId);

/// A word, as some call had it.
#[derive(Clone, Copy)]
struct Given {
    call: CallId,
    side: Side,
}

/// What speaks for one pair of sides.
#[derive(Default)]
struct Evidence {
    proven: u64,
    words: FxHashSet<u64>,
    trees: FxHashSet<CallId>,
    takes_of: FxHashMap<(CallId, u64), u64>,
    /// The giver gave the word more than once in its tree.
    again: u64,
    waits: Vec<u64>,
    from: FxHashMap<FunctionId, u64>,
}

/// The hand-offs that are seen in the words, the best for each taker, those with most takes first.
#[must_use]
pub fn hops(calls: &Calls) -> Vec<Hop> {
    let given = given(calls);
    let takers = takers(calls);
    let mut evidence: FxHashMap<(Side, Taker, Slot), Evidence> = FxHashMap::default();
    let mut takes: FxHashMap<(Taker, Slot), u64> = FxHashMap::default();
    let mut open: Vec<&Call> = Vec::new();
    for (id, call) in calls.list().iter().enumerate() {
        open.retain(|other| other.end.is_some_and(|end| end > call.start));
        let taker = taker_of(calls, call).filter(|taker| takers.contains(taker));
        // At the edge of a slice nobody is seen who could have given it its work.
        if let Some(taker) = taker
            && open.iter().any(|other| other.lane != call.lane)
        {
            for (slot, _) in calls.words(call) {
                *takes.entry((taker, slot)).or_default() += 1;
            }
            look(calls, id, call, taker, &given, &mut evidence);
        }
        if call.parent.is_none() {
            open.push(call);
        }
    }
    let mut found: Vec<(Hop, u64)> = evidence
        .into_iter()
        .filter_map(|((give, take, slot), evidence)| hop(give, take, slot, evidence, &takes))
        .collect();
    // The best first: what proves most, then what tells trees apart best, then a plain argument.
    found.sort_by_key(|(hop, again)| {
        let plain = |slot: Slot| matches!(slot, Slot::Arg(_));
        (
            // A call or two at the edge of a slice do not decide.
            Reverse(hop.proven * 20 / hop.takes.max(1) >= 19),
            *again * 50 > hop.proven,
            // What is taken once is the work itself.
            hop.many,
            Reverse(hop.words * 1_000 / hop.trees.max(1)),
            Reverse(plain(hop.take_slot)),
            Reverse(plain(hop.give_slot)),
            // Whoever gives last is nearest to the hop.
            hop.wait_ns,
            (hop.give, hop.take),
        )
    });
    let mut done: FxHashSet<FunctionId> = FxHashSet::default();
    let mut best: Vec<Hop> = Vec::new();
    for (hop, _) in found {
        if done.insert(hop.outermost) {
            best.push(hop);
        }
    }
    best.sort_by_key(|hop| Reverse(hop.takes));
    best
}

/// Every word that could be a pointer, with the calls that had it, in the order they began.
fn given(calls: &Calls) -> FxHashMap<u64, Vec<Given>> {
    let mut given: FxHashMap<u64, Vec<Given>> = FxHashMap::default();
    for (id, call) in calls.list().iter().enumerate() {
        for (slot, word) in calls.words(call) {
            // What lies behind an argument of the giver is left to plain arguments.
            if is_pointer(word) && matches!(slot, Slot::Arg(_)) {
                given
                    .entry(word)
                    .or_default()
                    .push(Given { call: id, side: (call.function, slot) });
            }
        }
    }
    given
}

/// An address user space can have, of something that has a word in it.
const fn is_pointer(word: u64) -> bool {
    word >= 0x1_0000 && word < 1 << 47 && word.is_multiple_of(8)
}

/// What a call would be as a taker.
fn taker_of(calls: &Calls, call: &Call) -> Option<Taker> {
    match call.parent.and_then(|parent| calls.list().get(parent)) {
        None if call.hidden => None,
        None => Some((call.function, call.function)),
        Some(parent) if parent.parent.is_none() => Some((parent.function, call.function)),
        Some(_) => None,
    }
}

/// The functions that can take work: the outermost ones, and those called at most once in each.
fn takers(calls: &Calls) -> FxHashSet<Taker> {
    let mut times: FxHashMap<Taker, u64> = FxHashMap::default();
    for taker in calls.list().iter().filter_map(|call| taker_of(calls, call)) {
        *times.entry(taker).or_default() += 1;
    }
    let outermost = |function| times.get(&(function, function)).copied().unwrap_or(0);
    let once = |&(outer, inner): &Taker, count: u64| {
        outer == inner || (count >= FEWEST && count <= outermost(outer))
    };
    times.iter().filter(|(taker, count)| once(taker, **count)).map(|(taker, _)| *taker).collect()
}

/// Who had a word of this call before, on another thread, in a tree that is open.
fn look(
    calls: &Calls,
    id: CallId,
    call: &Call,
    taker: Taker,
    given: &FxHashMap<u64, Vec<Given>>,
    evidence: &mut FxHashMap<(Side, Taker, Slot), Evidence>,
) {
    for (slot, word) in calls.words(call) {
        let Some(all) = given.get(&word) else { continue };
        let before = all.partition_point(|given| given.call < id);
        let earlier = all.get(before.saturating_sub(LOOK_BACK)..before).unwrap_or_default();
        // By giving side: the trees that are open, how often each gave the word, and when last.
        let mut open: FxHashMap<Side, FxHashMap<CallId, (u64, u64)>> = FxHashMap::default();
        for Given { call: giver, side } in earlier {
            let Some(giver) = calls.list().get(*giver) else { continue };
            let Some(tree) = calls.list().get(giver.tree) else { continue };
            let is_open = tree.end.is_some_and(|end| end > call.start);
            if giver.lane == call.lane || !is_open {
                continue;
            }
            let seen = open.entry(*side).or_default().entry(giver.tree).or_default();
            *seen = (seen.0 + 1, giver.start);
        }
        for (side, trees) in open {
            // Two open trees with one word: it does not tell them apart.
            let mut trees = trees.into_iter();
            let (Some((tree, (times, last))), None) = (trees.next(), trees.next()) else {
                continue;
            };
            let evidence = evidence.entry((side, taker, slot)).or_default();
            evidence.proven += 1;
            evidence.words.insert(word);
            evidence.trees.insert(tree);
            evidence.again += u64::from(times > 1);
            *evidence.takes_of.entry((tree, word)).or_default() += 1;
            evidence.waits.push(call.start.saturating_sub(last));
            let function = |id| calls.list().get(id).map_or(0, |call: &Call| call.function);
            *evidence.from.entry(function(tree)).or_default() += 1;
        }
    }
}

fn hop(
    give: Side,
    (outermost, take): Taker,
    take_slot: Slot,
    mut evidence: Evidence,
    takes: &FxHashMap<(Taker, Slot), u64>,
) -> Option<(Hop, u64)> {
    let most = |counts: &FxHashMap<FunctionId, u64>| {
        counts.iter().max_by_key(|(_, times)| **times).map(|(function, _)| *function)
    };
    let takes = takes.get(&((outermost, take), take_slot)).copied().unwrap_or(0);
    let (words, trees) = (evidence.words.len() as u64, evidence.trees.len() as u64);
    evidence.waits.sort_unstable();
    let hop = Hop {
        give: give.0,
        give_slot: give.1,
        take,
        take_slot,
        outermost,
        from: most(&evidence.from)?,
        takes,
        proven: evidence.proven,
        words,
        trees,
        many: evidence.takes_of.values().any(|times| *times > 1),
        wait_ns: evidence.waits.get(evidence.waits.len() / 2).copied().unwrap_or(0),
    };
    // One word for all trees is the pool's or the scheduler's, not the work's.
    let tells_apart = trees >= 2 && words >= 2;
    // Given again while it lives, a key proves nothing to the stitcher.
    let given_once = evidence.again * 10 <= evidence.proven;
    let good = proven_enough(&hop) && tells_apart && given_once && hop.from != hop.outermost;
    good.then_some((hop, evidence.again))
}

fn proven_enough(hop: &Hop) -> bool {
    hop.takes >= FEWEST && hop.share() >= NEARLY_ALL
}

#[cfg(test)]
mod tests {
    use super::super::testing::Story;
    use super::*;

    /// Two threads with requests (0) at once; each pushes (1) a task to the workers, who run it
    /// (2). Argument 1 of all is the pool; argument 2 is the task on both sides.
    fn story(rounds: u64, task: impl Fn(u64, u64) -> u64) -> Story {
        let mut story = Story::of(3);
        let pool = 0x7f00_0000;
        for round in 0..rounds {
            for thread in [1_u32, 2] {
                story.enter(thread, 0, 900);
            }
            for thread in [1_u32, 2] {
                let words = [pool, task(round, u64::from(thread)), 0];
                story.enter_with(thread, 1, 800, &words).ret(thread, 800);
            }
            for thread in [1_u32, 2] {
                let worker = thread + 10;
                story.enter_with(worker, 2, 500, &[pool, task(round, u64::from(thread)), 0]);
                story.wait(1_000).ret(worker, 500);
            }
            for thread in [1_u32, 2] {
                story.ret(thread, 900);
            }
        }
        story
    }

    #[test]
    fn the_word_of_the_task_is_the_key_and_the_pools_is_not() {
        let story = story(20, |round, thread| 0x5550_0000 + round * 0x100 + thread * 0x10);
        let found = hops(story.calls());
        let [hop] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((hop.give, hop.give_slot), (1, Slot::Arg(2)));
        assert_eq!((hop.take, hop.take_slot), (2, Slot::Arg(2)));
        assert_eq!((hop.from, hop.outermost), (0, 2));
        assert_eq!((hop.takes, hop.proven), (40, 40));
        assert!(!hop.many);
    }

    #[test]
    fn an_address_that_is_used_again_still_tells_requests_apart() {
        let story = story(20, |round, thread| 0x5550_0000 + (round % 2) * 0x100 + thread * 0x10);
        assert_eq!(hops(story.calls()).len(), 1);
    }

    #[test]
    fn one_word_for_all_is_no_key() {
        let story = story(20, |_, _| 0x5550_0000);
        assert_eq!(hops(story.calls()).len(), 0);
    }

    #[test]
    fn a_few_calls_prove_nothing() {
        let story = story(2, |round, thread| 0x5550_0000 + round * 0x100 + thread * 0x10);
        assert_eq!(hops(story.calls()).len(), 0);
    }

    #[test]
    fn what_lies_behind_an_argument_can_be_the_key() {
        let mut story = Story::of(2);
        for round in 0..20 {
            let plan = 0x4440_0000 + round * 0x40;
            story.enter_with(1, 0, 900, &[plan, 0, 0]);
            for part in 0..2 {
                let task = 0x6660_0000 + (round * 2 + part) * 0x10;
                story.enter_with(2, 1, 500, &[task, 0, plan]).wait(500).ret(2, 500);
            }
            story.ret(1, 900);
        }
        let found = hops(story.calls());
        let [hop] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((hop.give_slot, hop.take_slot), (Slot::Arg(1), Slot::ArgWord(1, 32)));
        assert!(hop.many, "one plan, two tasks");
    }
}
