//! What `doctor -p` says of Go servers: which Go, where g is, whether what is known of it holds.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::scratch;
use profiler_tests::jaeger::Jaeger;
use profiler_tests::qprof::{check_code, verb};
use serde_json::Value;

/// A copy of Jaeger that says another Go built it.
fn of_an_unknown_go() -> Result<PathBuf> {
    const MARK: &[u8] = b"\xff Go buildinf:";
    let mut bytes = fs::read(Jaeger::program()?)?;
    let marks = bytes.windows(MARK.len()).enumerate().filter(|(_, some)| *some == MARK);
    // The mark stands in programs that look for it, too; the version is 33 bytes after ours.
    let at: Vec<usize> = marks.map(|(at, _)| at + 33).collect();
    let at = at.into_iter().find(|&at| bytes[at..].starts_with(b"go1."));
    let at = at.context("no version in Jaeger")? + "go1.".len();
    bytes[at..at + 2].copy_from_slice(b"99");
    let copy = scratch("go")?.join("jaeger");
    // Copied for its mode.
    fs::copy(Jaeger::program()?, &copy)?;
    fs::write(&copy, bytes)?;
    Ok(copy)
}

#[test]
fn a_stripped_server_is_known_and_its_memory_agrees() -> Result<()> {
    let jaeger = Jaeger::start()?;
    let pid = jaeger.pid().to_string();
    let json = verb(&["doctor", "-p", &pid, "--json"])?;
    check_code(&json, 0)?;
    let answer: Value = serde_json::from_str(&json.stdout)?;
    let go = &answer["go"];
    ensure!(go["version"].as_str().is_some_and(|go| go.starts_with("go1.")), "{answer}");
    ensure!(go["g"]["offset"] == -8, "{answer}");
    ensure!(go["facts"]["g"]["stackHi"] == 8, "{answer}");
    ensure!(go["self_test"]["result"] == "passed", "{answer}");
    let text = verb(&["doctor", "-p", &pid])?;
    check_code(&text, 0)?;
    for part in ["at fs-8", "known, as go1.", "passed, by reading its memory", "thread's number"] {
        ensure!(text.stdout.contains(part), "no `{part}` in {}", text.stdout);
    }
    Ok(())
}

#[test]
fn an_unknown_go_is_refused_with_the_known_and_the_way_out() -> Result<()> {
    let program = of_an_unknown_go()?;
    let jaeger = Jaeger::start_program(&program)?;
    let pid = jaeger.pid().to_string();
    let refused = verb(&["doctor", "-p", &pid])?;
    check_code(&refused, 4)?;
    for part in ["go1.99", "UNKNOWN", "1.18 to 1.", "--go-offsets-from FILE", "not run"] {
        ensure!(refused.stdout.contains(part), "no `{part}` in {}", refused.stdout);
    }
    for (file, code, part) in [
        (Jaeger::program()?, 2, "take a program built by go1.99"),
        (program, 4, "no debug information"),
        (PathBuf::from("/proc/self/exe"), 4, "no Go program"),
    ] {
        let file = file.to_str().context("no UTF-8")?;
        let refused = verb(&["doctor", "-p", &pid, "--go-offsets-from", file])?;
        check_code(&refused, code)?;
        ensure!(refused.stderr.contains(part), "no `{part}` in {}", refused.stderr);
    }
    Ok(())
}

#[test]
fn an_unknown_go_is_not_probed() -> Result<()> {
    let jaeger = Jaeger::start_program(&of_an_unknown_go()?)?;
    let pid = jaeger.pid().to_string();
    let map = scratch("go")?.join("jaeger.toml");
    let span = "[[span]]\nname = \"serve\"\nfunction = \"net/http.(*conn).serve\"\nroot = true\n";
    fs::write(&map, format!("version = 1\nname = \"j\"\nsystem = \"j\"\n{span}"))?;
    let map = map.to_str().context("no UTF-8")?;
    let newest = Jaeger::program()?;
    let newest = newest.to_str().context("no UTF-8")?;
    for verb_name in ["check", "run"] {
        let refused = verb(&[verb_name, "-p", &pid, "-m", map])?;
        check_code(&refused, 4)?;
        for part in ["cannot be followed", "Go 1.99", "1.18 to 1.", "--go-offsets-from FILE"] {
            ensure!(refused.stderr.contains(part), "no `{part}` in {}", refused.stderr);
        }
        let other = verb(&[verb_name, "-p", &pid, "-m", map, "--go-offsets-from", newest])?;
        check_code(&other, 2)?;
        let part = "take a program built by go1.99";
        ensure!(other.stderr.contains(part), "no `{part}` in {}", other.stderr);
    }
    Ok(())
}

#[test]
fn what_is_no_go_program_is_told_apart() -> Result<()> {
    let ours = verb(&["doctor", "-p", &std::process::id().to_string()])?;
    check_code(&ours, 0)?;
    ensure!(ours.stdout.contains("no Go build information"), "{}", ours.stdout);
    Ok(())
}
