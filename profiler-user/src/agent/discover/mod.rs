//! `discover`: watches candidate functions of an unknown server, in rounds, and proposes a map.
//!
//! 1. Which of the candidates are called at all, and how often: enters only, counted.
//! 2. Those, with their ends and arguments: who calls whom, for how long, what passes by.
//! 3. The outermost ones with what lies behind their first arguments: keys of hand-offs.
//!
//! Every round is cut as soon as its hits have cost the target its share ([`Budget`]), the floods
//! among the functions are given up, and watching goes on when the share is earned again.

mod candidates;
mod outcome;
mod slice;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use thiserror::Error;

use self::candidates::{Candidates, Searched};
use self::slice::{BURST, Captures, SHARE, Slicer};
use crate::discover::{Calls, FunctionId, Hop, Shape, Slot, elsewhere, hops, shape, thin};
use crate::model::Pid;
use crate::plan::{CostClass, Kernel};
use crate::symbols::SymbolSet;
use crate::target::{ExitWatch, Target, TargetError};

/// What to watch, and for how long.
#[derive(Clone, Debug)]
pub struct DiscoverSettings {
    /// The process.
    pub pid: Pid,
    /// For how long, all in all.
    pub duration: Duration,
    /// Only objects whose file name matches.
    pub object: Option<String>,
    /// How many functions are watched at once.
    pub max_functions: usize,
    /// What this kernel may be trusted with, and what a hit costs on it.
    pub kernel: Kernel,
}

/// A first map.
#[derive(Clone, Debug)]
pub struct Discovered {
    /// Its text.
    pub text: String,
    /// One line on what is in it.
    pub summary: String,
}

/// Why there is no first map.
#[derive(Debug, Error)]
pub enum DiscoverError {
    /// No name looks like a stage.
    #[error(
        "process {pid} ({name}): no function looks like a stage of a query. Searched {searched}. \
         Its symbols may be stripped (`qprof symbols {pid} '*'` shows what there is), or it is \
         written in a language whose functions are not native code; `--object GLOB` searches \
         another object"
    )]
    NoCandidates {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
        /// The objects, with how many functions each names.
        searched: String,
    },
    /// Nothing was called.
    #[error(
        "process {pid} ({name}): none of {candidates} candidates in {searched} was called in \
         {seconds:.1} s. Send it queries while it is watched, watch longer (--duration), or watch \
         more functions (--max-functions)"
    )]
    NothingCalled {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
        /// How many functions were watched.
        candidates: usize,
        /// The objects they are in.
        searched: String,
        /// For how long, seconds.
        seconds: f64,
    },
    /// Functions were called, but no call was seen from begin to end.
    #[error(
        "process {pid} ({name}): {called} candidates were called ({most}), but none of them looks \
         like a request. Watch longer (--duration), and send it queries all the while"
    )]
    NoRoot {
        /// The process.
        pid: Pid,
        /// Its name.
        name: String,
        /// How many functions were called.
        called: usize,
        /// The most promising of them.
        most: String,
    },
    /// What was written is no map that works: a fault in Qprof.
    #[error("the proposed map does not pass its own check: {why}. This is a fault in qprof")]
    NotAccepted {
        /// What is wrong.
        why: String,
    },
}

/// The first round ends after this part of the time, if something was called by then.
const COUNTING: f64 = 0.25;
/// The share of a processor that the calls of what is watched with ends and arguments may take
/// while it is watched; the pauses between see to it that it is less on the whole.
const SHARE_AT_ONCE: f64 = 0.1;
/// The part of the whole budget that each pass with ends and arguments may spend at once: some
/// queries must be seen whole.
const A_PASS: f64 = 0.3;
/// A few functions are watched however often they are called.
const FEWEST_CALLING: usize = 40;
/// So many functions are watched with their ends and arguments.
const MOST_CALLING: usize = 400;
/// Offsets behind an argument at which a hand-off's key is looked for, bytes: objects begin with
/// what they belong to.
const BEHIND: [i32; 9] = [0, 8, 16, 24, 32, 40, 48, 56, 64];

/// Watches, and proposes a map.
///
/// # Errors
/// [`DiscoverError`], and what the stages say.
pub fn discover(settings: &DiscoverSettings) -> anyhow::Result<Discovered> {
    let target = Target::open(settings.pid)?;
    let symbols = SymbolSet::new(&target);
    let (candidates, searched) = candidates::find(&target, &symbols, settings)?;
    if candidates.first == 0 {
        return Err(DiscoverError::NoCandidates {
            pid: target.pid,
            name: target.name.clone(),
            searched: searched.shown(),
        }
        .into());
    }
    tracing::info!("{} candidates in {}", candidates.first, searched.shown());
    let mut rounds = Rounds {
        settings,
        target: &target,
        watch: target.watch()?,
        candidates: &candidates,
        searched: &searched,
        slicer: Slicer::new(&target, &symbols, &candidates, settings.kernel),
        begun: Instant::now(),
        floods: Vec::new(),
        calls: Calls::default(),
    };
    let called = rounds.count()?;
    let (hops, shape) = rounds.look_closer(&called)?;
    rounds.propose(&symbols, &called, &hops, &shape)
}

struct Rounds<'a> {
    settings: &'a DiscoverSettings,
    target: &'a Target,
    watch: ExitWatch,
    candidates: &'a Candidates,
    searched: &'a Searched,
    slicer: Slicer<'a>,
    begun: Instant,
    /// Functions that were given up.
    floods: Vec<FunctionId>,
    calls: Calls,
}

impl Rounds<'_> {
    /// Round one: the functions that are called, floods left out.
    fn count(&mut self) -> anyhow::Result<Vec<FunctionId>> {
        let mut watched: Vec<FunctionId> = (0..self.candidates.first).collect();
        let mut cuts = 0;
        while !watched.is_empty() {
            let anything = watched.iter().any(|f| self.slicer.rates.rate(*f) > 0.0);
            // While nothing is called there is time for queries to come.
            let until = if anything { COUNTING } else { 1.0 };
            // What was cut short at once has seen little.
            let left = self.left(until).or_else(|| (cuts == 1).then(|| self.part(0.1)));
            let Some(left) = left else { break };
            // Now and then a look whether anything was called.
            let limit = left.min(self.part(COUNTING));
            cuts += u32::from(self.slice(&mut watched, &Captures::Nothing, limit)?);
        }
        watched.retain(|function| self.slicer.rates.rate(*function) > 0.0);
        if watched.is_empty() && self.floods.is_empty() {
            return Err(DiscoverError::NothingCalled {
                pid: self.target.pid,
                name: self.target.name.clone(),
                candidates: self.candidates.first,
                searched: self.searched.shown(),
                seconds: self.begun.elapsed().as_secs_f64(),
            }
            .into());
        }
        tracing::info!("{} candidates are called", watched.len());
        // The candidates come by what their names are worth.
        watched.truncate(MOST_CALLING);
        Ok(self.affordable(&watched))
    }

    /// Of the functions that are called, those called least often that can be paid together.
    fn affordable(&mut self, called: &[FunctionId]) -> Vec<FunctionId> {
        let mut by_rate: Vec<(f64, FunctionId)> =
            called.iter().map(|function| (self.slicer.rates.rate(*function), *function)).collect();
        by_rate.sort_by(|a, b| a.0.total_cmp(&b.0));
        // With its end, before its sites are known.
        let costs = &self.settings.kernel.costs;
        let hits = [CostClass::Emulated, CostClass::SingleStepped].map(|class| costs.hit_ns(class));
        let call_ns = hits.iter().sum::<u64>() as f64;
        let mut share = 0.0;
        let mut kept = Vec::new();
        for (rate, function) in by_rate {
            share += rate * call_ns / 1e9;
            if share <= SHARE_AT_ONCE || kept.len() < FEWEST_CALLING {
                kept.push(function);
            } else {
                self.floods.push(function);
            }
        }
        kept
    }

    /// Rounds two and three: calls with their ends and words.
    fn look_closer(&mut self, called: &[FunctionId]) -> anyhow::Result<(Vec<Hop>, Shape)> {
        let scores = self.candidates.scores();
        let mut watched = called.to_vec();
        let arguments: Vec<Slot> = (1..=6).map(Slot::Arg).collect();
        // However long the first round took, calls must be seen, too.
        let pass = self.part((1.0 - COUNTING) / 3.0);
        self.pass(&mut watched, &|_| arguments.clone(), pass)?;
        let first = shape(&self.calls, &scores, &[]);
        let root = first.roots.first().copied();
        let elsewhere = root.map_or_else(BTreeSet::new, |root| elsewhere(&self.calls, root));
        let takers: Vec<FunctionId> =
            watched.iter().copied().filter(|function| elsewhere.contains(function)).collect();
        if root.is_some() && !takers.is_empty() {
            self.add_givers(&first, &takers, &mut watched)?;
            for behind in &behind() {
                let slots = |function: FunctionId| {
                    if takers.contains(&function) { behind.clone() } else { arguments.clone() }
                };
                self.pass(&mut watched, &slots, pass)?;
            }
        }
        let hops = hops(&self.calls);
        let shape = shape(&self.calls, &scores, &hops);
        Ok((hops, shape))
    }

    /// Adds who may give the takers their work: the kin of the takers and of who else calls them.
    fn add_givers(
        &mut self,
        shape: &Shape,
        takers: &[FunctionId],
        watched: &mut Vec<FunctionId>,
    ) -> anyhow::Result<()> {
        let callers = takers.iter().filter_map(|taker| shape.stats.get(*taker));
        let callers = callers.flat_map(|stats| stats.callers.keys().copied().flatten());
        let near: Vec<FunctionId> = takers.iter().copied().chain(callers).collect();
        let mut givers = self.candidates.kin(&near);
        givers.retain(|giver| !watched.contains(giver) && !self.floods.contains(giver));
        if givers.is_empty() {
            return Ok(());
        }
        self.slicer.budget.refill(BURST);
        let limit = self.part(0.05);
        // Twice: what was cut short at once has seen little.
        if self.slice(&mut givers, &Captures::Nothing, limit)? {
            self.slice(&mut givers, &Captures::Nothing, limit)?;
        }
        givers.retain(|giver| self.slicer.rates.rate(*giver) > 0.0);
        tracing::info!("{} functions may give them work", givers.len());
        watched.extend(givers);
        // What was learnt of the others is enough: fewer functions can be watched for longer.
        let kin = self.candidates.kin(&near);
        let root = shape.roots.first().copied();
        watched.retain(|function| {
            kin.contains(function) || takers.contains(function) || root == Some(*function)
        });
        Ok(())
    }

    /// Watches calls with some words, for some time.
    fn pass(
        &mut self,
        watched: &mut Vec<FunctionId>,
        slots: &dyn Fn(FunctionId) -> Vec<Slot>,
        time: Duration,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let captures = Captures::Words(slots);
        self.slicer.budget.refill(self.settings.duration.mul_f64(SHARE * A_PASS));
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || watched.is_empty() {
                return Ok(());
            }
            self.slice(watched, &captures, left)?;
            let pause = end.saturating_duration_since(Instant::now());
            self.pause(pause);
        }
    }

    /// Watches for at most `limit`, or until the purse is empty; then floods are given up. True if
    /// it was cut short.
    fn slice(
        &mut self,
        watched: &mut Vec<FunctionId>,
        captures: &Captures<'_>,
        limit: Duration,
    ) -> anyhow::Result<bool> {
        let calls = matches!(captures, Captures::Words(_)).then_some(&mut self.calls);
        let seen = self.slicer.watch(watched, captures, limit, &self.watch, calls)?;
        // What cannot be probed is not asked for again.
        watched.retain(|function| seen.hits.iter().any(|(probed, _)| probed == function));
        if !seen.alive {
            return Err(TargetError::Exited(self.target.pid).into());
        }
        if seen.cut {
            let floods = thin(&seen.hits);
            tracing::info!("cut after {:?}: {} floods given up", seen.time, floods.len());
            watched.retain(|function| !floods.contains(function));
            self.floods.extend(floods);
            if !matches!(captures, Captures::Words(_)) {
                self.pause(self.left(1.0).unwrap_or_default());
            }
        }
        Ok(seen.cut)
    }

    /// Waits until the target has earned what it paid, at most for `most`.
    fn pause(&mut self, most: Duration) {
        let pause = self.slicer.budget.recovery().min(most);
        std::thread::sleep(pause);
        self.slicer.budget.earn(pause);
    }

    /// A part of the time there is.
    fn part(&self, part: f64) -> Duration {
        self.settings.duration.mul_f64(part)
    }

    /// How much of the time is left until a part of it.
    fn left(&self, part: f64) -> Option<Duration> {
        let end = self.settings.duration.mul_f64(part);
        end.checked_sub(self.begun.elapsed()).filter(|left| !left.is_zero())
    }
}

/// What is looked for behind arguments 1 and 2, in as many passes as the words of one call allow.
fn behind() -> [Vec<Slot>; 2] {
    let [first @ .., last] = BEHIND;
    let second = std::iter::once(Slot::ArgWord(1, last))
        .chain(BEHIND.into_iter().take(7).map(|offset| Slot::ArgWord(2, offset)));
    [first.iter().map(|offset| Slot::ArgWord(1, *offset)).collect(), second.collect()]
}
