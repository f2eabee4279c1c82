//! Who calls whom, for how long, and which function is entered once a request.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Call, CallId, Calls, FunctionId, Hop, SocketUse};
use crate::model::{FrameAddr, Lane};

/// What was seen of one candidate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// How often it was called.
    pub calls: u64,
    /// Of these, how many were seen to end.
    pub ended: u64,
    /// How long those took, nanoseconds, their callees included.
    pub total_ns: u64,
    /// How often it was the outermost candidate of its stack.
    pub outermost: u64,
    /// How long those took, nanoseconds.
    pub outermost_ns: u64,
    /// On how many threads.
    pub threads: usize,
    /// The candidates that call it, with how often; none: it was outermost.
    pub callers: BTreeMap<Option<FunctionId>, u64>,
    /// Every candidate seen below it.
    pub below: BTreeSet<FunctionId>,
    /// Of its outermost calls, how many began after a request was read and ended before or while
    /// an answer was written.
    pub answered: u64,
}

impl Stats {
    /// How long a call takes, nanoseconds; 0 if none was seen to end.
    #[must_use]
    pub const fn mean_ns(&self) -> u64 {
        match self.total_ns.checked_div(self.ended) {
            Some(mean) => mean,
            None => 0,
        }
    }

    /// The candidate that mostly calls it.
    #[must_use]
    pub fn caller(&self) -> Option<FunctionId> {
        self.callers.iter().max_by_key(|(_, calls)| **calls).and_then(|(caller, _)| *caller)
    }
}

/// What all that was seen comes to.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// By function.
    pub stats: Vec<Stats>,
    /// The functions that could be entered once a request, the likeliest first.
    pub roots: Vec<FunctionId>,
}

/// Takes the calls apart. `scores`: what the functions' names are worth. `hops`: what is known of
/// work that changes threads: who takes work starts none.
#[must_use]
pub fn shape(calls: &Calls, scores: &[i32], hops: &[Hop]) -> Shape {
    let mut stats = stats(calls, scores.len());
    count_outermost(calls, &mut stats);
    answered(calls, &mut stats);
    let taken: FxHashSet<FunctionId> = hops.iter().map(|hop| hop.outermost).collect();
    let served = served(calls);
    let mut roots: Vec<(f64, FunctionId)> = stats
        .iter()
        .enumerate()
        .filter(|(function, stats)| stats.outermost > 0 && !taken.contains(function))
        .map(|(function, stats)| {
            let name = scores.get(function).copied().unwrap_or(0);
            let weight = weight(stats, name);
            (if served.contains(&function) { weight * 0.05 } else { weight }, function)
        })
        .collect();
    roots.sort_by(|(a, f), (b, g)| b.total_cmp(a).then(f.cmp(g)));
    let roots = roots.into_iter().map(|(_, function)| function);
    let mut each_once: Vec<FunctionId> = Vec::new();
    for root in roots.map(|root| inside_its_loop(root, calls, &stats)) {
        if !each_once.contains(&root) {
            each_once.push(root);
        }
    }
    Shape { stats, roots: each_once }
}

/// How much an outermost function looks like a request.
fn weight(stats: &Stats, name: i32) -> f64 {
    let time = (stats.outermost_ns as f64 / 1e3).max(1.0);
    let reach = 1.0 + stats.below.len() as f64;
    // Twice is an accident; often enough is often enough.
    let often = (stats.outermost as f64 / 5.0).min(1.0);
    let answers = 1.0 + 2.0 * stats.answered as f64 / stats.outermost.max(1) as f64;
    let name = 1.0 + f64::from(name.clamp(0, 20)) / 20.0;
    time.sqrt() * reach * often * answers * name
}

fn stats(calls: &Calls, functions: usize) -> Vec<Stats> {
    let mut stats = vec![Stats::default(); functions];
    let mut lanes: Vec<FxHashSet<Lane>> = vec![FxHashSet::default(); functions];
    for call in calls.list() {
        let caller = call.parent.and_then(|parent| calls.list().get(parent));
        let caller_function = caller.map(|caller| caller.function);
        let took = call.end.map(|end| end.saturating_sub(call.start));
        if let Some(stats) = stats.get_mut(call.function) {
            stats.calls += 1;
            stats.ended += u64::from(took.is_some());
            stats.total_ns += took.unwrap_or(0);
            *stats.callers.entry(caller_function).or_default() += 1;
        }
        if let Some(lanes) = lanes.get_mut(call.function) {
            lanes.insert(call.lane);
        }
        for above in ancestors(calls, call) {
            if above.function != call.function
                && let Some(stats) = stats.get_mut(above.function)
            {
                stats.below.insert(call.function);
            }
        }
    }
    for (stats, lanes) in stats.iter_mut().zip(&lanes) {
        stats.threads = lanes.len();
    }
    stats
}

/// Counts the outermost calls. Where a slice begins within a request, what is deeper on the stack
/// than a function that was seen to call it elsewhere only looks outermost.
fn count_outermost(calls: &Calls, stats: &mut [Stats]) {
    let mut tops: FxHashMap<Lane, FxHashMap<FunctionId, FrameAddr>> = FxHashMap::default();
    let outermost = || calls.list().iter().filter(|call| call.parent.is_none() && !call.hidden);
    for call in outermost() {
        let top = tops.entry(call.lane).or_default().entry(call.function).or_insert(call.frame);
        *top = call.frame.max(*top);
    }
    let mut found: Vec<(FunctionId, u64)> = Vec::new();
    for call in outermost() {
        let others = tops.get(&call.lane).into_iter().flatten();
        let below_another = others.into_iter().any(|(other, frame)| {
            *frame > call.frame
                && *other != call.function
                && stats.get(*other).is_some_and(|other| other.below.contains(&call.function))
        });
        if !below_another {
            found.push((call.function, call.end.map_or(0, |end| end.saturating_sub(call.start))));
        }
    }
    for (function, took) in found {
        if let Some(stats) = stats.get_mut(function) {
            stats.outermost += 1;
            stats.outermost_ns += took;
        }
    }
}

/// The functions near the top of the stacks of threads on which the root does not run: what work
/// they do, somebody gave them.
#[must_use]
pub fn elsewhere(calls: &Calls, root: FunctionId) -> BTreeSet<FunctionId> {
    let list = || calls.list().iter();
    let of_root: FxHashSet<Lane> =
        list().filter(|call| call.function == root).map(|call| call.lane).collect();
    let others = list().filter(|call| !of_root.contains(&call.lane) && !call.hidden);
    others
        .filter(|call| ancestors(calls, call).nth(1).is_none())
        .map(|call| call.function)
        .collect()
}

/// The calls a call ran below, innermost first.
pub(super) fn ancestors<'a>(calls: &'a Calls, call: &Call) -> impl Iterator<Item = &'a Call> {
    let list = calls.list();
    std::iter::successors(call.parent.and_then(|parent| list.get(parent)), |above| {
        above.parent.and_then(|parent| list.get(parent))
    })
}

/// Counts the outermost calls that lie between a read and a write of their thread.
fn answered(calls: &Calls, stats: &mut [Stats]) {
    let mut by_lane: FxHashMap<Lane, Vec<(u64, SocketUse)>> = FxHashMap::default();
    for exchange in calls.exchanges() {
        by_lane.entry(exchange.lane).or_default().push((exchange.time, exchange.usage));
    }
    for call in calls.list().iter().filter(|call| call.parent.is_none() && !call.hidden) {
        let (Some(exchanges), Some(end)) = (by_lane.get(&call.lane), call.end) else { continue };
        let first = exchanges.partition_point(|(time, _)| *time < call.start);
        let after = exchanges.partition_point(|(time, _)| *time <= end);
        let inside = exchanges.get(first..after).unwrap_or_default();
        let has = |wanted| inside.iter().any(|(_, usage)| *usage == wanted);
        let before = first.checked_sub(1).and_then(|at| exchanges.get(at));
        let read = has(SocketUse::Read) || before.is_some_and(|(_, u)| *u == SocketUse::Read);
        let next = exchanges.get(after);
        let written = has(SocketUse::Write) || next.is_some_and(|(_, u)| *u == SocketUse::Write);
        if read
            && written
            && let Some(stats) = stats.get_mut(call.function)
        {
            stats.answered += 1;
        }
    }
}

/// The functions whose outermost calls nearly always begin while one other function is open on
/// another thread, which itself does not begin within them: they work for it. Only a ranking of
/// proposals is made of this, never a parent.
fn served(calls: &Calls) -> FxHashSet<FunctionId> {
    let outermost: Vec<&Call> = calls.list().iter().filter(|call| call.parent.is_none()).collect();
    let mut began: FxHashMap<FunctionId, u64> = FxHashMap::default();
    let mut within: FxHashMap<(FunctionId, FunctionId), u64> = FxHashMap::default();
    let mut open: Vec<&Call> = Vec::new();
    for call in outermost {
        open.retain(|other| other.end.is_some_and(|end| end > call.start));
        *began.entry(call.function).or_default() += 1;
        let others: BTreeSet<FunctionId> = open
            .iter()
            .filter(|other| other.lane != call.lane && other.function != call.function)
            .map(|other| other.function)
            .collect();
        for other in others {
            *within.entry((call.function, other)).or_default() += 1;
        }
        open.push(call);
    }
    let share = |inner, outer| {
        let times = within.get(&(inner, outer)).copied().unwrap_or(0);
        times as f64 / began.get(&inner).copied().unwrap_or(1).max(1) as f64
    };
    within
        .keys()
        .filter(|&&(inner, outer)| share(inner, outer) > 0.9 && share(outer, inner) < 0.5)
        .map(|(inner, _)| *inner)
        .collect()
}

/// A function that serves a whole connection encloses its requests: then the request is the one
/// function below it that is called again and again, and has nearly all its time and callees.
fn inside_its_loop(root: FunctionId, calls: &Calls, stats: &[Stats]) -> FunctionId {
    let mut root = root;
    // Each step goes one function further in.
    for _ in 0..4 {
        let Some(inner) = request_in(root, calls, stats) else { break };
        root = inner;
    }
    root
}

fn request_in(root: FunctionId, calls: &Calls, stats: &[Stats]) -> Option<FunctionId> {
    let outer = stats.get(root)?;
    let mut time_below: FxHashMap<FunctionId, (u64, u64)> = FxHashMap::default();
    for call in calls.list() {
        let parent: Option<&Call> = call.parent.and_then(|parent: CallId| calls.list().get(parent));
        if parent.is_some_and(|parent| parent.function == root) && call.function != root {
            let (count, time) = time_below.entry(call.function).or_default();
            *count += 1;
            *time += call.end.map_or(0, |end| end.saturating_sub(call.start));
        }
    }
    let (inner, (count, time)) = time_below.into_iter().max_by_key(|(_, (_, time))| *time)?;
    let inner_stats = stats.get(inner)?;
    let again_and_again = count >= 3 * outer.calls.max(1);
    // What is called before it was watched has no end; its requests have.
    let most_of_it = outer.ended == 0 || time * 10 >= outer.total_ns * 7;
    let reach = outer.below.len().saturating_sub(1);
    let nearly_all_below =
        reach > 0 && inner_stats.below.intersection(&outer.below).count() * 10 >= reach * 7;
    (again_and_again && most_of_it && nearly_all_below).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::super::testing::Story;
    use super::*;

    /// Function 0 is a request with 1 and 2 below; 3 runs on a worker within it.
    fn requests(count: u64) -> Story {
        let mut story = Story::of(4);
        for _ in 0..count {
            story.enter(1, 0, 900).enter(1, 1, 800).wait(1_000).ret(1, 800);
            story.enter(2, 3, 400).wait(50_000).ret(2, 400);
            story.enter(1, 2, 800).wait(1_000).ret(1, 800).ret(1, 900);
        }
        story
    }

    #[test]
    fn the_outermost_that_reaches_most_is_the_root() {
        let story = requests(20);
        let shape = shape(story.calls(), &[5, 5, 5, 5], &[]);
        assert_eq!(shape.roots.first(), Some(&0));
        let root = &shape.stats[0];
        assert_eq!((root.calls, root.outermost, root.threads), (20, 20, 1));
        assert_eq!(root.below, BTreeSet::from([1, 2]));
        assert_eq!(shape.stats[1].caller(), Some(0));
    }

    #[test]
    fn who_works_within_anothers_call_is_served_and_not_a_root() {
        let story = requests(20);
        assert_eq!(served(story.calls()), FxHashSet::from_iter([3]));
    }

    #[test]
    fn who_runs_on_other_threads_was_given_its_work() {
        let story = requests(3);
        assert_eq!(elsewhere(story.calls(), 0), BTreeSet::from([3]));
    }

    #[test]
    fn a_connection_is_no_request() {
        let mut story = Story::of(3);
        for _ in 0..3 {
            story.enter(1, 0, 900);
            for _ in 0..10 {
                story.enter(1, 1, 800).enter(1, 2, 700).wait(1_000).ret(1, 700).ret(1, 800);
            }
            story.ret(1, 900);
        }
        let shape = shape(story.calls(), &[5, 5, 5], &[]);
        assert_eq!(shape.roots, [1]);
    }

    #[test]
    fn nothing_seen_has_no_root() {
        assert_eq!(shape(&Calls::default(), &[1, 2], &[]).roots, [0; 0]);
    }
}
