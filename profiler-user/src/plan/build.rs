//! From a symbol map and what its selectors found to a plan.

use std::collections::HashSet;

use super::captures::Keys;
use super::catalogue::{Catalogue, Match};
use super::enter::Needs;
use super::reasons::{missing, pattern, why_nothing};
use super::{CodeLookup, KernelForms, Missing, PlanError, ProbePlan, Skipped};
use crate::config::{EndDecl, HandoffDecl, Selector, SpanDecl, SymbolMap};
use crate::model::Moment;
use crate::symbols::Found;
use crate::target::Target;

/// The selectors of a map, in the order [`build`] wants their results: those of the spans, then
/// the give, the take and the until of each hand-off.
#[must_use]
pub fn selectors(map: &SymbolMap) -> Vec<&Selector> {
    let spans = map.spans.iter().map(|span| &span.selector);
    let ends = map
        .handoffs
        .iter()
        .flat_map(|handoff| [&handoff.give, &handoff.take].into_iter().chain(&handoff.until));
    spans.chain(ends.map(|end| &end.selector)).collect()
}

/// Plans the probes for a map.
///
/// `found`: what each of [`selectors`] found, in that order. `lookup`: the function that starts at
/// an address of an object, to follow tail calls and to know where functions begin; one that
/// merely contains the address is taken for none. `target`: names the objects. `forms`: what this
/// kernel may be trusted with.
///
/// # Errors
///
/// Required spans that cannot be observed, nothing to probe at all, more probes than
/// [`profiler_common::MAX_PROBES`], more captured words than [`profiler_common::MAX_WORDS`] of one call, or a `found` that does not
/// belong to this map.
pub fn build(
    map: &SymbolMap,
    target: &Target,
    found: &[Found],
    lookup: &CodeLookup<'_>,
    forms: KernelForms,
) -> Result<ProbePlan, PlanError> {
    let wanted = selectors(map).len();
    if found.len() != wanted {
        let what = format!("{wanted} selectors, {} results: a fault in qprof", found.len());
        return Err(PlanError::Unusable { map: map.name.clone(), what });
    }
    if u16::try_from(map.spans.len()).is_err() {
        let what = format!("{} spans; {} is the most", map.spans.len(), u16::MAX);
        return Err(PlanError::Unusable { map: map.name.clone(), what });
    }
    let mut planner = Planner {
        map,
        found,
        catalogue: Catalogue::of(found, lookup, forms),
        skipped: Vec::new(),
        missing: Vec::new(),
    };
    planner.assign_spans();
    let handoffs = planner.assign_handoffs()?;
    planner.finish(target, &handoffs, lookup)
}

/// A hand-off, as far as its sides can be probed.
pub(super) struct Working<'a> {
    pub(super) decl: &'a HandoffDecl,
    pub(super) give: Side,
    pub(super) take: Side,
    pub(super) until: Option<Side>,
}

/// One side of it: the drafts on it, and the words of its key.
pub(super) struct Side {
    pub(super) drafts: Vec<usize>,
    pub(super) key: Keys,
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub(super) map: &'a SymbolMap,
    found: &'a [Found],
    pub(super) catalogue: Catalogue<'a>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) missing: Vec<Missing>,
}

impl<'a> Planner<'a> {
    fn assign_spans(&mut self) {
        let map = self.map;
        for (selector, span) in map.spans.iter().enumerate() {
            let wanted_by = format!("span `{}`", span.name);
            let before = self.skipped.len();
            let drafts = self.usable(selector, &span.selector, &wanted_by, span.line);
            if drafts.is_empty() {
                if span.required {
                    let reasons = self.skipped.split_off(before);
                    self.missing.push(missing(span, &reasons));
                }
                continue;
            }
            let Ok(index) = u16::try_from(selector) else { continue };
            for draft in drafts {
                self.give_span(draft, index, span);
            }
        }
    }

    /// Makes a function a span of this kind, unless an earlier span has it.
    fn give_span(&mut self, draft: usize, index: u16, span: &SpanDecl) {
        let map = self.map;
        let Some(draft) = self.catalogue.drafts.get_mut(draft) else { return };
        draft.wanted = true;
        match draft.span {
            None => draft.span = Some(index),
            Some(first) if first == index => {}
            Some(first) => {
                let first = map.spans.get(usize::from(first)).map_or("?", |span| &span.name);
                self.skipped.push(Skipped {
                    wanted_by: format!("span `{}`", span.name),
                    what: draft.function.name.to_string(),
                    why: format!(
                        "it is span `{first}` already: the first span that matches a function \
                         wins; put the narrower pattern first"
                    ),
                    line: span.line,
                });
            }
        }
    }

    /// The drafts a selector's functions belong to; what is not usable is added to the skipped.
    fn usable(
        &mut self,
        selector: usize,
        decl: &Selector,
        wanted_by: &str,
        line: usize,
    ) -> Vec<usize> {
        let skip = |what: String, why: String| Skipped {
            wanted_by: wanted_by.to_owned(),
            what,
            why,
            line,
        };
        let mut drafts = Vec::new();
        let mut seen = HashSet::new();
        let matches: Vec<Match<'a>> = self.catalogue.matches(selector).to_vec();
        if matches.is_empty() {
            let nothing = self.found.get(selector).and_then(|found| found.nothing.as_ref());
            self.skipped.push(skip(pattern(decl), why_nothing(nothing)));
        }
        for m in matches {
            match self.catalogue.draft_of(m) {
                Ok(draft) if !seen.insert(draft) => {}
                Ok(draft) => drafts.push(draft),
                Err(why) => {
                    let what = format!("{} at {}", m.function.name, m.function.code.address);
                    self.skipped.push(skip(what, why));
                }
            }
        }
        drafts
    }

    fn assign_handoffs(&mut self) -> Result<Vec<Working<'a>>, PlanError> {
        let map = self.map;
        let mut working = Vec::new();
        let mut next = map.spans.len();
        for decl in &map.handoffs {
            let selector = next;
            next += 2 + usize::from(decl.until.is_some());
            let (give_key, take_key) = (self.key(decl, &decl.give)?, self.key(decl, &decl.take)?);
            let give = self.usable_end(selector, decl, &decl.give, &give_key, "give");
            let take = self.usable_end(selector + 1, decl, &decl.take, &take_key, "take");
            if give.is_empty() || take.is_empty() {
                let none = match (give.is_empty(), take.is_empty()) {
                    (true, true) => "neither side can be probed (see above)",
                    (true, false) => "its give side cannot be probed",
                    _ => "its take side cannot be probed",
                };
                self.skipped.push(Skipped {
                    wanted_by: format!("hand-off `{}`", decl.name),
                    what: format!("hand-off `{}`", decl.name),
                    why: format!(
                        "{none}, so that it never matches: work handed over this way has no \
                         parent by it"
                    ),
                    line: decl.line,
                });
            }
            // The other side may come with an object that is loaded later. A function is not probed
            // for one half alone, but one that is probed anyway has the words ready.
            let half = give.is_empty() || take.is_empty();
            let (give, take) = if half {
                (self.probed_anyway(give), self.probed_anyway(take))
            } else {
                (give, take)
            };
            if give.is_empty() && take.is_empty() {
                continue;
            }
            self.capture(decl.give.moment, &give, &give_key);
            self.capture(decl.take.moment, &take, &take_key);
            let until = match &decl.until {
                Some(end) => self.until(selector + 2, decl, end)?,
                None => None,
            };
            working.push(Working {
                decl,
                give: Side { drafts: give, key: give_key },
                take: Side { drafts: take, key: take_key },
                until,
            });
        }
        Ok(working)
    }

    /// The side that ends keys. Without it the hand-off still works, while the giver's trace lives.
    fn until(
        &mut self,
        selector: usize,
        decl: &HandoffDecl,
        end: &EndDecl,
    ) -> Result<Option<Side>, PlanError> {
        let key = self.key(decl, end)?;
        let drafts = self.usable_end(selector, decl, end, &key, "until");
        self.capture(end.moment, &drafts, &key);
        Ok((!drafts.is_empty()).then_some(Side { drafts, key }))
    }

    /// The drafts of one side whose key can be captured.
    fn usable_end(
        &mut self,
        selector: usize,
        decl: &HandoffDecl,
        end: &EndDecl,
        key: &Keys,
        side: &str,
    ) -> Vec<usize> {
        let wanted_by = format!("hand-off `{}` ({side})", decl.name);
        let mut drafts = self.usable(selector, &end.selector, &wanted_by, decl.line);
        drafts.retain(|draft| {
            let Some(why) = self.cannot_capture(*draft, key, end.moment) else { return true };
            let what = self.catalogue.drafts.get(*draft).map_or("?", |d| &*d.function.name);
            self.skipped.push(Skipped {
                wanted_by: wanted_by.clone(),
                what: what.to_string(),
                why,
                line: decl.line,
            });
            false
        });
        drafts
    }

    fn probed_anyway(&self, mut drafts: Vec<usize>) -> Vec<usize> {
        drafts.retain(|index| self.catalogue.drafts.get(*index).is_some_and(|draft| draft.wanted));
        drafts
    }

    /// Why a key cannot be captured on this function; none if it can, on every copy.
    fn cannot_capture(&self, draft: usize, key: &Keys, moment: Moment) -> Option<String> {
        let language = self.catalogue.drafts.get(draft)?.function.language;
        let words = match key.on(language) {
            Ok(words) => words,
            Err(why) => return Some(why.to_owned()),
        };
        let mut needs = Needs::default();
        if moment == Moment::Enter {
            for word in words {
                needs.add(*word);
            }
        }
        let at = |address| format!(" (copy at {address}); choose another function for this key");
        for (_, function, analysis) in self.catalogue.copies(draft) {
            let address = function.code.address;
            if moment == Moment::Enter && analysis.enters.best(needs).is_none() {
                let why = "its key is overwritten before the first instruction that may carry a \
                           probe";
                return Some(format!("{why}{}", at(address)));
            }
            let leaves = &analysis.leaves;
            if moment == Moment::Exit && leaves.rets.is_empty() && leaves.tails.is_empty() {
                return Some(format!("none of its exits can be seen{}", at(address)));
            }
        }
        None
    }

    /// The words of one side's key.
    fn key(&self, decl: &HandoffDecl, end: &EndDecl) -> Result<Keys, PlanError> {
        Keys::of(end).map_err(|what| PlanError::BadKey {
            map: self.map.name.clone(),
            handoff: decl.name.to_string(),
            what,
        })
    }

    /// Lets the drafts of one side capture its key.
    fn capture(&mut self, moment: Moment, drafts: &[usize], key: &Keys) {
        for index in drafts {
            let Some(draft) = self.catalogue.drafts.get_mut(*index) else { continue };
            draft.wanted = true;
            for word in key.on(draft.function.language).unwrap_or_default() {
                draft.words_mut(moment).add(*word);
            }
        }
    }
}
