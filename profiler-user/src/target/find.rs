//! Finding processes: by what they run, and by who made them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use super::{maps, process};
use crate::model::Pid;

/// A process with a program in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its id.
    pub pid: Pid,
    /// Its parent.
    pub parent: Pid,
    /// The path of its executable, as it sees it.
    pub exe: PathBuf,
    /// Its command line.
    pub args: Vec<String>,
}

/// Every process that can be read, but this one; by id.
#[must_use]
pub fn running() -> Vec<Running> {
    let me = std::process::id();
    let mut found: Vec<Running> = pids().filter(|pid| pid.0 != me).filter_map(read).collect();
    found.sort_unstable_by_key(|process| process.pid);
    found
}

/// The processes a process has made, and those they have made.
#[must_use]
pub fn descendants(pid: Pid) -> Vec<Pid> {
    let mut children: BTreeMap<Pid, Vec<Pid>> = BTreeMap::new();
    for child in pids() {
        if let Ok(stat) = process::stat(child) {
            children.entry(stat.parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut todo = vec![pid];
    while let Some(pid) = todo.pop() {
        // Each once: the table was not read in one moment, and may have a loop.
        let more = children.remove(&pid).unwrap_or_default();
        todo.extend(&more);
        found.extend(more);
    }
    found
}

/// What runs as a process; none if it is no program, or gone.
#[must_use]
pub fn read(pid: Pid) -> Option<Running> {
    let stat = process::stat(pid).ok().filter(|stat| stat.state == process::State::Alive)?;
    let exe = fs::read_link(process::file(pid, "exe")).ok()?;
    let exe = maps::without_deleted(exe.as_os_str().as_bytes()).to_vec();
    let args = fs::read(process::file(pid, "cmdline")).unwrap_or_default();
    Some(Running {
        pid,
        parent: stat.parent,
        exe: PathBuf::from(std::ffi::OsString::from_vec(exe)),
        args: process::command_args(&args),
    })
}

fn pids() -> impl Iterator<Item = Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_is_found_by_what_it_runs_and_by_its_parent() {
        let mut child =
            Command::new("sh").args(["-c", "cat; true"]).stdin(Stdio::piped()).spawn().unwrap();
        let cat = loop {
            if let [cat] = descendants(Pid(child.id())).as_slice() {
                // Between fork and exec it still is a shell.
                if let Some(running) = read(*cat).filter(|cat| cat.exe.ends_with("cat")) {
                    break running;
                }
            }
            std::thread::yield_now();
        };
        assert_eq!(cat.parent, Pid(child.id()));
        assert_eq!(cat.args, ["cat"]);
        assert!(running().contains(&cat));
        assert!(descendants(Pid(std::process::id())).contains(&cat.pid));
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}
