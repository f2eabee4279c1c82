//! What spans are called, and by number: which of them have the same name.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::model::{Evidence, ProbeId, Rules};

use super::trace::{Basis, What};

/// What a finished span takes from the rules.
#[derive(Clone, Debug)]
struct Label {
    /// The same for the same name.
    number: u32,
    name: Arc<str>,
    stage: Option<Arc<str>>,
}

/// The names of everything that makes spans, found once.
#[derive(Debug)]
pub(super) struct Names {
    /// By probe; none makes no span.
    calls: Vec<Option<Label>>,
    /// By hand-off; none makes no span.
    waits: Vec<Option<Label>>,
    handoffs: Vec<Arc<str>>,
    numbers: FxHashMap<Arc<str>, u32>,
    queue: Arc<str>,
    unnamed: Label,
    /// The spans whose calls, or some of them, are not seen any more.
    detached: Arc<[Arc<str>]>,
}

impl Names {
    pub(super) fn of_rules(rules: &Rules) -> Self {
        let mut names = Self {
            calls: Vec::new(),
            waits: Vec::new(),
            handoffs: Vec::new(),
            numbers: FxHashMap::default(),
            queue: Arc::from("queue"),
            unnamed: Label { number: u32::MAX, name: Arc::from(""), stage: None },
            detached: Arc::from([]),
        };
        names.grow(rules);
        names
    }

    /// Those known keep their numbers.
    pub(super) fn grow(&mut self, rules: &Rules) {
        let numbers = &mut self.numbers;
        let mut label = |name: &Arc<str>, stage: Option<&Arc<str>>| {
            let next = numbers.len() as u32;
            let number = *numbers.entry(Arc::clone(name)).or_insert(next);
            Label { number, name: Arc::clone(name), stage: stage.cloned() }
        };
        let spans: Vec<Label> =
            rules.spans.iter().map(|span| label(&span.name, span.stage.as_ref())).collect();
        let waits = rules.handoffs.iter().map(|rule| rule.span.as_ref());
        let queue = Some(&self.queue);
        self.waits = waits.map(|name| name.map(|name| label(name, queue))).collect();
        let of_probe = |span: Option<u16>| spans.get(usize::from(span?)).cloned();
        self.calls = rules.probes.iter().map(|probe| of_probe(probe.span)).collect();
        self.handoffs = rules.handoffs.iter().map(|rule| Arc::clone(&rule.name)).collect();
    }

    /// The number of a span's name: the same for the same name.
    pub(super) fn of(&self, what: What) -> u32 {
        self.label(what).number
    }

    /// The name and the stage of a span.
    pub(super) fn name(&self, what: What) -> (Arc<str>, Option<Arc<str>>) {
        let label = self.label(what);
        (Arc::clone(&label.name), label.stage.clone())
    }

    /// The evidence of a parent.
    pub(super) fn evidence(&self, basis: Basis) -> Evidence {
        match basis {
            Basis::Stack => Evidence::Stack,
            Basis::Cgo => Evidence::Cgo,
            Basis::Context => Evidence::Context,
            Basis::Spawn => Evidence::Spawn,
            Basis::Handoff(rule) => {
                let name = self.handoffs.get(usize::from(rule)).unwrap_or(&self.unnamed.name);
                Evidence::Handoff(Arc::clone(name))
            }
            Basis::None => Evidence::None,
        }
    }

    /// Calls of a function are not seen any more: every trace from now on says so.
    pub(super) fn detach(&mut self, probe: ProbeId) {
        let Some(label) = self.calls.get(probe.index()).and_then(Option::as_ref) else { return };
        if !self.detached.contains(&label.name) {
            let more = [Arc::clone(&label.name)];
            self.detached = self.detached.iter().chain(&more).map(Arc::clone).collect();
        }
    }

    /// The spans whose calls, or some of them, are not seen any more.
    pub(super) fn detached(&self) -> Arc<[Arc<str>]> {
        Arc::clone(&self.detached)
    }

    fn label(&self, what: What) -> &Label {
        let label = match what {
            What::Call(probe) => self.calls.get(probe.index()),
            What::Wait(rule) => self.waits.get(usize::from(rule)),
        };
        // Rules never shrink, so whatever has made a span has a label.
        label.and_then(Option::as_ref).unwrap_or(&self.unnamed)
    }
}
