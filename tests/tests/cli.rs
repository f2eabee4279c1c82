//! The command line as scripts and people see it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{self, alone, can_probe};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::memory::altered;
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::process::{Finished, run};
use profiler_tests::qprof::{Run, check, check_code, verb};
use profiler_tests::symbol_map;
use profiler_tests::timeout::PATIENCE;
use profiler_tests::tree::from_otlp;
use serde_json::Value;

const VERBS: [&str; 8] =
    ["run", "check", "discover", "symbols", "doctor", "maps", "replay", "generate"];

fn ok(arguments: &[&str]) -> Result<Finished> {
    let finished = verb(arguments)?;
    check_code(&finished, 0).with_context(|| format!("qprof {arguments:?}"))?;
    Ok(finished)
}

fn json(arguments: &[&str]) -> Result<Value> {
    let finished = ok(arguments)?;
    serde_json::from_str(&finished.stdout)
        .with_context(|| format!("qprof {arguments:?} is not JSON: {}", finished.stdout))
}

#[test]
fn every_verb_explains_itself() -> Result<()> {
    let all = ok(&["--help"])?.stdout;
    ensure!(ok(&["--version"])?.stdout.starts_with("qprof "));
    for verb in VERBS {
        ensure!(all.contains(verb), "--help does not name {verb}");
        let help = ok(&[verb, "--help"])?.stdout;
        ensure!(help.contains("Usage: qprof"), "{verb} --help: {help}");
        ensure!(help.contains(&format!("qprof {verb}")), "{verb} --help has no example: {help}");
    }
    Ok(())
}

#[test]
fn a_wrong_word_is_told_and_is_2() -> Result<()> {
    for (wrong, told) in [
        (&["runn"][..], "run"),
        (&["run"], "--pid"),
        (&["run", "-p", "many"], "many"),
        (&["run", "-p", "1", "--output", "xml"], "json"),
        (&["run", "-p", "1", "--slow", "fast"], "fast"),
        (&["run", "-p", "1", "--dration", "1s"], "--duration"),
        (&["generate", "completions", "tcl"], "bash"),
    ] {
        let finished = verb(wrong)?;
        check_code(&finished, 2).with_context(|| format!("qprof {wrong:?}"))?;
        ensure!(finished.stderr.contains(told), "qprof {wrong:?} says {}", finished.stderr);
        ensure!(finished.stdout.is_empty(), "qprof {wrong:?} talks on stdout");
    }
    Ok(())
}

#[test]
fn maps_are_listed_and_shown() -> Result<()> {
    ensure!(ok(&["maps"])?.stdout.contains("milvus-lite"));
    let text = ok(&["maps", "milvus-lite"])?.stdout;
    ensure!(text.contains("[[span]]") && text.contains("search_request"), "{text}");
    ensure!(json(&["maps", "--json"])?.to_string().contains("milvus-lite"));
    Ok(())
}

#[test]
fn schema_man_page_and_completions_are_generated() -> Result<()> {
    let schema = json(&["generate", "schema"])?;
    ensure!(schema["$schema"].is_string(), "no JSON Schema");
    let schema = schema.to_string();
    for field in ["span", "handoff", "function", "linkage", "address", "required", "takes"] {
        ensure!(schema.contains(&format!("\"{field}\"")), "the schema knows no {field}");
    }
    ensure!(ok(&["generate", "man"])?.stdout.contains(".TH"));
    for shell in ["bash", "zsh", "fish"] {
        ensure!(ok(&["generate", "completions", shell])?.stdout.contains("replay"), "{shell}");
    }
    Ok(())
}

/// `qprof … | head -1`: the reader going away is no failure worth a word.
#[test]
fn a_closed_pipe_is_no_panic() -> Result<()> {
    for arguments in ["generate man", "maps milvus-lite", "generate schema"] {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("\"$0\" {arguments} | true")).arg(environment::qprof()?);
        let finished = run("pipe", command, PATIENCE)?;
        ensure!(!finished.stderr.contains("panicked"), "{arguments}: {}", finished.stderr);
    }
    Ok(())
}

#[test]
fn the_doctor_finds_this_machine_well() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let human = ok(&["doctor"])?;
    ensure!(human.stdout.contains("uprobe_multi"), "{}", human.stdout);
    let answer = json(&["doctor", "--json"])?.to_string();
    for asked in ["uprobe_multi", "ring", "btf", "self"] {
        ensure!(answer.to_lowercase().contains(asked), "doctor --json knows no {asked}: {answer}");
    }
    Ok(())
}

#[test]
fn symbols_are_found_demangled_with_their_object() -> Result<()> {
    let server = build("server.cc", &["-O2"])?;
    let server = server.to_string_lossy();
    let found = ok(&["symbols", &server, "kv::Parser::parse"])?.stdout;
    ensure!(found.contains("kv::Parser::parse("), "{found}");
    let found = json(&["symbols", &server, "kv::*", "--json"])?.to_string();
    for function in ["kv::Server::handle", "kv::Pool::submit", "kv::merge"] {
        ensure!(found.contains(function), "no {function}: {found}");
    }
    // Nothing found: the nearest names, and the code that says so.
    let finished = verb(&["symbols", &server, "kv::Parser::prase"])?;
    check_code(&finished, 4)?;
    ensure!(finished.stderr.contains("kv::Parser::parse"), "{}", finished.stderr);
    // Of a process: its objects.
    let mut running = Fixture::start(&build("odd.c", &["-O2"])?, &[])?;
    let found = ok(&["symbols", &running.pid().to_string(), "odd_*"])?.stdout;
    ensure!(found.contains("odd_plain"), "{found}");
    running.kill()?;
    Ok(())
}

/// The map and the plan, function by function, and nothing touched.
#[test]
fn check_names_functions_sites_and_costs_without_attaching() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let server = MilvusLite::start()?;
    let plan = check(server.pid(), "milvus-lite")?;
    for span in [
        "search_request",
        "parse_request",
        "create_plan",
        "search_segment",
        "vector_search",
        "brute_force",
        "merge_results",
        "query_request",
        "insert_request",
        "delete_request",
        "upsert_request",
    ] {
        let mut functions =
            plan.functions.iter().filter(|function| function.span.as_deref() == Some(span));
        ensure!(functions.next().is_some(), "no function makes {span}");
    }
    for watches in ["unwinding", "loading"] {
        let mut silent = plan.functions.iter().filter(|function| function.watches == watches);
        ensure!(silent.next().is_some(), "nothing watches {watches}");
    }
    for function in &plan.functions {
        let roles: &[&str] =
            if function.watches == "calls" { &["enter", "ret"] } else { &["enter"] };
        for role in roles {
            let sites = function.sites.iter().filter(|site| site.role == *role).count();
            ensure!(sites > 0, "{} has no {role} site", function.function);
        }
        for site in &function.sites {
            ensure!(!site.instruction.is_empty() && !site.cost.is_empty(), "{site:?}");
        }
    }
    ensure!(altered(server.pid())?.is_empty(), "check altered the target");

    let human = ok(&["check", "-p", &server.pid().to_string(), "-m", "milvus-lite"])?.stdout;
    for function in &plan.functions {
        let name = function.function.split('(').next().unwrap_or_default();
        ensure!(human.contains(name), "check does not name {name}");
    }
    // Without -m the map is recognised.
    ok(&["check", "-p", &server.pid().to_string()])?;
    Ok(())
}

#[test]
fn a_run_ends_after_its_duration() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut target = Fixture::start(&build("odd.c", &["-O2"])?, &[])?;
    let map = symbol_map::file(&symbol_map::of(&["odd_plain"], &[], ""))?;
    let run =
        Run::on(target.pid())?.map(&map).output("tree").arg("--duration").arg("3s").start()?;
    target.work()?;
    let done = run.wait()?;
    done.check_ok()?;
    ensure!(done.summary.number(&["traces"])? == 100, "{}", done.summary.0);
    ensure!(done.finished.stdout.contains("odd_plain"), "{}", done.finished.stdout);
    ensure!(target.alive(), "the target is gone");
    Ok(())
}

/// stdout is data: with `--output json` nothing else, with `none` nothing at all.
#[test]
fn stdout_is_data() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for (kind, traces) in [("json", 100), ("none", 0)] {
        let mut target = Fixture::start(&build("odd.c", &["-O2"])?, &[])?;
        let map = symbol_map::file(&symbol_map::of(&["odd_plain"], &[], ""))?;
        let run = Run::on(target.pid())?.map(&map).output(kind).start()?;
        ensure!(run.attached().contains(&target.pid().to_string()), "{}", run.attached());
        target.work()?;
        let done = run.stop()?;
        done.check_ok()?;
        ensure!(from_otlp(&done.finished.stdout)?.len() == traces, "{}", done.finished.stdout);
        ensure!(!done.finished.stdout.contains('\u{1b}'), "colour without a terminal");
        ensure!(!done.finished.stderr.contains('\u{1b}'), "colour without a terminal");
    }
    Ok(())
}

/// A run in which nothing fires says which probes were silent.
#[test]
fn silence_is_told() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let target = Fixture::start(&build("odd.c", &["-O2"])?, &[])?;
    let map = symbol_map::file(&symbol_map::of(&["odd_plain"], &[], ""))?;
    let done = Run::on(target.pid())?.map(&map).output("summary").start()?.stop()?;
    done.check_ok()?;
    let said = done.finished.stdout + &done.finished.stderr;
    ensure!(said.contains("odd_plain"), "it does not name the silent probe: {said}");
    ensure!(done.summary.0["silent"].to_string().contains("odd_plain"), "{}", done.summary.0);
    Ok(())
}
