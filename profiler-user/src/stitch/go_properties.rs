//! What holds for every program in Go: without loss the trees are true; with loss what is claimed is.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::Config;

use crate::model::ExitKind;

use super::generator::Step;
use super::generator::go::{GoWorld, rules};
use super::properties::{Place, Spans, cases, kept, shown, stitch};

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(any::<Step>(), 0..250)
}

proptest! {
    #![proptest_config(Config { cases: cases(), failure_persistence: None, ..Config::default() })]

    #[test]
    fn without_loss_the_trees_are_true(steps in steps()) {
        let world = GoWorld::run(&steps);
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
        let kept = kept(events.len(), &dice, rate);
        let traces = stitch(rules(), events, &kept);
        let truths: BTreeMap<Place, usize> =
            world.truths.iter().enumerate().map(|(at, truth)| ((truth.lane, truth.start), at)).collect();
        let ids = Spans::of(&traces).places;
        let position = |time: u64| events.iter().position(|event| event.time.0 >= time);
        for (sent, trace) in &traces {
            for span in &trace.spans {
                let truth = &world.truths[truths[&ids[&span.id]]];
                let Some(from) = position(truth.start) else {
                    return Err(TestCaseError::fail("no such event"));
                };
                if let Some(parent) = span.parent {
                    let claimed = truths[&ids[&parent]];
                    // Losses that nothing had shown yet when the trace was sent cannot be known.
                    let hidden =
                        (0..from).any(|at| !kept[at] && !shown(events, &kept, at, *sent));
                    prop_assert!(
                        truth.above.contains(&claimed) || hidden,
                        "claimed {:?}: {:?} {:?}", world.truths[claimed], truth, span
                    );
                }
                if matches!(span.exit, ExitKind::Landing | ExitKind::Ret | ExitKind::Unwound) {
                    prop_assert_eq!(Some(span.end.0), truth.end);
                }
            }
        }
    }
}
