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
use crate::plan::{self, CostClass, LandingSite, ProbePlan, ReturnNeeds, Up};
use crate::target::{Inode, MappedCode, MappedObject};

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
const PATIENCE: Duration = Duration::from_secs(10);
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

/// How the calls of one probe are seen to end.
#[derive(Clone, Copy, Default)]
struct Calls {
    /// The first with a landing since the last one without.
    with_landing: Option<Instant>,
    last_without: Option<Instant>,
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
        *self = Self { with_landing: None, last_without: Some(Instant::now()) };
    }
}

/// What is to be told of landings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LandingStats {
    /// Return addresses learned.
    pub(super) learned: u64,
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
    needs: ReturnNeeds,
    settling: BTreeMap<Pid, Instant>,
    begun: Instant,
    reviewed: Instant,
    stats: LandingStats,
}

impl Landings {
    pub(super) fn start() -> std::io::Result<Self> {
        let nowhere = Place { inode: (0, 0), offset: FileOffset(0), slot_offset: 0 };
        Ok(Self {
            learner: Learner::start()?,
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

    /// Takes in what is attached now.
    pub(super) fn grow(&mut self, plan: &ProbePlan) {
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
            self.attach(&answers, attached)?;
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
    fn attach(&mut self, answers: &[Answer], attached: &mut Attached) -> Result<(), AttachError> {
        let mut new: BTreeMap<(Option<Pid>, Inode), (Pid, Arc<MappedObject>, Vec<NewLanding>)> =
            BTreeMap::new();
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
            for id in attached.land(pid, &object, &sites)? {
                self.standing.insert((of, id));
                self.stats.landings += 1;
                let dear = self.places.get(id.index());
                self.stats.dear +=
                    u64::from(dear.is_some_and(|(_, cost)| *cost == CostClass::SingleStepped));
            }
        }
        Ok(())
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
                && group.is_some_and(|group| settled.contains(group) && !unsettled.contains(group))
        };
        let settled: Vec<ProbeId> =
            (0..self.groups.len() as u16).map(ProbeId).filter(goes).collect();
        if settled.is_empty() {
            return Ok(());
        }
        self.stats.retired += settled.len() as u64;
        self.retired.extend(settled);
        attached.retire_rets(|probe| !self.retired.contains(&probe))
    }

    /// Moves landings that are run into for nothing to where only their own calls come by.
    fn weigh_landings(&mut self, attached: &mut Attached) -> Result<(), AttachError> {
        let counts = attached.landing_counts(self.places.len())?;
        let mut wasteful: FxHashSet<LandingId> = FxHashSet::default();
        self.counts.resize(counts.len(), LandingCount::default());
        for (index, (now, before)) in counts.iter().zip(&self.counts).enumerate() {
            let hits = now.hits.saturating_sub(before.hits);
            let matched = now.matched.saturating_sub(before.matched);
            let cheap = self.places.get(index).is_some_and(|(_, c)| *c == CostClass::Emulated);
            if cheap && hits > FEW && hits > matched.saturating_mul(DEARER).saturating_add(FEW) {
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
            if told.point == LandingId::NONE && told.flags & Return::NO_POINT == 0 {
                // It moves as soon as there is a place to move to.
                stays.insert(told.landing);
                ask.push((known.pid, key.1));
                continue;
            }
            let keeps = told.flags & Return::POINT_KEEPS_VALUE != 0;
            let value = if keeps { Return::LANDING_KEEPS_VALUE } else { 0 };
            *told = match told.point {
                LandingId::NONE => Return::default(),
                point => Return { kind: Return::LANDING, landing: point, flags: value, ..*told },
            };
            self.stats.moved += 1;
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
