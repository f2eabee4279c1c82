//! Whom a run is aimed at: from what the user asks for to processes.

use std::ffi::OsString;
use std::path::Path;

use thiserror::Error;

use super::prepare::Search;
use crate::model::Pid;
use crate::symbols::glob;
use crate::target::{Running, descendants, read_running, running};

/// Whom to profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whom {
    /// These processes.
    Processes(Vec<Pid>),
    /// The one process whose executable has a name, or with a `/` a path, that matches.
    Exe(String),
    /// A program to be started, with its arguments.
    Command(Vec<OsString>),
}

/// Whom to profile, by which maps.
#[derive(Clone, Debug)]
pub struct RunAim {
    /// Whom.
    pub whom: Whom,
    /// Their child processes too, those there are and those to come.
    pub children: bool,
    /// When it has ended, wait until it runs again.
    pub follow: bool,
    /// Names or paths of maps; none: the built-in map that fits.
    pub maps: Vec<String>,
    /// How maps and functions are looked for.
    pub search: Search,
}

/// Why there is nobody to profile.
#[derive(Debug, Error)]
pub enum AimError {
    /// No executable matches.
    #[error(
        "no process runs `{glob}`; it is a glob on the name of the executable, or with a `/` on its \
         path, as /proc/PID/exe has it (an interpreter's, for scripts)"
    )]
    Nobody {
        /// The pattern.
        glob: String,
    },
    /// Several match.
    #[error(
        "{} processes run `{glob}`:\n{}\nchoose one with -p PID{}", .list.len(), .list.join("\n"),
        if *.family { ", or profile them together with --children" } else { "" }
    )]
    Many {
        /// The pattern.
        glob: String,
        /// The processes, a line each.
        list: Vec<String>,
        /// One of them is an ancestor of all others.
        family: bool,
    },
}

impl RunAim {
    /// The processes to attach to; none where a program is to be started.
    ///
    /// # Errors
    ///
    /// If `--exe` does not name one process.
    pub(super) fn processes(&self) -> Result<Vec<Pid>, AimError> {
        match &self.whom {
            Whom::Processes(pids) => {
                let mut pids = pids.clone();
                pids.sort_unstable();
                pids.dedup();
                Ok(pids)
            }
            Whom::Exe(glob) => self.by_exe(glob).map(|pid| vec![pid]),
            Whom::Command(_) => Ok(Vec::new()),
        }
    }

    fn by_exe(&self, glob: &str) -> Result<Pid, AimError> {
        let found: Vec<Running> =
            running().into_iter().filter(|process| matches(glob, &process.exe)).collect();
        match found.as_slice() {
            [] => return Err(AimError::Nobody { glob: glob.to_owned() }),
            [one] => return Ok(one.pid),
            _ => {}
        }
        let head = head_of(&found);
        if let (true, Some(head)) = (self.children, head) {
            return Ok(head);
        }
        Err(AimError::Many {
            glob: glob.to_owned(),
            list: found.iter().take(LISTED).map(line).chain(more(found.len())).collect(),
            family: head.is_some(),
        })
    }
}

/// How many processes an error lists.
const LISTED: usize = 20;

/// Whether an executable is meant.
fn matches(pattern: &str, exe: &Path) -> bool {
    let name = exe.file_name().map(|name| name.to_string_lossy());
    let path = exe.to_string_lossy();
    if pattern.contains('/') { glob(pattern, &path) } else { glob(pattern, &name.unwrap_or(path)) }
}

/// The process that all others descend from.
fn head_of(found: &[Running]) -> Option<Pid> {
    let others_parents: Vec<Pid> = found.iter().map(|process| process.parent).collect();
    let mut heads = found.iter().map(|process| process.pid).filter(|pid| {
        found.iter().any(|process| process.pid == *pid && others_parents.contains(pid))
    });
    heads.find(|head| {
        let family = descendants(*head);
        found.iter().all(|process| process.pid == *head || family.contains(&process.pid))
    })
}

fn line(process: &Running) -> String {
    let args: String =
        process.args.join(" ").chars().filter(|c| !c.is_control()).take(90).collect();
    format!("  {:>8}  {}", process.pid, args)
}

fn more(count: usize) -> Option<String> {
    count.checked_sub(LISTED).filter(|more| *more > 0).map(|more| format!("  … and {more} more"))
}

/// What is waited for with `--follow`: the program that has ended.
#[derive(Clone, Debug)]
pub(super) struct Successor {
    was: Running,
    /// Who ran the same beside it, and is none of its successors.
    others: Vec<Pid>,
}

impl Successor {
    /// What will count as the same program as a process.
    pub(super) fn of(pid: Pid) -> Option<Self> {
        let was = read_running(pid)?;
        let others = like(&was).map(|other| other.pid).filter(|other| *other != pid).collect();
        Some(Self { was, others })
    }

    /// The process that runs it now: of the same executable and arguments, none that was made by
    /// another such, and none that is known.
    pub(super) fn find(&self, known: impl Fn(Pid) -> bool) -> Option<Pid> {
        let same: Vec<Running> = like(&self.was).collect();
        let made = |process: &Running| same.iter().any(|other| other.pid == process.parent);
        let mut pids = same.iter().filter(|process| !made(process)).map(|process| process.pid);
        pids.find(|pid| !known(*pid) && !self.others.contains(pid))
    }
}

fn like(was: &Running) -> impl Iterator<Item = Running> {
    running().into_iter().filter(|other| other.exe == was.exe && other.args == was.args)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, parent: u32) -> Running {
        let exe = Path::new("/no/such/server").into();
        Running { pid: Pid(pid), parent: Pid(parent), exe, args: vec!["server".to_owned()] }
    }

    #[test]
    fn a_name_or_a_path_is_meant() {
        let exe = Path::new("/opt/pg/bin/postgres");
        assert!(
            matches("postgres", exe) && matches("post*", exe) && matches("*/bin/postgres", exe)
        );
        assert!(!matches("bin", exe) && !matches("/postgres", exe) && !matches("postgre", exe));
    }

    #[test]
    fn strangers_have_no_head() {
        assert_eq!(head_of(&[process(10, 1), process(11, 1)]), None);
    }

    #[test]
    fn many_are_listed_up_to_a_limit() {
        let found: Vec<_> = (0..25).map(|pid| process(pid, 1)).collect();
        let list: Vec<_> = found.iter().take(LISTED).map(line).chain(more(found.len())).collect();
        assert_eq!(list.len(), 21);
        assert_eq!(list.last().unwrap(), "  … and 5 more");
    }
}
