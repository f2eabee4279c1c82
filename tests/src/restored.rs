//! A target after the profiler is gone: nothing is left in it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::fixture::build;
use crate::memory::altered;
use crate::process::run;
use crate::timeout::{PATIENCE, until};

/// As long as the kernel takes for what it does not leak, on a machine that is not too busy.
const SHORT: Duration = Duration::from_secs(5);

/// The `uprobe_multi` links on a process or its executable, a line each.
///
/// # Errors
/// When they cannot be listed.
pub fn links(pid: u32) -> Result<Vec<String>> {
    let listed = run("links", Command::new(build("links.c", &["-O1"])?), PATIENCE)?;
    ensure!(listed.code == Some(0), "links could not be listed: {listed:?}");
    let executable = fs::read_link(format!("/proc/{pid}/exe"))?;
    let executable = executable.to_string_lossy();
    let pid = pid.to_string();
    let its = |line: &&str| {
        let mut words = line.splitn(3, ' ').skip(1);
        words.next() == Some(&pid) || words.next() == Some(&executable)
    };
    Ok(listed.stdout.lines().filter(its).map(str::to_owned).collect())
}

/// Waits until the target's code is again what its files say, and no link is left on it: the
/// kernel takes them away after the profiler is gone.
///
/// # Errors
/// When something is left.
pub fn until_restored(pid: u32) -> Result<()> {
    let mut left = BTreeSet::new();
    until(PATIENCE, "the code to be restored", || {
        left = altered(pid)?;
        Ok(left.is_empty().then_some(()))
    })
    .with_context(|| format!("still altered: {left:?}"))?;
    let mut open = Vec::new();
    until(PATIENCE, "the links to be closed", || {
        open = links(pid)?;
        Ok(open.is_empty().then_some(()))
    })
    .with_context(|| format!("links left: {open:?}"))
}

/// What the kernel has said so far of breakpoints that it could not take away.
#[derive(Clone, Copy, Debug)]
pub struct Leaks(usize);

impl Leaks {
    /// Counts them in the kernel's log.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn so_far() -> Result<Self> {
        let log = run("dmesg", Command::new("dmesg"), PATIENCE)?;
        ensure!(log.code == Some(0), "the kernel's log cannot be read: {log:?}");
        Ok(Self(log.stdout.matches("failed to unregister, leaking uprobe").count()))
    }

    /// Waits, after the profiler was killed, until nothing is left in the target. Breakpoints that the
    /// kernel says it has leaked since go by `again`, which attaches to the same places and detaches
    /// (`docs/safety.md`).
    ///
    /// # Errors
    /// When something is left.
    pub fn until_restored(self, pid: u32, again: impl FnOnce() -> Result<()>) -> Result<()> {
        let Err(left) =
            until(SHORT, "the code to be restored", || Ok(altered(pid)?.is_empty().then_some(())))
        else {
            return until_restored(pid);
        };
        if Self::so_far()?.0 > self.0 {
            again().context("attaching again, to take away what the kernel has leaked")?;
        } else {
            eprintln!("slow: {left:#}");
        }
        until_restored(pid)
    }
}
