//! What holds for every program: without loss the trees are true; with loss what is claimed is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::model::{Event, EventBody, ExitKind, Lane, MonoNs, Rules, Span, SpanId, Trace};

use super::generator::{Step, World, rules};
use super::{IdSource, Limits, Stitcher};

pub(super) fn cases() -> u32 {
    std::env::var("QPROF_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(500)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..200)
}

/// When what is still open is sent as it is.
pub(super) const END: u64 = 1_000_000;

/// The traces, each with the number of events that had been read when it came.
pub(super) fn stitch(rules: Rules, events: &[Event], kept: &[bool]) -> Vec<(usize, Trace)> {
    let mut stitcher = Stitcher::new(rules, Limits::default(), IdSource::new(1));
    let mut traces = Vec::new();
    for (at, event) in events.iter().enumerate().filter(|(at, _)| kept[*at]) {
        stitcher.push(event);
        traces.extend(stitcher.take_completed().into_iter().map(|trace| (at, trace)));
    }
    stitcher.finish(MonoNs(END));
    traces.extend(stitcher.take_completed().into_iter().map(|trace| (usize::MAX, trace)));
    traces
}

pub(super) type Place = (Lane, u64);

const fn place(span: &Span) -> Place {
    (span.lane, span.start.0)
}

/// The spans by their places, and the places by ids.
pub(super) struct Spans<'a> {
    pub(super) at: BTreeMap<Place, &'a Span>,
    pub(super) places: BTreeMap<SpanId, Place>,
}

impl<'a> Spans<'a> {
    pub(super) fn of(traces: &'a [(usize, Trace)]) -> Self {
        let all = || traces.iter().flat_map(|(_, trace)| &trace.spans);
        Self {
            at: all().map(|span| (place(span), span)).collect(),
            places: all().map(|span| (span.id, place(span))).collect(),
        }
    }
}

/// Which events are not lost, by the dice.
pub(super) fn kept(events: usize, dice: &[u8], rate: u8) -> Vec<bool> {
    let is_kept = |at: usize| dice[(at * 7 + at / 64) % 64].wrapping_add((at / 13) as u8) >= rate;
    (0..events).map(is_kept).collect()
}

/// Whether an event until `until` shows that event `lost` of its lane is: a later one of the same
/// thread, or of the next thread of that id, if the first was seen at all.
pub(super) fn shown(events: &[Event], kept: &[bool], lost: usize, until: usize) -> bool {
    let lane = events[lost].lane;
    let mine = |at: &usize| events[*at].lane == lane;
    let ends = |at: &usize| events[*at].body == EventBody::LaneEnd;
    let begin = (0..lost).rev().filter(mine).find(ends).map_or(0, |end| end + 1);
    let end = (lost..events.len()).filter(mine).find(ends).unwrap_or(events.len());
    let until = until.saturating_add(1).min(events.len());
    let seen = |from: usize, to: usize| (from..to).filter(mine).any(|at| kept[at]);
    seen(lost, until.min(end.saturating_add(1))) || (seen(begin, lost) && seen(lost, until))
}

proptest! {
    #![proptest_config(Config { cases: cases(), failure_persistence: None, ..Config::default() })]

    #[test]
    fn without_loss_the_trees_are_true(steps in steps()) {
        let world = World::run(&steps);
        let traces = stitch(rules(), &world.events, &vec![true; world.events.len()]);
        let Spans { at: spans, places } = Spans::of(&traces);
        let expected = world.truths.iter().filter(|truth| truth.proven.is_some());
        prop_assert_eq!(spans.len(), expected.clone().count());
        for truth in expected {
            let Some(span) = spans.get(&(truth.lane, truth.start)) else {
                return Err(TestCaseError::fail(format!("missing: {truth:?}")));
            };
            let parent = truth.proven.flatten().map(|parent| &world.truths[parent]);
            prop_assert_eq!(&*span.name, truth.name);
            prop_assert_eq!(
                span.parent.map(|parent| places[&parent]),
                parent.map(|parent| (parent.lane, parent.start)),
                "parent of {:?}, {:?}", truth, span
            );
            prop_assert_eq!(span.exit, truth.exit, "{:?}", truth);
            prop_assert_eq!(span.links.len(), truth.links, "{:?} {:?}", truth, span);
            prop_assert_eq!(span.lost, 0);
            prop_assert_eq!(
                span.evidence.to_string().starts_with("handoff:"), truth.by_handoff, "{:?}", truth
            );
            match (span.exit, truth.end) {
                (ExitKind::Inferred, Some(true_end)) => {
                    let mut bound = u64::MAX;
                    let mut above = span.parent;
                    while let Some(parent) = above.map(|parent| spans[&places[&parent]]) {
                        if parent.exit != ExitKind::Open {
                            bound = bound.min(parent.end.0);
                        }
                        above = parent.parent;
                    }
                    let bound = bound.max(span.start.0);
                    prop_assert!(span.end.0 <= bound, "{:?} {:?}", truth, span);
                    // Work that was handed over may go on beyond that bound.
                    prop_assert!(span.end.0 >= true_end.min(bound), "{:?} {:?}", truth, span);
                }
                (_, Some(true_end)) => prop_assert_eq!(span.end.0, true_end),
                (_, None) => {
                    let mut top = span;
                    while let Some(parent) = top.parent {
                        top = &spans[&places[&parent]];
                    }
                    let known = if top.exit == ExitKind::Open { END } else { top.end.0 };
                    prop_assert_eq!(span.end.0, known.max(span.start.0), "{:?}", truth);
                }
            }
        }
    }

    #[test]
    fn with_loss_what_is_claimed_is_true(
        steps in steps(),
        dice in prop::collection::vec(any::<u8>(), 64),
        rate in 0_u8..100,
    ) {
        let world = World::run(&steps);
        let events = &world.events;
        let mut kept = kept(events.len(), &dice, rate);
        // The numbers of a thread and of the next one of the same id may fit together by chance if
        // both the end and the beginning are lost.
        let mut ended: BTreeMap<Lane, usize> = BTreeMap::new();
        for (at, event) in events.iter().enumerate() {
            if let Some(end) = ended.remove(&event.lane) {
                kept[at] |= !kept[end];
            }
            if event.body == EventBody::LaneEnd {
                ended.insert(event.lane, at);
            }
        }
        let traces = stitch(rules(), events, &kept);
        let truths: BTreeMap<Place, usize> =
            world.truths.iter().enumerate().map(|(at, truth)| ((truth.lane, truth.start), at)).collect();
        let ids = Spans::of(&traces).places;
        let position = |time: u64| events.iter().position(|event| event.time.0 >= time);
        for (sent, trace) in &traces {
            for span in &trace.spans {
                let truth = &world.truths[truths[&place(span)]];
                let (Some(from), to) = (position(truth.start), truth.end.and_then(position)) else {
                    return Err(TestCaseError::fail("no such event"));
                };
                let to = to.unwrap_or(events.len() - 1);
                if let Some(parent) = span.parent {
                    let claimed = truths[&ids[&parent]];
                    // Losses that nothing had shown yet when the trace was sent cannot be known.
                    let hidden = (0..from).any(|at| {
                        !kept[at] && !shown(events, &kept, at, *sent)
                    });
                    // Where the key was lost the stack speaks, and says no more than that.
                    let on_stack = truth.callers.contains(&claimed);
                    prop_assert!(
                        truth.real_parent == Some(claimed)
                            || truth.givers.contains(&claimed)
                            || on_stack
                            || hidden,
                        "claimed {:?}, true {:?}: {:?} {:?}",
                        world.truths[claimed], truth.real_parent, truth, span
                    );
                }
                let hurt = (from..=to).any(|at| {
                    !kept[at]
                        && events[at].lane == span.lane
                        && shown(events, &kept, at, *sent)
                });
                prop_assert!(!hurt || span.lost > 0, "{:?} {:?}", truth, span);
                if matches!(span.exit, ExitKind::Landing | ExitKind::Ret) {
                    prop_assert_eq!(Some(span.end.0), truth.end);
                }
            }
        }
    }
}
