//! Which goroutines do what they were made for, and which serve whoever comes.

use profiler_common::Role;
use rustc_hash::FxHashMap;

use super::Landings;
use super::learn::Caller;
use crate::attach::Attached;
use crate::model::{Pid, ReturnAddr, Words};
use crate::plan::ProbePlan;
use crate::target::{CodeMap, MappedCode, Target};

/// Callers that are remembered.
const REMEMBERED: usize = 65_536;

/// What is known of callers, by address space.
#[derive(Default)]
pub(super) struct Callers(FxHashMap<(u64, u64), Option<Caller>>);

impl Landings {
    /// Whether a goroutine whose first call has these callers, the innermost first, does once what it does:
    /// none of them calls what it called again, up to the function that the goroutine began with. False
    /// where that is not known.
    pub(in crate::agent) fn runs_once(
        &mut self,
        pid: Pid,
        callers: &Words,
        attached: &mut Attached,
    ) -> bool {
        let proven = self.space_of(pid, attached).and_then(|space| {
            // What has not come to the top is deeper than the kernel side looks.
            callers.as_slice().iter().find_map(|address| {
                match self.caller(pid, space, *address) {
                    Some(Caller::Once) => None,
                    Some(Caller::Top) => Some(Some(true)),
                    Some(Caller::Loop) => Some(Some(false)),
                    None => Some(None),
                }
            })?
        });
        self.stats.unknown_births += u64::from(proven.is_none());
        proven.unwrap_or(false)
    }

    fn caller(&mut self, pid: Pid, space: u64, address: u64) -> Option<Caller> {
        let key = (space, address);
        if let Some(known) = self.callers.0.get(&key) {
            return *known;
        }
        if self.callers.0.len() >= REMEMBERED {
            self.callers.0.clear();
        }
        let caller = self.learner.caller(pid, space, ReturnAddr(address)).ok()?;
        self.callers.0.insert(key, caller);
        caller
    }

    /// Has a program in Go read before it is attached to: of each goroutine that it makes it will be asked at
    /// once what it does, while events wait.
    pub(super) fn read_go(&self, plan: &ProbePlan, target: &Target, space: u64) {
        let sites = plan.probes.iter().flat_map(|probe| {
            probe.sites.iter().map(move |site| (probe.object, site.role, site.offset))
        });
        let runtime = sites.filter(|(_, role, _)| *role == Role::GoRuntime).find_map(
            |(object, _, offset)| Some(MappedCode { inode: target.object(object)?.inode, offset }),
        );
        let Some(code) = runtime else { return };
        // A process that is gone makes no goroutines.
        let Ok(map) = CodeMap::read(target.pid) else { return };
        if let Some(address) = map.addresses(code).next() {
            self.learner.read(target.pid, space, address.saturating_add(1));
        }
    }

    /// What was known of callers in an address space is void.
    pub(super) fn forget_callers(&mut self, space: u64) {
        self.callers.0.retain(|(of, _), _| *of != space);
    }
}
