//! What holds for every program in Go: without loss the trees are true; with loss what is claimed is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::model::{ExitKind, MonoNs, Span, Trace};

use super::generator::Step;
use super::generator::go::{GoWorld, rules};
use super::properties::{Place, cases, place, shown};
use super::{IdSource, Limits, Stitcher};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..250)
}

/// The traces, each with the number of events that had been read when it came.
fn stitch(world: &GoWorld, kept: &[bool], end: u64) -> Vec<(usize, Trace)> {
    let mut stitcher = Stitcher::new(rules(), Limits::default(), IdSource::new(1));
    let mut traces = Vec::new();
    for (at, event) in world.events.iter().enumerate().filter(|(at, _)| kept[*at]) {
        stitcher.push(event);
        traces.extend(stitcher.take_completed().into_iter().map(|trace| (at, trace)));
    }
    stitcher.finish(MonoNs(end));
    traces.extend(stitcher.take_completed().into_iter().map(|trace| (usize::MAX, trace)));
    traces
}

proptest! {
    #![proptest_config(Config { cases: cases(), failure_persistence: None, ..Config::default() })]

    #[test]
    fn without_loss_the_trees_are_true(steps in steps()) {
        let world = GoWorld::run(&steps);
        let traces = stitch(&world, &vec![true; world.events.len()], 1_000_000);
        let spans: BTreeMap<Place, &Span> =
            traces.iter().flat_map(|(_, trace)| &trace.spans).map(|span| (place(span), span)).collect();
        let places: BTreeMap<_, Place> =
            spans.values().map(|span| (span.id, place(span))).collect();
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
            prop_assert_eq!(span.evidence.to_string(), truth.evidence, "{:?}", truth);
            prop_assert_eq!(span.exit, truth.exit, "{:?}", truth);
            prop_assert_eq!(span.lost, 0);
            if let (Some(end), true) = (truth.end, truth.exit != ExitKind::Inferred) {
                prop_assert_eq!(span.end.0, end, "{:?}", truth);
            }
        }
    }

    #[test]
    fn with_loss_what_is_claimed_is_true(
        steps in steps(),
        dice in prop::collection::vec(any::<u8>(), 64),
        rate in 0_u8..100,
    ) {
        let world = GoWorld::run(&steps);
        let events = &world.events;
        let kept: Vec<bool> = (0..events.len())
            .map(|at| dice[(at * 7 + at / 64) % 64].wrapping_add((at / 13) as u8) >= rate)
            .collect();
        let traces = stitch(&world, &kept, 1_000_000);
        let truths: BTreeMap<Place, usize> =
            world.truths.iter().enumerate().map(|(at, truth)| ((truth.lane, truth.start), at)).collect();
        let ids: BTreeMap<_, Place> = traces
            .iter()
            .flat_map(|(_, trace)| &trace.spans)
            .map(|span| (span.id, place(span)))
            .collect();
        let position = |time: u64| events.iter().position(|event| event.time.0 >= time);
        for (sent, trace) in &traces {
            for span in &trace.spans {
                let Some(truth) = truths.get(&place(span)).map(|at| &world.truths[*at]) else {
                    // Of a call that began twice the first event was lost.
                    continue;
                };
                let Some(from) = position(truth.start) else {
                    return Err(TestCaseError::fail("no such event"));
                };
                let claimed = span.parent.and_then(|parent| truths.get(&ids[&parent]));
                if let Some(claimed) = claimed {
                    // Losses that nothing had shown yet when the trace was sent cannot be known.
                    let hidden =
                        (0..from).any(|at| !kept[at] && !shown(events, &kept, at, *sent));
                    prop_assert!(
                        truth.above.contains(claimed) || hidden,
                        "claimed {:?}: {:?} {:?}", world.truths[*claimed], truth, span
                    );
                }
                if matches!(span.exit, ExitKind::Landing | ExitKind::Ret | ExitKind::Unwound) {
                    prop_assert_eq!(Some(span.end.0), truth.end);
                }
            }
        }
    }
}
