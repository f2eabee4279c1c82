//! `qprof run -- PROGRAM`: started, held, traced from its first call on, and ended with the run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, scratch, skip};
use profiler_tests::family::{self, Roots, binary, library};
use profiler_tests::fixture::{build, build_by};
use profiler_tests::qprof::{Done, Run, check_code};
use profiler_tests::timeout::{PATIENCE, until};
use rustix::process::Signal;

/// Runs a program to its end; what was seen of it.
fn run(program: &Path, arguments: &[&str], code: i32) -> Result<(Done, Roots)> {
    let (running, file) = family::start(Run::command(program, arguments)?)?;
    let done = running.wait()?;
    check_code(&done.finished, code)?;
    let roots = family::roots(&family::traces(&done, &file)?)?;
    Ok((done, roots))
}

fn calls_of_one(roots: &Roots) -> Result<usize> {
    ensure!(roots.len() == 1, "not one process: {roots:?}");
    roots.values().next().copied().context("no process")
}

/// From the very first call of `main` on, to the last; and the program's exit code is qprof's.
#[test]
fn every_call_is_seen_and_the_exit_code_passed_on() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for (calls, code) in [("1", "0"), ("25", "7"), ("3", "255")] {
        let (_, roots) = run(&binary()?, &["calls", calls, code], code.parse()?)?;
        ensure!(calls_of_one(&roots)?.to_string() == calls, "{calls} calls, seen: {roots:?}");
    }
    Ok(())
}

/// A program that a signal ends: 128 and its number, as shells have it.
#[test]
fn death_by_a_signal_is_passed_on() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for signal in [Signal::KILL, Signal::TERM, Signal::USR1] {
        let number = signal.as_raw();
        let (_, roots) = run(&binary()?, &["killed", "4", &number.to_string()], 128 + number)?;
        ensure!(calls_of_one(&roots)? == 4, "seen: {roots:?}");
    }
    Ok(())
}

/// The program is held where its loader is done. A constructor of its own runs after that, and is
/// seen; the loader of glibc has run those of the libraries before, and their calls are not.
#[test]
fn constructors_of_the_program_are_seen() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let early = build("family.c", &["-O2", "-ldl", "-DEARLY"])?;
    let (_, roots) = run(&early, &["calls", "2", "0"], 0)?;
    ensure!(calls_of_one(&roots)? == 3, "seen: {roots:?}");

    let library = build("library.c", &["-O2", "-shared", "-fPIC", "-DEARLY"])?;
    let path = library.to_string_lossy();
    let linked = build("family.c", &["-O2", "-ldl", "-Wl,--no-as-needed", &path])?;
    let (_, roots) = run(&linked, &["calls", "2", "0"], 0)?;
    ensure!(calls_of_one(&roots)? == 2, "seen: {roots:?}");
    Ok(())
}

/// What cannot be started: said by name, with the exit codes of a shell.
#[test]
fn what_cannot_be_started() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let plain = scratch("plain")?.join("plain");
    fs::write(&plain, "no program")?;
    for program in ["/no/such/program", "no-such-program-on-the-path"] {
        let finished = Run::command(program, &["argument"])?.fail()?;
        ensure!(finished.code == Some(127), "{finished:?}");
        ensure!(
            finished.stderr.contains(&format!("cannot start `{program}`"))
                && !finished.stderr.contains("panicked at"),
            "{}",
            finished.stderr
        );
    }
    let finished = Run::command(&plain, &[])?.fail()?;
    ensure!(finished.code == Some(126) && finished.stderr.contains("cannot start"), "{finished:?}");
    Ok(())
}

/// A script that ends in `exec`: the program is held again, and seen from its first call on.
#[test]
fn a_script_that_becomes_a_program() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let script = scratch("script")?.join("start.sh");
    let text = format!("#!/bin/sh\n/bin/true\nexec {} calls \"$1\" 5\n", binary()?.display());
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    for _ in 0..5 {
        let (_, roots) = run(&script, &["9"], 5)?;
        ensure!(calls_of_one(&roots)? == 9, "seen: {roots:?}");
    }
    Ok(())
}

/// A program it starts in turn is a child: taken with `--children`, not without.
#[test]
fn a_script_that_starts_programs() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let script = scratch("script")?.join("start.sh");
    let program = binary()?;
    let program = program.display();
    // The first is probed while it runs: it is held by nobody, and its first calls may be missed.
    let text = format!("{program} < \"$1\"\n{program} calls 6 0\n{program} calls 7 3\n");
    fs::write(&script, text)?;
    let commands = scratch("commands")?.join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&commands).status()?;
    ensure!(made.success(), "no fifo");
    let script = script.to_string_lossy().into_owned();
    let commands = commands.to_string_lossy().into_owned();
    let command = Run::command("/bin/sh", &[&script, &commands])?.arg("--children");
    let (command, file) = family::traced(command)?;
    let (mut qprof, summary) = command.spawn()?;
    let mut told = fs::OpenOptions::new().write(true).open(&commands)?;
    until(PATIENCE, "the program to be probed", || {
        Ok(qprof.stderr().contains("attached").then_some(()))
    })?;
    std::io::Write::write_all(&mut told, b"call 5\n")?;
    drop(told);
    let finished = qprof.wait(PATIENCE)?;
    check_code(&finished, 3)?;
    let done = Done { finished, summary: profiler_tests::qprof::read_summary(&summary)? };
    let mut counts: Vec<usize> =
        family::roots(&family::traces(&done, &file)?)?.into_values().collect();
    counts.sort_unstable();
    ensure!(counts == [5, 6, 7], "calls of the three programs: {counts:?}");
    Ok(())
}

/// What the program reads and writes goes through untouched.
#[test]
fn stdin_and_stdout_are_the_programs() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let (mut running, file) = family::start(Run::command(binary()?, &["copy"])?)?;
    for line in ["one", "two with spaces", ""] {
        ensure!(running.ask(line)? == line, "{line:?} came back otherwise");
    }
    running.close_stdin();
    let done = running.wait()?;
    done.check_ok()?;
    ensure!(done.finished.stdout == "one\ntwo with spaces\n\n", "{:?}", done.finished.stdout);
    let roots = family::roots(&family::traces(&done, &file)?)?;
    ensure!(calls_of_one(&roots)? == 1, "{roots:?}");
    Ok(())
}

fn gone(pid: &str) -> Result<()> {
    until(PATIENCE, "the end of the program", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie is nobody's but its parent's.
        let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        Ok((state.is_empty() || state.starts_with('Z')).then_some(()))
    })
}

/// However the run ends, the program ends with it: by the clock, by Ctrl-C, by SIGKILL.
#[test]
fn the_program_ends_with_the_run() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for how in ["duration", "interrupt", "kill"] {
        let mut command = Run::command(binary()?, &[])?;
        if how == "duration" {
            command = command.arg("--duration").arg("3s");
        }
        let (mut running, file) = family::start(command)?;
        ensure!(running.hear()? == "ready");
        let pid = running.ask("pid")?;
        ensure!(running.ask("call 8")? == "ok");
        if how == "kill" {
            running.kill()?;
            gone(&pid)?;
            continue;
        }
        let done = if how == "duration" { running.wait()? } else { running.stop()? };
        done.check_ok().context(how)?;
        gone(&pid)?;
        family::check(&done, &file, &[(pid.parse()?, 8)])?;
    }
    Ok(())
}

/// Programs without a dynamic loader: by glibc, and by musl (which has its loader in its libc).
#[test]
fn static_programs_and_those_of_musl() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut programs = vec![
        ("static", build("family.c", &["-O2", "-static", "-DFIXED", "-DEARLY"])?),
        ("static, anywhere", build("family.c", &["-O2", "-static-pie", "-DFIXED", "-DEARLY"])?),
    ];
    if std::process::Command::new("musl-gcc").arg("--version").output().is_ok() {
        let flags = ["-O2", "-static", "-DFIXED", "-DEARLY"];
        programs.push(("static musl", build_by("musl-gcc", "family.c", &flags)?));
        programs.push(("musl", build_by("musl-gcc", "family.c", &["-O2", "-DEARLY"])?));
    } else {
        skip("there is no musl-gcc (musl-tools)")?;
    }
    for (what, program) in programs {
        let (_, roots) = run(&program, &["calls", "10", "6"], 6).context(what)?;
        ensure!(calls_of_one(&roots)? == 11, "{what}: seen {roots:?}");
    }
    Ok(())
}

/// What is loaded while it runs is found too, and so are children.
#[test]
fn it_loads_and_forks() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let command = Run::command(binary()?, &[])?.arg("--children");
    let (mut running, file) = family::start(command)?;
    ensure!(running.hear()? == "ready");
    let pid = running.ask("pid")?.parse()?;
    let child = running.ask("fork")?.parse()?;
    ensure!(running.ask(&format!("load 0 {}", library()?.display()))? == "ok");
    running.until_said("attached: more", 1)?;
    ensure!(running.ask("plug 0 4")? == "ok");
    ensure!(running.ask(&format!("@0 load 0 {}", library()?.display()))? == "ok");
    ensure!(running.ask("@0 plug 0 6")? == "ok");
    running.close_stdin();
    let done = running.wait()?;
    done.check_ok()?;
    family::check(&done, &file, &[(pid, 4), (child, 6)])
}
