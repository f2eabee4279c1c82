//! Attaching to Milvus Lite and the memory it takes, against bpftrace on the same functions.
//!
//! bpftrace gets the easier task: the entries only, where qprof also attaches every exit.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::goal::Goal;
use super::median;
use super::report::Section;
use super::tracer::Build;
use crate::child::{Guarded, run_to_end};
use crate::cli::Context;
use crate::command::stdout_of;
use crate::json::Json;
use crate::milvus::Milvus;
use crate::qprof::Attached;
use crate::venv::MilvusVenv;
use crate::{say, sys};

const COLLECTION: &str = "bench";
const ROWS: u32 = 100_000;
const LOAD_SECONDS: u64 = 10;
const CLIENTS: &str = "4";
/// What the agent may take at its peak.
pub(super) const MOST_MEGABYTES: f64 = 50.0;

/// One run of one program.
struct Run {
    attached_s: f64,
    peak_kib: f64,
}

/// The sections `attach` and `memory`, this one with its goals.
///
/// # Errors
/// When the server, qprof or bpftrace fails.
pub(super) fn run(
    context: &Context,
    venv: &MilvusVenv,
    qprof: &Build,
    runs: usize,
) -> Result<(Section, (Section, Vec<Goal>))> {
    let milvus = Milvus::start(venv, &context.root)?;
    milvus.fill(COLLECTION, ROWS)?;
    let plan = stdout_of(
        Command::new(&qprof.program)
            .args(["check", "--json", "-m", "milvus-lite", "-p"])
            .arg(milvus.pid().to_string()),
    )?;
    let functions = functions(&Json::parse(&plan)?)?;
    let script = script(&functions);
    let (mut ours, mut rivals) = (Vec::new(), Vec::new());
    for number in 1..=runs {
        sys::check_stop()?;
        say::step("bench", &format!("attach, run {number} of {runs}"));
        ours.push(run_qprof(qprof, milvus.pid())?);
        rivals.push(run_bpftrace(&script, milvus.pid())?);
    }
    let loaded = peak_after_load(qprof, &milvus)?;
    let attach = attach_section(functions.len(), &ours, &rivals);
    Ok((attach, memory_section(&ours, &rivals, loaded)))
}

/// The functions of a plan, as bpftrace wants them: (object, linkage name).
fn functions(plan: &Json) -> Result<Vec<(String, String)>> {
    let mut tables: BTreeMap<String, BTreeMap<u64, String>> = BTreeMap::new();
    let mut functions = Vec::new();
    for probe in plan.list("probes") {
        // The rival is spared the witnesses, which are no functions of the map.
        if probe.list("sites").iter().all(|site| site.text("role") == Some("enter")) {
            continue;
        }
        let object = probe.text("path").context("a probe of `qprof check` has no path")?;
        if !tables.contains_key(object) {
            let listing = stdout_of(Command::new("nm").args(["--defined-only", object]))?;
            tables.insert(object.to_owned(), symbols(&listing));
        }
        for site in probe.list("sites").iter().filter(|site| site.text("role") == Some("enter")) {
            // Addresses are below 2^53, so exact in the reader's numbers.
            let address = site.number("address")?;
            let name = tables[object].iter().take_while(|(at, _)| **at as f64 <= address).last();
            let (_, name) = name.with_context(|| format!("no symbol at {address} in {object}"))?;
            functions.push((object.to_owned(), name.clone()));
        }
    }
    functions.sort();
    functions.dedup();
    if functions.is_empty() {
        bail!("`qprof check` planned no function");
    }
    Ok(functions)
}

/// The functions in what `nm` prints: address → linkage name.
fn symbols(listing: &str) -> BTreeMap<u64, String> {
    listing
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let is_function = matches!(words.next()?, "T" | "t" | "W" | "w");
            let name = words.next()?;
            is_function.then(|| (address, name.to_owned()))
        })
        .collect()
}

/// A bpftrace program that notes the time of each entry. Its first line of output comes when
/// its loop runs, which is after all probes are attached. It ends by itself: bpftrace 0.17
/// sometimes goes on after an interrupt.
fn script(functions: &[(String, String)]) -> String {
    let probes: Vec<String> =
        functions.iter().map(|(object, name)| format!("uprobe:{object}:{name}")).collect();
    format!(
        "{} {{ @at[tid] = nsecs; }} \
         interval:ms:10 /@said == 0/ {{ @said = 1; printf(\"attached\\n\"); }} \
         interval:s:3 {{ exit(); }} \
         END {{ clear(@at); clear(@said); }}",
        probes.join(", ")
    )
}

fn start(qprof: &Build, pid: u32) -> Result<Attached> {
    let words = [&["-m", "milvus-lite", "--output", "none"], qprof.at_any_price()].concat();
    Attached::start(&qprof.program, pid, &words, false)
}

fn run_qprof(qprof: &Build, pid: u32) -> Result<Run> {
    let attached = start(qprof, pid)?;
    let run = Run { attached_s: attached.after.as_secs_f64(), peak_kib: peak_kib(attached.pid())? };
    attached.finish()?;
    Ok(run)
}

fn run_bpftrace(script: &str, pid: u32) -> Result<Run> {
    let started = Instant::now();
    let mut child = Guarded::start(
        "bpftrace",
        Command::new("bpftrace")
            // All probes of a map may be more than its default limit.
            .env("BPFTRACE_MAX_PROBES", "4096")
            .args(["-B", "line", "-p", &pid.to_string(), "-e", script])
            .stdout(Stdio::piped())
            .stderr(Stdio::null()),
    )?;
    let mut lines = BufReader::new(child.take_stdout().context("bpftrace has no output")?).lines();
    loop {
        sys::check_stop()?;
        let line = lines.next().context("bpftrace ended before it was attached")??;
        if line == "attached" {
            break;
        }
    }
    let run = Run { attached_s: started.elapsed().as_secs_f64(), peak_kib: peak_kib(child.id())? };
    if child.wait(Duration::from_secs(120))?.is_none() {
        sys::check_stop()?;
        bail!("bpftrace did not end");
    }
    Ok(run)
}

/// The most memory a process had at once so far (proc(5): `VmHWM`).
pub(super) fn peak_kib(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix("kB")?.trim().parse().ok()
        })
        .with_context(|| format!("no VmHWM in {path}"))
}

/// qprof's memory after four clients searched for ten seconds: (peak in KiB, searches).
fn peak_after_load(qprof: &Build, milvus: &Milvus) -> Result<f64> {
    say::step("bench", "memory after a load");
    let attached = start(qprof, milvus.pid())?;
    let seconds = LOAD_SECONDS.to_string();
    let mut client =
        milvus.client(&["load", COLLECTION, "--seconds", &seconds, "--threads", CLIENTS]);
    let limit = Duration::from_secs(LOAD_SECONDS + 60);
    run_to_end("the Milvus client", client.stdout(Stdio::null()), limit)?;
    let peak = peak_kib(attached.pid())?;
    attached.finish()?;
    Ok(peak)
}

fn attach_section(functions: usize, ours: &[Run], rivals: &[Run]) -> Section {
    let seconds = |runs: &[Run]| runs.iter().map(|run| run.attached_s).collect::<Vec<_>>();
    let (ours, rivals) = (seconds(ours), seconds(rivals));
    let (mine, theirs) = (median(&ours), median(&rivals));
    let row = |who: &str, values: &[f64], ratio: f64| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        vec![
            who.to_owned(),
            format!("{:.2} s", median(values)),
            format!("{least:.2}–{most:.2} s"),
            format!("{ratio:.1}"),
        ]
    };
    Section {
        name: "attach",
        title: format!(
            "From start to attached: Milvus Lite 2.5.1, {functions} functions, {} runs in turn",
            ours.len()
        ),
        columns: vec!["program", "median", "range", "ratio"],
        rows: vec![
            row("qprof, entries and all exits", &ours, 1.0),
            row("bpftrace, entries by name", &rivals, theirs / mine),
        ],
        numbers: vec![
            ("functions".to_owned(), functions as f64),
            ("qprof_s".to_owned(), mine),
            ("bpftrace_s".to_owned(), theirs),
            ("ratio".to_owned(), theirs / mine),
        ],
        notes: Vec::new(),
    }
}

fn memory_section(ours: &[Run], rivals: &[Run], loaded: f64) -> (Section, Vec<Goal>) {
    let peak = |runs: &[Run]| median(&runs.iter().map(|run| run.peak_kib).collect::<Vec<_>>());
    let (mine, theirs) = (peak(ours), peak(rivals));
    let row = |who: &str, kib: f64| {
        vec![who.to_owned(), format!("{:.0} MiB", kib / 1024.0), format!("{:.2}", kib / mine)]
    };
    let goal =
        Goal::megabytes("peak memory of qprof on a server".to_owned(), MOST_MEGABYTES, loaded);
    let section = Section {
        name: "memory",
        title: "Peak resident memory of the agent".to_owned(),
        columns: vec!["program", "peak", "ratio"],
        rows: vec![
            row("qprof, attached", mine),
            row(&format!("qprof, after {LOAD_SECONDS} s of searches by {CLIENTS} clients"), loaded),
            row("bpftrace, attached", theirs),
        ],
        numbers: vec![
            ("qprof_attached_kib".to_owned(), mine),
            ("qprof_loaded_kib".to_owned(), loaded),
            ("bpftrace_attached_kib".to_owned(), theirs),
            ("ratio".to_owned(), theirs / mine),
        ],
        notes: vec![goal.line()],
    };
    (section, vec![goal])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_functions_of_nm() {
        let symbols = symbols("0000000000bf1b90 T AsyncSearch\n000000 D data\n         U puts\n");
        assert_eq!(symbols.into_iter().collect::<Vec<_>>(), [(0x00bf_1b90, "AsyncSearch".into())]);
    }

    #[test]
    fn one_script_for_all_probes() {
        let one = ("/bin/x".to_owned(), "f".to_owned());
        let text = script(&[one.clone(), one]);
        assert!(text.starts_with("uprobe:/bin/x:f, uprobe:/bin/x:f { @at[tid] = nsecs; } "));
    }

    #[test]
    fn our_own_memory_is_told() {
        assert!(peak_kib(std::process::id()).unwrap() > 0.0);
    }
}
