//! Landings while a run goes on: which return addresses are known, which landings stand, and when
//! a function needs its exit sites no more.
//!
//! An enter with an address that is not known → [`learn`], on a thread of its own → [`answers`]: landings
//! are attached, then the kernel side is told → [`review`]: what is not needed any more goes.

mod answers;
mod births;
mod calls;
mod learn;
mod review;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::{LandingCount, LandingId, LaneKind, ProbeId, Return};
use rustc_hash::{FxHashMap, FxHashSet};

use births::Callers;
use calls::Calls;
use learn::{Answer, Learned, Learner, News, Question, Recheck, Unknown};

use crate::attach::{AttachError, Attached};
use crate::model::{Ahead, Event, EventBody, FileOffset, Lane, Pid, ReturnAddr, Wanted};
use crate::plan::{CostClass, Costs, ForeseenReturn, KernelForms, ProbePlan, ReturnNeeds};
use crate::target::{CodeMap, Inode, MappedCode, MappedObject, Target};

/// How many answers one turn takes: to attach them takes the kernel its time.
const BATCH: usize = 256;
/// How long after its loader has spoken a process's mappings are looked at: it speaks before it
/// maps, too.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is looked whether landings are hit for nothing.
const REVIEW: Duration = Duration::from_millis(500);
/// Questions that are remembered to have been asked.
const ASKED: usize = 131_072;
/// What of an address space is known of a return address.
struct Known {
    /// The process that came by first.
    pid: Pid,
    code: MappedCode,
    told: Return,
}

/// A place in a file that may be a landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    inode: Inode,
    offset: FileOffset,
    slot_offset: i32,
    lane: LaneKind,
}

/// What is to be told of landings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LandingStats {
    /// Return addresses known.
    pub(super) learned: u64,
    /// Of these, those told from the code, before any call.
    pub(super) foreseen: u64,
    /// Of these, those whose function returns at once.
    pub(super) callers: u64,
    /// Landings attached.
    pub(super) landings: u64,
    /// Of these, single-stepped.
    pub(super) dear: u64,
    /// Return addresses without a landing, by reason.
    pub(super) refused: BTreeMap<Unknown, u64>,
    /// Questions that found no room, to be asked again.
    pub(super) postponed: u64,
    /// Goroutines of which it is not known what they were made for: the code that called them could not be
    /// read, or not in time.
    pub(super) unknown_births: u64,
    /// Functions whose exit sites were removed.
    pub(super) retired: u64,
    /// Functions whose exit sites came back, since their landings do not see all calls.
    pub(super) woken: u64,
    /// Landings that were dropped, since others ran into them too often.
    pub(super) dropped: u64,
    /// Landings that were moved to the return point, since others ran into them too often.
    pub(super) moved: u64,
    /// Hits of landings, and how many of them ended a call.
    pub(super) hits: LandingCount,
}

/// The landings of a run.
pub(super) struct Landings {
    learner: Learner,
    callers: Callers,
    known: FxHashMap<(u64, ReturnAddr), Known>,
    asked: FxHashSet<(u64, ReturnAddr, Wanted)>,
    ids: FxHashMap<Place, LandingId>,
    /// By number: where it is, and what it costs.
    places: Vec<(Place, CostClass)>,
    /// Those that stand, for whom.
    standing: FxHashSet<(Option<Pid>, LandingId)>,
    counts: Vec<LandingCount>,
    /// The same, as seen when it was last looked for those that nobody needs any more.
    idle_counts: Vec<LandingCount>,
    calls: Vec<Calls>,
    /// By probe: the one that stands for all that end at each other's exit sites.
    groups: Vec<ProbeId>,
    retired: FxHashSet<ProbeId>,
    /// Those whose exit sites stay for good.
    kept: FxHashSet<ProbeId>,
    /// What the code told of files, by their inode.
    foreseen: Vec<(Inode, ForeseenReturn)>,
    /// The address spaces it was told the kernel side of.
    spaces: FxHashSet<u64>,
    new_spaces: Vec<(Pid, u64)>,
    /// Until the process becomes another program, or its end is read.
    space_by_pid: FxHashMap<Pid, u64>,
    needs: ReturnNeeds,
    /// How many hits for nothing an emulated landing may have for each that ends a call, until the
    /// return point, which is single-stepped, costs no more.
    worth: u64,
    settling: BTreeMap<Pid, Instant>,
    begun: Instant,
    reviewed: Instant,
    stats: LandingStats,
}

impl Landings {
    /// `forms`: what this kernel may be trusted with; `costs`: what hits cost on it.
    pub(super) fn start(forms: KernelForms, costs: &Costs) -> std::io::Result<Self> {
        let nowhere =
            Place { inode: (0, 0), offset: FileOffset(0), slot_offset: 0, lane: LaneKind::Thread };
        Ok(Self {
            learner: Learner::start(forms)?,
            callers: Callers::default(),
            known: FxHashMap::default(),
            asked: FxHashSet::default(),
            ids: FxHashMap::default(),
            // Number 0 is none.
            places: vec![(nowhere, CostClass::Emulated)],
            standing: FxHashSet::default(),
            counts: Vec::new(),
            idle_counts: Vec::new(),
            calls: Vec::new(),
            groups: Vec::new(),
            retired: FxHashSet::default(),
            kept: FxHashSet::default(),
            foreseen: Vec::new(),
            spaces: FxHashSet::default(),
            new_spaces: Vec::new(),
            space_by_pid: FxHashMap::default(),
            needs: ReturnNeeds::Value,
            worth: review::worth(costs),
            settling: BTreeMap::new(),
            begun: Instant::now(),
            reviewed: Instant::now(),
            stats: LandingStats::default(),
        })
    }

    /// What is to be told, at the end.
    ///
    /// # Errors
    /// If the kernel does not hand out its counters, which it has no reason to.
    pub(super) fn finish(&mut self, attached: &Attached) -> Result<LandingStats, AttachError> {
        self.stats.hits = total(&attached.landing_counts(self.places.len())?);
        Ok(self.stats.clone())
    }

    /// Takes in what is to be attached for a target, and attaches what is foreseen of it.
    ///
    /// # Errors
    /// If the kernel refuses what it has no reason to.
    pub(super) fn grow(
        &mut self,
        plan: &ProbePlan,
        target: &Target,
        attached: &mut Attached,
    ) -> Result<(), AttachError> {
        for probe in &plan.probes {
            let index = probe.id.index();
            if self.groups.len() <= index {
                let next = self.groups.len() as u16;
                self.groups.extend((next..=probe.id.0).map(ProbeId));
                self.calls.resize(index + 1, Calls::default());
            }
            if let Some(group) = self.groups.get_mut(index) {
                *group = probe.exits_with;
            }
            let words = probe.at_ret.captures.iter().take(usize::from(probe.at_ret.len));
            if words.clone().any(|word| word.deref != 0) {
                self.needs = ReturnNeeds::Pointee;
            }
        }
        let new = self.foreseen.len();
        for foreseen in &plan.foreseen {
            let inode = target.object(foreseen.object).map(|object| object.inode);
            self.foreseen.extend(inode.map(|inode| (inode, foreseen.clone())));
        }
        let Some(space) = attached.space_of(target.pid) else { return Ok(()) };
        self.read_go(plan, target, space);
        let from = if self.spaces.insert(space) { 0 } else { new };
        self.install(target.pid, space, from, attached)
    }

    /// Attaches what is foreseen, in an address space where it is not yet.
    fn install(
        &mut self,
        pid: Pid,
        space: u64,
        from: usize,
        attached: &mut Attached,
    ) -> Result<(), AttachError> {
        let foreseen = self.foreseen.get(from..).unwrap_or_default();
        if foreseen.is_empty() {
            return Ok(());
        }
        // A process that is gone calls nobody.
        let Ok(map) = CodeMap::read(pid) else { return Ok(()) };
        let mut objects: FxHashMap<Inode, Arc<MappedObject>> = FxHashMap::default();
        let mut answers = Vec::with_capacity(foreseen.len());
        for (inode, foreseen) in foreseen {
            let code = MappedCode { inode: *inode, offset: foreseen.offset };
            for address in map.addresses(code) {
                if !objects.contains_key(inode) {
                    let Some(object) = map.object(address) else { continue };
                    objects.insert(*inode, Arc::new(object));
                }
                let Some(object) = objects.get(inode) else { continue };
                let wanted =
                    if foreseen.for_value.is_some() { Wanted::Value } else { Wanted::Landing };
                let address = ReturnAddr(address);
                // What was learned before goes first.
                if !self.asked.insert((space, address, wanted)) {
                    continue;
                }
                self.asked.insert((space, address, Wanted::Landing));
                let question = Question {
                    pid,
                    space,
                    address,
                    wanted,
                    needs: self.needs,
                    lane: foreseen.lane,
                };
                // As the learner has it: the last byte of the call.
                let offset = FileOffset(code.offset.0.saturating_sub(1));
                let found = Learned {
                    object: Arc::clone(object),
                    code: MappedCode { offset, ..code },
                    plan: foreseen.plan.clone(),
                    for_value: foreseen.for_value.clone(),
                };
                answers.push(Answer { question, found: Ok(found) });
            }
        }
        self.stats.foreseen += answers.len() as u64;
        self.attach(&answers, attached);
        for answer in &answers {
            self.tell(answer, attached)?;
        }
        Ok(())
    }

    /// Looks at an event: what a call says of its end.
    pub(super) fn event(&mut self, event: &Event, attached: &mut Attached) {
        let pid = event.lane.pid();
        let (wanted, address) = match event.body {
            EventBody::Enter { ahead: Ahead::Wanted(wanted, address), .. }
            | EventBody::Asks { wanted, address, .. } => (wanted, address),
            EventBody::Fork { child } => {
                // It may have ended before anything of it is read.
                if let Some(space) = self.space_of(pid, attached) {
                    self.space_by_pid.insert(child, space);
                }
                return;
            }
            EventBody::Exec | EventBody::ProcessEnd => {
                self.space_by_pid.remove(&pid);
                return;
            }
            _ => return,
        };
        let lane = match event.lane {
            Lane::Thread(..) => LaneKind::Thread,
            Lane::Goroutine(..) => LaneKind::Goroutine,
        };
        self.ask(pid, address, wanted, lane, attached);
    }

    /// The address space of a process, which may have ended.
    fn space_of(&mut self, pid: Pid, attached: &mut Attached) -> Option<u64> {
        if let Some(space) = self.space_by_pid.get(&pid) {
            return Some(*space);
        }
        let space = attached.space_of(pid)?;
        self.space_by_pid.insert(pid, space);
        Some(space)
    }

    fn ask(
        &mut self,
        pid: Pid,
        address: ReturnAddr,
        wanted: Wanted,
        lane: LaneKind,
        attached: &mut Attached,
    ) {
        let Some(space) = self.space_of(pid, attached) else { return };
        if self.asked.len() >= ASKED || !self.asked.insert((space, address, wanted)) {
            return;
        }
        self.new_spaces.extend(self.spaces.insert(space).then_some((pid, space)));
        let question = Question { pid, space, address, wanted, needs: self.needs, lane };
        if !self.learner.ask(question) {
            self.asked.remove(&(space, address, wanted));
            self.stats.postponed += 1;
        }
    }

    /// What a process has mapped has changed.
    pub(super) fn mappings_changed(&mut self, pid: Pid) {
        self.settling.entry(pid).or_insert_with(|| Instant::now() + SETTLE);
    }

    /// A process has become another program: what is known of its addresses is void.
    pub(super) fn became(&mut self, pid: Pid, attached: &mut Attached) {
        if let Some(space) = attached.space_of(pid) {
            self.forget(space, attached);
        }
    }

    /// A file was overwritten, and all landings in it were removed.
    pub(super) fn abandoned(&mut self, inode: Inode, attached: &mut Attached) {
        let places = &self.places;
        self.standing
            .retain(|(_, id)| places.get(id.index()).is_none_or(|(place, _)| place.inode != inode));
        for ((space, address), known) in &mut self.known {
            if known.code.inode == inode {
                known.told = Return::default();
                attached.unlearn(*space, *address);
            }
        }
    }

    /// What was attached for a process alone is no more.
    pub(super) fn removed_own(&mut self, pid: Pid) {
        self.space_by_pid.remove(&pid);
        self.standing.retain(|(of, _)| *of != Some(pid));
    }

    fn forget(&mut self, space: u64, attached: &mut Attached) {
        self.spaces.remove(&space);
        self.forget_callers(space);
        self.asked.retain(|(of, ..)| *of != space);
        self.known.retain(|(of, address), _| {
            let goes = *of == space;
            if goes {
                attached.unlearn(space, *address);
            }
            !goes
        });
    }

    /// Attaches what has been learned, and removes what is not needed any more.
    ///
    /// # Errors
    /// If the kernel refuses what it has no reason to.
    pub(super) fn turn(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        self.recheck(attached);
        for (pid, space) in std::mem::take(&mut self.new_spaces) {
            self.install(pid, space, 0, attached)?;
        }
        let mut answers = Vec::new();
        while answers.len() < BATCH
            && let Some(news) = self.learner.news()
        {
            match news {
                News::Answer(answer) => answers.push(*answer),
                News::Moved(space, addresses) => {
                    for address in addresses {
                        attached.unlearn(space, address);
                        self.known.remove(&(space, address));
                        self.asked.retain(|(s, a, _)| (*s, *a) != (space, address));
                    }
                }
            }
        }
        if !answers.is_empty() {
            self.attach(&answers, attached);
            for answer in &answers {
                self.tell(answer, attached)?;
            }
        }
        let now = Instant::now();
        if now - self.reviewed >= REVIEW {
            self.reviewed = now;
            self.weigh_landings(attached)?;
        }
        Ok(())
    }

    fn recheck(&mut self, attached: &mut Attached) {
        let now = Instant::now();
        let due = self.settling.iter().find(|(_, due)| **due <= now).map(|(pid, _)| *pid);
        let Some(pid) = due else { return };
        self.settling.remove(&pid);
        let Some(space) = attached.space_of(pid) else { return };
        let here = self.known.iter().filter(|((of, _), _)| *of == space);
        let believed = here.map(|((_, address), known)| (*address, known.code)).collect();
        if !self.learner.recheck(Recheck { pid, space, believed }) {
            self.mappings_changed(pid);
        }
    }
}

fn total(counts: &[LandingCount]) -> LandingCount {
    counts.iter().fold(LandingCount::default(), |sum, of| LandingCount {
        hits: sum.hits.saturating_add(of.hits),
        matched: sum.matched.saturating_add(of.matched),
    })
}
