//! Landings while a run goes on: which return addresses are known, which landings stand, and when
//! a function needs its exit sites no more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use profiler_common::{LandingCount, LandingId, MAX_LANDINGS, ProbeId, Return};
use rustc_hash::{FxHashMap, FxHashSet};

use super::learn::{Answer, Learned, Learner, News, Question, Recheck, Unknown};
use crate::attach::{AttachError, Attached, NewLanding};
use crate::model::{Ahead, Event, EventBody, FileOffset, Pid, ReturnAddr, Wanted};
use crate::plan::{
    self, CostClass, ForeseenReturn, KernelForms, LandingSite, ProbePlan, ReturnNeeds, Up,
};
use crate::target::{CodeMap, Inode, MappedCode, MappedObject, Target};

/// How many answers one turn takes: to attach them takes the kernel its time.
const BATCH: usize = 256;
/// How long after its loader has spoken a process's mappings are looked at: it speaks before it
/// maps, too.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is looked whether something is not needed any more.
const REVIEW: Duration = Duration::from_millis(500);
/// For so long all calls of a function must have had landings before its exit sites go.
const SETTLED: Duration = Duration::from_secs(1);
/// For so long the exit sites that several functions share wait for those that are never called.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many calls whose ends are not seen bring the exit sites of a function back.
const MISSED: u32 = 64;
/// Questions that are remembered to have been asked.
const ASKED: usize = 131_072;
/// A landing that was hit less often since it was last looked at is not worth a thought.
const FEW: u64 = 2_000;
/// How much dearer than an emulated instruction a single-stepped one is: 3 on bare metal, 14 to 30
/// in virtual machines.
const DEARER: u64 = 14;

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
}

/// What is to be attached in one object: by way of which process, and where.
type NewOfObject = (Pid, Arc<MappedObject>, Vec<NewLanding>);

/// How the calls of one probe are seen to end.
#[derive(Clone, Copy, Default)]
struct Calls {
    /// The first with a landing since the last one without.
    with_landing: Option<Instant>,
    last_without: Option<Instant>,
    /// Since its exit sites were removed.
    missed: u32,
}

impl Calls {
    /// Whether every way back is known, as far as can be told.
    fn are_settled(&self, now: Instant) -> bool {
        let is_long = |at: Instant| now - at >= SETTLED;
        self.with_landing.is_some_and(is_long) && self.last_without.is_none_or(is_long)
    }

    const fn are_none(&self) -> bool {
        self.with_landing.is_none() && self.last_without.is_none()
    }

    fn ends_without(&mut self) {
        self.with_landing = None;
        self.last_without = Some(Instant::now());
        self.missed = self.missed.saturating_add(1);
    }
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
    known: FxHashMap<(u64, ReturnAddr), Known>,
    asked: FxHashSet<(u64, ReturnAddr, Wanted)>,
    ids: FxHashMap<Place, LandingId>,
    /// By number: where it is, and what it costs.
    places: Vec<(Place, CostClass)>,
    /// Those that stand, for whom.
    standing: FxHashSet<(Option<Pid>, LandingId)>,
    counts: Vec<LandingCount>,
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
    needs: ReturnNeeds,
    settling: BTreeMap<Pid, Instant>,
    begun: Instant,
    reviewed: Instant,
    stats: LandingStats,
}

impl Landings {
    /// `forms`: what this kernel may be trusted with.
    pub(super) fn start(forms: KernelForms) -> std::io::Result<Self> {
        let nowhere = Place { inode: (0, 0), offset: FileOffset(0), slot_offset: 0 };
        Ok(Self {
            learner: Learner::start(forms)?,
            known: FxHashMap::default(),
            asked: FxHashSet::default(),
            ids: FxHashMap::default(),
            // Number 0 is none.
            places: vec![(nowhere, CostClass::Emulated)],
            standing: FxHashSet::default(),
            counts: Vec::new(),
            calls: Vec::new(),
            groups: Vec::new(),
            retired: FxHashSet::default(),
            kept: FxHashSet::default(),
            foreseen: Vec::new(),
            spaces: FxHashSet::default(),
            new_spaces: Vec::new(),
            needs: ReturnNeeds::Value,
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
                let question = Question { pid, space, address, wanted, needs: self.needs };
                let found = Learned {
                    object: Arc::clone(object),
                    code,
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
        let EventBody::Enter { probe, ahead, .. } = event.body else { return };
        let Some(calls) = self.calls.get_mut(probe.index()) else { return };
        match ahead {
            Ahead::Landing(_) => {
                calls.with_landing.get_or_insert_with(Instant::now);
            }
            Ahead::Nothing => calls.ends_without(),
            Ahead::Wanted(wanted, address) => {
                calls.ends_without();
                self.ask(event.lane.pid(), address, wanted, attached);
            }
        }
    }

    fn ask(&mut self, pid: Pid, address: ReturnAddr, wanted: Wanted, attached: &mut Attached) {
        let Some(space) = attached.space_of(pid) else { return };
        if self.asked.len() >= ASKED || !self.asked.insert((space, address, wanted)) {
            return;
        }
        self.new_spaces.extend(self.spaces.insert(space).then_some((pid, space)));
        let question = Question { pid, space, address, wanted, needs: self.needs };
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
        self.standing.retain(|(of, _)| *of != Some(pid));
    }

    fn forget(&mut self, space: u64, attached: &mut Attached) {
        self.spaces.remove(&space);
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
            self.review(now, attached)?;
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

    /// Attaches the landings of answers that do not stand yet, those of one object together.
    fn attach(&mut self, answers: &[Answer], attached: &mut Attached) {
        let mut new: BTreeMap<(Option<Pid>, Inode), NewOfObject> = BTreeMap::new();
        for Answer { question, found } in answers {
            let Ok(learned) = found else { continue };
            let pid = attached.link_pid(question.pid);
            for site in learned.sites(question.wanted) {
                let Some(id) = self.number(learned.code.inode, site) else { continue };
                if self.standing.contains(&(pid, id)) {
                    continue;
                }
                let (offset, slot_offset) = (site.offset, site.slot_offset);
                let group = new.entry((pid, learned.code.inode));
                let (_, _, sites) = group
                    .or_insert_with(|| (question.pid, Arc::clone(&learned.object), Vec::new()));
                let landing = NewLanding { id, offset, slot_offset };
                if !sites.contains(&landing) {
                    sites.push(landing);
                }
            }
        }
        for ((of, _), (pid, object, sites)) in new {
            let taken = match attached.land(pid, &object, &sites) {
                Ok(taken) => taken,
                Err(error) => {
                    // As a rule the process has ended; if not, its calls end at their `ret`s.
                    tracing::debug!(%pid, %error, "no landings");
                    continue;
                }
            };
            for id in taken {
                self.standing.insert((of, id));
                self.stats.landings += 1;
                let dear = self.places.get(id.index());
                self.stats.dear +=
                    u64::from(dear.is_some_and(|(_, cost)| *cost == CostClass::SingleStepped));
            }
        }
    }

    fn number(&mut self, inode: Inode, site: &LandingSite) -> Option<LandingId> {
        let place = Place { inode, offset: site.offset, slot_offset: site.slot_offset };
        if let Some(id) = self.ids.get(&place) {
            return Some(*id);
        }
        let next = u16::try_from(self.places.len()).ok();
        let id = LandingId(next.filter(|next| u32::from(*next) < MAX_LANDINGS)?);
        self.places.push((place, site.cost));
        self.ids.insert(place, id);
        Some(id)
    }

    /// The number of a site that stands for a process.
    fn standing(&self, pid: Option<Pid>, inode: Inode, site: &LandingSite) -> Option<LandingId> {
        let place = Place { inode, offset: site.offset, slot_offset: site.slot_offset };
        self.ids.get(&place).copied().filter(|id| self.standing.contains(&(pid, *id)))
    }

    /// Tells the kernel side what an answer says.
    fn tell(&mut self, answer: &Answer, attached: &mut Attached) -> Result<(), AttachError> {
        let Answer { question, found } = answer;
        let key = (question.space, question.address);
        let before = self.known.get(&key).map(|known| known.told);
        let nowhere = MappedCode { inode: (0, 0), offset: FileOffset(0) };
        let (told, code) = match (found, before) {
            (Ok(learned), _) => {
                let pid = attached.link_pid(question.pid);
                let told = self.told(learned, question.wanted, pid, before.unwrap_or_default());
                (told, learned.code)
            }
            // The process may have ended in the meantime.
            (Err(_), Some(before)) => {
                let none = Return::NO_POINT | Return::NO_VALUE;
                (Return { flags: before.flags | none, ..before }, nowhere)
            }
            (Err(_), None) => (Return::default(), nowhere),
        };
        if before.is_none() {
            match found {
                Err(why) => self.refused(*why),
                Ok(_) if told.kind == Return::NOTHING => self.refused(Unknown::Refused),
                Ok(_) => {
                    self.stats.learned += 1;
                    self.stats.callers += u64::from(told.kind != Return::LANDING);
                }
            }
        }
        if !attached.learn(key.0, key.1, told)? {
            self.forget_the_dead(attached);
            if !attached.learn(key.0, key.1, told)? {
                self.refused(Unknown::TooMany);
                return Ok(());
            }
        }
        let known = self.known.entry(key).or_insert(Known { pid: question.pid, code, told });
        known.told = told;
        Ok(())
    }

    fn refused(&mut self, why: Unknown) {
        *self.stats.refused.entry(why).or_default() += 1;
    }

    /// Forgets the addresses of programs that run no more.
    fn forget_the_dead(&mut self, attached: &mut Attached) {
        let alive = attached.spaces();
        let mut dead: Vec<u64> =
            self.known.keys().map(|(space, _)| *space).filter(|s| !alive.contains(s)).collect();
        dead.sort_unstable();
        dead.dedup();
        for space in dead {
            self.forget(space, attached);
        }
    }

    fn told(&self, learned: &Learned, wanted: Wanted, pid: Option<Pid>, before: Return) -> Return {
        let inode = learned.code.inode;
        let mut told = match &learned.plan.first {
            plan::Return::Landing(site) => match self.standing(pid, inode, site) {
                Some(landing) => Return { kind: Return::LANDING, landing, ..before },
                None => Return::default(),
            },
            plan::Return::Caller(Up::Bytes(up)) => {
                Return { kind: Return::CALLER, up: *up, ..before }
            }
            plan::Return::Caller(Up::FramePointer) => {
                Return { kind: Return::CALLER_BY_FRAME_POINTER, ..before }
            }
            plan::Return::None(_) => Return::default(),
        };
        if wanted == Wanted::Point {
            let point = learned.plan.point.as_ref();
            match point.and_then(|site| self.standing(pid, inode, site)) {
                Some(point) => told.point = point,
                None => told.flags |= Return::NO_POINT,
            }
        }
        if wanted == Wanted::Value {
            let site = learned.value_site();
            match site.and_then(|site| self.standing(pid, inode, site)) {
                Some(id) if id == told.landing => told.flags |= Return::LANDING_KEEPS_VALUE,
                Some(id) => {
                    told.point = id;
                    told.flags |= Return::POINT_KEEPS_VALUE;
                }
                None => told.flags |= Return::NO_VALUE,
            }
        }
        told
    }

    fn review(&mut self, now: Instant, attached: &mut Attached) -> Result<(), AttachError> {
        self.wake_exits(attached)?;
        self.retire_exits(now, attached)?;
        self.weigh_landings(attached)
    }

    /// Removes the exit sites of functions whose calls have all come back to landings for a while.
    fn retire_exits(&mut self, now: Instant, attached: &mut Attached) -> Result<(), AttachError> {
        // What ends at each other's exit sites keeps them together. One that is never called must not
        // hold up the others for ever.
        let patient = now - self.begun >= PATIENCE;
        let (mut settled, mut unsettled) = (FxHashSet::default(), FxHashSet::default());
        for (calls, group) in self.calls.iter().zip(&self.groups) {
            if calls.are_settled(now) {
                settled.insert(*group);
            } else if !(patient && calls.are_none()) {
                unsettled.insert(*group);
            }
        }
        let goes = |probe: &ProbeId| {
            let group = self.groups.get(probe.index());
            !self.retired.contains(probe)
                && !self.kept.contains(probe)
                && group.is_some_and(|group| settled.contains(group) && !unsettled.contains(group))
        };
        let settled: Vec<ProbeId> =
            (0..self.groups.len() as u16).map(ProbeId).filter(goes).collect();
        if settled.is_empty() {
            return Ok(());
        }
        self.stats.retired += settled.len() as u64;
        for probe in &settled {
            if let Some(calls) = self.calls.get_mut(probe.index()) {
                calls.missed = 0;
            }
        }
        self.retired.extend(settled);
        attached.retire_rets(|probe| !self.retired.contains(&probe))
    }

    /// Brings back the exit sites of functions that turn out to need them: for good.
    fn wake_exits(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        let misses = |probe: &ProbeId| {
            self.calls.get(probe.index()).is_some_and(|calls| calls.missed >= MISSED)
        };
        let group = |probe: &ProbeId| self.groups.get(probe.index()).copied();
        let groups: FxHashSet<ProbeId> =
            self.retired.iter().filter(|probe| misses(probe)).filter_map(group).collect();
        if groups.is_empty() {
            return Ok(());
        }
        let woken: FxHashSet<ProbeId> = self
            .retired
            .extract_if(|probe| {
                self.groups.get(probe.index()).is_some_and(|group| groups.contains(group))
            })
            .collect();
        self.stats.woken += woken.len() as u64;
        attached.wake_rets(|probe| woken.contains(&probe))?;
        self.kept.extend(woken);
        Ok(())
    }

    /// Moves landings that are run into for nothing to where only their own calls come by.
    fn weigh_landings(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        let counts = attached.landing_counts(self.places.len())?;
        let mut wasteful: FxHashSet<LandingId> = FxHashSet::default();
        self.counts.resize(counts.len(), LandingCount::default());
        for (index, (now, before)) in counts.iter().zip(&self.counts).enumerate() {
            let hits = now.hits.saturating_sub(before.hits);
            let matched = now.matched.saturating_sub(before.matched);
            let worth = match self.places.get(index) {
                Some((_, CostClass::SingleStepped)) => 2,
                _ => DEARER,
            };
            if hits > matched.saturating_mul(worth).saturating_add(FEW) {
                wasteful.insert(LandingId(index as u16));
            }
        }
        self.counts = counts;
        if wasteful.is_empty() {
            return Ok(());
        }
        let mut stays: FxHashSet<LandingId> = FxHashSet::default();
        let mut ask = Vec::new();
        for (key, known) in &mut self.known {
            let told = &mut known.told;
            if told.kind != Return::LANDING || !wasteful.contains(&told.landing) {
                continue;
            }
            let dear = self.places.get(told.landing.index());
            let dear = dear.is_some_and(|(_, cost)| *cost == CostClass::SingleStepped);
            if !dear && told.point == LandingId::NONE && told.flags & Return::NO_POINT == 0 {
                // It moves as soon as there is a place to move to.
                stays.insert(told.landing);
                ask.push((known.pid, key.1));
                continue;
            }
            // Where all come by that come by here nothing is gained.
            if dear || [LandingId::NONE, told.landing].contains(&told.point) {
                *told = Return::default();
                self.stats.dropped += 1;
            } else {
                let keeps = told.flags & Return::POINT_KEEPS_VALUE != 0;
                let flags = if keeps { Return::LANDING_KEEPS_VALUE } else { 0 };
                *told = Return { kind: Return::LANDING, landing: told.point, flags, ..*told };
                self.stats.moved += 1;
            }
            attached.learn(key.0, key.1, *told)?;
        }
        for (pid, address) in ask {
            self.ask(pid, address, Wanted::Point, attached);
        }
        wasteful.retain(|landing| !stays.contains(landing));
        if wasteful.is_empty() {
            return Ok(());
        }
        self.standing.retain(|(_, id)| !wasteful.contains(id));
        attached.retire_landings(|id| !wasteful.contains(&id))
    }
}

fn total(counts: &[LandingCount]) -> LandingCount {
    counts.iter().fold(LandingCount::default(), |sum, of| LandingCount {
        hits: sum.hits.saturating_add(of.hits),
        matched: sum.matched.saturating_add(of.matched),
    })
}

impl Learned {
    /// The sites that an answer needs.
    fn sites(&self, wanted: Wanted) -> impl Iterator<Item = &LandingSite> {
        let first = match &self.plan.first {
            plan::Return::Landing(site) => Some(site),
            plan::Return::Caller(_) | plan::Return::None(_) => None,
        };
        let point = self.plan.point.as_ref().filter(|_| wanted == Wanted::Point);
        first.into_iter().chain(point).chain(self.value_site())
    }

    /// Where the return value is still there.
    fn value_site(&self) -> Option<&LandingSite> {
        match &self.for_value.as_ref()?.first {
            plan::Return::Landing(site) => Some(site),
            plan::Return::Caller(_) | plan::Return::None(_) => None,
        }
    }
}
