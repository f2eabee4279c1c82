//! Coming and going, again and again, by every way to go, under a target that compares all of its
//! registers all the time (`fixtures/sites.c`).

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, soak};
use profiler_tests::family::copy;
use profiler_tests::fixture::Fixture;
use profiler_tests::memory::altered;
use profiler_tests::process::Process;
use profiler_tests::qprof::{Run, check_code};
use profiler_tests::restored::{Leaks, links, until_restored};
use profiler_tests::timeout::PATIENCE;

use crate::sites::{map, sites};

/// The target, busy, and the map of it. Its file is its own, so links on it are ours.
fn busy() -> Result<(Fixture, PathBuf, PathBuf)> {
    let (binary, names) = sites()?;
    let binary = copy(&binary, "sites")?;
    let mut target = Fixture::start(&binary, &["-1", "2"])?;
    target.go()?;
    Ok((target, binary, map(&names)?))
}

/// Lets the target end: it was right all the time.
fn check_right(target: Fixture) -> Result<()> {
    let finished = target.finish()?;
    ensure!(finished.code == Some(0), "it was wrong: {finished:?}");
    ensure!(finished.stdout.contains(" 0 differences"), "{}", finished.stdout);
    Ok(())
}

/// Moments spread over a span of time, the same in every run.
fn moment(turn: u32, within_ms: u64) -> Duration {
    // Knuth's multiplicative hash: neighbours come to lie far apart.
    Duration::from_millis(u64::from(turn.wrapping_mul(2_654_435_769) >> 8) % within_ms)
}

fn ours(pid: u32, map: &Path) -> Result<Run> {
    Ok(Run::on(pid)?.map(map).output("none"))
}

#[test]
fn attached_and_detached_again_and_again() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let (mut target, _, map) = busy()?;
    for turn in 0..soak(1_000) {
        let run = ours(target.pid(), &map)?.start()?;
        ensure!(!links(target.pid())?.is_empty(), "attached, and no link is seen");
        thread::sleep(moment(turn, 50));
        run.stop()?.check_ok().with_context(|| format!("turn {turn}"))?;
        ensure!(target.alive(), "turn {turn}: the target is gone");
        until_restored(target.pid()).with_context(|| format!("turn {turn}"))?;
    }
    check_right(target)
}

/// Killed at any moment: while it reads symbols, loads programs, attaches, runs, and detaches.
#[test]
fn killed_at_any_moment() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let (mut target, _, map) = busy()?;
    let mut met = 0;
    let (pid, same) = (target.pid(), map.clone());
    let again = || ours(pid, &same)?.start()?.stop()?.check_ok();
    for turn in 0..soak(100) {
        let leaks = Leaks::so_far()?;
        let (mut qprof, _) = ours(target.pid(), &map)?.spawn()?;
        thread::sleep(moment(turn, 600));
        met += u32::from(!altered(target.pid())?.is_empty());
        qprof.kill().with_context(|| format!("turn {turn}"))?;
        ensure!(target.alive(), "turn {turn}: the target is gone");
        leaks.until_restored(target.pid(), again).with_context(|| format!("turn {turn}"))?;
    }
    // However slow the machine is: once it was certainly attached, and certainly detaching.
    for detaching in [false, true] {
        let leaks = Leaks::so_far()?;
        let mut run = ours(target.pid(), &map)?.start()?;
        met += u32::from(!altered(target.pid())?.is_empty());
        if detaching {
            run.signal(rustix::process::Signal::INT)?;
        }
        run.kill()?;
        leaks.until_restored(target.pid(), again)?;
    }
    ensure!(met > 0, "it was never attached when it was killed");
    check_right(target)
}

/// The target ends while it is being attached to: whenever that is, one clear line and an exit
/// code, no panic and nothing that hangs; and whoever else runs the same file is not touched.
#[test]
fn the_target_ends_while_attaching() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let (other, binary, map) = busy()?;
    for turn in 0..soak(100) {
        let mut target = Fixture::start(&binary, &["-1", "1"])?;
        target.go()?;
        let (mut qprof, _): (Process, _) = ours(target.pid(), &map)?.spawn()?;
        thread::sleep(moment(turn, 200));
        target.kill()?;
        let finished = qprof.wait(PATIENCE)?;
        // Ended before it was attached: 4, with the reason. After that: an ordinary end.
        if finished.code != Some(0) {
            check_code(&finished, 4).with_context(|| format!("turn {turn}"))?;
            ensure!(
                finished.stderr.contains("ended") || finished.stderr.contains("no process"),
                "turn {turn}: it does not say that the target is gone: {}",
                finished.stderr
            );
        }
        until_restored(other.pid()).with_context(|| format!("turn {turn}"))?;
    }
    check_right(other)
}
