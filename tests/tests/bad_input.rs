//! What goes wrong before anything is attached: each with its clear words and its exit code, and
//! the target untouched.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{self, can_probe, free_port, scratch};
use profiler_tests::fixture::{Fixture, build, compile};
use profiler_tests::memory::altered;
use profiler_tests::process::{Finished, run};
use profiler_tests::qprof::{Run, check_code, verb};
use profiler_tests::symbol_map;
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::from_otlp;

fn odd() -> Result<Fixture> {
    Fixture::start(&build("odd.c", &["-O2"])?, &[])
}

fn odd_map() -> Result<PathBuf> {
    symbol_map::file(&symbol_map::of(&["odd_plain"], &[], ""))
}

/// It ended with this code, said these words, and had attached nothing.
fn check_refused(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    check_code(finished, code)?;
    for word in words {
        ensure!(finished.stderr.contains(word), "it does not say {word:?}: {}", finished.stderr);
    }
    ensure!(!finished.stderr.contains("\nattached"), "it had attached: {}", finished.stderr);
    ensure!(!finished.stderr.starts_with("attached"), "it had attached: {}", finished.stderr);
    Ok(())
}

#[test]
fn no_such_process() -> Result<()> {
    let mut target = odd()?;
    let pid = target.pid();
    target.kill()?;
    drop(target);
    let map = odd_map()?;
    for verb in ["run", "check"] {
        let mut arguments = vec![verb.to_owned(), "-p".to_owned(), pid.to_string()];
        arguments.extend(["-m".to_owned(), map.to_string_lossy().into_owned()]);
        let finished = profiler_tests::qprof::verb(&arguments)?;
        check_refused(&finished, 4, &[&pid.to_string()])?;
    }
    Ok(())
}

/// The binary where anyone may run it, whoever owns the checkout.
fn public_qprof() -> Result<tempfile::TempDir> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let copy = directory.path().join("qprof");
    fs::copy(environment::qprof()?, &copy)?;
    fs::set_permissions(&copy, Permissions::from_mode(0o755))?;
    fs::copy(odd_map()?, directory.path().join("map.toml"))?;
    fs::set_permissions(directory.path().join("map.toml"), Permissions::from_mode(0o644))?;
    Ok(directory)
}

/// A command that runs with other rights (setpriv(1)).
fn with_rights(rights: &[&str], program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(rights).arg("--").arg(program);
    command
}

const NOBODY: [&str; 3] = ["--reuid=65534", "--regid=65534", "--clear-groups"];

fn run_with_rights(rights: &[&str], pid: u32) -> Result<Finished> {
    let directory = public_qprof()?;
    let mut command = with_rights(rights, &directory.path().join("qprof"));
    command.current_dir(directory.path());
    command.args(["run", "--duration", "1s", "-m", "map.toml", "-p", &pid.to_string()]);
    run("unprivileged", command, PATIENCE)
}

#[test]
fn without_rights_the_missing_capabilities_are_named() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let target = odd()?;
    let nobody = [&NOBODY[..], &["--inh-caps=-all", "--bounding-set=-all"]].concat();
    let finished = run_with_rights(&nobody, target.pid())?;
    check_refused(&finished, 3, &["CAP_BPF", "CAP_PERFMON", "setcap"])?;
    // Root in name only: a container that was not given them.
    let container = ["--inh-caps=-all", "--bounding-set=-bpf,-perfmon,-sys_admin"];
    let finished = run_with_rights(&container, target.pid())?;
    check_refused(&finished, 3, &["CAP_BPF", "CAP_PERFMON"])?;
    Ok(())
}

/// BPF may be had, the process of another user may not.
#[test]
fn a_process_of_another_user_is_refused() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let target = odd()?;
    let rights = [&NOBODY[..], &["--inh-caps=+bpf,+perfmon", "--ambient-caps=+bpf,+perfmon"]];
    let finished = run_with_rights(&rights.concat(), target.pid())?;
    check_refused(&finished, 3, &["CAP_SYS_PTRACE", &target.pid().to_string()])?;
    Ok(())
}

/// Whom the named capabilities are given needs no root, here for a process of the same user.
#[test]
fn the_named_capabilities_are_enough() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let directory = public_qprof()?;
    let odd = directory.path().join("odd");
    fs::copy(build("odd.c", &["-O2"])?, &odd)?;
    let arguments = [&NOBODY[..], &["--inh-caps=-all", "--"]].concat();
    let program = odd.to_string_lossy().into_owned();
    let arguments = [arguments, vec![&program]].concat();
    let target = Fixture::start(Path::new("setpriv"), &arguments)?;
    let caps = "+bpf,+perfmon,+sys_ptrace,+checkpoint_restore";
    let rights = [format!("--inh-caps={caps}"), format!("--ambient-caps={caps}")];
    let rights = [&NOBODY[..], &[&rights[0], &rights[1]]].concat();
    let finished = run_with_rights(&rights, target.pid())?;
    check_code(&finished, 0)?;
    ensure!(finished.stderr.contains("attached"), "{}", finished.stderr);
    Ok(())
}

/// Names are gone: it says so, and that addresses can still be given. They can.
#[test]
fn a_stripped_binary() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let stripped = build("odd.c", &["-O2", "-s"])?;
    let mut target = Fixture::start(&stripped, &[])?;
    let finished = Run::on(target.pid())?.map(symbol_map::file(&required("odd_plain"))?).fail()?;
    check_refused(&finished, 4, &["odd_plain", "stripped", "address"])?;

    let names = Command::new("nm").arg(build("odd.c", &["-O2"])?).output()?;
    let names = String::from_utf8(names.stdout)?;
    let address = names
        .lines()
        .find_map(|line| line.strip_suffix(" T odd_plain"))
        .context("nm knows no odd_plain")?;
    let map = required("odd_plain")
        .replace("function = \"odd_plain\"", &format!("address = 0x{address}"));
    let run = Run::on(target.pid())?.map(symbol_map::file(&map)?).output("json").start()?;
    target.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(from_otlp(&done.finished.stdout)?.len() == 100, "{}", done.summary.0);
    Ok(())
}

fn required(function: &str) -> String {
    symbol_map::of(&[function], &[], "")
}

#[test]
fn a_truncated_or_hostile_elf_is_told_and_never_a_panic() -> Result<()> {
    let whole = fs::read(build("server.cc", &["-O2"])?)?;
    let file = scratch("elf")?.join("hostile");
    let ask = |bytes: &[u8]| -> Result<Finished> {
        fs::write(&file, bytes)?;
        verb(&["symbols", &file.to_string_lossy(), "kv::*"])
    };
    for length in [0, 3, 16, 63, 64, 200, whole.len() / 2] {
        let finished = ask(&whole[..length])?;
        check_code(&finished, 4).with_context(|| format!("cut at {length}"))?;
        ensure!(finished.stderr.contains("hostile"), "no file named: {}", finished.stderr);
    }
    check_code(&ask(b"#!/bin/sh\nexit 0\n")?, 4)?;
    // Numbers in the headers as large as they go: offsets, counts, sizes, one after the other.
    for at in (16..64).step_by(2) {
        let mut hostile = whole.clone();
        hostile[at..at + 2].fill(0xff);
        let finished = ask(&hostile)?;
        ensure!(
            matches!(finished.code, Some(0 | 4)) && !finished.stderr.contains("panicked"),
            "byte {at}: {finished:?}"
        );
    }
    let sections = u64::from_le_bytes(whole[40..48].try_into()?);
    let sections = usize::try_from(sections)?;
    for at in (sections..whole.len()).step_by(24) {
        let mut hostile = whole.clone();
        let end = (at + 8).min(whole.len());
        hostile[at..end].fill(0xfe);
        let finished = ask(&hostile)?;
        ensure!(
            matches!(finished.code, Some(0 | 4)) && !finished.stderr.contains("panicked"),
            "byte {at} of the section headers: {finished:?}"
        );
    }
    Ok(())
}

#[test]
fn a_typo_in_a_map_is_shown_where_it_is() -> Result<()> {
    let target = odd()?;
    let map = "version = 1\nname = \"typo\"\nsystem = \"test\"\n\n[[span]]\nname = \"odd\"\nfunctoin = \"odd_plain\"\n";
    let path = symbol_map::file(map)?;
    for arguments in [["run", "--duration=1s"], ["check", "--json"]] {
        let pid = target.pid().to_string();
        let path = path.to_string_lossy();
        let finished = verb(&[&arguments[..], &["-p", &pid, "-m", &path]].concat())?;
        check_refused(&finished, 2, &["map.toml:7:1", "functoin", "function"])?;
    }
    // A function twice, a hand-off with one side, a glob for everything, a key that is none.
    let map = symbol_map::of(&["odd_plain"], &[], "");
    let double = "[[span]]\nname = \"other\"\nfunction = \"odd_plain\"\n";
    let one_side =
        "[[handoff]]\nname = \"h\"\ngive = { function = \"odd_plain\", key = \"arg(1)\" }\n";
    let all = "[[span]]\nname = \"x\"\nfunction = \"*\"\n";
    let no_key = "[[handoff]]\nname = \"h\"\ngive = { function = \"odd_plain\", key = \"arg(0)\" }\ntake = { function = \"odd_plain\", key = \"arg(1)\" }\n";
    for (more, told) in
        [(double, "already"), (one_side, "take"), (all, "everything"), (no_key, "arg(0)")]
    {
        let path = symbol_map::file(&format!("{map}{more}"))?;
        let finished = Run::on(target.pid())?.map(&path).fail()?;
        check_refused(&finished, 2, &["map.toml:", told])?;
    }
    Ok(())
}

#[test]
fn a_map_nobody_knows() -> Result<()> {
    let target = odd()?;
    let finished = Run::on(target.pid())?.map("milvus-lit").fail()?;
    check_refused(&finished, 2, &["milvus-lit", "milvus-lite"])?;
    let finished = Run::on(target.pid())?.map("/nowhere/map.toml").fail()?;
    check_refused(&finished, 2, &["/nowhere/map.toml"])?;
    // No map given and none that recognises the target.
    let finished = Run::on(target.pid())?.fail()?;
    check_refused(&finished, 4, &["-m"])?;
    Ok(())
}

/// 4,000 functions under one glob: refused with the number and the flag, unless that is raised.
#[test]
fn a_glob_that_matches_too_much() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut source = String::from("#include <stdio.h>\nstatic volatile long sink;\n");
    for number in 0..4_000 {
        writeln!(
            source,
            "__attribute__((noipa)) long many_{number}(long n) {{ sink += n; return {number}; }}"
        )?;
    }
    source += "int main(void) { char line[9]; puts(\"ready\"); fflush(stdout); \
               if (!fgets(line, 9, stdin)) return 0; many_7(1); many_3999(1); \
               puts(\"done\"); fflush(stdout); while (getchar() != EOF) ; return 0; }\n";
    let path = scratch("many")?.join("many.c");
    fs::write(&path, source)?;
    let mut target = Fixture::start(&compile(&path, &["-O1"])?, &[])?;
    let map = "version = 1\nname = \"many\"\nsystem = \"test\"\n[[span]]\nname = \"many\"\nfunction = \"many_*\"\nroot = true\n";
    let map = symbol_map::file(map)?;
    let finished = Run::on(target.pid())?.map(&map).fail()?;
    let number = if finished.stderr.contains("4,000") { "4,000" } else { "4000" };
    check_refused(&finished, finished.code.unwrap_or_default(), &[number, "--max-functions"])?;
    ensure!(matches!(finished.code, Some(2 | 4)), "exit code {:?}", finished.code);
    ensure!(altered(target.pid())?.is_empty(), "the target was altered");

    let run = Run::on(target.pid())?.map(&map).arg("--max-functions").arg("5000");
    let run = run.output("json").start()?;
    target.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(from_otlp(&done.finished.stdout)?.len() == 2, "{}", done.summary.0);
    Ok(())
}

/// Missing and optional: the run goes on and says so. Missing and required: it does not start.
#[test]
fn a_function_that_was_inlined_away() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut target = odd()?;
    let finished =
        Run::on(target.pid())?.map(symbol_map::file(&required("odd_inlined"))?).fail()?;
    check_refused(&finished, 4, &["odd_inlined", "odd_plain", "inlined"])?;
    ensure!(altered(target.pid())?.is_empty(), "the target was altered");

    let optional = "[[span]]\nname = \"gone\"\nfunction = \"odd_inlined\"\n";
    let map = symbol_map::file(&symbol_map::of(&["odd_plain"], &[], optional))?;
    let plan = profiler_tests::qprof::check(target.pid(), &map.to_string_lossy())?;
    ensure!(
        plan.skipped.iter().any(|(what, _)| what.contains("odd_inlined")),
        "{:?}",
        plan.skipped
    );
    let run = Run::on(target.pid())?.map(&map).output("json").start()?;
    ensure!(run.stderr().contains("odd_inlined"), "it goes on without a word: {}", run.stderr());
    target.work()?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(from_otlp(&done.finished.stdout)?.len() == 100, "{}", done.summary.0);
    Ok(())
}

/// The trace store is away: the run starts, says so at once, counts, and ends with 5.
#[test]
fn jaeger_not_reachable() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for protocol in ["grpc", "http/protobuf"] {
        let mut target = odd()?;
        let port = free_port()?;
        let run = Run::on(target.pid())?
            .map(odd_map()?)
            .arg("--otlp")
            .arg(format!("http://127.0.0.1:{port}"))
            .arg("--protocol")
            .arg(protocol)
            .start()?;
        until(PATIENCE, "a word on the trace store", || {
            Ok(run.stderr().contains(&format!("127.0.0.1:{port}")).then_some(()))
        })?;
        target.work()?;
        let done = run.stop()?;
        check_code(&done.finished, 5).context(protocol)?;
        let summary = &done.summary;
        ensure!(summary.number(&["traces"])? == 100, "{}", summary.0);
        ensure!(summary.number(&["export", "sent"])? == 0, "{}", summary.0);
        let lost =
            summary.number(&["export", "failed"])? + summary.number(&["export", "dropped"])?;
        ensure!(lost == 100, "{lost} of 100 spans are counted as not sent: {}", summary.0);
    }
    Ok(())
}

#[test]
fn jaegers_old_ports_are_refused() -> Result<()> {
    let target = odd()?;
    for port in ["14268", "6831"] {
        let url = format!("http://127.0.0.1:{port}");
        let finished = Run::on(target.pid())?.map(odd_map()?).arg("--otlp").arg(url).fail()?;
        check_refused(&finished, 2, &[port, "4317", "4318"])?;
    }
    let finished = Run::on(target.pid())?.map(odd_map()?).arg("--otlp").arg("nonsense").fail()?;
    check_refused(&finished, 2, &["nonsense"])?;
    Ok(())
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_attaching() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let target = odd()?;
    for flag in ["-o", "--record", "--summary-json"] {
        let mut command = Command::new(environment::qprof()?);
        command.args(["run", "-p", &target.pid().to_string(), "-m"]).arg(odd_map()?);
        command.arg(flag).arg("/nowhere/at/all");
        let finished = run("qprof", command, PATIENCE)?;
        ensure!(matches!(finished.code, Some(1 | 2)), "{flag}: {finished:?}");
        check_refused(&finished, finished.code.unwrap_or_default(), &["/nowhere/at/all"])
            .context(flag)?;
    }
    Ok(())
}

/// Two at a time: both see everything, and one leaves without the other noticing.
#[test]
fn two_on_one_target() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut target = odd()?;
    let start = || Run::on(target.pid())?.map(odd_map()?).output("json").start();
    let (first, second, third) = (start()?, start()?, start()?);
    third.stop()?.check_ok()?;
    target.work()?;
    for run in [first, second] {
        let done = run.stop()?;
        done.check_ok()?;
        done.summary.check_nothing_lost()?;
        ensure!(from_otlp(&done.finished.stdout)?.len() == 100, "{}", done.summary.0);
    }
    ensure!(target.finish()?.code == Some(0), "the target did not end well");
    Ok(())
}
