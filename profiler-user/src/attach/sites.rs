//! A plan's sites, grouped into links; and those the kernel refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use profiler_common::{Cookie, ProbeId, Role};

use super::links::ENOTSUPP;
use crate::model::FileOffset;
use crate::plan::{PlannedProbe, ProbePlan};
use crate::target::ObjectId;

/// A site as the kernel takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AttachSite {
    /// Where in the object's file.
    pub(super) offset: FileOffset,
    /// What it tells its program.
    pub(super) cookie: Cookie,
}

/// A planned site that the kernel would not probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSite {
    /// The probe it belongs to.
    pub probe: ProbeId,
    /// The function, as the plan names it.
    pub function: Arc<str>,
    /// The object it lies in.
    pub object: ObjectId,
    /// Where in its file.
    pub offset: FileOffset,
    /// What it was to observe.
    pub role: Role,
    /// The kernel's answer.
    pub why: String,
    /// The function is not observed at all, because no enter of it is left.
    pub dropped: bool,
}

impl AttachSite {
    /// The same place, observing nothing: an exit of a frame that cannot be open, since its slot
    /// lies 2 GiB below the stack. For asking the kernel whether it takes the place.
    pub(super) fn silent(self) -> Self {
        let cookie = Cookie::new(self.cookie.probe(), 0, i32::MIN);
        Self { cookie, ..self }
    }
}

/// What the kernel has refused so far.
#[derive(Default)]
pub(super) struct Refusals {
    sites: Vec<(ObjectId, AttachSite, Role, String)>,
}

impl Refusals {
    pub(super) fn add(&mut self, object: ObjectId, role: Role, site: AttachSite, why: String) {
        self.sites.push((object, site, role, why));
    }

    /// The plan's sites of one role, by object and offset, without those that were refused and
    /// those of probes that lost their last enter.
    pub(super) fn remaining(
        &self,
        plan: &ProbePlan,
        role: Role,
    ) -> BTreeMap<ObjectId, Vec<AttachSite>> {
        let dropped = self.dropped(plan);
        let mut groups = by_object(plan, role, &dropped);
        for (object, sites) in &mut groups {
            sites.retain(|site| !self.sites.iter().any(|(at, no, ..)| at == object && no == site));
        }
        groups.retain(|_, sites| !sites.is_empty());
        groups
    }

    /// The probes that have no enter left.
    pub(super) fn dropped(&self, plan: &ProbePlan) -> BTreeSet<ProbeId> {
        let of_enters =
            self.sites.iter().filter(|(_, _, role, _)| matches!(role, Role::Enter | Role::GoEnter));
        of_enters
            .map(|(_, site, ..)| site.cookie.probe())
            .filter(|&id| probe(plan, id).is_none_or(|probe| !self.has_enter(probe)))
            .collect()
    }

    fn has_enter(&self, probe: &PlannedProbe) -> bool {
        probe.sites.iter().filter(|site| site.role == Role::Enter).any(|site| {
            !self.sites.iter().any(|(object, no, ..)| {
                *object == site.object && no.offset == site.offset && no.cookie.probe() == probe.id
            })
        })
    }

    /// For the user: each site with its function, and whether the function is lost with it.
    pub(super) fn report(&self, plan: &ProbePlan) -> Vec<RefusedSite> {
        let dropped = self.dropped(plan);
        let function = |id: ProbeId| match probe(plan, id) {
            Some(probe) => Arc::clone(&probe.function),
            None => Arc::from("(unknown)"),
        };
        self.sites
            .iter()
            .map(|(object, site, role, why)| RefusedSite {
                probe: site.cookie.probe(),
                function: function(site.cookie.probe()),
                object: *object,
                offset: site.offset,
                role: *role,
                why: why.clone(),
                dropped: dropped.contains(&site.cookie.probe()),
            })
            .collect()
    }
}

/// The probe of an id; a plan that adds to another does not begin with 0.
fn probe(plan: &ProbePlan, id: ProbeId) -> Option<&PlannedProbe> {
    plan.probes.iter().find(|probe| probe.id == id)
}

/// The sites of one role, by object; each object's sites by offset.
fn by_object(
    plan: &ProbePlan,
    role: Role,
    without: &BTreeSet<ProbeId>,
) -> BTreeMap<ObjectId, Vec<AttachSite>> {
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for probe in plan.probes.iter().filter(|probe| !without.contains(&probe.id)) {
        for site in probe.sites.iter().filter(|site| site.program() == role) {
            let cookie = site.cookie(probe.id);
            groups.entry(site.object).or_default().push(AttachSite { offset: site.offset, cookie });
        }
    }
    for sites in groups.values_mut() {
        sites.sort_unstable_by_key(|site| (site.offset, site.cookie.0));
        sites.dedup();
    }
    groups
}

/// Whether the kernel's answer can be the fault of one site: an instruction it will not probe, or
/// an offset beyond the file.
pub(super) fn may_be_one_site(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ENOTSUPP | libc::EOPNOTSUPP | libc::EINVAL | libc::EIO | libc::ENOEXEC)
    )
}

/// Says in words why a site was refused.
pub(super) fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(ENOTSUPP) => String::from("the kernel does not probe this instruction (errno 524)"),
        _ => format!("the kernel refused the site: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use profiler_common::CaptureProgram;

    use super::*;
    use crate::model::VirtAddr;
    use crate::plan::{CostClass, Site};

    fn site(object: u16, offset: u64, role: Role, flags: u16) -> Site {
        Site {
            object: ObjectId(object),
            offset: FileOffset(offset),
            address: VirtAddr(offset),
            role,
            slot_offset: 0,
            flags,
            cost: CostClass::Emulated,
            instruction: String::from("push rbp"),
        }
    }

    fn plan(probes: Vec<Vec<Site>>) -> ProbePlan {
        let probes = probes.into_iter().enumerate().map(|(id, sites)| PlannedProbe {
            id: ProbeId(id as u16),
            function: Arc::from(format!("f{id}")),
            object: ObjectId(0),
            span: None,
            copies: 1,
            sites,
            at_enter: CaptureProgram::default(),
            at_ret: CaptureProgram::default(),
            exits_with: ProbeId(id as u16),
            notes: Vec::new(),
        });
        ProbePlan { probes: probes.collect(), ..ProbePlan::default() }
    }

    fn offsets(groups: &BTreeMap<ObjectId, Vec<AttachSite>>, object: u16) -> Vec<u64> {
        groups
            .get(&ObjectId(object))
            .map_or_else(Vec::new, |sites| sites.iter().map(|site| site.offset.0).collect())
    }

    #[test]
    fn sites_are_grouped_by_object_in_file_order() {
        let plan = plan(vec![
            vec![site(0, 0x30, Role::Enter, 0), site(0, 0x40, Role::Ret, 0)],
            vec![site(1, 0x20, Role::Enter, 0), site(0, 0x10, Role::Enter, 0)],
        ]);
        let enters = Refusals::default().remaining(&plan, Role::Enter);
        assert_eq!(offsets(&enters, 0), [0x10, 0x30]);
        assert_eq!(offsets(&enters, 1), [0x20]);
        let rets = Refusals::default().remaining(&plan, Role::Ret);
        assert_eq!(offsets(&rets, 0), [0x40]);
    }

    #[test]
    fn a_refused_exit_goes_alone_a_refused_enter_takes_its_function_along() {
        let plan = plan(vec![
            vec![
                site(0, 0x10, Role::Enter, 0),
                site(0, 0x18, Role::Ret, 0),
                site(0, 0x1c, Role::Ret, 0),
            ],
            vec![site(0, 0x20, Role::Enter, 0), site(0, 0x28, Role::Ret, 0)],
        ]);
        let mut refusals = Refusals::default();
        let refuse = |refusals: &mut Refusals, role, offset| {
            let sites = refusals.remaining(&plan, role).remove(&ObjectId(0)).unwrap();
            let site = *sites.iter().find(|site| site.offset.0 == offset).unwrap();
            refusals.add(ObjectId(0), role, site, String::from("no"));
        };
        refuse(&mut refusals, Role::Ret, 0x18);
        assert_eq!(offsets(&refusals.remaining(&plan, Role::Ret), 0), [0x1c, 0x28]);
        assert!(refusals.dropped(&plan).is_empty());
        refuse(&mut refusals, Role::Enter, 0x20);
        assert_eq!(offsets(&refusals.remaining(&plan, Role::Ret), 0), [0x1c]);
        assert_eq!(offsets(&refusals.remaining(&plan, Role::Enter), 0), [0x10]);
        let report = refusals.report(&plan);
        let dropped: Vec<_> = report.iter().map(|site| (&*site.function, site.dropped)).collect();
        assert_eq!(dropped, [("f0", false), ("f1", true)]);
    }

    #[test]
    fn a_function_with_another_copy_survives_a_refused_enter() {
        let plan = plan(vec![vec![site(0, 0x10, Role::Enter, 0), site(0, 0x20, Role::Enter, 0)]]);
        let mut refusals = Refusals::default();
        let sites = refusals.remaining(&plan, Role::Enter).remove(&ObjectId(0)).unwrap();
        refusals.add(ObjectId(0), Role::Enter, sites[0], String::from("no"));
        assert!(refusals.dropped(&plan).is_empty());
        assert_eq!(offsets(&refusals.remaining(&plan, Role::Enter), 0), [0x20]);
    }
}
