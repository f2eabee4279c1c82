//! What `doctor` finds out about probes on this kernel, what it keeps of it, and what follows.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use profiler_tests::environment::{self, can_probe, not_applicable, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::process::{Finished, Process, run};
use profiler_tests::qprof::{Run, check_code};
use profiler_tests::symbol_map;
use profiler_tests::timeout::{PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A directory for what is kept, of this test alone.
struct Cache(PathBuf);

impl Cache {
    fn new() -> Result<Self> {
        Ok(Self(scratch("doctor")?.join("cache")))
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(environment::qprof()?);
        command.args(arguments).env("QPROF_CACHE_DIR", &self.0);
        Ok(command)
    }

    fn qprof(&self, arguments: &[&str]) -> Result<Finished> {
        let finished = run("qprof", self.command(arguments)?, PATIENCE)?;
        check_code(&finished, 0)?;
        Ok(finished)
    }

    fn doctor(&self) -> Result<Value> {
        probes(&self.qprof(&["doctor", "--json"])?)
    }

    fn file(&self) -> PathBuf {
        self.0.join("kernel.json")
    }
}

/// What doctor says of probes.
fn probes(finished: &Finished) -> Result<Value> {
    let answer: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("not JSON: {}", finished.stdout))?;
    Ok(answer["probes"].clone())
}

fn forms(probes: &Value) -> Result<&Vec<Value>> {
    probes["forms"].as_array().ok_or_else(|| anyhow!("no forms in {probes}"))
}

fn form<'a>(probes: &'a Value, name: &str, position: &str) -> Result<&'a Value> {
    forms(probes)?
        .iter()
        .find(|form| form["form"] == name && form["position"] == position)
        .ok_or_else(|| anyhow!("no {name}, {position}, in {probes}"))
}

/// What a form must look like, whatever came of it.
fn check_shape(probes: &Value) -> Result<()> {
    const VERDICTS: [&str; 7] =
        ["works", "refused", "wrong", "kills", "miscounted", "not_applicable", "unknown"];
    for form in forms(probes)? {
        let verdict = form["verdict"].as_str().unwrap_or_default();
        ensure!(VERDICTS.contains(&verdict), "{form}");
        ensure!(form["form"].is_string() && form["name"].is_string(), "{form}");
        ensure!(form["position"] == "first" || form["position"] == "inside", "{form}");
        ensure!(form["used"].is_boolean(), "{form}");
        ensure!(!form["kind"].is_null() || form["used"] == false, "never used, and used: {form}");
    }
    Ok(())
}

#[test]
fn every_form_is_tried_and_timed_once_a_boot() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let cache = Cache::new()?;
    let first = cache.doctor()?;
    ensure!(first["result"] == "measured" && first["problems"] == serde_json::json!([]), "{first}");
    check_shape(&first)?;
    for length in 1..=15 {
        for position in ["first", "inside"] {
            form(&first, &format!("nop{length}"), position)?;
        }
    }
    for name in ["push", "jcc_short_taken", "jcc_near_not_taken", "jmp", "bnd_jmp", "call", "ret"] {
        for position in ["first", "inside"] {
            let form = form(&first, name, position)?;
            ensure!(form["verdict"] == "works" && form["used"] == true, "{form}");
        }
    }
    for name in ["leave", "pop"] {
        ensure!(form(&first, name, "inside")?["verdict"] == "works", "{first}");
    }
    ensure!(form(&first, "endbr64", "first")?["used"] == true, "{first}");
    let shadow = form(&first, "call_shadow_stack", "first")?;
    ensure!(shadow["verdict"] == "works" || shadow["verdict"] == "not_applicable", "{shadow}");
    for (name, position) in [("nop9", "first"), ("pushf", "inside"), ("nop5", "inside")] {
        let form = form(&first, name, position)?;
        ensure!(form["used"] == false && form["kind"].is_null(), "{form}");
    }
    let calibration = &first["calibration"];
    let ns = |list: &Value, key: &str, name: &str| {
        let entry = list.as_array().and_then(|list| list.iter().find(|e| e[key] == name));
        entry.and_then(|entry| entry["ns"].as_f64()).with_context(|| format!("no {name}: {list}"))
    };
    let used = forms(&first)?.iter().filter(|form| form["used"] == true);
    for kind in used.filter_map(|form| form["kind"].as_str()) {
        ensure!(ns(&calibration["traps"], "form", kind)? > 0.0, "{kind}: {calibration}");
    }
    for what in ["unmatched_landing_ns", "unmatched_landing_on_two_threads_ns", "call_ns"] {
        ensure!(calibration[what].as_f64() > Some(0.0), "{what}: {calibration}");
    }
    ensure!(calibration["landing_ns"].is_number() && calibration["quick"] == false);
    let mut fewer = 0.0;
    for words in ["0", "2", "6"] {
        let ns = ns(&calibration["events"], "words", words)?;
        ensure!(ns >= fewer, "{words} words cost less than fewer: {calibration}");
        fewer = ns;
    }
    for list in ["traps", "events"] {
        let all = calibration[list].as_array().context("no list")?;
        ensure!(all.iter().all(|one| one["on_two_threads_ns"].is_number()), "{calibration}");
    }

    let again = cache.doctor()?;
    ensure!(again["result"] == "known" && again["forms"] == first["forms"], "{again}");
    ensure!(again["calibration"] == first["calibration"], "{again}");
    let text = cache.qprof(&["doctor"])?.stdout;
    ensure!(text.contains("known since this machine was started"), "{text}");
    ensure!(text.contains("exact: nop1"), "{text}");
    ensure!(fs::metadata(cache.file())?.permissions().mode() & 0o777 == 0o644);
    ensure!(fs::metadata(&cache.0)?.permissions().mode() & 0o777 == 0o755);

    let anew = probes(&cache.qprof(&["doctor", "--again", "--json"])?)?;
    ensure!(anew["result"] == "measured", "{anew}");
    Ok(())
}

/// What was measured by other means on this kernel must be found by the self-test too.
#[test]
fn known_defects_are_found() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    if environment::kernel()? != (6, 18) {
        return not_applicable("the defects of other kernels than 6.18 are not known");
    }
    let probes = Cache::new()?.doctor()?;
    let is_wrong = |name: &str, position: &str, what: &str| -> Result<()> {
        let form = form(&probes, name, position)?;
        let said = form["what"].as_str().unwrap_or_default();
        ensure!(form["verdict"] == "wrong" && said.contains(what), "{form}");
        Ok(())
    };
    is_wrong("nop5", "inside", "the red zone")?;
    is_wrong("pushf", "inside", "rcx")?;
    ensure!(form(&probes, "nop5", "first")?["verdict"] == "works", "{probes}");
    ensure!(form(&probes, "pushf_popf", "inside")?["verdict"] == "kills", "{probes}");
    ensure!(form(&probes, "nop10", "first")?["verdict"] == "refused", "{probes}");
    if form(&probes, "vpor", "first")?["verdict"] == "not_applicable" {
        return not_applicable("this processor has no AVX");
    }
    for position in ["first", "inside"] {
        is_wrong("vzeroupper", position, "vector registers")?;
        is_wrong("vpor", position, "vector registers")?;
        is_wrong("vmovdqu", position, "memory")?;
        is_wrong("vmovd", position, "rdi")?;
        // Taken for a call.
        let form = form(&probes, "vpsubsb", position)?;
        ensure!(form["verdict"] == "wrong" || form["verdict"] == "kills", "{form}");
    }
    Ok(())
}

/// What is done to a file with this text.
type Spoil = fn(&Path, &str) -> Result<()>;

#[test]
fn what_is_damaged_or_not_ours_is_measured_again() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let cache = Cache::new()?;
    cache.doctor()?;
    let text = fs::read_to_string(cache.file())?;
    let spoils: [(&str, Spoil, &str); 4] = [
        ("cut short", |file, text| Ok(fs::write(file, &text[..text.len() / 2])?), "is damaged"),
        ("no JSON", |file, _| Ok(fs::write(file, [0, 159, 146, 150])?), "is damaged"),
        ("written by others", |file, _| mode(file, 0o666), "is not believed"),
        (
            "of another user",
            |file, _| Ok(std::os::unix::fs::chown(file, Some(4711), None)?),
            "is not believed",
        ),
    ];
    for (name, spoil, told) in spoils {
        spoil(&cache.file(), &text)?;
        let probes = cache.doctor()?;
        ensure!(probes["result"] == "measured", "{name}: {probes}");
        ensure!(probes["problems"].to_string().contains(told), "{name}: {probes}");
        let repaired = cache.doctor()?;
        ensure!(repaired["result"] == "known", "{name}, then: {repaired}");
    }
    // Of another boot: no fault, and measured again.
    let mut entry: Value = serde_json::from_str(&text)?;
    entry["key"]["boot"] = "another".into();
    fs::write(cache.file(), entry.to_string())?;
    let probes = cache.doctor()?;
    ensure!(
        probes["result"] == "measured" && probes["problems"] == serde_json::json!([]),
        "{probes}"
    );
    Ok(())
}

fn mode(file: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(file, fs::Permissions::from_mode(mode))?)
}

/// What a process is called with, and who started it.
fn is_child_of(process: &Path, parent: u32) -> bool {
    let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let cmdline = fs::read(process.join("cmdline")).unwrap_or_default();
    fields.split_whitespace().nth(1) == Some(parent.to_string().as_str())
        && String::from_utf8_lossy(&cmdline).contains("form-test-child")
}

#[test]
fn a_child_that_is_killed_costs_no_more_than_its_answers() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let cache = Cache::new()?;
    let mut doctor = Process::spawn("doctor", cache.command(&["doctor", "--json"])?)?;
    doctor.close_stdin();
    let parent = doctor.pid();
    let child = until(PATIENCE, "the child", || {
        for process in fs::read_dir("/proc")? {
            let process = process?;
            let number = process.file_name().to_string_lossy().parse();
            if let Ok(number) = number
                && is_child_of(&process.path(), parent)
            {
                return Ok(Some(number));
            }
        }
        ensure!(doctor.alive(), "the doctor ended without a child");
        Ok(None)
    })?;
    // It is a child of ours as long as its parent has not asked what became of it; another process of
    // its number is not there before.
    let child = Pid::from_raw(child).context("a process id")?;
    if is_child_of(Path::new(&format!("/proc/{}", child.as_raw_nonzero())), parent) {
        // It may have ended meanwhile.
        let _: Result<(), _> = kill_process(child, Signal::KILL);
    }
    let finished = doctor.wait(PATIENCE)?;
    check_code(&finished, 0)?;
    let probes = probes(&finished)?;
    if probes["result"] == "failed" {
        ensure!(probes["why"].as_str().is_some_and(|why| !why.is_empty()), "{probes}");
        return Ok(());
    }
    check_shape(&probes)?;
    // Whatever it was asked then, no form is blamed for it.
    for (name, position) in [("push", "first"), ("jmp", "inside"), ("nop1", "first")] {
        ensure!(form(&probes, name, position)?["used"] == true, "{probes}");
    }
    // Nothing uncertain is kept.
    if forms(&probes)?.iter().any(|form| form["verdict"] == "unknown") {
        ensure!(!cache.file().exists(), "kept: {probes}");
    }
    Ok(())
}

#[test]
fn nothing_is_tried_without_rights() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let cache = Cache::new()?;
    let mut command = Command::new("setpriv");
    command.arg("--bounding-set=-bpf,-perfmon,-sys_admin").arg(environment::qprof()?);
    command.args(["doctor", "--json"]).env("QPROF_CACHE_DIR", &cache.0);
    let finished = run("doctor", command, PATIENCE)?;
    check_code(&finished, 3)?;
    ensure!(probes(&finished)?.is_null(), "{}", finished.stdout);
    ensure!(!cache.0.exists());
    Ok(())
}

/// The instructions at which `check` would see the calls of a function begin.
fn enters(cache: &Cache, pid: u32, map: &Path) -> Result<(Vec<String>, String)> {
    let map = map.to_string_lossy();
    let finished = cache.qprof(&["check", "-p", &pid.to_string(), "-m", &map, "--json"])?;
    let answer: Value = serde_json::from_str(&finished.stdout)?;
    let all = answer["probes"].as_array().context("probes")?.iter();
    let calls = all.filter(|probe| probe["watches"] == "calls");
    let sites = calls.flat_map(|probe| probe["sites"].as_array().into_iter().flatten());
    let enters = sites.filter(|site| site["role"] == "enter");
    let text = |site: &Value| site["instruction"].as_str().unwrap_or_default().to_owned();
    Ok((enters.map(text).collect(), finished.stderr))
}

#[test]
fn what_fails_is_not_used_and_said() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let cache = Cache::new()?;
    let target = Fixture::start(&build("odd.c", &["-O0", "-fcf-protection=none"])?, &[])?;
    let map = symbol_map::file(&symbol_map::of(&["odd_plain"], &[], ""))?;
    let (usual, said) = enters(&cache, target.pid(), &map)?;
    ensure!(usual.iter().all(|insn| insn.starts_with("push")), "{usual:?}");
    ensure!(!said.contains("mishandles"), "{said}");
    ensure!(!cache.0.exists(), "check has tried something");

    cache.doctor()?;
    let mut entry: Value = serde_json::from_str(&fs::read_to_string(cache.file())?)?;
    let forms = entry["measured"]["forms"].as_array_mut().context("forms")?;
    for form in forms.iter_mut().filter(|form| form["form"] == "push") {
        form["verdict"] = "kills".into();
        form["how"] = "SIGSEGV".into();
        form["used"] = false.into();
    }
    fs::write(cache.file(), entry.to_string())?;
    let (without, said) = enters(&cache, target.pid(), &map)?;
    ensure!(without.len() == usual.len(), "{without:?}");
    ensure!(!without.iter().any(|insn| insn.starts_with("push")), "{without:?}");
    ensure!(said.contains("mishandles a probe on `push register`"), "{said}");
    Ok(())
}

/// `run` tries what it may use where nothing is known, and times it quickly, once; `doctor` does the
/// rest at leisure.
#[test]
fn a_run_tries_once_what_it_uses() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let cache = Cache::new()?;
    let map = symbol_map::file(&symbol_map::of(&["odd_plain"], &[], ""))?;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut target = Fixture::start(&build("odd.c", &["-O2"])?, &[])?;
        let directory = cache.0.to_string_lossy().into_owned();
        let run = Run::on(target.pid())?.map(&map).env("QPROF_CACHE_DIR", &directory).start()?;
        target.work()?;
        let done = run.stop()?;
        done.check_ok()?;
        ensure!(done.summary.number(&["traces"])? == 100, "{}", done.summary.0);
        kept.push(fs::read_to_string(cache.file())?);
    }
    ensure!(kept[0] == kept[1], "it was tried twice");
    let entry: Value = serde_json::from_str(&kept[0])?;
    let measured = &entry["measured"];
    ensure!(measured["calibration"]["quick"] == true, "{measured}");
    ensure!(measured["calibration"]["call_ns"].as_f64() > Some(0.0), "{measured}");
    for form in forms(measured)? {
        ensure!(!form["kind"].is_null(), "what is never used was tried: {form}");
    }
    let probes = cache.doctor()?;
    ensure!(probes["result"] == "measured", "{probes}");
    ensure!(probes["calibration"]["quick"] == false, "{probes}");
    Ok(())
}
