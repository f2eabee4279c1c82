//! The functions that were found, each piece of code once, and whose probe each would be.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::analyse::{Analysis, analyse};
use super::captures::Words;
use super::listing::Refused;
use super::{CodeLookup, KernelForms};
use crate::model::{Moment, VirtAddr};
use crate::symbols::{Found, Function, Language};
use crate::target::ObjectId;

/// A piece of code: one copy of a function, or of several that were folded into one.
pub(super) struct Unit<'a> {
    pub(super) function: &'a Function,
    pub(super) analysis: Result<Analysis, Refused>,
    /// The draft it belongs to, if it can be probed.
    pub(super) draft: Option<usize>,
}

/// A probe in the making: a function by its name and language in its object, with all its copies.
pub(super) struct Draft<'a> {
    pub(super) function: &'a Function,
    pub(super) units: Vec<usize>,
    pub(super) span: Option<u16>,
    /// Some span or working hand-off wants it.
    pub(super) wanted: bool,
    pub(super) at_enter: Words,
    pub(super) at_ret: Words,
    pub(super) notes: Vec<String>,
}

/// A function a selector found, as a unit.
#[derive(Clone, Copy)]
pub(super) struct Match<'a> {
    pub(super) unit: usize,
    /// The function under the name it was found by.
    pub(super) function: &'a Function,
}

/// All functions found.
pub(super) struct Catalogue<'a> {
    pub(super) units: Vec<Unit<'a>>,
    pub(super) drafts: Vec<Draft<'a>>,
    /// By selector: what it found.
    pub(super) matches: Vec<Vec<Match<'a>>>,
    /// What this kernel may be trusted with.
    pub(super) forms: KernelForms,
}

type Code = (ObjectId, VirtAddr);

impl<'a> Catalogue<'a> {
    /// Takes every function found apart, each piece of code once.
    pub(super) fn of(found: &'a [Found], lookup: &CodeLookup<'_>, forms: KernelForms) -> Self {
        let starts: HashSet<Code> = found.iter().flat_map(|f| &f.functions).map(code_of).collect();
        let mut units: Vec<Unit<'a>> = Vec::new();
        let mut drafts: Vec<Draft<'a>> = Vec::new();
        let mut unit_at: HashMap<Code, usize> = HashMap::new();
        let mut draft_of: HashMap<(ObjectId, Language, &'a str), usize> = HashMap::new();
        let mut matches = Vec::with_capacity(found.len());
        for found in found {
            let mut here: Vec<Match<'a>> = Vec::with_capacity(found.functions.len());
            let mut seen: HashSet<(usize, &str)> = HashSet::new();
            for function in &found.functions {
                let unit = *unit_at.entry(code_of(function)).or_insert_with(|| {
                    units.push(unit_of(function, &starts, lookup, forms));
                    units.len() - 1
                });
                if seen.insert((unit, &function.name)) {
                    here.push(Match { unit, function });
                }
                let Some(unit_ref) = units.get_mut(unit) else { continue };
                if unit_ref.analysis.is_err() {
                    continue;
                }
                if let Some(draft) = unit_ref.draft.and_then(|draft| drafts.get_mut(draft)) {
                    draft.add_alias(&function.name, function.code.address);
                    continue;
                }
                let name = (function.object, function.language, &*function.name);
                let draft = *draft_of.entry(name).or_insert_with(|| {
                    drafts.push(Draft::of(function));
                    drafts.len() - 1
                });
                unit_ref.draft = Some(draft);
                if let Some(draft) = drafts.get_mut(draft) {
                    draft.units.push(unit);
                    if let Some(other) = lookup(function.object, function.code.address)
                        && other.code.address == function.code.address
                    {
                        draft.add_alias(&other.name, function.code.address);
                    }
                }
            }
            matches.push(here);
        }
        for unit in &units {
            let Err(refused) = &unit.analysis else { continue };
            let Function { object, language, name, .. } = unit.function;
            let draft = draft_of.get(&(*object, *language, &**name));
            if let Some(draft) = draft.and_then(|draft| drafts.get_mut(*draft)) {
                let address = unit.function.code.address;
                draft.notes.push(format!("the copy at {address} is not probed: {refused}"));
            }
        }
        Self { units, drafts, matches, forms }
    }

    /// What a selector found.
    pub(super) fn matches(&self, selector: usize) -> &[Match<'a>] {
        self.matches.get(selector).map_or(&[], Vec::as_slice)
    }

    /// The draft a match belongs to, or why its code cannot be probed.
    pub(super) fn draft_of(&self, m: Match<'a>) -> Result<usize, String> {
        let Some(unit) = self.units.get(m.unit) else { return Err("unknown code".to_owned()) };
        match (&unit.analysis, unit.draft) {
            (Err(refused), _) => Err(refused.to_string()),
            (Ok(_), Some(draft)) => Ok(draft),
            (Ok(_), None) => Err("its code belongs to no function".to_owned()),
        }
    }

    /// The copies of a draft that can be probed, with their units.
    pub(super) fn copies(
        &self,
        draft: usize,
    ) -> impl Iterator<Item = (usize, &'a Function, &Analysis)> {
        let units = self.drafts.get(draft).map_or(&[][..], |draft| draft.units.as_slice());
        units.iter().filter_map(|&index| {
            let unit = self.units.get(index)?;
            Some((index, unit.function, unit.analysis.as_ref().ok()?))
        })
    }
}

impl<'a> Draft<'a> {
    fn of(function: &'a Function) -> Self {
        Self {
            function,
            units: Vec::new(),
            span: None,
            wanted: false,
            at_enter: Words::default(),
            at_ret: Words::default(),
            notes: Vec::new(),
        }
    }

    /// The words captured at a moment of the call.
    pub(super) fn words(&self, moment: Moment) -> &Words {
        match moment {
            Moment::Enter => &self.at_enter,
            Moment::Exit => &self.at_ret,
        }
    }

    pub(super) fn words_mut(&mut self, moment: Moment) -> &mut Words {
        match moment {
            Moment::Enter => &mut self.at_enter,
            Moment::Exit => &mut self.at_ret,
        }
    }

    fn add_alias(&mut self, name: &Arc<str>, address: VirtAddr) {
        if *name == self.function.name {
            return;
        }
        let note = format!(
            "`{name}` is the same code at {address} (identical-code folding or an alias): its \
             calls are seen as this function's"
        );
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

fn code_of(function: &Function) -> Code {
    (function.object, function.code.address)
}

fn unit_of<'a>(
    function: &'a Function,
    starts: &HashSet<Code>,
    lookup: &CodeLookup<'_>,
    forms: KernelForms,
) -> Unit<'a> {
    let object = function.object;
    let starts_another = |address: VirtAddr| {
        address != function.code.address
            && (starts.contains(&(object, address))
                || lookup(object, address).is_some_and(|other| other.code.address == address))
    };
    Unit { function, analysis: analyse(function, &starts_another, forms), draft: None }
}
