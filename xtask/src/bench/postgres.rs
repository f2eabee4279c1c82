//! A PostgreSQL server of our own, on loopback, and a connection to it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::talker::Talker;
use crate::cache::Scratch;
use crate::child::{Guarded, TICK};
use crate::command::{self, tail};
use crate::json::Json;
use crate::sys;

/// `nobody`, on every Linux: the server refuses to run as root.
const NOBODY: u32 = 65_534;
const START_LIMIT: Duration = Duration::from_secs(60);
const END_LIMIT: Duration = Duration::from_secs(30);

/// So that nothing runs but what is asked for, all of it in the backend, and all data stay in
/// memory.
const SETTINGS: [&str; 8] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "fsync=off",
    "autovacuum=off",
    "max_wal_size=4GB",
    "max_parallel_workers_per_gather=0",
    "checkpoint_timeout=1h",
    "shared_buffers=512MB",
];

/// The running server; dropping it ends it and removes its data.
#[derive(Debug)]
pub(super) struct Postgres {
    server: Guarded,
    port: u16,
    client: PathBuf,
    python: PathBuf,
    files: Scratch,
}

/// A connection, which is a process of the server's.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) client: Talker,
    /// Of the backend.
    pub(super) pid: u32,
}

/// What came of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer {
    pub(super) seconds: f64,
    /// The first value of the first row, if that is a number.
    pub(super) value: Option<f64>,
}

impl Postgres {
    /// Starts the server and waits until it answers. `engines`: the environment it is installed in;
    /// `root`: the checkout.
    ///
    /// # Errors
    /// When it does not start, or ends; with the last lines of its log.
    pub(super) fn start(engines: &Path, root: &Path) -> Result<Self> {
        let name = format!("qprof-postgres-{}", std::process::id());
        let files = Scratch::new(std::env::temp_dir().join(name))?;
        // The package may lie in a home that others cannot look into.
        let packages = packages(engines)?;
        for part in ["pgserver", "pgserver.libs"] {
            command::run(Command::new("cp").arg("-r").arg(packages.join(part)).arg(files.path()))?;
        }
        let data = files.join("data");
        fs::create_dir(&data)?;
        chown(&data, Some(NOBODY), Some(NOBODY))
            .with_context(|| format!("cannot give {} to nobody", data.display()))?;
        let mut initdb = as_nobody(&files, "initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-N", "--no-instructions"]);
        initdb.args(["-E", "UTF8", "--locale=C", "-D"]).arg(&data);
        command::run_logged(&mut initdb, &files.join("initdb.log"))?;

        let log = files.join("server.log");
        let output = File::create(&log)?;
        let port = free_port()?;
        let mut program = as_nobody(&files, "postgres");
        program.arg("-D").arg(&data).args(["-p", &port.to_string()]);
        program.args(SETTINGS.iter().flat_map(|setting| ["-c", setting]));
        let server = Guarded::start(
            "PostgreSQL",
            program.stdout(output.try_clone()?).stderr(Stdio::from(output)),
        )?;
        let mut postgres = Self {
            server,
            port,
            client: root.join("xtask/bench/postgres_load.py"),
            python: engines.join("bin/python"),
            files,
        };
        postgres.wait_until_up()?;
        Ok(postgres)
    }

    fn wait_until_up(&mut self) -> Result<()> {
        let log = self.files.join("server.log");
        let deadline = Instant::now() + START_LIMIT;
        while !fs::read_to_string(&log)?.contains("ready to accept connections") {
            sys::check_stop()?;
            if let Some(status) = self.server.poll()? {
                bail!("PostgreSQL ended at its start ({status}):\n{}", tail(&log, 20));
            }
            if Instant::now() >= deadline {
                bail!("PostgreSQL does not answer:\n{}", tail(&log, 20));
            }
            std::thread::sleep(TICK);
        }
        Ok(())
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the server refuses.
    pub(super) fn session(&self) -> Result<Session> {
        let mut python = Command::new(&self.python);
        let python = python.arg(&self.client).arg(self.port.to_string());
        let client = Talker::start("the PostgreSQL client", python, "")?;
        let mut session = Session { client, pid: 0 };
        let pid = session.run("select pg_backend_pid()")?.value;
        // Process ids are whole, and exact in the reader's numbers.
        #[expect(clippy::cast_sign_loss, reason = "a process id is no negative number")]
        let pid = pid.context("a connection without a process")? as u32;
        session.pid = pid;
        Ok(session)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Asked like this it sends its backends home. What is left after that is killed.
        let _ = self.server.interrupt(END_LIMIT);
    }
}

impl Session {
    /// Executes a statement once.
    ///
    /// # Errors
    /// When the server refuses, or the client fails.
    pub(super) fn run(&mut self, statement: &str) -> Result<Answer> {
        let said = self.client.ask(&format!("ask {statement}"))?;
        let said = Json::parse(&said)?;
        Ok(Answer { seconds: said.number("seconds")?, value: said.number("value").ok() })
    }
}

/// One of the server's programs. A change of user takes away the signal that ends a child with its
/// parent, so `setpriv` asks for it: if we are killed, the server still ends its own processes.
fn as_nobody(files: &Scratch, program: &str) -> Command {
    let nobody = NOBODY.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &nobody, "--regid", &nobody, "--clear-groups"]);
    command.args(["--pdeathsig", "QUIT"]);
    command.arg(files.join("pgserver/pginstall/bin").join(program)).current_dir(files.path());
    command
}

/// Where pip put the server.
fn packages(engines: &Path) -> Result<PathBuf> {
    let base = engines.join("lib");
    fs::read_dir(&base)
        .with_context(|| format!("cannot read {}", base.display()))?
        .flatten()
        .map(|python| python.path().join("site-packages"))
        .find(|path| path.join("pgserver/pginstall/bin/postgres").is_file())
        .with_context(|| format!("no pgserver under {}", base.display()))
}

/// A loopback port that is free now.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").context("no free loopback port")?;
    Ok(listener.local_addr()?.port())
}
