//! A Milvus Lite server of the test's own, and its client.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::environment::{cache, free_port, repository, scratch};
use crate::process::{Process, run, tail};
use crate::timeout::{PATIENCE, until};

/// Rows of a collection whose search is one brute-force pass.
pub const ROWS_ONE_CHUNK: u32 = 20_000;

/// Rows of a collection whose search is four: a chunk holds 32,768.
pub const ROWS_FOUR_CHUNKS: u32 = 100_000;

const CLIENT_LIMIT: Duration = Duration::from_secs(180);

/// The server.
#[derive(Debug)]
pub struct MilvusLite {
    process: Process,
    /// The server's own process, if it is not the one that was started.
    inner: Option<u32>,
    address: String,
}

/// What a client counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered well.
    pub ok: u64,
    /// Requests answered with an error.
    pub errors: u64,
    /// Rows found, over all answers.
    pub hits: u64,
    /// What the errors said.
    pub error_texts: Vec<String>,
}

/// A client that runs beside the test.
#[derive(Debug)]
pub struct Client {
    process: Process,
}

impl MilvusLite {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        let library = library()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let directory = scratch("milvus-lite")?;
        let mut command = Command::new(library.join("milvus"));
        command
            .env("LD_LIBRARY_PATH", &library)
            .arg(directory.join("data.db"))
            .arg(&address)
            .arg("ERROR");
        let process = Process::spawn_in("milvus-lite", command, directory)?;
        let mut server = Self { process, inner: None, address };
        server.until_it_answers()?;
        Ok(server)
    }

    /// Starts it as a container would be: in mount and pid namespaces of its own, from a file system
    /// that is mounted there only; and then deletes its program.
    ///
    /// # Errors
    /// As [`MilvusLite::start`]; when there are no namespaces to be had.
    pub fn start_apart() -> Result<Self> {
        let library = library()?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let directory = scratch("milvus-lite-apart")?;
        let disk = directory.join("disk");
        std::fs::create_dir(&disk)?;
        let script = "mount -t tmpfs tmpfs \"$0\" && cp \"$1/milvus\" \"$0/milvus\" && \
                      exec \"$0/milvus\" \"$0/data.db\" \"$2\" ERROR";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])
            .args([disk.as_os_str(), library.as_os_str(), OsStr::new(&address)])
            .env("LD_LIBRARY_PATH", &library);
        let process = Process::spawn_in("milvus-lite-apart", command, directory)?;
        let mut server = Self { process, inner: None, address };
        server.until_it_answers()?;
        let outer = server.process.pid();
        let children = std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))?;
        let inner = children.split_whitespace().next().context("unshare has no child")?.parse()?;
        server.inner = Some(inner);
        let program = disk.join("milvus");
        ensure!(!program.exists(), "its file system is mounted here too");
        std::fs::remove_file(format!("/proc/{inner}/root{}", program.display()))?;
        Ok(server)
    }

    fn until_it_answers(&mut self) -> Result<()> {
        until(PATIENCE, "Milvus Lite to answer", || {
            ensure!(self.alive(), "Milvus Lite ended: {}", self.stderr());
            Ok(std::net::TcpStream::connect(&self.address).ok())
        })?;
        self.client(&["ping"]).map(drop)
    }

    /// Starts it with two collections: `one` chunk and `four`.
    ///
    /// # Errors
    /// As [`MilvusLite::start`]; when the collections cannot be made.
    pub fn with_collections() -> Result<Self> {
        let server = Self::start()?;
        server.set_up("one", ROWS_ONE_CHUNK)?;
        server.set_up("four", ROWS_FOUR_CHUNKS)?;
        Ok(server)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.unwrap_or_else(|| self.process.pid())
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// What it has written to stderr.
    #[must_use]
    pub fn stderr(&self) -> String {
        tail(&self.process.stderr())
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Makes a collection, fills it, loads it and searches it once.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn set_up(&self, name: &str, rows: u32) -> Result<()> {
        let answer = self.client(&["setup", name, &rows.to_string()])?;
        ensure!(answer["rows"] == rows, "{name} was to have {rows} rows: {answer}");
        Ok(())
    }

    /// `count` searches, one after the other.
    ///
    /// # Errors
    /// When the client fails; answers with an error are counted, not an error here.
    pub fn search(&self, name: &str, count: u32, more: &[&str]) -> Result<Tally> {
        let count = count.to_string();
        tally(&self.client(&[&["search", name, &count], more].concat())?)
    }

    /// `count` searches of each collection, at the same time, from four clients.
    ///
    /// # Errors
    /// As [`MilvusLite::search`].
    pub fn search_two(&self, a: &str, b: &str, count: u32) -> Result<Tally> {
        tally(&self.client(&["search-two", a, b, &count.to_string(), "--threads", "4"])?)
    }

    /// `count` searches with a filter the server throws on.
    ///
    /// # Errors
    /// As [`MilvusLite::search`].
    pub fn malformed(&self, name: &str, count: u32) -> Result<Tally> {
        tally(&self.client(&["malformed", name, &count.to_string()])?)
    }

    /// One insert, upsert, query and delete each.
    ///
    /// # Errors
    /// When the server refuses one.
    pub fn crud(&self, name: &str) -> Result<Value> {
        self.client(&["crud", name])
    }

    /// Searches from four clients without a pause, for so long from now on, beside the test; every
    /// `malformed_every`th request has a filter the server throws on (0: none).
    ///
    /// # Errors
    /// When the clients cannot be started, or get no answer.
    pub fn load(&self, name: &str, length: Duration, malformed_every: u32) -> Result<Client> {
        let command = self.command(&[
            "load",
            name,
            "--seconds",
            &length.as_secs_f64().to_string(),
            "--malformed-every",
            &malformed_every.to_string(),
        ]);
        let mut process = Process::spawn("milvus-client", command)?;
        until(PATIENCE, "the clients to begin", || {
            let said = process.stderr();
            ensure!(process.alive(), "the clients ended: {}", tail(&said));
            Ok(said.lines().any(|line| line == "started").then_some(()))
        })?;
        Ok(Client { process })
    }

    fn client(&self, arguments: &[&str]) -> Result<Value> {
        let finished = run("milvus-client", self.command(arguments), CLIENT_LIMIT)?;
        answer(&finished.stdout)
            .with_context(|| format!("client {arguments:?} failed: {}", tail(&finished.stderr)))
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(venv().join("bin/python"));
        command.arg(client_script()).arg(&self.address).args(arguments.iter().map(OsStr::new));
        command
    }
}

impl Client {
    /// Waits until it is done: what it counted, of good requests and of malformed ones.
    ///
    /// # Errors
    /// When it fails.
    pub fn finish(mut self) -> Result<(Tally, Tally)> {
        let finished = self.process.wait(CLIENT_LIMIT)?;
        let answer = answer(&finished.stdout)
            .with_context(|| format!("the client failed: {}", tail(&finished.stderr)))?;
        Ok((tally(&answer)?, tally(&answer["malformed"])?))
    }
}

fn client_script() -> PathBuf {
    repository().join("tests/clients/milvus_lite.py")
}

fn venv() -> PathBuf {
    cache().join("venv/milvus-lite")
}

/// Where the package keeps the server and the libraries it was built with.
fn library() -> Result<PathBuf> {
    let base = venv().join("lib");
    std::fs::read_dir(&base)
        .into_iter()
        .flatten()
        .flatten()
        .map(|python| python.path().join("site-packages/milvus_lite/lib"))
        .find(|path| path.join("milvus").is_file())
        .ok_or_else(|| anyhow!("no milvus-lite under {}: run `cargo xtask test`", base.display()))
}

fn answer(stdout: &str) -> Result<Value> {
    Ok(serde_json::from_str(stdout)?)
}

fn tally(answer: &Value) -> Result<Tally> {
    let count = |key: &str| {
        answer[key].as_u64().ok_or_else(|| anyhow!("the client counted no {key}: {answer}"))
    };
    let texts = answer["error_texts"].as_array().into_iter().flatten();
    Ok(Tally {
        sent: count("sent")?,
        ok: count("ok")?,
        errors: count("errors")?,
        hits: count("hits")?,
        error_texts: texts.filter_map(|text| text.as_str().map(str::to_owned)).collect(),
    })
}
