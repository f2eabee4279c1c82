//! What of all that was seen goes into the map: the root, its stages, the hand-offs.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashSet;

use super::{Calls, FunctionId, Hop, NameScore, Shape};

/// What the proposal must know of a candidate besides its calls.
#[derive(Clone, Debug)]
pub struct Fact {
    /// What its name is worth.
    pub name: NameScore,
    /// What one call of it, begin and end, costs the target when it is probed, nanoseconds.
    pub cost_ns: u64,
    /// Calls a second, by the kernel's counters.
    pub rate: f64,
}

/// A function that becomes a span.
#[derive(Clone, Debug, PartialEq)]
pub struct ProposedSpan {
    /// The function.
    pub function: FunctionId,
    /// Whether it starts a trace.
    pub root: bool,
    /// Calls for each call of the root.
    pub per_root: f64,
    /// Mean time of a call, nanoseconds; 0: not known.
    pub mean_ns: u64,
    /// On how many threads it ran.
    pub threads: usize,
    /// The candidate that mostly calls it.
    pub caller: Option<FunctionId>,
    /// Calls a second.
    pub rate: f64,
    /// What it costs the target at that rate, as a share of a CPU.
    pub share: f64,
}

/// A hand-off that goes into the map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ProposedHandoff {
    /// What speaks for it.
    pub hop: Hop,
}

/// What goes into the map.
#[derive(Clone, Debug, Default)]
pub struct Proposal {
    /// The root first, then its stages: those that tell most first.
    pub spans: Vec<ProposedSpan>,
    /// The hand-offs on the way of the root's work.
    pub handoffs: Vec<ProposedHandoff>,
    /// Functions that could be roots, too, and were not chosen.
    pub other_roots: Vec<FunctionId>,
    /// Functions that were seen and left out, with the reason.
    pub left_out: BTreeMap<&'static str, Vec<FunctionId>>,
    /// Outermost functions on threads of their own whose hand-off was not found.
    pub unconnected: Vec<FunctionId>,
    /// How often the root was called.
    pub requests: u64,
}

/// Called more often for each request, a function would flood its trace.
const MOST_PER_ROOT: f64 = 64.0;
/// A shorter call is not worth what it costs to see it.
const SHORTEST_NS: u64 = 2_000;
/// So many spans are kept even if together they cost more than the share that is aimed at.
const AT_LEAST: usize = 12;

/// Chooses: at most `most` spans that together take at most `share` of a CPU of the target at the
/// rates that were seen (but the root and a dozen stages in any case).
#[must_use]
pub fn propose(
    calls: &Calls,
    shape: &Shape,
    hops: &[Hop],
    facts: &[Fact],
    most: usize,
    share: f64,
) -> Option<Proposal> {
    let root = *shape.roots.first()?;
    let requests = shape.stats.get(root)?.calls.max(1);
    let handoffs = reached(root, shape, hops);
    let members = members(root, shape, &handoffs);
    let root_rate = facts.get(root).map_or(0.0, |fact| fact.rate);
    let span = |function: FunctionId| {
        let stats = shape.stats.get(function)?;
        let fact = facts.get(function)?;
        Some(ProposedSpan {
            function,
            root: function == root,
            per_root: if root_rate > 0.0 { fact.rate / root_rate } else { 0.0 },
            mean_ns: stats.mean_ns(),
            threads: stats.threads,
            caller: stats.caller(),
            rate: fact.rate,
            share: fact.rate * fact.cost_ns as f64 / 1e9,
        })
    };
    let mut proposal = Proposal { requests, ..Proposal::default() };
    proposal.spans.extend(span(root));
    let mut ranked: Vec<(f64, ProposedSpan)> = Vec::new();
    for function in members.iter().copied().filter(|function| *function != root) {
        let (Some(span), Some(fact)) = (span(function), facts.get(function)) else { continue };
        match unfit(&span, function, shape, &handoffs) {
            Some(why) => proposal.left_out.entry(why).or_default().push(function),
            None => ranked.push((worth(&span, fact), span)),
        }
    }
    ranked.sort_by(|(a, s), (b, t)| b.total_cmp(a).then(s.function.cmp(&t.function)));
    let mut spent: f64 = proposal.spans.iter().map(|span| span.share).sum();
    for (_, span) in ranked {
        // Work that is handed over begins with whoever takes it.
        let takes = handoffs.iter().any(|hop| hop.take == span.function);
        let few = proposal.spans.len() < AT_LEAST;
        if proposal.spans.len() < most && (takes || few || spent + span.share <= share) {
            spent += span.share;
            proposal.spans.push(span);
        } else {
            let why = "beyond the number or the cost that is aimed at";
            proposal.left_out.entry(why).or_default().push(span.function);
        }
    }
    let taken: FxHashSet<FunctionId> = handoffs.iter().map(|hop| hop.outermost).collect();
    let others = shape.roots.iter().copied().filter(|other| !members.contains(other));
    for other in others.filter(|other| !taken.contains(other)) {
        let elsewhere = !shares_a_thread(calls, root, other);
        if elsewhere { &mut proposal.unconnected } else { &mut proposal.other_roots }.push(other);
    }
    proposal.handoffs = handoffs.into_iter().map(|hop| ProposedHandoff { hop }).collect();
    Some(proposal)
}

/// The hand-offs on the way from the root: given in its trees, or in those of who took from them.
fn reached(root: FunctionId, shape: &Shape, hops: &[Hop]) -> Vec<Hop> {
    let mut from: BTreeSet<FunctionId> = BTreeSet::from([root]);
    // The root may have been found within a function that serves a whole connection.
    from.extend(
        shape.stats.iter().enumerate().filter(|(_, s)| s.below.contains(&root)).map(|(f, _)| f),
    );
    let mut reached: Vec<Hop> = Vec::new();
    loop {
        let before = reached.len();
        for hop in hops {
            if from.contains(&hop.from) && !reached.contains(hop) && matters(root, shape, hop) {
                reached.push(*hop);
            }
        }
        from.extend(reached.iter().map(|hop| hop.outermost));
        if reached.len() == before {
            break;
        }
    }
    // What runs below a taker has its parent on the stack.
    let takers: Vec<FunctionId> = reached.iter().map(|hop| hop.take).collect();
    let below_another = |hop: &Hop| {
        let others = takers.iter().filter(|taker| **taker != hop.take);
        let mut others = others.filter_map(|taker| shape.stats.get(*taker));
        others.any(|stats| stats.below.contains(&hop.take))
    };
    reached.retain(|hop| !below_another(hop));
    reached
}

/// Whether who takes does a noticeable part of the work: at least a fiftieth of the root's time.
fn matters(root: FunctionId, shape: &Shape, hop: &Hop) -> bool {
    let time = |function: FunctionId| shape.stats.get(function).map_or(0, |stats| stats.total_ns);
    time(hop.take).saturating_mul(50) >= time(root)
}

/// Every function that runs for the root: on its stack, or on one that took its work.
fn members(root: FunctionId, shape: &Shape, handoffs: &[Hop]) -> BTreeSet<FunctionId> {
    let mut members = BTreeSet::from([root]);
    for top in std::iter::once(root).chain(handoffs.iter().map(|hop| hop.take)) {
        members.insert(top);
        if let Some(stats) = shape.stats.get(top) {
            members.extend(&stats.below);
        }
    }
    members
}

/// Why a function that runs for the root is no span.
fn unfit(
    span: &ProposedSpan,
    function: FunctionId,
    shape: &Shape,
    handoffs: &[Hop],
) -> Option<&'static str> {
    if handoffs.iter().any(|hop| hop.take == function) {
        return None;
    }
    // Whoever gives and returns at once would be the parent of what goes on long after it.
    let gives = handoffs.iter().find(|hop| hop.give == function);
    if gives.is_some_and(|hop| span.mean_ns < hop.wait_ns.saturating_mul(2)) {
        return Some("only hands over");
    }
    if span.per_root > MOST_PER_ROOT {
        return Some("called too often for each request");
    }
    // Once a request even a short one does not cost much.
    let once = span.per_root <= 1.5 && span.mean_ns > SHORTEST_NS / 10;
    if span.mean_ns > 0 && span.mean_ns < SHORTEST_NS && !once {
        return Some("too short to be worth a span");
    }
    let caller = span.caller.and_then(|caller| shape.stats.get(caller));
    let wrapped = caller.is_some_and(|caller| {
        let same_count = caller.calls.abs_diff(span_calls(shape, function)) * 50 <= caller.calls;
        let same_time = span.mean_ns * 100 >= caller.mean_ns() * 97;
        same_count && same_time
    });
    wrapped.then_some("the same as its caller")
}

fn span_calls(shape: &Shape, function: FunctionId) -> u64 {
    shape.stats.get(function).map_or(0, |stats| stats.calls)
}

/// What a span tells: its time for each request, and its name.
fn worth(span: &ProposedSpan, fact: &Fact) -> f64 {
    let microseconds = span.per_root * span.mean_ns as f64 / 1e3;
    let few = if span.per_root > 16.0 { 3.0 } else { 0.0 };
    2.0 * (1.0 + microseconds).ln() + f64::from(fact.name.score.clamp(0, 16)) / 2.0 - few
}

/// Whether two functions ever ran on one thread.
fn shares_a_thread(calls: &Calls, one: FunctionId, other: FunctionId) -> bool {
    let lanes = |function| {
        calls
            .list()
            .iter()
            .filter(move |call| call.function == function)
            .map(|call| call.lane)
            .collect::<BTreeSet<_>>()
    };
    !lanes(one).is_disjoint(&lanes(other))
}

#[cfg(test)]
mod tests {
    use super::super::testing::Story;
    use super::super::{hops, shape};
    use super::*;

    fn fact(rate: f64) -> Fact {
        Fact { name: NameScore { score: 8, stage: None }, cost_ns: 6_500, rate }
    }

    /// 0 handles, 1 parses, 2 pushes, 3 runs on a worker and scans (4), 5 is called once a row.
    fn story() -> Story {
        let mut story = Story::of(6);
        for round in 0..30_u64 {
            let task = 0x5550_0000 + round * 0x40;
            story.enter(1, 0, 900).enter(1, 1, 800).wait(20_000).ret(1, 800);
            story.enter_with(1, 2, 800, &[0x7f00_0000, task, 0]).ret(1, 800);
            story.wait(5_000).enter_with(2, 3, 500, &[task, 0, 0]).enter(2, 4, 400);
            for _ in 0..100 {
                story.enter(2, 5, 300).wait(3_000).ret(2, 300);
            }
            story.ret(2, 400).wait(90_000).ret(2, 500).wait(1_000).ret(1, 900);
        }
        story
    }

    #[test]
    fn root_stages_and_the_way_to_the_worker() {
        let story = story();
        let calls = story.calls();
        let hops = hops(calls);
        let shape = shape(calls, &[8; 6], &hops);
        let rates = [10.0, 10.0, 10.0, 10.0, 10.0, 1_000.0];
        let facts: Vec<Fact> = rates.into_iter().map(fact).collect();
        let proposal = propose(calls, &shape, &hops, &facts, 40, 0.02).unwrap();
        assert!(proposal.spans[0].root && proposal.spans[0].function == 0);
        let functions: BTreeSet<_> = proposal.spans.iter().map(|span| span.function).collect();
        assert_eq!(functions, BTreeSet::from([0, 1, 3, 4]));
        let [handoff] = proposal.handoffs.as_slice() else { panic!("{proposal:?}") };
        assert_eq!((handoff.hop.give, handoff.hop.take), (2, 3));
        assert_eq!(proposal.left_out["called too often for each request"], [5]);
        assert_eq!(proposal.left_out["only hands over"], [2]);
        assert_eq!(proposal.requests, 30);
        assert!(proposal.other_roots.is_empty() && proposal.unconnected.is_empty());
    }

    #[test]
    fn the_root_stays_however_dear_it_is() {
        let story = story();
        let calls = story.calls();
        let shape = shape(calls, &[8; 6], &[]);
        let facts: Vec<Fact> = (0..6).map(|_| fact(100_000.0)).collect();
        let proposal = propose(calls, &shape, &[], &facts, 40, 0.02).unwrap();
        assert!(proposal.spans[0].root && proposal.spans[0].share > 0.6);
    }

    #[test]
    fn without_calls_there_is_no_proposal() {
        assert!(propose(&Calls::default(), &Shape::default(), &[], &[], 40, 0.02).is_none());
    }
}
