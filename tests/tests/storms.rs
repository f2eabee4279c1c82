//! Targets that change faster than anybody can look.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{alone, can_probe, kernel, scratch};
use profiler_tests::family::{self, Family, binary, copy, library};
use profiler_tests::fixture::{build, build_by};
use profiler_tests::qprof::{Run, check_code};
use profiler_tests::timeout::{PATIENCE, until};

/// What is started becomes itself again and again, each time held, while its child starts the same
/// program all the time: none of those is held, and each of their calls is seen.
#[test]
fn only_what_was_started_is_held() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let program = binary()?;
    let name = program.to_string_lossy().into_owned();
    let command = Run::command(&program, &["chain", &name, "20"])?.arg("--children");
    let (running, file) = family::start(command)?;
    let done = running.wait()?;
    check_code(&done.finished, 0).context("one of its children was stopped")?;
    let roots = family::roots(&family::traces(&done, &file)?)?;
    ensure!(!roots.is_empty() && roots.values().all(|count| *count == 1), "{roots:?}");
    Ok(())
}

/// qprof is gone while the program is held: it is not left behind, stopped for good.
#[test]
fn a_held_program_is_not_left_behind() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut held = 0;
    for _ in 0..20 {
        let (command, _) = family::traced(Run::command(binary()?, &[])?)?;
        let (mut qprof, _) = command.spawn()?;
        let path = format!("/proc/{0}/task/{0}/children", qprof.pid());
        let child = until(PATIENCE, "the program to be made", || {
            let children = fs::read_to_string(&path).unwrap_or_default();
            Ok(children.split_whitespace().next().map(str::to_owned))
        })?;
        let state = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next())
        };
        until(PATIENCE, "the program to be held or to run", || {
            let answered = qprof.stderr().contains("attached");
            Ok((answered || state() == Some('T')).then_some(()))
        })?;
        held += u32::from(state() == Some('T'));
        qprof.kill()?;
        until(PATIENCE, "the end of the program", || {
            Ok(matches!(state(), None | Some('Z')).then_some(()))
        })
        .with_context(|| format!("process {child} is left in state {:?}", state()))?;
    }
    ensure!(held > 0, "it was never held");
    Ok(())
}

/// A thread that is not the first has the process become another program. The kernel knows a process
/// by its first thread: where a link filters by it, it has to be attached again.
#[test]
fn a_thread_becomes_the_program() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let program = binary()?;
    let become_it = format!("texec {}", program.display());
    for more in [&[][..], &["--children"]] {
        let mut family = Family::start(&program)?;
        let pid = family.pid().to_string();
        let (mut run, file) = family::start(Run::with(&[&["-p", &pid], more].concat())?)?;
        let mut turn = 0;
        for calls in [1, 2, 4] {
            family.tell(&format!("call {calls}"))?;
            ensure!(family.ask(&become_it)? == "ready");
            if more.is_empty() && kernel()? >= (6, 10) {
                turn += 1;
                run.until_said("attached: more", turn)?;
            }
        }
        family.tell("call 8")?;
        let done = run.stop()?;
        done.check_ok()?;
        let pid = family.pid();
        family.end()?;
        family::check(&done, &file, &[(pid, 15)])?;

        let mut command = Run::command(&program, &[])?;
        for argument in more {
            command = command.arg(argument);
        }
        let (mut running, file) = family::start(command)?;
        ensure!(running.hear()? == "ready");
        let pid = running.ask("pid")?.parse()?;
        ensure!(running.ask("call 1")? == "ok");
        // It is held for that: nothing is missed.
        ensure!(running.ask(&become_it)? == "ready");
        ensure!(running.ask("call 2")? == "ok");
        running.close_stdin();
        let done = running.wait()?;
        done.check_ok()?;
        family::check(&done, &file, &[(pid, 3)])?;
    }
    Ok(())
}

/// A library that is opened and closed all the time, and one that another loader opens.
#[test]
fn libraries_that_flicker() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let library = copy(&library()?, "library.so")?;
    let library = library.display();
    let mut programs = vec![binary()?];
    if Command::new("musl-gcc").arg("--version").output().is_ok() {
        programs.push(build_by("musl-gcc", "family.c", &["-O2"])?);
    }
    for program in programs {
        let mut family = Family::start(&program)?;
        let (mut run, file) = family::start(Run::on(family.pid())?)?;
        family.tell(&format!("load 0 {library}"))?;
        run.until_said("attached: more", 1)?;
        family.tell("plug 0 1")?;
        family.tell("unload 0")?;
        family.tell(&format!("reload 1 {library} 300"))?;
        family.tell("call 2")?;
        let done = run.stop()?;
        done.check_ok()?;
        let pid = family.pid();
        family.end()?;
        family::check(&done, &file, &[(pid, 303)])?;
    }
    Ok(())
}

/// Programs started one after the other, each gone after one call; those that are known from
/// before are seen whole, and whatever else there is harms nobody.
#[test]
fn a_storm_of_programs() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let program = binary()?;
    let mut family = Family::start(&program)?;
    for _ in 0..4 {
        family.fork("")?;
    }
    let arguments = ["-p", &family.pid().to_string(), "--children"];
    let (run, file) = family::start(Run::with(&arguments)?)?;
    family.tell(&format!("each starts {} 50", program.display()))?;
    ensure!(family.ask("vfork /bin/true 1")? == "0");
    let strange = build("family.c", &["-O1", "-ldl"])?;
    let strange = copy(&strange, "strange")?;
    family.tell(&format!("starts {} 50", strange.display()))?;
    family.tell("call 7")?;
    let pid = family.pid();
    family.end()?;
    let done = run.wait()?;
    done.check_ok()?;
    let mut roots = family::roots(&family::traces(&done, &file)?)?;
    ensure!(roots.remove(&pid) == Some(7), "{roots:?}");
    ensure!(roots.values().all(|count| *count == 1), "{roots:?}");
    ensure!((200..=250).contains(&roots.len()), "{} programs", roots.len());
    Ok(())
}

/// A parent and its child are both named, and with children: each call counts once.
#[test]
fn named_twice_is_seen_once() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut family = Family::start(&binary()?)?;
    let child = family.fork("")?;
    let grandchild = family.fork("@0 ")?;
    let named = [family.pid(), child, grandchild].map(|pid| pid.to_string());
    let arguments: Vec<&str> = named.iter().flat_map(|pid| ["-p", pid]).collect();
    let (run, file) = family::start(Run::with(&[&arguments[..], &["--children"]].concat())?)?;
    family.tell("call 5")?;
    family.tell("@0 call 6")?;
    family.tell("@0 @0 call 7")?;
    let done = run.stop()?;
    done.check_ok()?;
    let made = [(family.pid(), 5), (child, 6), (grandchild, 7)];
    family.end()?;
    family::check(&done, &file, &made)
}

/// A script whose programs come and go before it becomes the one that is meant.
#[test]
fn a_program_that_becomes_others_and_itself() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let program = binary()?;
    let script = scratch("script")?.join("again.sh");
    fs::write(&script, format!("#!/bin/sh\nexec {}\n", program.display()))?;
    let chmod = Command::new("chmod").arg("+x").arg(&script).status()?;
    ensure!(chmod.success());
    let mut family = Family::start(&program)?;
    let (run, file) = family::start(Run::on(family.pid())?)?;
    let mut calls = 0;
    for turn in 1..=5 {
        family.tell(&format!("call {turn}"))?;
        calls += turn;
        ensure!(family.ask(&format!("exec {}", script.display()))? == "ready");
    }
    family.tell("call 100")?;
    let done = run.stop()?;
    done.check_ok()?;
    let pid = family.pid();
    family.end()?;
    family::check(&done, &file, &[(pid, calls + 100)])
}
