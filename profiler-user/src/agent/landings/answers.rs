//! What was learned of return addresses: attached, then told to the kernel side.

use std::collections::BTreeMap;
use std::sync::Arc;

use profiler_common::{LandingId, LaneKind, MAX_LANDINGS, Return};

use super::learn::{Answer, Learned, Question, Unknown};
use super::{Known, Landings, Place};
use crate::attach::{AttachError, Attached, NewLanding};
use crate::model::{FileOffset, Pid, Wanted};
use crate::plan::{self, CostClass, LandingSite, Up};
use crate::target::{Inode, MappedCode, MappedObject};

/// What is to be attached in one object: by way of which process, and where.
type NewOfObject = (Pid, Arc<MappedObject>, Vec<NewLanding>);

/// Whose landings are looked for.
#[derive(Clone, Copy)]
struct Whose {
    pid: Option<Pid>,
    inode: Inode,
    lane: LaneKind,
}

impl Whose {
    fn of(question: &Question, learned: &Learned, attached: &Attached) -> Self {
        let pid = attached.link_pid(question.pid);
        Self { pid, inode: learned.code.inode, lane: question.lane }
    }
}

const fn place(inode: Inode, site: &LandingSite, lane: LaneKind) -> Place {
    Place { inode, offset: site.offset, slot_offset: site.slot_offset, lane }
}

impl Landings {
    /// Attaches the landings of answers that do not stand yet, those of one object together.
    pub(super) fn attach(&mut self, answers: &[Answer], attached: &mut Attached) {
        let mut new: BTreeMap<(Option<Pid>, Inode), NewOfObject> = BTreeMap::new();
        for Answer { question, found } in answers {
            let Ok(learned) = found else { continue };
            let pid = attached.link_pid(question.pid);
            for site in learned.sites(question.wanted) {
                let Some(id) = self.number(learned.code.inode, site, question.lane) else {
                    continue;
                };
                if self.standing.contains(&(pid, id)) {
                    continue;
                }
                let (offset, slot_offset) = (site.offset, site.slot_offset);
                let group = new.entry((pid, learned.code.inode));
                let (_, _, sites) = group
                    .or_insert_with(|| (question.pid, Arc::clone(&learned.object), Vec::new()));
                let landing = NewLanding { id, offset, slot_offset, lane: question.lane };
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

    fn number(&mut self, inode: Inode, site: &LandingSite, lane: LaneKind) -> Option<LandingId> {
        let place = place(inode, site, lane);
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
    fn standing(&self, whose: Whose, site: &LandingSite) -> Option<LandingId> {
        let place = place(whose.inode, site, whose.lane);
        self.ids.get(&place).copied().filter(|id| self.standing.contains(&(whose.pid, *id)))
    }

    /// Tells the kernel side what an answer says.
    pub(super) fn tell(
        &mut self,
        answer: &Answer,
        attached: &mut Attached,
    ) -> Result<(), AttachError> {
        let Answer { question, found } = answer;
        let key = (question.space, question.address);
        if self.is_void(answer, attached) {
            // Whoever comes by next and lives asks again.
            self.asked.remove(&(key.0, key.1, question.wanted));
            return Ok(());
        }
        let before = self.known.get(&key).map(|known| known.told);
        let nowhere = MappedCode { inode: (0, 0), offset: FileOffset(0) };
        let (told, code) = match (found, before) {
            (Ok(learned), _) => {
                let whose = Whose::of(question, learned, attached);
                let told = self.told(learned, question.wanted, whose, before.unwrap_or_default());
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

    /// Whether it says nothing because its process has ended.
    fn is_void(&self, answer: &Answer, attached: &mut Attached) -> bool {
        let Answer { question, found } = answer;
        let nothing = match found {
            Err(_) => true,
            Ok(learned) => {
                let whose = Whose::of(question, learned, attached);
                learned.sites(question.wanted).any(|site| self.standing(whose, site).is_none())
            }
        };
        nothing && attached.space_of(question.pid).is_none()
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

    fn told(&self, learned: &Learned, wanted: Wanted, whose: Whose, before: Return) -> Return {
        let mut told = match &learned.plan.first {
            plan::Return::Landing(site) => match self.standing(whose, site) {
                Some(landing) => Return { kind: Return::LANDING, landing, ..before },
                // Refused by the kernel; or moved since, if something was told before.
                None => before,
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
            match point.and_then(|site| self.standing(whose, site)) {
                Some(point) => told.point = point,
                None => told.flags |= Return::NO_POINT,
            }
        }
        if wanted == Wanted::Value {
            let site = learned.value_site();
            match site.and_then(|site| self.standing(whose, site)) {
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
