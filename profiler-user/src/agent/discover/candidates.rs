//! Which functions of a target are worth a look.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::DiscoverSettings;
use crate::discover::{
    FunctionId, NameScore, SocketUse, class_of, could_be_stage, is_interpreter, is_runtime, score,
    socket_use,
};
use crate::model::VirtAddr;
use crate::symbols::{Listed, SymbolSet};
use crate::target::{ObjectId, Target};

/// A name worth less is not worth a probe.
const LEAST: i32 = 4;
/// One worth less is not even kin of one that is.
const LEAST_KIN: i32 = 1;
/// So many kin are watched.
const MOST_KIN: usize = 300;

/// A function that may be a stage.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) object: ObjectId,
    /// With its parameters.
    pub(super) name: Arc<str>,
    pub(super) base_name: Arc<str>,
    pub(super) linkage: Arc<str>,
    /// Where its copies begin.
    pub(super) addresses: Vec<VirtAddr>,
    pub(super) score: NameScore,
}

/// All that are watched.
#[derive(Clone, Debug, Default)]
pub(super) struct Candidates {
    /// What is worth most first.
    pub(super) list: Vec<Candidate>,
    /// How many of them are watched from the beginning.
    pub(super) first: usize,
    /// How many more there were.
    pub(super) beyond: usize,
    /// The functions of the C library that read and write.
    pub(super) sockets: Vec<(ObjectId, VirtAddr, SocketUse)>,
}

impl Candidates {
    pub(super) fn scores(&self) -> Vec<i32> {
        self.list.iter().map(|candidate| candidate.score.score).collect()
    }

    /// The other functions of some functions' classes: who makes a task, or starts what runs it,
    /// is named like it, if not like a stage.
    pub(super) fn kin(&self, of: &[FunctionId]) -> Vec<FunctionId> {
        let class = |candidate: &Candidate| class_of(&candidate.base_name);
        let classes: FxHashSet<String> =
            of.iter().filter_map(|function| class(self.list.get(*function)?)).collect();
        let all = self.list.iter().enumerate();
        let kin = all.filter(|(_, one)| class(one).is_some_and(|class| classes.contains(&class)));
        kin.map(|(function, _)| function).take(MOST_KIN).collect()
    }

    pub(super) fn get(&self, function: FunctionId) -> Option<&Candidate> {
        self.list.get(function)
    }
}

/// Where candidates were looked for: object, functions named there, candidates.
#[derive(Clone, Debug, Default)]
pub(super) struct Searched(pub(super) Vec<(String, usize, usize)>);

impl Searched {
    pub(super) fn shown(&self) -> String {
        let shown =
            self.0.iter().map(|(name, functions, _)| format!("{name} ({functions} functions)"));
        let shown: Vec<String> = shown.take(8).collect();
        if shown.is_empty() { "no object".to_owned() } else { shown.join(", ") }
    }
}

/// Searches the objects that are the target's own: not the runtime every program has, and not the
/// interpreter its library may be loaded into.
pub(super) fn find(
    target: &Target,
    symbols: &SymbolSet,
    settings: &DiscoverSettings,
) -> anyhow::Result<(Candidates, Searched)> {
    let mut searched = Searched::default();
    let mut found: Vec<Candidate> = Vec::new();
    let mut sockets = Vec::new();
    for (id, object) in (0_u16..).map(ObjectId).zip(&target.objects) {
        let file_name = object.file_name();
        if file_name.starts_with("libc.so") || file_name.starts_with("libc-2") {
            sockets.extend(sockets_of(symbols, id));
        }
        let wanted = match &settings.object {
            Some(glob) => symbols.is_named(id, glob),
            None => !(is_runtime(&file_name) || id.0 == 0 && is_interpreter(&file_name)),
        };
        if !wanted {
            continue;
        }
        let listed = symbols.list(id, &could_be_stage);
        let listed = match (listed, id.0) {
            (Ok(listed), _) => listed,
            (Err(error), _) if settings.object.is_some() => return Err(error.into()),
            (Err(error), _) => {
                tracing::warn!(%error, "not searched");
                continue;
            }
        };
        let functions = symbols.named_functions(id).unwrap_or(0);
        let here = candidates(id, listed);
        let good = here.iter().filter(|candidate| candidate.score.score >= LEAST).count();
        searched.0.push((file_name, functions, good));
        found.extend(here);
    }
    found.sort_by(|a, b| {
        b.score
            .score
            .cmp(&a.score.score)
            .then_with(|| (a.object, &a.name).cmp(&(b.object, &b.name)))
    });
    let good = found.iter().filter(|candidate| candidate.score.score >= LEAST).count();
    let first = good.min(settings.max_functions);
    // Where nothing is searched there is nothing to say which object was meant.
    searched.0.retain(|(_, functions, _)| *functions > 0);
    searched.0.sort_by_key(|(_, _, candidates)| std::cmp::Reverse(*candidates));
    Ok((Candidates { list: found, first, beyond: good - first, sockets }, searched))
}

/// The candidates among the functions of an object: one a name, however many copies it has, and one
/// an address, however many names.
fn candidates(object: ObjectId, listed: Vec<Listed>) -> Vec<Candidate> {
    let mut by_name: FxHashMap<Arc<str>, (Candidate, u64)> = FxHashMap::default();
    let mut taken: FxHashSet<VirtAddr> = FxHashSet::default();
    for function in listed {
        if !taken.insert(function.address) {
            continue;
        }
        let size = function.size;
        let (candidate, largest) = by_name.entry(Arc::clone(&function.name)).or_insert_with(|| {
            let candidate = Candidate {
                object,
                name: function.name,
                base_name: function.base_name,
                linkage: function.linkage,
                addresses: Vec::new(),
                score: NameScore { score: 0, stage: None },
            };
            (candidate, 0)
        });
        candidate.addresses.push(function.address);
        *largest = size.max(*largest);
    }
    let scored = by_name.into_values().map(|(candidate, size)| Candidate {
        score: score(&candidate.base_name, size),
        ..candidate
    });
    scored.filter(|candidate| candidate.score.score >= LEAST_KIN).collect()
}

fn sockets_of(symbols: &SymbolSet, libc: ObjectId) -> Vec<(ObjectId, VirtAddr, SocketUse)> {
    let listed = symbols.list(libc, &|name| {
        let end = name.iter().position(|byte| *byte == b'@').unwrap_or(name.len());
        name.get(..end).is_some_and(|name| socket_use(name).is_some())
    });
    let found = listed.unwrap_or_default();
    let usage = |function: &Listed| socket_use(function.linkage.as_bytes());
    found.iter().filter_map(|function| Some((libc, function.address, usage(function)?))).collect()
}
