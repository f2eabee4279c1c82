//! A PostgreSQL server of the test's own, and its client.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::environment::{cache, free_port, open_scratch, repository};
use crate::process::{Process, run, tail};
use crate::timeout::{PATIENCE, until};

/// Rows of the table `numbers`: enough for a parallel plan.
pub const ROWS: u64 = 100_000;

/// Rows of the table `vectors`, which has an HNSW index.
pub const VECTORS: u64 = 2_000;

/// `nobody`, on every Linux: the server refuses to run as root.
const NOBODY: u32 = 65_534;

const SERVER_LIMIT: Duration = Duration::from_secs(20);

/// So that what is counted is the tests' alone, and workers are there when they are asked for.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_logical_replication_workers=0",
    "max_worker_processes=16",
    "max_parallel_workers=16",
    // Parallel plans where a test asks for them.
    "max_parallel_workers_per_gather=0",
    "checkpoint_timeout=1h",
    "log_min_error_statement=panic",
];

/// The server.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    port: u16,
    /// Removed after the server has ended.
    _files: Files,
}

/// The server's program and data, where every user can reach them; dropped, they are removed.
#[derive(Debug)]
struct Files(PathBuf);

/// A connection, which is a process of the server's.
#[derive(Debug)]
pub struct Session {
    client: Process,
    pid: u32,
    answered: usize,
}

/// What the server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer(pub Value);

/// A client with many connections, not yet let go.
#[derive(Debug)]
pub struct Crowd {
    client: Process,
}

impl Postgres {
    /// Starts it with the tables `numbers` and `vectors`, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        let files = Files::new()?;
        let mut initdb = files.command("initdb", "KILL");
        initdb.args(["-U", "postgres", "-A", "trust", "-N", "--no-instructions"]);
        initdb.args(["-E", "UTF8", "--locale=C", "-D"]).arg(files.data());
        let made = run("initdb", initdb, PATIENCE)?;
        ensure!(made.code == Some(0), "initdb failed: {}", tail(&made.stderr));

        let port = free_port()?;
        // If this program is killed, the server still ends its own processes.
        let mut command = files.command("postgres", "QUIT");
        command.arg("-D").arg(files.data()).args(["-p", &port.to_string()]);
        command.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let process = Process::spawn("postgres", command)?;
        let mut server = Self { process, port, _files: files };
        until(PATIENCE, "PostgreSQL to answer", || {
            ensure!(server.alive(), "PostgreSQL ended: {}", server.log());
            Ok(server.log().contains("ready to accept connections").then_some(()))
        })?;
        let mut session = server.session()?;
        for statement in [
            "create table numbers as select i as id, i % 100 as part, repeat('x', 50) as pad \
             from generate_series(1, 100000) i",
            "create extension vector",
            "create table vectors as select i as id, \
             array[sin(i), cos(i * 3), sin(i * 7)]::vector(3) as place \
             from generate_series(1, 2000) i",
            "create index on vectors using hnsw (place vector_l2_ops)",
            "vacuum analyze",
        ] {
            session.simple(statement)?.rows()?;
        }
        Ok(server)
    }

    /// The postmaster's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        tail(&self.process.stderr())
    }

    /// That it runs, and none of its processes has crashed: it would have started all anew.
    ///
    /// # Errors
    /// What it has logged.
    pub fn check_unharmed(&mut self) -> Result<()> {
        let log = self.process.stderr();
        ensure!(self.alive(), "the server is gone: {}", tail(&log));
        for bad in ["was terminated by signal", "PANIC", "terminating any other active"] {
            ensure!(!log.contains(bad), "a process of the server's died: {}", tail(&log));
        }
        Ok(())
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn session(&self) -> Result<Session> {
        let client = Process::spawn("postgres-client", self.client(&["session"]))?;
        let mut session = Session { client, pid: 0, answered: 0 };
        let pid = session.next()?.0["pid"].as_u64().context("a connection without a process")?;
        session.pid = u32::try_from(pid)?;
        Ok(session)
    }

    /// A client that, when let go, opens so many connections at once and sends so many queries on
    /// each.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn crowd(&self, connections: u32, queries: u32) -> Result<Crowd> {
        let command = self.client(&["crowd", &connections.to_string(), &queries.to_string()]);
        Ok(Crowd { client: Process::spawn("postgres-crowd", command)? })
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(venv().join("bin/python"));
        command.arg(repository().join("tests/clients/postgres.py"));
        command.arg(self.port.to_string()).args(arguments);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Asked like this it ends its processes at once. What is left after that is killed.
        let _ = self.process.signal(Signal::QUIT);
        let _ = self.process.wait(SERVER_LIMIT);
    }
}

impl Session {
    /// The process id of its backend.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// One message of the simple protocol.
    ///
    /// # Errors
    /// When the client fails; what the server refuses is in the answer.
    pub fn simple(&mut self, statement: &str) -> Result<Answer> {
        self.ask(&json!({ "simple": statement }))
    }

    /// One statement by the extended protocol: Parse, Bind, Describe, Execute, Sync. `%s` in it
    /// stands for an argument.
    ///
    /// # Errors
    /// As [`Session::simple`].
    pub fn extended(&mut self, statement: &str, arguments: &[i32]) -> Result<Answer> {
        self.ask(&json!({ "extended": statement, "arguments": arguments }))
    }

    /// The same, prepared when it is sent for the first time: later there is no Parse.
    ///
    /// # Errors
    /// As [`Session::simple`].
    pub fn prepared(&mut self, statement: &str, arguments: &[i32]) -> Result<Answer> {
        self.ask(&json!({ "prepared": statement, "arguments": arguments }))
    }

    /// One message of the simple protocol, cancelled from another connection once it runs.
    ///
    /// # Errors
    /// As [`Session::simple`].
    pub fn cancelled(&mut self, statement: &str) -> Result<Answer> {
        self.ask(&json!({ "cancel": statement }))
    }

    /// `EXPLAIN (ANALYZE)`, which runs the statement: how many workers it planned and launched.
    ///
    /// # Errors
    /// When the server refuses, or the plan has no Gather.
    pub fn workers(&mut self, statement: &str) -> Result<(u64, u64)> {
        let plan = self.simple(&format!("explain (analyze, format json) {statement}"))?.rows()?;
        let gather = gather(&plan[0][0]).ok_or_else(|| anyhow!("no parallel plan: {plan}"))?;
        let count = |key: &str| gather[key].as_u64().ok_or_else(|| anyhow!("no {key}: {gather}"));
        Ok((count("Workers Planned")?, count("Workers Launched")?))
    }

    fn ask(&mut self, request: &Value) -> Result<Answer> {
        self.client.say(&request.to_string())?;
        self.next().with_context(|| format!("after {request}"))
    }

    fn next(&mut self) -> Result<Answer> {
        let line = until(PATIENCE, "the client to answer", || {
            let said = self.client.stdout();
            // A line without its end is still being written.
            let whole = said.rfind('\n').map_or("", |end| said.get(..end).unwrap_or_default());
            let line = whole.lines().nth(self.answered).map(str::to_owned);
            ensure!(
                line.is_some() || self.client.alive(),
                "the client ended: {}",
                tail(&self.client.stderr())
            );
            Ok(line)
        })?;
        self.answered += 1;
        Ok(Answer(serde_json::from_str(&line)?))
    }
}

impl Answer {
    /// The rows, each an array.
    ///
    /// # Errors
    /// When the server answered with an error.
    pub fn rows(&self) -> Result<Value> {
        ensure!(self.0["error"].is_null(), "the server refused: {}", self.0);
        Ok(self.0["rows"].clone())
    }

    /// The five letters of an error.
    ///
    /// # Errors
    /// When there was none.
    pub fn state(&self) -> Result<&str> {
        self.0["state"].as_str().ok_or_else(|| anyhow!("no error: {}", self.0))
    }
}

impl Crowd {
    /// Lets it go and waits until it is done: the process ids of its backends, and how many
    /// queries it sent by the simple and by the extended protocol.
    ///
    /// # Errors
    /// When a query failed.
    pub fn go(mut self) -> Result<(Vec<u32>, u64, u64)> {
        self.client.say("go")?;
        let finished = self.client.wait(PATIENCE)?;
        let answer: Value = serde_json::from_str(&finished.stdout)
            .with_context(|| format!("the client failed: {}", tail(&finished.stderr)))?;
        ensure!(answer["failures"] == json!([]), "queries failed: {answer}");
        let count = |key: &str| answer[key].as_u64().ok_or_else(|| anyhow!("no {key}: {answer}"));
        let pids = serde_json::from_value(answer["pids"].clone())?;
        Ok((pids, count("simple")?, count("extended")?))
    }
}

impl Files {
    fn new() -> Result<Self> {
        let files = Self(open_scratch("postgres")?);
        // The package may lie in a home that others cannot look into.
        let packages = packages()?;
        for part in ["pgserver", "pgserver.libs"] {
            let mut copy = Command::new("cp");
            copy.arg("-r").arg(packages.join(part)).arg(&files.0);
            let copied = run("cp", copy, PATIENCE)?;
            ensure!(copied.code == Some(0), "copying the server: {}", copied.stderr);
        }
        fs::create_dir(files.data())?;
        chown(files.data(), Some(NOBODY), Some(NOBODY))?;
        Ok(files)
    }

    fn data(&self) -> PathBuf {
        self.0.join("data")
    }

    /// One of its programs, run by nobody. A change of user takes away the signal that ends a child
    /// with its parent, so `setpriv` asks for it once more.
    fn command(&self, program: &str, at_parents_end: &str) -> Command {
        let nobody = NOBODY.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
        command.args(["--pdeathsig", at_parents_end]);
        command.arg(self.0.join("pgserver/pginstall/bin").join(program)).current_dir(&self.0);
        command
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // What stays is swept by the next run.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn gather(plan: &Value) -> Option<&Value> {
    match plan {
        Value::Array(list) => list.iter().find_map(gather),
        Value::Object(fields) if fields.contains_key("Workers Launched") => Some(plan),
        Value::Object(fields) => fields.values().find_map(gather),
        _ => None,
    }
}

fn venv() -> PathBuf {
    cache().join("venv/engines")
}

/// Where pip put the server.
fn packages() -> Result<PathBuf> {
    let base = venv().join("lib");
    let installed = |path: &Path| path.join("pgserver/pginstall/bin/postgres").is_file();
    fs::read_dir(&base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages"))
        .find(|path| installed(path))
        .ok_or_else(|| anyhow!("no pgserver under {}: run `cargo xtask test`", base.display()))
}
