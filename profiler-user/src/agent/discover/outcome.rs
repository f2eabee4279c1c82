//! From what was seen to a map that passes its own check.

use super::{DiscoverError, Discovered, Rounds, candidates::Candidate, slice::SHARE};
use crate::agent::{Aim, Search, prepare_with};
use crate::config::{MapOrigin, Select, Selector, SymbolMap, parse_map};
use crate::discover::{Chosen, Fact, FunctionId, Header, Hop, Proposal, Shape, propose, write};
use crate::plan::Skipped;
use crate::symbols::SymbolSet;
use crate::target::MappedObject;

/// So many spans are proposed.
const MOST_SPANS: usize = 40;
/// How often what does not pass is taken out.
const TRIES: usize = 5;
/// How many functions one exact selector may match while it is tried.
const MOST_COPIES: usize = 256;

impl Rounds<'_> {
    /// Writes the map, reads it back, plans it, and takes out what is not probed.
    pub(super) fn propose(
        &self,
        symbols: &SymbolSet,
        called: &[FunctionId],
        hops: &[Hop],
        shape: &Shape,
    ) -> anyhow::Result<Discovered> {
        let facts = self.facts();
        let proposal = propose(&self.calls, shape, hops, &facts, MOST_SPANS, SHARE);
        let Some(mut proposal) = proposal else {
            let most = called.iter().take(3).filter_map(|function| self.candidates.get(*function));
            let most: Vec<&str> = most.map(|candidate| &*candidate.base_name).collect();
            return Err(DiscoverError::NoRoot {
                pid: self.target.pid,
                name: self.target.name.clone(),
                called: called.len(),
                most: most.join(", "),
            }
            .into());
        };
        let chosen = |function| Some(self.chosen(symbols, self.candidates.get(function)?));
        let header = self.header(called);
        let search = Search {
            max_functions: MOST_COPIES,
            forms: self.settings.kernel.forms,
            ..Search::default()
        };
        let aim = Aim { pid: self.target.pid, maps: Vec::new(), search };
        let mut why = String::new();
        for _ in 0..TRIES {
            let text = write(&header, &proposal, &chosen);
            let map = parse_map(&text, MapOrigin::File("discovered.toml".into()))?;
            let prepared = prepare_with(&aim, map)?;
            if prepared.plan.skipped.is_empty() {
                return Ok(Discovered { text, summary: summary(&prepared.map, &proposal) });
            }
            why =
                prepared.plan.skipped.first().map_or_else(String::new, |skipped| {
                    format!("{}: {}", skipped.what, skipped.why)
                });
            take_out(&mut proposal, &prepared.map, &prepared.plan.skipped);
        }
        Err(DiscoverError::NotAccepted { why }.into())
    }

    fn facts(&self) -> Vec<Fact> {
        let costs = self.slicer.costs.iter().copied();
        let list = self.candidates.list.iter().zip(costs).enumerate();
        list.map(|(function, (candidate, cost_ns))| Fact {
            name: candidate.score,
            cost_ns,
            rate: self.slicer.rates.rate(function),
        })
        .collect()
    }

    fn header(&self, called: &[FunctionId]) -> Header {
        let name = &self.target.name;
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        let flood = |function: &FunctionId| {
            let candidate = self.candidates.get(*function)?;
            Some((candidate.base_name.to_string(), self.slicer.rates.rate(*function)))
        };
        let searched = self.searched.0.iter().filter(|(_, _, candidates)| *candidates > 0);
        Header {
            map: format!("first-{}", name.chars().map(plain).collect::<String>()),
            target: format!("{name} (pid {})", self.target.pid),
            duration: self.begun.elapsed(),
            spent: self.slicer.budget.spent(),
            objects: searched.map(|(name, _, candidates)| (name.clone(), *candidates)).collect(),
            watched: self.candidates.first,
            called: called.len() + self.floods.len(),
            floods: self.floods.iter().filter_map(flood).collect(),
            refused: self.slicer.refused(),
            beyond: self.candidates.beyond,
            calls: (self.calls.list().len(), self.calls.dropped),
        }
    }

    /// The selector that finds exactly this function: by its readable name if that does.
    fn chosen(&self, symbols: &SymbolSet, candidate: &Candidate) -> Chosen {
        let object =
            self.target.object(candidate.object).map_or_else(String::new, MappedObject::file_name);
        let select = Select::Function(candidate.name.to_string());
        let selector = Selector { select, object: Some(object.clone()) };
        let by_name = symbols.find(&selector, MOST_COPIES).is_ok_and(|found| {
            let mut addresses: Vec<_> = found.functions.iter().map(|f| f.code.address).collect();
            addresses.sort_unstable();
            let mut wanted = candidate.addresses.clone();
            wanted.sort_unstable();
            addresses == wanted
        });
        let (field, value) = if by_name {
            ("function", candidate.name.to_string())
        } else {
            ("linkage", candidate.linkage.to_string())
        };
        Chosen {
            base_name: candidate.base_name.to_string(),
            field,
            value,
            object,
            stage: candidate.score.stage,
        }
    }
}

/// Takes out the spans and hand-offs that would not be probed.
fn take_out(proposal: &mut Proposal, map: &SymbolMap, skipped: &[Skipped]) {
    let names = |what: &str, name: &str| {
        let quoted = format!("{what} `{name}`");
        skipped.iter().any(|skipped| skipped.wanted_by.starts_with(&quoted))
    };
    let mut spans = map.spans.iter();
    proposal.spans.retain(|_| spans.next().is_none_or(|span| !names("span", &span.name)));
    let mut handoffs = map.handoffs.iter();
    proposal
        .handoffs
        .retain(|_| handoffs.next().is_none_or(|handoff| !names("hand-off", &handoff.name)));
}

fn summary(map: &SymbolMap, proposal: &Proposal) -> String {
    let share: f64 = proposal.spans.iter().map(|span| span.share).sum();
    let root = map.spans.first().map_or("none", |span| &span.name);
    format!(
        "root `{root}` ({} calls seen), {} stages, {} hand-offs; predicted cost {:.2} % of a \
         processor at the rates that were seen",
        proposal.requests,
        map.spans.len().saturating_sub(1),
        map.handoffs.len(),
        share * 100.0
    )
}
