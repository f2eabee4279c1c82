//! `--children`: processes that a target has made, and those it makes.

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::family::{self, Family, binary};
use profiler_tests::fixture::build;
use profiler_tests::qprof::Run;

fn tree_of(family: &Family) -> Result<Run> {
    Run::with(&["-p", &family.pid().to_string(), "--children"])
}

/// Children from before and after, and grandchildren of either: each call once, under the process
/// that made it.
#[test]
fn children_from_before_and_after_are_told_apart() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut family = Family::start(&binary()?)?;
    let before = family.fork("")?;
    let grandchild_before = family.fork("@0 ")?;
    let (run, file) = family::start(tree_of(&family)?)?;
    let after = family.fork("")?;
    let late_of_before = family.fork("@0 ")?;
    let grandchild_after = family.fork("@1 ")?;
    let great_grandchild = family.fork("@1 @0 ")?;
    for (who, calls) in [
        ("", 3),
        ("@0 ", 4),
        ("@0 @0 ", 5),
        ("@1 ", 6),
        ("@0 @1 ", 7),
        ("@1 @0 ", 8),
        ("@1 @0 @0 ", 9),
    ] {
        family.tell(&format!("{who}call {calls}"))?;
    }
    let made = [
        (family.pid(), 3),
        (before, 4),
        (grandchild_before, 5),
        (after, 6),
        (late_of_before, 7),
        (grandchild_after, 8),
        (great_grandchild, 9),
    ];
    let done = run.stop()?;
    done.check_ok()?;
    family.end()?;
    family::check(&done, &file, &made)
}

/// Without `--children` nothing of a child is taken, though it runs the same probed code.
#[test]
fn without_being_asked_for_children_are_left_alone() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut family = Family::start(&binary()?)?;
    family.fork("")?;
    let (run, file) = family::start(Run::on(family.pid())?)?;
    family.fork("")?;
    family.tell("each call 10")?;
    family.tell("call 2")?;
    family.tell("storm 5")?;
    let done = run.stop()?;
    done.check_ok()?;
    let pid = family.pid();
    family.end()?;
    family::check(&done, &file, &[(pid, 2)])
}

/// Fifty at once, half of them from before, calling at the same time.
#[test]
fn fifty_children_at_once() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut family = Family::start(&binary()?)?;
    let mut made = Vec::new();
    for _ in 0..25 {
        made.push((family.fork("")?, 200));
    }
    let (run, file) = family::start(tree_of(&family)?)?;
    for _ in 0..25 {
        made.push((family.fork("")?, 200));
    }
    family.tell("each call 200")?;
    // The run ends by itself with the last of them.
    let finished = family.end()?;
    ensure!(finished.code == Some(0), "{finished:?}");
    let done = run.wait()?;
    done.check_ok()?;
    family::check(&done, &file, &made)
}

/// A child that becomes another program, with functions of the map or without, by fork and vfork.
#[test]
fn a_child_becomes_another_program() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let other = build("family.c", &["-O2", "-ldl", "-DQUERY=other_query"])?;
    let mut family = Family::start(&binary()?)?;
    let (mut run, file) = family::start(tree_of(&family)?)?;
    let child = family.fork("")?;
    family.tell("@0 call 2")?;
    let ready = family.ask(&format!("@0 exec {}", other.display()))?;
    ensure!(ready == "ready", "the new program says {ready:?}");
    run.until_said("attached: more", 1)?;
    family.tell("@0 call 7")?;
    // Whoever runs it next finds it probed, from the first call on.
    let vforked = family.ask(&format!("vfork {} 11", other.display()))?;
    ensure!(vforked == "0", "the exit code of the program is {vforked}");
    let same = family.ask(&format!("vfork {} 13", binary()?.display()))?;
    ensure!(same == "0", "the exit code of the program is {same}");
    ensure!(family.ask("vfork /bin/true 1")? == "0");
    ensure!(family.ask("vfork /no/such/program 1")? == "127");
    let done = run.stop()?;
    done.check_ok()?;
    family.end()?;
    let traces = family::traces(&done, &file)?;
    let roots = family::roots(&traces)?;
    ensure!(roots.get(&child) == Some(&9), "of the child: {roots:?}");
    let mut others: Vec<usize> =
        roots.iter().filter(|(pid, _)| **pid != child).map(|(_, count)| *count).collect();
    others.sort_unstable();
    ensure!(others == [11, 13], "of the programs that were started: {roots:?}");
    let of_other = traces.iter().filter(|trace| trace.count("other_query") == 1).count();
    ensure!(of_other == 18, "{of_other} calls of the other program");
    Ok(())
}

/// The target dies, its children live on: so does the run, until the last of them is gone.
#[test]
fn children_outlive_the_target() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for killed in [false, true] {
        let mut family = Family::start(&binary()?)?;
        family.tell("orphans 3 20")?;
        let (run, file) = family::start(tree_of(&family)?)?;
        family.tell("orphans 4 20")?;
        family.tell("call 1")?;
        let pid = family.pid();
        if killed {
            family.kill()?;
        } else {
            family.end()?;
        }
        let done = run.wait()?;
        done.check_ok()?;
        let roots = family::roots(&family::traces(&done, &file)?)?;
        ensure!(roots.get(&pid) == Some(&1), "of the target: {roots:?}");
        ensure!(roots.len() == 8, "of its children: {roots:?}");
        ensure!(roots.iter().all(|(of, count)| *of == pid || *count == 20), "{roots:?}");
    }
    Ok(())
}

/// 500 children as fast as five processes can make them, each gone after one call.
#[test]
fn a_storm_of_short_lives() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut family = Family::start(&binary()?)?;
    for _ in 0..5 {
        family.fork("")?;
    }
    let (run, file) = family::start(tree_of(&family)?)?;
    // The target's own result: every child ended with what it was to end with.
    family.tell("each storm 100")?;
    family.end()?;
    let done = run.wait()?;
    done.check_ok()?;
    let traces = family::traces(&done, &file)?;
    ensure!(traces.len() == 500, "{} roots: {}", traces.len(), done.summary.0);
    // Numbers may come round again, though not in 500 processes.
    let roots = family::roots(&traces)?;
    ensure!(roots.len() == 500, "{} processes", roots.len());
    Ok(())
}
