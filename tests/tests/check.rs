//! `qprof check` on a map of 300 functions, and the planner on a large library, against objdump and
//! the unwind tables.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use profiler_tests::duckdb::DuckDb;
use profiler_tests::environment::{self, can_probe, scratch};
use profiler_tests::planned::compare;
use profiler_tests::postgres::Postgres;
use profiler_tests::process::{Finished, run};
use profiler_tests::qprof::{Run, check_code, verb};
use profiler_tests::symbol_map;
use profiler_tests::timeout::PATIENCE;
use profiler_tests::witness::{Claim, Frames, Tally, Witness};
use qprof::model::{Pid, VirtAddr};
use qprof::symbols::{Function, SymbolSet};
use qprof::target::{ObjectId, Target};
use serde_json::Value;

const FUNCTIONS: usize = 300;
/// At how many places of the library functions are planned, and all their calls; and how many.
const PLACES: usize = 8;
const IN_A_ROW: usize = 250;
/// How much code before and behind a site objdump is shown, and what it is shown, too, between two.
const BEFORE: u64 = 2048;
const BEHIND: u64 = 64;
const NEAR: u64 = 128 << 10;

/// The library of a DuckDB that runs.
fn library(database: &DuckDb) -> Result<(ObjectId, PathBuf)> {
    let target = Target::open(Pid(database.pid()))?;
    let mut objects = (0..target.objects.len() as u16).map(ObjectId);
    let is_it = |id: &ObjectId| {
        target.object(*id).is_some_and(|object| object.file_name().starts_with("_duckdb"))
    };
    let id = objects.find(is_it).context("no DuckDB is mapped")?;
    let object = target.object(id).context("no such object")?;
    Ok((id, object.path.clone()))
}

/// A map of functions spread over the library; one of them gives what another returns, so that a
/// value is captured.
fn map_of(library: &Path) -> Result<PathBuf> {
    let symbols = SymbolSet::of_file(library);
    let ours = |name: &[u8]| name.starts_with(b"_ZN6duckdb");
    let all = Cell::new(0_usize);
    symbols.list(ObjectId(0), &|name| {
        all.set(all.get() + usize::from(ours(name)));
        false
    })?;
    // To demangle all of them would take longer than the test.
    let step = (all.replace(0) / (4 * FUNCTIONS)).max(1);
    let some = symbols.list(ObjectId(0), &|name| {
        all.set(all.get() + usize::from(ours(name)));
        ours(name) && all.get().is_multiple_of(step)
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == ':' || c == '_';
    let names: BTreeSet<&str> = some
        .iter()
        .filter(|listed| listed.size > 64 && listed.base_name.chars().all(plain))
        .map(|listed| &*listed.base_name)
        .collect();
    let chosen: Vec<&str> = names.into_iter().take(FUNCTIONS).collect();
    ensure!(chosen.len() == FUNCTIONS, "only {} functions", chosen.len());
    let [first, second, ..] = chosen.as_slice() else {
        bail!("only {} functions", chosen.len());
    };
    let spans: String = chosen
        .iter()
        .enumerate()
        .map(|(number, name)| {
            let object = "object = \"_duckdb*.so\"\n";
            let span = format!("\n[[span]]\nname = \"f{number}\"\nfunction = \"{name}\"\n");
            let root = if number == 0 { "root = true\n" } else { "" };
            span + object + root
        })
        .collect();
    let handoff = format!(
        "\n[[handoff]]\nname = \"value\"\ngive = {{ function = \"{first}\", object = \
         \"_duckdb*.so\", key = \"ret\" }}\ntake = {{ function = \"{second}\", object = \
         \"_duckdb*.so\", key = \"arg(1)\" }}\n"
    );
    let head = "version = 1\nname = \"many\"\nsystem = \"duckdb\"\n";
    symbol_map::file(&format!("{head}{spans}{handoff}"))
}

fn number(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().with_context(|| format!("no {key} in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    value[key].as_array().with_context(|| format!("no list {key} in {value}"))
}

/// All sites that a report names in the library: those to be attached, and predicted landings.
fn sites(report: &Value) -> Result<Vec<&Value>> {
    let mut sites = Vec::new();
    for probe in list(report, "probes")? {
        if !probe["object"].as_str().is_some_and(|object| object.starts_with("_duckdb")) {
            continue;
        }
        sites.extend(list(probe, "sites")?);
        if probe["ends"].is_null() {
            continue;
        }
        for call in list(&probe["ends"], "calls")? {
            sites.extend([&call["landing"], &call["point"]].into_iter().filter(|s| !s.is_null()));
        }
    }
    Ok(sites)
}

/// Stretches of code around addresses. Each begins well before the first address, so that objdump
/// has found its way from wherever it began; near ones are one: it reads all symbols each time.
fn around(addresses: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
    let all: BTreeSet<u64> = addresses.collect();
    let mut stretches: Vec<Range<u64>> = Vec::new();
    for address in all {
        let (start, end) = (address.saturating_sub(BEFORE), address + BEHIND);
        match stretches.last_mut() {
            Some(last) if start <= last.end + NEAR => last.end = last.end.max(end),
            _ => stretches.push(start..end),
        }
    }
    stretches
}

/// Every function says where its calls begin and how they will be seen to end, and nothing of it is
/// what must not carry a probe.
#[test]
fn a_map_of_300_functions_explains_itself() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let database = DuckDb::start(&[])?;
    let (_, path) = library(&database)?;
    let map = map_of(&path)?;
    let arguments = ["check", "-p", &database.pid().to_string(), "-m", &map.to_string_lossy()];

    let answer = verb(&[&arguments[..], &["--json"]].concat())?;
    check_code(&answer, 0)?;
    let report: Value = serde_json::from_str(&answer.stdout)?;
    let sites = sites(&report)?;
    let addresses = sites.iter().map(|site| number(site, "address")).collect::<Result<Vec<_>>>()?;
    let witness = Witness::of(&path, &around(addresses.into_iter()), Frames::default())?;
    let mut tally = Tally::default();
    for site in &sites {
        let claim = Claim {
            address: number(site, "address")?,
            offset: number(site, "offset")?,
            instruction: site["instruction"].as_str().context("no instruction")?,
        };
        witness.check(claim, &mut tally)?;
    }
    ensure!(tally.wrong_sites == 0, "{tally:#?}");
    ensure!(tally.sites > 3 * FUNCTIONS, "too little: {tally:#?}");

    let probes = list(&report, "probes")?;
    let calls = probes.iter().filter(|probe| probe["watches"] == "calls");
    let mut seen = 0;
    for probe in calls.clone() {
        let roles: BTreeSet<&str> =
            list(probe, "sites")?.iter().filter_map(|site| site["role"].as_str()).collect();
        let ends = &probe["ends"];
        ensure!(roles.contains("enter") && ends.is_object(), "not explained: {probe}");
        let kinds = ["emulated", "single_stepped", "chains", "impossible"];
        let sum: u64 = kinds.iter().map(|kind| number(ends, kind)).sum::<Result<u64>>()?;
        ensure!(sum == list(ends, "calls")?.len() as u64, "calls that are no kind: {probe}");
        for call in list(ends, "calls")? {
            let ways = ["landing", "up", "impossible"];
            let ways = ways.iter().filter(|way| !call[**way].is_null()).count();
            ensure!(ways == 1, "{ways} ways to end: {call}");
        }
        seen += usize::from(sum > 0);
    }
    ensure!(calls.clone().count() > FUNCTIONS * 9 / 10, "only {} functions", calls.count());
    ensure!(seen > FUNCTIONS / 4, "only {seen} functions have a caller that is known");
    for skipped in list(&report, "skipped")? {
        ensure!(skipped["why"].as_str().is_some_and(|why| !why.is_empty()), "{skipped}");
    }
    let giver = calls.clone().find(|probe| probe["ends"]["needs"] == "value");
    ensure!(giver.is_some(), "no function whose value is captured");

    let text = verb(&arguments)?;
    check_code(&text, 0)?;
    let blocks: Vec<&str> = text.stdout.split("\n\n").collect();
    let functions = blocks.iter().filter(|block| block.contains("\n  enter "));
    ensure!(functions.clone().count() == probes.len(), "not a block each: {}", text.stdout);
    for block in functions {
        ensure!(block.lines().count() <= 16, "too long: {block}");
    }
    ensure!(text.stdout.contains("\n  value  "), "no word on the value: {}", text.stdout);
    Ok(())
}

/// `check` of a process by a map, with what is known of the kernel in a directory of its own.
struct Check {
    pid: String,
    map: String,
    cache: PathBuf,
}

impl Check {
    fn of(&self, more: &[&str]) -> Result<Finished> {
        let mut command = Command::new(environment::qprof()?);
        command.args(["check", "-p", &self.pid, "-m", &self.map]).args(more);
        command.env("QPROF_CACHE_DIR", &self.cache);
        run("check", command, PATIENCE)
    }

    fn text(&self, more: &[&str]) -> Result<String> {
        let answer = self.of(more)?;
        check_code(&answer, 0)?;
        Ok(answer.stdout)
    }

    /// The report, and what it says of `ExecSeqScan`.
    fn report(&self, more: &[&str]) -> Result<(Value, Value)> {
        let report: Value = serde_json::from_str(&self.text(&[more, &["--json"]].concat())?)?;
        let probes = list(&report, "probes")?.iter();
        let mut scans = probes.filter(|probe| probe["span"] == "ExecSeqScan");
        let scan = scans.next().with_context(|| format!("no ExecSeqScan in {report}"))?;
        Ok((report.clone(), scan["cost"].clone()))
    }
}

/// The share that follows from a report's own numbers.
fn share(report: &Value, cost: &Value) -> Result<f64> {
    let float = |value: &Value| value.as_f64().with_context(|| format!("no number in {cost}"));
    let cpus = float(&report["cost"]["cpus"])?;
    Ok(float(&cost["rate"])? * float(&cost["call_ns"])? / 1e9 / cpus)
}

/// What a function called once a row would cost is told before anything is attached to it.
#[test]
fn a_function_called_once_a_row_has_its_price() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut server = Postgres::start()?;
    let mut session = server.session()?;
    let map = symbol_map::file(&symbol_map::of(&["standard_ExecutorRun"], &["ExecSeqScan"], ""))?;
    let cache = scratch("check")?.join("cache");
    let check = Check {
        pid: session.pid().to_string(),
        map: map.to_string_lossy().into_owned(),
        cache: cache.clone(),
    };

    // Nothing was measured here yet, nothing is known of rates, and nothing is attached.
    let text = check.text(&[])?;
    let block = text.split("\n\n").find(|block| block.starts_with("ExecSeqScan  "));
    let block = block.with_context(|| format!("no block of ExecSeqScan in {text}"))?;
    ensure!(block.contains("\n  cost   ") && block.contains(" a call: enter "), "{block}");
    for said in ["nothing is attached", "qprof doctor", "--observe", "dearest first"] {
        ensure!(text.contains(said), "no {said} in {text}");
    }
    let (report, cost) = check.report(&[])?;
    ensure!(cost["calibrated"] == false && report["cost"]["calibrated"] == false, "{report}");
    ensure!(cost["rate"].is_null() && cost["share"].is_null(), "{cost}");
    ensure!(report["cost"]["share"].is_null() && report["cost"]["observed"].is_null(), "{report}");
    let [enter, exit, call] =
        ["enter_ns", "exit_ns", "call_ns"].map(|key| cost[key].as_u64().unwrap_or(0));
    ensure!(enter > 0 && exit > 0 && call == enter + exit, "{cost}");
    ensure!(!cache.exists(), "check has tried something");

    let (report, cost) = check.report(&["--rate", "ExecSeqScan=1e6"])?;
    ensure!(cost["rate"] == 1e6, "{cost}");
    let told = cost["share"].as_f64().context("no share")?;
    ensure!((told - share(&report, &cost)?).abs() < 1e-6, "{report}");
    ensure!(report["cost"]["share"] == cost["share"], "only its own is known: {report}");
    let (_, cost) = check.report(&["--rate", "2k", "--rate", "Exec*Scan=5", "--rate", "1k"])?;
    ensure!(cost["rate"] == 5.0, "what names it counts: {cost}");

    for (rate, said) in [
        ("ExecSeqScn=5", "like it: ExecSeqScan"),
        ("ExecSeqScan=often", "`often` is no number of calls a second"),
        ("-5", "-5"),
        ("=5", "names no function"),
    ] {
        let answer = check.of(&[&format!("--rate={rate}")])?;
        check_code(&answer, 2)?;
        ensure!(answer.stderr.contains(said), "{rate}: {}", answer.stderr);
    }

    // Counted while queries run.
    let done = AtomicBool::new(false);
    let (report, cost) = thread::scope(|scope| -> Result<_> {
        let queries = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                session.simple("select count(*) from numbers")?.rows()?;
            }
            Ok(())
        });
        let seen = check.report(&["--observe", "1s"]);
        done.store(true, Ordering::Relaxed);
        queries.join().map_err(|_panic| anyhow!("the queries panicked"))??;
        seen
    })?;
    let observed = &report["cost"]["observed"];
    ensure!(observed["functions"] == 2, "{report}");
    ensure!(observed["attached_seconds"].as_f64() > Some(0.0), "{report}");
    ensure!(cost["rate"].as_f64() > Some(0.0), "no call was seen: {report}");
    let told = cost["share"].as_f64().context("no share")?;
    ensure!((told - share(&report, &cost)?).abs() < 1e-6, "{report}");
    ensure!(cost["calibrated"] == true, "what is attached is calibrated first: {report}");

    // `run` says the same before it attaches.
    let running = Run::on(session.pid())?.map(&map);
    let running = running.env("QPROF_CACHE_DIR", &cache.to_string_lossy()).start()?;
    session.simple("select count(*) from numbers where id < 10")?.rows()?;
    let done = running.stop()?;
    done.check_ok()?;
    let stderr = &done.finished.stderr;
    let line = |begin: &str| stderr.lines().position(|line| line.starts_with(begin));
    ensure!(line("cost: ").is_some() && line("cost: ") < line("attached: "), "{stderr}");
    ensure!(stderr.contains("ExecSeqScan "), "{stderr}");
    server.check_unharmed()
}

/// A few thousand functions of a large library, and every call in them.
#[test]
fn a_large_library_is_planned_as_its_tables_say() -> Result<()> {
    let database = DuckDb::start(&[])?;
    let (_, path) = library(&database)?;
    let frames = Frames::of(&path)?;
    let symbols = SymbolSet::of_file(&path);
    let starts: Vec<u64> = frames.starts().collect();
    let mut some: Vec<Function> = starts
        .chunks(starts.len().div_ceil(PLACES))
        .flat_map(|place| place.iter().take(IN_A_ROW))
        .filter_map(|start| symbols.containing(ObjectId(0), VirtAddr(*start)))
        .collect();
    some.dedup();
    let parts =
        some.iter().flat_map(|function| std::iter::once(&function.code).chain(&function.cold));
    let bounds = parts.flat_map(|part| {
        let start = part.address.0;
        [start, start + part.bytes.len() as u64]
    });
    let witness = Witness::of(&path, &around(bounds), frames)?;
    let compared = compare(&path, &some, &witness)?;
    let tally = &compared.tally;
    ensure!(some.len() > 1000 && compared.calls() > 10_000, "too little: {compared:#?}");
    ensure!(tally.stacks > 20_000, "too little: {compared:#?}");
    ensure!(tally.wrong_sites == 0, "{compared:#?}");
    // Clang's tables are late where it moved the epilogue's `add rsp`.
    ensure!(tally.wrong_stacks * 2000 <= tally.stacks, "{compared:#?}");
    Ok(())
}
