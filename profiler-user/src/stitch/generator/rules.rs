//! The probes of the programs, and the rules they are under.

use std::sync::Arc;

use crate::model::{
    HandoffEnd, HandoffRule, Moment, OrphanPolicy, ProbeRule, Rules, Scope, SpanRule, Takes,
    Watches,
};

pub(in crate::stitch) const ROOT: u16 = 0;
pub(in crate::stitch) const PLAIN: [u16; 3] = [1, 2, 3];
pub(in crate::stitch) const TOUCH: u16 = 4;
pub(in crate::stitch) const GIVE_ONE: u16 = 5;
pub(in crate::stitch) const GIVE_ANY: u16 = 6;
pub(in crate::stitch) const TAKE_ONE: u16 = 7;
pub(in crate::stitch) const TAKE_ANY: u16 = 8;
pub(in crate::stitch) const PASS_ONE: u16 = 9;
pub(in crate::stitch) const MERGE: u16 = 10;

/// Probes 0–3 are spans (0 a root), 4 makes none, 5 and 6 give, 7 and 8 take (8: as often as one
/// likes), 9 takes and makes no span, 10 takes two keys.
pub(in crate::stitch) fn rules() -> Rules {
    let names = ["root", "a", "b", "c", "", "", "", "task", "plan", "", "merge"];
    let spans: Vec<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    let probe = |name: &&str| ProbeRule {
        function: Arc::from(*name),
        object: Arc::from("server"),
        span: spans.iter().position(|other| other == name).map(|at| at as u16),
        watches: Watches::Calls,
        source: None,
    };
    let end = |probes: &[(u16, u8)]| HandoffEnd {
        probes: probes.iter().map(|(probe, word)| (*probe, vec![*word])).collect(),
        moment: Moment::Enter,
    };
    let handoff = |name: &str, give, take, takes| HandoffRule {
        name: Arc::from(name),
        give,
        take,
        until: None,
        takes,
        scope: Scope::Process,
        span: None,
    };
    Rules {
        spans: spans
            .iter()
            .map(|name| SpanRule {
                name: Arc::from(*name),
                stage: None,
                root: *name == "root",
                system: Arc::from(""),
                operation: None,
            })
            .collect(),
        probes: names.iter().map(probe).collect(),
        handoffs: vec![
            handoff(
                "one",
                end(&[(GIVE_ONE, 0)]),
                end(&[(TAKE_ONE, 0), (PASS_ONE, 0), (MERGE, 0)]),
                Takes::Times(1),
            ),
            handoff("any", end(&[(GIVE_ANY, 0)]), end(&[(TAKE_ANY, 0), (MERGE, 1)]), Takes::Any),
        ],
        orphans: OrphanPolicy::Drop,
        ..Rules::default()
    }
}
