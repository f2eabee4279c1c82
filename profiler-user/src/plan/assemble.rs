//! From drafts to probes: ids, sites, capture programs and the stitcher's rules.

use std::collections::HashMap;
use std::sync::Arc;

use profiler_common::{Cookie, MAX_PROBES, MAX_WORDS, Role};

use super::analyse::{Disassembler, SiteSpec};
use super::build::{Planner, Side, Working, selectors};
use super::captures::{Words, is_go};
use super::exit_sites::{Exits, resolve};
use super::reasons::pattern;
use super::recorded::HandoffSides;
use super::{CodeLookup, PlanError, PlannedProbe, ProbePlan, Site};
use crate::model::{HandoffEnd, HandoffRule, Moment, ProbeId, ProbeRule, Rules, SpanRule, Watches};
use crate::target::{ObjectId, Target};

impl<'a> Planner<'a> {
    /// From drafts to probes: who is wanted, where each ends, what each captures.
    pub(super) fn finish(
        mut self,
        target: &Target,
        handoffs: &[Working<'a>],
        lookup: &CodeLookup<'_>,
    ) -> Result<ProbePlan, PlanError> {
        let map = self.map;
        if !self.missing.is_empty() {
            return Err(PlanError::Required { map: map.name.clone(), missing: self.missing });
        }
        let drafts = self.catalogue.drafts.iter().enumerate();
        let wanted: Vec<usize> = drafts.filter(|(_, d)| d.wanted).map(|(index, _)| index).collect();
        if wanted.is_empty() {
            return Err(PlanError::Nothing { map: map.name.clone(), skipped: self.skipped });
        }
        if wanted.len() > MAX_PROBES as usize {
            return Err(self.too_many(wanted.len()));
        }
        let exits = resolve(&self.catalogue, &wanted, lookup);
        self.share_captures(&exits.groups);
        self.check_words(&wanted)?;

        let mut ids = HashMap::with_capacity(wanted.len());
        for (id, draft) in (0_u16..).zip(&wanted) {
            ids.insert(*draft, ProbeId(id));
        }
        let sides = HandoffSides::of(handoffs);
        let unseen = Exits::default();
        let mut text = Disassembler::new();
        let probes = wanted.iter().filter_map(|draft| {
            let exits = exits.of.get(draft).unwrap_or(&unseen);
            self.probe(*draft, *ids.get(draft)?, &sides, exits, &mut text)
        });
        let mut probes: Vec<PlannedProbe> = probes.collect();
        let with = exits_with(&exits.groups, &ids);
        for probe in &mut probes {
            probe.exits_with = with.get(&probe.id).copied().unwrap_or(probe.id);
        }
        let rules = self.rules(target, &wanted, &ids, handoffs);
        Ok(ProbePlan { probes, rules, foreseen: Vec::new(), skipped: self.skipped, go: None })
    }

    /// Functions that end at each other's returns capture the same words there, so that a word's
    /// position means the same whichever of them the event names.
    fn share_captures(&mut self, groups: &[Vec<usize>]) {
        for group in groups {
            let mut together = Words::default();
            for draft in group.iter().filter_map(|index| self.catalogue.drafts.get(*index)) {
                together.extend(&draft.at_ret);
            }
            for index in group {
                if let Some(draft) = self.catalogue.drafts.get_mut(*index) {
                    draft.at_ret = together.clone();
                }
            }
        }
    }

    fn check_words(&self, wanted: &[usize]) -> Result<(), PlanError> {
        let mut functions = Vec::new();
        for draft in wanted.iter().filter_map(|index| self.catalogue.drafts.get(*index)) {
            for (words, when) in [(&draft.at_enter, "enter"), (&draft.at_ret, "exit")] {
                if words.program().is_none() {
                    let count = words.len();
                    functions.push(format!("`{}` ({count} at its {when})", draft.function.name));
                }
            }
        }
        if functions.is_empty() {
            return Ok(());
        }
        Err(PlanError::TooManyWords { map: self.map.name.clone(), functions, max: MAX_WORDS })
    }

    fn too_many(&self, count: usize) -> PlanError {
        let mut widest: Vec<(usize, String)> = selectors(self.map)
            .iter()
            .enumerate()
            .map(|(index, selector)| (self.catalogue.matches(index).len(), pattern(selector)))
            .collect();
        widest.sort_by(|a, b| b.cmp(a));
        widest.dedup();
        let widest: Vec<String> =
            widest.iter().take(3).map(|(count, what)| format!("`{what}` ({count})")).collect();
        PlanError::TooManyProbes {
            map: self.map.name.clone(),
            count,
            max: MAX_PROBES as usize,
            widest: widest.join(", "),
        }
    }

    fn probe(
        &self,
        index: usize,
        id: ProbeId,
        sides: &HandoffSides,
        exits: &Exits,
        text: &mut Disassembler,
    ) -> Option<PlannedProbe> {
        let draft = self.catalogue.drafts.get(index)?;
        let object = draft.function.object;
        let (at_enter, at_ret) = (draft.at_enter.program()?, draft.at_ret.program()?);
        let needs = draft.at_enter.needs();
        let mut notes = draft.notes.clone();
        let mut sites = Vec::new();
        let span = draft.span.and_then(|span| self.map.spans.get(usize::from(span)));
        let (recorded, note) = sides.flags(index, span);
        notes.extend(note);
        let go = if is_go(draft.function.language) { Cookie::GO } else { 0 };
        let wants_value = if draft.at_ret.flag() == 0 { 0 } else { Cookie::WANTS_VALUE };
        for (_, function, analysis) in self.catalogue.copies(index) {
            let Some(spec) = analysis.enters.best(needs) else { continue };
            let frame_pointer =
                if spec.keeps_frame_pointer { Cookie::KEEPS_FRAME_POINTER } else { 0 };
            let restarts = if spec.restarts { Cookie::RESTARTS } else { 0 };
            let flags =
                draft.at_enter.flag() | wants_value | frame_pointer | recorded | go | restarts;
            sites.push(site(object, Role::Enter, spec, flags, text.text(&spec.insn)));
            notes.extend(analysis.notes.iter().map(|note| match draft.units.len() {
                0 | 1 => note.clone(),
                _ => format!("copy at {}: {note}", function.code.address),
            }));
        }
        let copies = sites.len();
        for spec in &exits.sites {
            let flags = draft.at_ret.flag() | go;
            sites.push(site(object, Role::Ret, spec, flags, text.text(&spec.insn)));
        }
        for spec in &exits.jumps {
            sites.push(site(object, Role::Ret, spec, Cookie::JUMP | go, text.text(&spec.insn)));
        }
        notes.extend_from_slice(&exits.notes);
        if !exits.seen {
            notes.push("has no return that can be seen: its end is inferred".to_owned());
        }
        Some(PlannedProbe {
            id,
            function: Arc::clone(&draft.function.name),
            object,
            span: span.map(|span| Arc::clone(&span.name)),
            copies,
            sites,
            at_enter,
            at_ret,
            exits_with: id,
            notes,
        })
    }

    fn rules(
        &self,
        target: &Target,
        wanted: &[usize],
        ids: &HashMap<usize, ProbeId>,
        handoffs: &[Working<'a>],
    ) -> Rules {
        let map = self.map;
        let spans = map.spans.iter().map(|span| SpanRule {
            name: Arc::clone(&span.name),
            stage: span.stage.clone(),
            root: span.root,
            system: Arc::clone(&span.system),
            operation: span.operation.clone(),
        });
        let mut names: HashMap<ObjectId, Arc<str>> = HashMap::new();
        let mut name_of = |id: ObjectId| {
            let name = names.entry(id).or_insert_with(|| {
                target.object(id).map_or_else(|| "?".into(), |object| object.file_name().into())
            });
            Arc::clone(name)
        };
        let drafts = wanted.iter().filter_map(|index| self.catalogue.drafts.get(*index));
        let probes = drafts.map(|draft| ProbeRule {
            function: Arc::clone(&draft.function.base_name),
            object: name_of(draft.function.object),
            span: draft.span,
            watches: Watches::Calls,
            source: None,
        });
        Rules {
            map: map.name.clone(),
            spans: spans.collect(),
            probes: probes.collect(),
            handoffs: handoffs.iter().map(|handoff| self.handoff_rule(handoff, ids)).collect(),
            orphans: map.orphans,
        }
    }

    fn handoff_rule(&self, handoff: &Working<'a>, ids: &HashMap<usize, ProbeId>) -> HandoffRule {
        let decl = handoff.decl;
        let end = |side: &Side, moment: Moment| HandoffEnd {
            probes: side
                .drafts
                .iter()
                .filter_map(|index| {
                    let draft = self.catalogue.drafts.get(*index)?;
                    let words = draft.words(moment);
                    let key = side.key.on(draft.function.language).ok()?.iter();
                    let key: Option<_> = key.map(|w| words.position(*w)).collect();
                    Some((ids.get(index)?.0, key?))
                })
                .collect(),
            moment,
        };
        HandoffRule {
            name: Arc::clone(&decl.name),
            give: end(&handoff.give, decl.give.moment),
            take: end(&handoff.take, decl.take.moment),
            until: handoff
                .until
                .as_ref()
                .zip(decl.until.as_ref())
                .map(|(side, decl)| end(side, decl.moment)),
            takes: decl.takes,
            scope: decl.scope,
            span: decl.span.clone(),
        }
    }
}

/// The probe that stands for each that shares exit sites with others.
fn exits_with(groups: &[Vec<usize>], ids: &HashMap<usize, ProbeId>) -> HashMap<ProbeId, ProbeId> {
    let mut with = HashMap::new();
    for group in groups {
        let members = || group.iter().filter_map(|draft| ids.get(draft).copied());
        with.extend(
            members().min().into_iter().flat_map(|first| members().map(move |m| (m, first))),
        );
    }
    with
}

pub(super) fn site(
    object: ObjectId,
    role: Role,
    spec: &SiteSpec,
    flags: u16,
    instruction: String,
) -> Site {
    Site {
        object,
        offset: spec.offset,
        address: spec.address,
        role,
        slot_offset: spec.slot_offset,
        flags,
        cost: spec.cost,
        instruction,
    }
}
