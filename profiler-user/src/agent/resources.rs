//! Where a span comes from: the process it ran in, as the resource of its trace.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::model::{Pid, WallNs};
use crate::sink::{Resource, ResourceError, ResourceFacts};
use crate::symbols::build_id;
use crate::target::{ProcessFacts, process};

/// Bounds what is remembered of processes that come and go.
const REMEMBERED: usize = 16_384;

/// The resources of the processes of a run, each read when its first span goes out.
pub(super) struct Resources {
    /// `service.name` where neither flag nor environment gives one.
    fallback: String,
    insisted: bool,
    /// `--service`.
    service: Option<String>,
    /// Whether there is more to be read of a process than its number.
    live: bool,
    known: FxHashMap<Pid, Arc<Resource>>,
}

impl Resources {
    /// Of a run, or of a recording, whose processes are gone.
    ///
    /// # Errors
    ///
    /// If the resource attributes in the environment cannot be read.
    pub(super) fn new(service: Option<String>, live: bool) -> Result<Self, ResourceError> {
        let this = Self {
            fallback: String::new(),
            insisted: false,
            service,
            live,
            known: FxHashMap::default(),
        };
        // Told before anything is attached, not with the first span.
        this.build(&ResourceFacts::default())?;
        Ok(this)
    }

    /// The service's name where the user gives none.
    pub(super) fn fall_back_on(&mut self, service: &str) {
        if self.fallback != service && !self.insisted {
            service.clone_into(&mut self.fallback);
            self.known.clear();
        }
    }

    /// The service's name, unless a flag or the environment gives another, whatever runs.
    pub(super) fn insist_on(&mut self, service: &str) {
        self.fall_back_on(service);
        self.insisted = true;
    }

    /// The resource of a process.
    pub(super) fn of(&mut self, pid: Pid) -> Arc<Resource> {
        if let Some(known) = self.known.get(&pid) {
            return Arc::clone(known);
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let service_name = self.fallback.clone();
        let bare = ResourceFacts { service_name, pid: Some(pid.0), ..ResourceFacts::default() };
        let facts = if self.live { facts(pid, &bare) } else { bare };
        // It was built once before: what can fail is in the environment, which does not change.
        let resource = Arc::new(self.build(&facts).unwrap_or_default());
        self.known.insert(pid, Arc::clone(&resource));
        resource
    }

    /// A process's number is used by another now.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.known.remove(&pid);
    }

    fn build(&self, facts: &ResourceFacts) -> Result<Resource, ResourceError> {
        Resource::build(facts, self.service.as_deref(), |name| std::env::var(name).ok())
    }
}

/// What can be read of a process; `bare` if it has ended.
fn facts(pid: Pid, bare: &ResourceFacts) -> ResourceFacts {
    let Ok(facts) = process::facts(pid) else { return bare.clone() };
    let ProcessFacts {
        pid: _,
        parent_pid: _,
        executable_name,
        executable_path,
        command_args,
        creation_time,
        owner,
        cgroup: _,
        container_id,
        host_name,
        host_arch,
    } = facts;
    ResourceFacts {
        executable_name: Some(executable_name),
        executable_path: executable_path.map(|path| path.display().to_string()),
        command_line: (!command_args.is_empty()).then(|| command_args.join(" ")),
        build_id: build_id(&process::exe(pid)).map(|id| id.to_string()),
        owner,
        creation_time: Some(iso_8601(creation_time)),
        host_name,
        host_arch: Some(host_arch.to_owned()),
        container_id,
        ..bare.clone()
    }
}

/// `2026-11-21T03:00:00.250Z`. Civil date from days: Howard Hinnant, "chrono-compatible low-level
/// date algorithms", `civil_from_days`.
fn iso_8601(time: WallNs) -> String {
    let since_epoch = Duration::from_nanos(time.0);
    let seconds = since_epoch.as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since_epoch.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_iso_8601() {
        let at = |seconds: u64| iso_8601(WallNs(seconds * 1_000_000_000));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(at(1_795_230_245), "2026-11-21T03:04:05.000Z");
        assert_eq!(iso_8601(WallNs(1_250_000_000)), "1970-01-01T00:00:01.250Z");
    }
}
