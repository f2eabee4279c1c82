//! Which calls of a function are recorded: all, those within a trace, or none by themselves.

use std::collections::HashSet;

use profiler_common::Cookie;

use super::build::Working;
use crate::config::SpanDecl;

/// The drafts whose calls hand-offs must see.
#[derive(Default)]
pub(super) struct HandoffSides {
    gives: HashSet<usize>,
    takes: HashSet<usize>,
    ends: HashSet<usize>,
}

impl HandoffSides {
    pub(super) fn of(handoffs: &[Working<'_>]) -> Self {
        let mut sides = Self::default();
        for handoff in handoffs {
            sides.gives.extend(&handoff.give.drafts);
            sides.takes.extend(&handoff.take.drafts);
            sides.ends.extend(handoff.until.iter().flat_map(|until| &until.drafts));
        }
        sides
    }

    /// The flags of a draft's enter sites, and what of its declaration does not hold.
    pub(super) fn flags(&self, draft: usize, span: Option<&SpanDecl>) -> (u16, Option<String>) {
        let (root, only_in_trace, fold) =
            span.map_or_else(Default::default, |span| (span.root, span.only_in_trace, span.fold));
        let takes = self.takes.contains(&draft);
        let outside = takes || self.ends.contains(&draft);
        let hands_over = outside || self.gives.contains(&draft);
        let mut flags = 0;
        if root || takes {
            flags |= Cookie::OPENS_TRACE;
        }
        if only_in_trace && !outside {
            flags |= Cookie::ONLY_IN_TRACE;
        }
        if fold && !hands_over {
            flags |= Cookie::FOLD;
        }
        let note = match (only_in_trace && outside, fold && hands_over) {
            (_, true) => Some("`fold` does not hold: every call of it may hand work over"),
            (true, false) => {
                Some("`only_in_trace` does not hold: it takes work, or ends what was given")
            }
            (false, false) => None,
        };
        (flags, note.map(str::to_owned))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(root: bool, only_in_trace: bool, fold: bool) -> SpanDecl {
        SpanDecl {
            name: "s".into(),
            selector: crate::config::Selector {
                select: crate::config::Select::Function("f".to_owned()),
                object: None,
            },
            root,
            stage: None,
            system: "x".into(),
            operation: None,
            required: false,
            only_in_trace,
            fold,
            context: None,
            line: 1,
        }
    }

    #[test]
    fn what_hands_work_over_is_seen_call_by_call() {
        let sides = HandoffSides {
            gives: HashSet::from([1]),
            takes: HashSet::from([2]),
            ends: HashSet::from([3]),
        };
        let flags = |draft, span: &SpanDecl| sides.flags(draft, Some(span));
        let both = span(false, true, true);
        assert_eq!(flags(0, &both), (Cookie::ONLY_IN_TRACE | Cookie::FOLD, None));
        assert_eq!(flags(1, &both).0, Cookie::ONLY_IN_TRACE);
        assert_eq!(flags(2, &both).0, Cookie::OPENS_TRACE);
        assert_eq!(flags(3, &both).0, 0);
        assert!((1..4).all(|draft| flags(draft, &both).1.is_some()));
        assert!(flags(3, &span(false, true, false)).1.is_some());
        assert_eq!(flags(0, &span(true, false, false)), (Cookie::OPENS_TRACE, None));
        assert_eq!(sides.flags(2, None), (Cookie::OPENS_TRACE, None));
        assert_eq!(sides.flags(0, None), (0, None));
    }
}
