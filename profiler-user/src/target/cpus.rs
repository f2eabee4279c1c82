//! How much of the machine a process may use.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process;
use crate::model::Pid;

/// The smallest quota the kernel takes is a millisecond of a second.
const LEAST: f64 = 0.001;
/// The kernel can be built for no more.
const MOST_CPUS: u32 = 8192;

/// How many CPUs a process may use: those its main thread may run on and that are there, or what the
/// quotas of its control groups allow, whichever is less. Never 0; what cannot be read forbids
/// nothing.
#[must_use]
pub fn allowed_cpus(pid: Pid) -> f64 {
    let online = fs::read_to_string("/sys/devices/system/cpu/online");
    let online = online.ok().map(|list| ranges(&list)).filter(|ranges| !ranges.is_empty());
    let status = process::text(pid, "status").unwrap_or_default();
    let cgroups = process::text(pid, "cgroup").unwrap_or_default();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let quotas = hierarchies(&mounts, &cgroups);
    let quotas = quotas.iter().filter_map(Hierarchy::quota);
    quotas.fold(affinity(&status, online.as_deref()), f64::min).max(LEAST)
}

/// What the scheduler gave the threads of a process since they began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scheduled {
    /// How long they ran, all in all; exact to a tick of the kernel's, some milliseconds.
    pub ran: Duration,
    /// How long they could have run and did not, because others did.
    pub waited: Duration,
}

impl Scheduled {
    /// What was added to what it was before; nothing for threads that have ended meanwhile.
    #[must_use]
    pub const fn since(self, before: Self) -> Self {
        Self {
            ran: self.ran.saturating_sub(before.ran),
            waited: self.waited.saturating_sub(before.waited),
        }
    }
}

/// How long the threads that a process has now have run and waited; nothing where the kernel does
/// not tell.
#[must_use]
pub fn scheduled(pid: Pid) -> Scheduled {
    let threads = fs::read_dir(process::file(pid, "task")).into_iter().flatten().flatten();
    let texts =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("schedstat")).ok());
    let times = texts.filter_map(|text| schedstat(&text));
    times.fold(Scheduled::default(), |sum, (ran, waited)| Scheduled {
        ran: sum.ran.saturating_add(ran),
        waited: sum.waited.saturating_add(waited),
    })
}

/// `/proc/PID/task/TID/schedstat`: nanoseconds on a CPU and waiting for one, and how many turns.
fn schedstat(text: &str) -> Option<(Duration, Duration)> {
    let mut fields = text.split_ascii_whitespace().map(str::parse::<u64>);
    let mut time = || Some(Duration::from_nanos(fields.next()?.ok()?));
    Some((time()?, time()?))
}

/// The CPUs that `/proc/PID/status` names, of those that are there; without either, those we may use
/// ourselves.
fn affinity(status: &str, online: Option<&[RangeInclusive<u32>]>) -> f64 {
    let own = || std::thread::available_parallelism().map_or(1, usize::from) as f64;
    let allowed = process::status_field(status, "Cpus_allowed_list:").map(ranges);
    let allowed = allowed.filter(|ranges| !ranges.is_empty());
    let common = match (allowed, online) {
        (Some(allowed), Some(online)) => online.iter().map(|there| common(&allowed, there)).sum(),
        (Some(ranges), None) => size(&ranges),
        (None, Some(ranges)) => size(ranges),
        (None, None) => 0,
    };
    if common == 0 { own() } else { f64::from(common) }
}

fn common(allowed: &[RangeInclusive<u32>], there: &RangeInclusive<u32>) -> u32 {
    let of = |range: &RangeInclusive<u32>| {
        let (first, last) = (*range.start().max(there.start()), *range.end().min(there.end()));
        (last + 1).saturating_sub(first)
    };
    allowed.iter().map(of).sum()
}

fn size(ranges: &[RangeInclusive<u32>]) -> u32 {
    ranges.iter().map(|range| range.end() - range.start() + 1).sum()
}

/// A list like `0-3,8`: ascending ranges that do not overlap. What is no range is left out.
fn ranges(list: &str) -> Vec<RangeInclusive<u32>> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u32>().ok();
        let (first, last) = (number(first)?, number(last)?.min(MOST_CPUS));
        (first <= last).then_some((first, last))
    };
    let mut named: Vec<(u32, u32)> = list.trim().split(',').filter_map(range).collect();
    named.sort_unstable();
    let mut ranges = Vec::with_capacity(named.len());
    let mut free = 0;
    for (first, last) in named {
        let first = first.max(free);
        if first <= last {
            ranges.push(first..=last);
            free = last + 1;
        }
    }
    ranges
}

/// Where the control groups are that bound a process's time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Of the second version: `cpu.max`; of the first, two files.
    unified: bool,
    /// Where its groups are mounted.
    root: PathBuf,
    /// The process's group below it.
    group: PathBuf,
}

impl Hierarchy {
    /// The smallest quota of the group and those around it, CPUs; none if none has one.
    fn quota(&self) -> Option<f64> {
        let text = |directory: &Path, name: &str| fs::read_to_string(directory.join(name)).ok();
        let of = |directory: &Path| {
            if self.unified {
                return cpu_max(&text(directory, "cpu.max")?);
            }
            let period = text(directory, "cpu.cfs_period_us")?;
            share(&text(directory, "cpu.cfs_quota_us")?, &period)
        };
        let group = self.root.join(&self.group);
        let around = group.ancestors().take_while(|directory| directory.starts_with(&self.root));
        around.filter_map(of).reduce(f64::min)
    }
}

/// What a line of `/proc/self/mountinfo` (`proc_pid_mountinfo(5)`) says of control groups, for the
/// groups that `/proc/PID/cgroup` names.
fn hierarchies(mounts: &str, cgroups: &str) -> Vec<Hierarchy> {
    let mut found = Vec::new();
    for line in mounts.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ').skip(3);
        let (Some(top), Some(point)) = (before.next(), before.next()) else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        let unified = kind == Some("cgroup2");
        let bounds_time = kind == Some("cgroup") && options.split(',').any(|name| name == "cpu");
        if !unified && !bounds_time {
            continue;
        }
        if let Some(group) = group(cgroups, unified).and_then(|group| below(top, group)) {
            found.push(Hierarchy { unified, root: PathBuf::from(point), group });
        }
    }
    found
}

/// The process's group, as seen from our own namespace: `0::/a` or `4:cpu,cpuacct:/a`.
fn group(cgroups: &str, unified: bool) -> Option<&str> {
    cgroups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let is_it = if unified {
            number == "0" && controllers.is_empty()
        } else {
            controllers.split(',').any(|name| name == "cpu")
        };
        is_it.then_some(path)
    })
}

/// A group's directory below the group `top` that is mounted. What lies outside is not to be seen;
/// the mounted group stands for it.
fn below(top: &str, group: &str) -> Option<PathBuf> {
    let group = Path::new(group);
    let inside = group.strip_prefix(top).or_else(|_| group.strip_prefix("/")).ok()?;
    let is_plain = |part: std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    Some(if inside.components().all(is_plain) { inside.to_owned() } else { PathBuf::new() })
}

/// `cpu.max`: `200000 100000`, or `max 100000`.
fn cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    share(quota, period)
}

/// A quota of a period, both in microseconds; `max` and -1 are none.
fn share(quota: &str, period: &str) -> Option<f64> {
    let number = |text: &str| text.trim().parse::<u32>().ok().filter(|number| *number > 0);
    Some(f64::from(number(quota)?) / f64::from(number(period)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(ranges("0-3,8,10-11\n"), [0..=3, 8..=8, 10..=11]);
        assert_eq!(ranges("4,0-4,2-6"), [0..=4, 5..=6]);
        for nothing in ["", "\n", "a", "3-1", "-", ",,", "-1", "99999999999", "1-2-3"] {
            assert_eq!(size(&ranges(nothing)), 0, "{nothing}");
        }
        assert_eq!(size(&ranges("0-4294967295")), MOST_CPUS + 1);
    }

    #[test]
    fn cpus_that_are_not_there_do_not_count() {
        let status = "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t1-127\n";
        assert!(is(affinity(status, Some(&ranges("0-3"))), 3.0));
        assert!(is(affinity(status, None), 127.0));
        assert!(is(affinity("", Some(&ranges("0-3"))), 4.0));
        assert!(affinity("Cpus_allowed_list:\t9\n", Some(&ranges("0-3"))) >= 1.0);
        assert!(affinity("Cpus_allowed_list:\tnonsense\n", None) >= 1.0);
    }

    #[test]
    fn quotas() {
        assert!(cpu_max("150000 100000\n").is_some_and(|cpus| is(cpus, 1.5)));
        assert!(share("50000\n", "100000\n").is_some_and(|cpus| is(cpus, 0.5)));
        for none in ["max 100000", "", "max", "0 100000", "1 0", "-1 100000", "1e9 x", "1  2 3"] {
            assert_eq!(cpu_max(none), None, "{none}");
        }
        assert_eq!(share("-1", "100000"), None);
    }

    #[test]
    fn groups_and_where_they_are_mounted() {
        let mounts = "30 24 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n\
                      31 24 0:28 /docker/1 /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 24 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      broken\n33 - cgroup2\n - \n";
        let cgroups = "4:cpu,cpuacct:/docker/1/a\n1:cpuset:/c\n0::/b.slice/d\nx\n:::\n";
        let found = hierarchies(mounts, cgroups);
        let (two, one) = (&found[0], &found[1]);
        assert_eq!(found.len(), 2);
        assert!(two.unified && two.group == Path::new("b.slice/d"), "{two:?}");
        assert!(!one.unified && one.group == Path::new("a"), "{one:?}");
        assert_eq!(one.root, Path::new("/sys/fs/cgroup/cpu"));
        assert_eq!(hierarchies(mounts, ""), Vec::new());
        assert_eq!(below("/", "/../../etc"), Some(PathBuf::new()));
        assert_eq!(below("/", "no path"), None);
    }

    #[test]
    fn the_tightest_of_all_groups_counts() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("cgroup");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::write(directory.path().join("cpu.max"), "1 100000").unwrap();
        fs::write(root.join("a/cpu.max"), "50000 100000").unwrap();
        fs::write(root.join("a/b/cpu.max"), "max 100000").unwrap();
        let group = PathBuf::from("a/b");
        let unified = Hierarchy { unified: true, root: root.clone(), group: group.clone() };
        assert!(unified.quota().is_some_and(|cpus| is(cpus, 0.5)));
        fs::write(root.join("a/b/cpu.cfs_quota_us"), "300000").unwrap();
        fs::write(root.join("a/b/cpu.cfs_period_us"), "100000").unwrap();
        let first = Hierarchy { unified: false, root, group };
        assert!(first.quota().is_some_and(|cpus| is(cpus, 3.0)));
    }

    #[test]
    fn times_on_a_cpu_and_waiting_for_one() {
        let ns = Duration::from_nanos;
        assert_eq!(schedstat("1500 200 3\n"), Some((ns(1500), ns(200))));
        for wrong in ["", "5", "-1 2 3", "a b c", "99999999999999999999999 1 1"] {
            assert_eq!(schedstat(wrong), None, "{wrong}");
        }
        let now = Scheduled { ran: ns(9), waited: ns(1) };
        let before = Scheduled { ran: ns(4), waited: ns(2) };
        assert_eq!(now.since(before), Scheduled { ran: ns(5), waited: ns(0) });
        assert_eq!(scheduled(Pid(u32::MAX)), Scheduled::default());
    }

    #[test]
    fn we_may_use_some() {
        let cpus = allowed_cpus(Pid(std::process::id()));
        assert!(cpus >= LEAST && cpus.is_finite());
        assert!(allowed_cpus(Pid(u32::MAX)) >= LEAST);
    }
}
