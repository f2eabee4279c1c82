//! A target after the profiler is gone: nothing is left in it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::fixture::build;
use crate::memory::altered;
use crate::process::run;
use crate::timeout::{PATIENCE, until};

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
