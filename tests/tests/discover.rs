//! `qprof discover`: a first map of servers nobody has written one for.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use profiler_tests::environment::{self, alone, can_probe, scratch, skip};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::process::{Finished, Process, tail};
use profiler_tests::qprof::{Run, check_code, verb};
use profiler_tests::timeout::{PATIENCE, until};

/// How many queries are sent to a discovered map.
const QUERIES: u64 = 60;

/// Python with DuckDB that does as it is told: `load` queries from two threads until `stop`, `run N`.
const DUCKDB: &str = r#"
import duckdb, sys, threading
connection = duckdb.connect(config={"threads": 4})
connection.execute("create table t as select range a, range % 97 g from range(300000)")
connection.execute("create table d as select range g, 'n' || range n from range(97)")
queries = [
    "select g, sum(a) from t group by g order by g",
    "select n, count(*) from t join d using (g) group by n order by 1 limit 5",
    "select max(a) from t where a % 3 = 1",
]
stop = threading.Event()
def load():
    own, at = connection.cursor(), 0
    while not stop.is_set():
        own.execute(queries[at % 3]).fetchall()
        at += 1
threads = []
print("ready", flush=True)
for line in sys.stdin:
    words = line.split()
    if words[0] == "load":
        threads = [threading.Thread(target=load) for _ in range(2)]
        for thread in threads: thread.start()
    elif words[0] == "stop":
        stop.set()
        for thread in threads: thread.join()
    elif words[0] == "run":
        own = connection.cursor()
        for at in range(int(words[1])): own.execute(queries[at % 3]).fetchall()
    print("did " + words[0], flush=True)
"#;

/// A Python that has DuckDB, from the engines that `cargo xtask setup` installs.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("QPROF_DUCKDB_PYTHON").map(PathBuf::from);
    let installed = environment::cache().join("venv/engines/bin/python");
    named.or(Some(installed)).filter(|path| path.is_file())
}

fn tell(process: &mut Process, line: &str) -> Result<()> {
    process.say(line)?;
    let word = line.split(' ').next().unwrap_or_default();
    let answer = format!("did {word}");
    until(PATIENCE, &answer, || {
        ensure!(process.alive(), "it ended: {}", tail(&process.stderr()));
        Ok(process.stdout().lines().any(|said| said == answer).then_some(()))
    })
}

fn discover(pid: u32, map: &Path, arguments: &[&str]) -> Result<Finished> {
    let pid = pid.to_string();
    let map = map.to_string_lossy();
    let all = [&["discover", "-p", &pid, "-o", &map], arguments].concat();
    verb(&all)
}

/// The map is whole: `check` passes and leaves nothing out.
fn check_map(pid: u32, map: &Path) -> Result<String> {
    let text = fs::read_to_string(map)?;
    let checked = verb(&["check", "-p", &pid.to_string(), "-m", &map.to_string_lossy()])?;
    check_code(&checked, 0).with_context(|| text.clone())?;
    ensure!(!checked.stdout.contains("not probed"), "{}\n{text}", checked.stdout);
    Ok(text)
}

/// The block of the root span.
fn root_of(map: &str) -> Result<&str> {
    let mut blocks = map.split("[[span]]").skip(1);
    let root = blocks.find(|block| block.contains("root = true"));
    root.ok_or_else(|| anyhow!("no root: {map}"))
}

#[test]
fn duckdb_unknown_and_its_root_counts_the_queries() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let Some(python) = python() else { return skip("no DuckDB: run `cargo xtask setup engines`") };
    let _alone = alone();
    let map = scratch("discovered")?.join("duckdb.toml");
    let mut command = Command::new(python);
    command.args(["-c", DUCKDB]);
    let mut server = Process::spawn("duckdb", command)?;
    until(PATIENCE, "DuckDB to be ready", || {
        ensure!(server.alive(), "it ended: {}", tail(&server.stderr()));
        Ok(server.stdout().contains("ready").then_some(()))
    })?;
    tell(&mut server, "load")?;
    let finished = discover(server.pid(), &map, &["--duration", "15s"])?;
    tell(&mut server, "stop")?;
    check_code(&finished, 0)?;
    let text = check_map(server.pid(), &map)?;
    let root = root_of(&text)?;
    ensure!(root.contains("duckdb::"), "the root is no function of DuckDB's: {root}");

    let run = Run::on(server.pid())?.map(&map).start()?;
    tell(&mut server, &format!("run {QUERIES}"))?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(done.summary.number(&["traces"])? == QUERIES, "{}\n{text}", done.summary.0);
    ensure!(server.alive(), "DuckDB is gone: {}", tail(&server.stderr()));
    Ok(())
}

/// Asks until told to stop, or so often.
fn ask(port: u16, until: &AtomicBool, most: u64) -> Result<u64> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    let mut answers = BufReader::new(connection.try_clone()?);
    let mut asked = 0;
    while asked < most && !until.load(Ordering::Relaxed) {
        connection.write_all(b"find word 3\n")?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        ensure!(answer.starts_with("found"), "{answer}");
        asked += 1;
    }
    Ok(asked)
}

#[test]
fn a_server_with_workers_has_its_root_stages_and_hand_off() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Fixture::start(&build("server.cc", &["-O2"])?, &["2"])?;
    let stdout = server.stdout();
    let port = stdout.lines().find_map(|line| line.strip_prefix("listening "));
    let port: u16 = port.ok_or_else(|| anyhow!("no port: {stdout}"))?.parse()?;
    let map = scratch("discovered")?.join("server.toml");
    let stop = AtomicBool::new(false);
    let finished = thread::scope(|scope| {
        let clients: Vec<_> = (0..2).map(|_| scope.spawn(|| ask(port, &stop, u64::MAX))).collect();
        let finished = discover(server.pid(), &map, &[]);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_panic| anyhow!("a client panicked"))??;
        }
        finished
    })?;
    check_code(&finished, 0)?;
    let text = check_map(server.pid(), &map)?;
    ensure!(root_of(&text)?.contains("kv::Server::handle("), "{text}");
    for stage in ["kv::merge(", "kv::Task::run("] {
        let block = text.split("[[span]]").find(|block| block.contains(stage));
        ensure!(block.is_some(), "no span for {stage}: {text}");
    }
    let handoff = text.split("[[handoff]]").nth(1).ok_or_else(|| anyhow!("no hand-off: {text}"))?;
    // The task, or the query behind it: both are the same on both sides.
    ensure!(handoff.contains("kv::Task::run("), "{text}");

    let run = Run::on(server.pid())?.map(&map).start()?;
    ask(port, &AtomicBool::new(false), QUERIES)?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(done.summary.number(&["traces"])? == QUERIES, "{}\n{text}", done.summary.0);
    ensure!(done.summary.number(&["orphans"])? == 0, "{}\n{text}", done.summary.0);
    ensure!(server.alive(), "the server is gone");
    Ok(())
}

#[test]
fn an_idle_server_is_told_and_is_4() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let server = Fixture::start(&build("server.cc", &["-O2"])?, &["1"])?;
    let map = scratch("discovered")?.join("idle.toml");
    let finished = discover(server.pid(), &map, &["--duration", "1s"])?;
    check_code(&finished, 4)?;
    for told in ["candidates", "server-", "--duration"] {
        ensure!(finished.stderr.contains(told), "{}", finished.stderr);
    }
    ensure!(!map.exists(), "a map of nothing was written");
    Ok(())
}

#[test]
fn a_program_without_stages_is_told_and_is_4() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut sleeper = Command::new("sleep");
    sleeper.arg("600");
    let sleeper = Process::spawn("sleep", sleeper)?;
    let pid = sleeper.pid().to_string();
    let finished = verb(&["discover", "-p", &pid, "--duration", "1s"])?;
    check_code(&finished, 4)?;
    ensure!(finished.stderr.contains("no function looks like"), "{}", finished.stderr);
    ensure!(finished.stdout.is_empty(), "{}", finished.stdout);
    Ok(())
}
