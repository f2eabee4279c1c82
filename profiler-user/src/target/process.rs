//! Facts about a process that `/proc` knows and a trace should say.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::time::{ClockId, clock_gettime};

use super::{TargetError, maps};
use crate::model::{Pid, Tid, WallNs};

/// What the OpenTelemetry resource says of a process and its host. What could not be read is
/// empty or `None`: a trace without it is still a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// `process.pid`.
    pub pid: Pid,
    /// `process.parent_pid`.
    pub parent_pid: Pid,
    /// `process.executable.name`: the file name of the executable, else the process's name.
    pub executable_name: String,
    /// `process.executable.path`, as the process sees it.
    pub executable_path: Option<PathBuf>,
    /// `process.command_args`; the first is `process.command`.
    pub command_args: Vec<String>,
    /// `process.creation.time`; exact to a clock tick (10 ms).
    pub creation_time: WallNs,
    /// `process.owner`: the name of the effective user, its number if it has none here.
    pub owner: Option<String>,
    /// `process.linux.cgroup`: the path in the unified hierarchy, else in the first.
    pub cgroup: Option<String>,
    /// `container.id`: 64 hexadecimal digits.
    pub container_id: Option<String>,
    /// `host.name`.
    pub host_name: Option<String>,
    /// `host.arch`.
    pub host_arch: &'static str,
}

/// Reads what is known of a process.
///
/// # Errors
/// [`TargetError`] if there is no such process or nothing of it may be read.
pub fn facts(pid: Pid) -> Result<ProcessFacts, TargetError> {
    let stat = stat(pid)?;
    let executable_path = fs::read_link(file(pid, "exe")).ok();
    let cgroups = text(pid, "cgroup").unwrap_or_default();
    let cgroup = cgroup_path(&cgroups).map(str::to_owned);
    let container_id = container_in_cgroups(&cgroups)
        .or_else(|| text(pid, "mountinfo").and_then(|mounts| container_in_mounts(&mounts)));
    Ok(ProcessFacts {
        pid,
        parent_pid: stat.parent,
        executable_name: executable_path
            .as_deref()
            .and_then(Path::file_name)
            .map_or(stat.name, |name| name.to_string_lossy().into_owned()),
        executable_path,
        command_args: fs::read(file(pid, "cmdline"))
            .map(|bytes| command_args(&bytes))
            .unwrap_or_default(),
        creation_time: creation_time(stat.start_ticks),
        owner: text(pid, "status").and_then(|status| owner(&status)),
        cgroup,
        container_id,
        host_name: fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .map(|name| name.trim_end().to_owned()),
        host_arch: "amd64",
    })
}

/// The name a thread has given itself (`thread.name`); none if it has ended.
#[must_use]
pub fn thread_name(pid: Pid, tid: Tid) -> Option<String> {
    let comm = fs::read(file(pid, &format!("task/{tid}/comm"))).ok()?;
    Some(String::from_utf8_lossy(comm.trim_ascii_end()).into_owned())
}

/// The executable of a process, for opening.
#[must_use]
pub fn exe(pid: Pid) -> PathBuf {
    file(pid, "exe")
}

/// A word of the random bytes that the kernel gave a process's program at its start (`AT_RANDOM`,
/// getauxval(3)); none if they cannot be read.
#[must_use]
pub fn random_word(pid: Pid, index: usize) -> Option<u64> {
    let address = aux_value(pid, libc::AT_RANDOM)?;
    let mut word = [0; 8];
    let at = address.checked_add(u64::try_from(index * word.len()).ok()?)?;
    fs::File::open(file(pid, "mem")).ok()?.read_exact_at(&mut word, at).ok()?;
    Some(u64::from_ne_bytes(word))
}

/// What the kernel told a process's program at its start (getauxval(3)).
pub(super) fn aux_value(pid: Pid, wanted: u64) -> Option<u64> {
    let auxv = fs::read(file(pid, "auxv")).ok()?;
    let pairs = auxv.as_chunks::<8>().0.as_chunks::<2>().0;
    pairs
        .iter()
        .map(|pair| pair.map(u64::from_ne_bytes))
        .find_map(|[kind, value]| (kind == wanted).then_some(value))
}

/// The numbers of a process in all the pid namespaces that it is in; none if it has ended.
pub(super) fn numbers(pid: Pid) -> Vec<u64> {
    let status = text(pid, "status").unwrap_or_default();
    let numbers = status_field(&status, "NSpid:").unwrap_or_default();
    numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect()
}

/// The file descriptors of a process that are sockets; none where they may not be seen.
#[must_use]
pub fn sockets(pid: Pid) -> Vec<u64> {
    let Ok(descriptors) = fs::read_dir(file(pid, "fd")) else { return Vec::new() };
    let socket = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let is_socket = link.to_string_lossy().starts_with("socket:");
        is_socket.then(|| entry.file_name().to_string_lossy().parse().ok())?
    };
    descriptors.flatten().filter_map(socket).collect()
}

/// The mapping of a process that an address lies in: where it begins, and where it ends.
#[must_use]
pub fn mapping_around(pid: Pid, address: u64) -> Option<(u64, u64)> {
    maps::around(&fs::read(file(pid, "maps")).ok()?, address)
}

/// A file of a process.
pub(super) fn file(pid: Pid, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

pub(super) fn text(pid: Pid, name: &str) -> Option<String> {
    let bytes = fs::read(file(pid, name)).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether there is a program in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Alive,
    Zombie,
    Kernel,
}

/// What `/proc/PID/stat` says (`proc_pid_stat(5)`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    pub(super) name: String,
    pub(super) state: State,
    pub(super) parent: Pid,
    /// Since boot, in clock ticks.
    pub(super) start_ticks: u64,
}

/// Reads `/proc/PID/stat`.
pub(super) fn stat(pid: Pid) -> Result<Stat, TargetError> {
    let path = file(pid, "stat");
    let bytes = fs::read(&path).map_err(|error| TargetError::reading(pid, &path, error))?;
    parse_stat(&bytes).ok_or_else(|| TargetError::Read {
        pid,
        file: path,
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "not as proc(5) has it"),
    })
}

/// The process a thread belongs to.
pub(super) fn thread_group(tid: Tid) -> Option<Pid> {
    let status = text(Pid(tid.0), "status")?;
    status_field(&status, "Tgid:")?.parse().ok().map(Pid)
}

fn parse_stat(bytes: &[u8]) -> Option<Stat> {
    /// `PF_KTHREAD` of include/linux/sched.h.
    const KERNEL_THREAD: u64 = 0x0020_0000;
    // The name may hold spaces and parentheses: the last one closes it.
    let open = bytes.iter().position(|&byte| byte == b'(')?;
    let close = bytes.iter().rposition(|&byte| byte == b')')?;
    let name = String::from_utf8_lossy(bytes.get(open + 1..close)?).into_owned();
    let rest = str::from_utf8(bytes.get(close + 1..)?).ok()?;
    // Field 3 is the first of the rest.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let state = match *fields.first()? {
        "Z" | "X" | "x" => State::Zombie,
        _ if number(9)? & KERNEL_THREAD != 0 => State::Kernel,
        _ => State::Alive,
    };
    Some(Stat {
        name,
        state,
        parent: Pid(u32::try_from(number(4)?).ok()?),
        start_ticks: number(22)?,
    })
}

pub(super) fn status_field<'a>(status: &'a str, field: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim)
}

fn owner(status: &str) -> Option<String> {
    // Real, effective, saved, file system.
    let uid = status_field(status, "Uid:")?.split_ascii_whitespace().nth(1)?;
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    });
    Some(name.unwrap_or_else(|| uid.to_owned()))
}

pub(super) fn command_args(bytes: &[u8]) -> Vec<String> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|&byte| byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// The wall time of a moment since boot. The clock that runs on while the machine sleeps is the
/// one the kernel dates processes by (`task->start_boottime`).
fn creation_time(ticks: u64) -> WallNs {
    /// `USER_HZ`: 100 on every x86-64 kernel, whatever its own tick is.
    const NS_PER_TICK: u64 = 10_000_000;
    let now = |clock| {
        let time = clock_gettime(clock);
        time.tv_sec
            .cast_unsigned()
            .saturating_mul(1_000_000_000)
            .saturating_add(time.tv_nsec.cast_unsigned())
    };
    let booted = now(ClockId::Realtime).saturating_sub(now(ClockId::Boottime));
    WallNs(booted.saturating_add(ticks.saturating_mul(NS_PER_TICK)))
}

/// The path in the unified hierarchy (`0::PATH`), else in the first one listed.
fn cgroup_path(cgroups: &str) -> Option<&str> {
    let unified = cgroups.lines().find_map(|line| line.strip_prefix("0::"));
    unified.or_else(|| cgroups.lines().next()?.splitn(3, ':').nth(2))
}

/// Docker, containerd, CRI-O and Podman all name the cgroup after the container.
fn container_in_cgroups(cgroups: &str) -> Option<String> {
    cgroups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).find_map(last_id)
}

/// Inside a cgroup namespace the path says nothing, but the container's `/etc/hostname` is a bind
/// mount from a directory named after it (`proc_pid_mountinfo(5)`: root and mount point are the
/// fields 4 and 5).
fn container_in_mounts(mounts: &str) -> Option<String> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(3);
        let (root, at) = (fields.next()?, fields.next()?);
        // A sandbox is the pod, not the container.
        if at != "/etc/hostname" || root.contains("/sandboxes/") {
            return None;
        }
        last_id(root)
    })
}

/// The last run of exactly 64 hexadecimal digits.
fn last_id(path: &str) -> Option<String> {
    path.rsplit(|c: char| !c.is_ascii_hexdigit()).find(|run| run.len() == 64).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn our_own_facts() {
        let ours = facts(Pid(std::process::id())).unwrap();
        let path = std::env::current_exe().unwrap();
        assert_eq!(ours.executable_path.as_deref(), Some(path.as_path()));
        assert_eq!(ours.executable_name, path.file_name().unwrap().to_str().unwrap());
        assert_eq!(ours.parent_pid, Pid(std::os::unix::process::parent_id()));
        assert_eq!(ours.command_args, std::env::args().collect::<Vec<_>>());
        assert!(ours.owner.is_some() && ours.host_name.is_some() && ours.cgroup.is_some());
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_nanos().cast_signed() - i128::from(ours.creation_time.0);
        assert!((-50_000_000..600_000_000_000).contains(&age), "{age} ns old");
    }

    #[test]
    fn thread_names() {
        let name = std::thread::Builder::new().name("merge worker".into()).spawn(|| {
            let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
            thread_name(Pid(std::process::id()), Tid(tid))
        });
        assert_eq!(name.unwrap().join().unwrap().as_deref(), Some("merge worker"));
        assert_eq!(thread_name(Pid(std::process::id()), Tid(0)), None);
    }

    #[test]
    fn stat_with_a_name_made_to_confuse() {
        let rest = "S 12 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 777 0 0";
        let stat = parse_stat(format!("7 (a) Z 9 (b) {rest}").as_bytes()).unwrap();
        assert_eq!(stat.name, "a) Z 9 (b");
        assert_eq!((stat.parent, stat.start_ticks, stat.state), (Pid(12), 777, State::Alive));
        let kernel = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0";
        assert_eq!(parse_stat(kernel.as_bytes()).unwrap().state, State::Kernel);
        for broken in ["", "7", "7 (x", "7 (x)", "7 )x( S 1", "7 (x) S 1 2"] {
            assert_eq!(parse_stat(broken.as_bytes()), None, "{broken:?}");
        }
    }

    #[test]
    fn container_ids() {
        for path in [
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("12:cpu:/docker/{ID}\n0::/"),
            format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
            format!("0::/machine.slice/libpod-{ID}.scope/container"),
        ] {
            assert_eq!(container_in_cgroups(&path).as_deref(), Some(ID), "{path}");
        }
        assert_eq!(container_in_cgroups("0::/user.slice/session-1.scope"), None);
        assert_eq!(container_in_cgroups(&format!("0::/x/{ID}0")), None);

        let docker = format!(
            "1 2 8:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/sda rw"
        );
        assert_eq!(container_in_mounts(&docker).as_deref(), Some(ID));
        let pod =
            format!("1 2 8:1 /run/io.cri/sandboxes/{ID}/hostname /etc/hostname rw - ext4 x rw");
        assert_eq!(container_in_mounts(&pod), None);
    }

    #[test]
    fn cgroup_of_both_hierarchies() {
        assert_eq!(cgroup_path("3:cpu:/a\n0::/b:c\n"), Some("/b:c"));
        assert_eq!(cgroup_path("3:cpu,cpuacct:/a\n"), Some("/a"));
        assert_eq!(cgroup_path(""), None);
    }

    #[test]
    fn arguments() {
        assert_eq!(command_args(b"a\0\0b c\0"), ["a", "", "b c"]);
        assert_eq!(command_args(b"").len(), 0);
    }
}
