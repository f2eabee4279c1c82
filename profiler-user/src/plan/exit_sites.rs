//! The exit sites of the whole plan: each instruction once, whoever's calls end there.
//!
//! The kernel would run one program per site and hit, and two sites on one instruction cost twice
//! for one exit. One is enough: it ends every frame with that return slot, whichever probe it names.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::CodeLookup;
use super::analyse::SiteSpec;
use super::catalogue::Catalogue;
use super::tails::TailCalls;
use crate::model::{FileOffset, VirtAddr};
use crate::target::ObjectId;

/// How the calls of one draft end.
#[derive(Default)]
pub(super) struct Exits {
    /// The sites it owns: its own returns before those of its tail calls.
    pub(super) sites: Vec<SiteSpec>,
    /// Some exit of it can be seen, if only at a site another draft owns.
    pub(super) seen: bool,
    /// What the user should know.
    pub(super) notes: Vec<String>,
}

/// The exits of all probes.
#[derive(Default)]
pub(super) struct ExitSites {
    /// By draft.
    pub(super) of: HashMap<usize, Exits>,
    /// Drafts that end at returns of each other: what one captures there, all must.
    pub(super) groups: Vec<Vec<usize>>,
}

/// Finds the exit sites of the drafts `wanted`, in that order.
pub(super) fn resolve(
    catalogue: &Catalogue<'_>,
    wanted: &[usize],
    lookup: &CodeLookup<'_>,
) -> ExitSites {
    let mut resolver = Resolver::default();
    // All plain returns first: they win over the same instruction as a tail call's end.
    let mut planned: HashMap<(ObjectId, VirtAddr), usize> = HashMap::new();
    for &draft in wanted {
        for (_, function, analysis) in catalogue.copies(draft) {
            planned.insert((function.object, function.code.address), draft);
            for spec in &analysis.leaves.rets {
                resolver.own(draft, function.object, spec);
            }
        }
    }
    let mut tails = TailCalls::new(lookup);
    for &draft in wanted {
        for (_, function, analysis) in catalogue.copies(draft) {
            let object = function.object;
            let is_planned = |address| planned.contains_key(&(object, address));
            let ends = tails.follow(function, &analysis.leaves, &is_planned);
            for address in ends.into {
                if let Some(&other) = planned.get(&(object, address)) {
                    resolver.groups.join(draft, other);
                    let seen = resolver.exits(other).seen;
                    resolver.exits(draft).seen |= seen;
                }
            }
            for spec in ends.sites {
                resolver.borrow(draft, object, spec);
            }
            for note in ends.notes {
                let notes = &mut resolver.exits(draft).notes;
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
    }
    let Resolver { groups, of, .. } = resolver;
    ExitSites { of, groups: groups.of(wanted) }
}

#[derive(Default)]
struct Resolver {
    /// By instruction: the draft that owns the site there.
    owner: HashMap<(ObjectId, FileOffset), usize>,
    groups: Groups,
    of: HashMap<usize, Exits>,
}

impl Resolver {
    fn exits(&mut self, draft: usize) -> &mut Exits {
        self.of.entry(draft).or_default()
    }

    /// A return of the draft's own code.
    fn own(&mut self, draft: usize, object: ObjectId, spec: &SiteSpec) {
        self.exits(draft).seen = true;
        match self.owner.entry((object, spec.offset)) {
            // Overlapping symbols: one of the functions begins inside the other.
            Entry::Occupied(owner) => self.groups.join(draft, *owner.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(draft);
                self.exits(draft).sites.push(spec.clone());
            }
        }
    }

    /// A return of a function that the draft's calls may leave through.
    fn borrow(&mut self, draft: usize, object: ObjectId, spec: SiteSpec) {
        self.exits(draft).seen = true;
        match self.owner.entry((object, spec.offset)) {
            Entry::Occupied(owner) if *owner.get() == draft => {}
            Entry::Occupied(owner) => self.groups.join(draft, *owner.get()),
            Entry::Vacant(vacant) => {
                vacant.insert(draft);
                self.exits(draft).sites.push(spec);
            }
        }
    }
}

/// Sets of drafts, merged as they turn out to share exits (union-find).
#[derive(Default)]
struct Groups {
    parent: HashMap<usize, usize>,
}

impl Groups {
    fn root(&mut self, draft: usize) -> usize {
        let mut at = draft;
        while let Some(&up) = self.parent.get(&at)
            && up != at
        {
            at = up;
        }
        // Shorten the way for the next one.
        self.parent.insert(draft, at);
        at
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.root(a), self.root(b));
        self.parent.insert(a.max(b), a.min(b));
    }

    /// The sets of two and more, members in the order of `wanted`.
    fn of(mut self, wanted: &[usize]) -> Vec<Vec<usize>> {
        let mut sets: Vec<Vec<usize>> = Vec::new();
        let mut set_of: HashMap<usize, usize> = HashMap::new();
        for &draft in wanted {
            let root = self.root(draft);
            let set = *set_of.entry(root).or_insert_with(|| {
                sets.push(Vec::new());
                sets.len() - 1
            });
            if let Some(set) = sets.get_mut(set) {
                set.push(draft);
            }
        }
        sets.retain(|set| set.len() > 1);
        sets
    }
}

#[cfg(test)]
mod tests {
    use super::Groups;

    #[test]
    fn groups_merge_and_keep_the_plans_order() {
        let mut groups = Groups::default();
        groups.join(4, 2);
        groups.join(7, 4);
        groups.join(5, 5);
        groups.join(9, 1);
        assert_eq!(groups.of(&[7, 1, 2, 3, 4, 5, 9]), [vec![7, 2, 4], vec![1, 9]]);
    }
}
