//! How long the kernel says that our programs have run. It takes the time only while somebody asks it
//! to, and that costs a little: so it is asked now and then, for a moment.

use std::os::fd::OwnedFd;
use std::time::Duration;

use aya::Ebpf;
use aya::sys::{Stats, enable_stats};
use profiler_common::Role;

use super::load;

/// What the kernel told in the moments it was asked.
#[derive(Default)]
pub(super) struct RunTime {
    /// It is asked to take the time.
    asking: Option<OwnedFd>,
    before: (Duration, u64),
    /// In those moments: how long, and how often.
    time: Duration,
    runs: u64,
}

impl RunTime {
    /// Asks the kernel to take the time from now on.
    pub(super) fn begin(&mut self, bpf: &mut Ebpf) {
        if self.asking.is_some() {
            return;
        }
        self.before = total(bpf);
        // A kernel that does not tell is one reason less to know, and none to stop.
        self.asking = enable_stats(Stats::RunTime).ok();
    }

    /// No longer.
    pub(super) fn end(&mut self, bpf: &mut Ebpf) {
        if self.asking.take().is_none() {
            return;
        }
        let (time, runs) = total(bpf);
        self.time += time.saturating_sub(self.before.0);
        self.runs += runs.saturating_sub(self.before.1);
    }

    /// How long one run of a program takes, nanoseconds; none if that was not seen.
    pub(super) fn mean_ns(&self) -> Option<f64> {
        (self.runs > 0).then(|| self.time.as_nanos() as f64 / self.runs as f64)
    }
}

/// Of the programs at probes.
fn total(bpf: &mut Ebpf) -> (Duration, u64) {
    let mut total = (Duration::ZERO, 0);
    for role in [Role::Enter, Role::GoEnter, Role::Ret, Role::Landing] {
        if let Ok(Ok(info)) = load::uprobe(bpf, role).map(|program| program.info()) {
            total.0 += info.run_time();
            total.1 += info.run_count();
        }
    }
    total
}
