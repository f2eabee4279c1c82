//! An InfluxDB 1.x of the test's own, with a known number of shards.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::environment::{cache, free_port, scratch};
use crate::http::{Connection, encoded};
use crate::process::{Process, tail};
use crate::timeout::{PATIENCE, until};

/// Shards, each of one hour.
pub const SHARDS: u32 = 6;

/// Series, each with a point every ten seconds.
pub const SERIES: u32 = 8;

/// Goroutines that open, and as many that read, the series of a shard.
pub const READERS: u32 = 2;

/// When the first shard begins: Unix time in seconds, a multiple of an hour.
const BEGIN: u32 = 1_699_999_200;

const SHARD_SECONDS: u32 = 3_600;

/// The server.
#[derive(Debug)]
pub struct InfluxDb {
    process: Process,
    address: String,
}

/// A client with a connection of its own.
#[derive(Debug)]
pub struct Client(Connection);

impl InfluxDb {
    /// Starts it, writes [`SHARDS`] shards, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        let directory = scratch("influxdb-data")?;
        let config = directory.join("influxdb.conf");
        let (port, inner) = (free_port()?, free_port()?);
        let address = format!("127.0.0.1:{port}");
        let at = |name: &str| directory.join(name).display().to_string();
        fs::write(
            &config,
            format!(
                "reporting-disabled = true\n\
                 bind-address = \"127.0.0.1:{inner}\"\n\
                 [meta]\ndir = \"{}\"\n\
                 [data]\ndir = \"{}\"\nwal-dir = \"{}\"\n\
                 # So that what was written goes to files.\n\
                 cache-snapshot-memory-size = \"1k\"\n\
                 [http]\nbind-address = \"{address}\"\nlog-enabled = false\n\
                 # So that the queries are the tests' alone.\n\
                 [monitor]\nstore-enabled = false\n\
                 [continuous_queries]\nenabled = false\n",
                at("meta"),
                at("data"),
                at("wal")
            ),
        )?;
        let mut command = Command::new(program()?);
        command.args(["run", "-config"]).arg(&config);
        // Settings in the environment would hold before those in the file. On how many goroutines
        // a shard is read depends on the number of CPUs.
        command.env_clear().env("GOMAXPROCS", READERS.to_string());
        let mut server = Self { process: Process::spawn("influxdb", command)?, address };
        until(PATIENCE, "InfluxDB to answer", || {
            ensure!(server.alive(), "InfluxDB ended: {}", server.log());
            let Ok(mut connection) = Connection::open(&server.address) else { return Ok(None) };
            Ok((connection.get("/ping")?.status == 204).then_some(()))
        })?;
        let mut client = server.client()?;
        client.run("CREATE DATABASE test WITH DURATION INF SHARD DURATION 1h NAME \"hours\"")?;
        client.0.post("/write?db=test&precision=s", "", points_text().as_bytes())?.good()?;
        let shards = client.run("SHOW SHARDS")?;
        let shards = shards[0]["series"][0]["values"].as_array().map_or(0, Vec::len);
        ensure!(shards == SHARDS as usize, "the server has {shards} shards");
        let data = directory.join("data/test/hours");
        until(PATIENCE, "every shard to be in a file", || {
            let mut files = 0;
            for shard in fs::read_dir(&data)? {
                for file in fs::read_dir(shard?.path())? {
                    files += u32::from(file?.path().extension().is_some_and(|end| end == "tsm"));
                }
            }
            Ok((files == SHARDS).then_some(()))
        })?;
        Ok(server)
    }

    /// Its process id.
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

    /// Opens a connection.
    ///
    /// # Errors
    /// When the server does not take it.
    pub fn client(&self) -> Result<Client> {
        Ok(Client(Connection::open(&self.address)?))
    }
}

impl Client {
    /// The result of `SELECT what FROM load WHERE …` over the shards `first` to `last`, with
    /// `rest` behind it.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn select(&mut self, what: &str, first: u32, last: u32, rest: &str) -> Result<Value> {
        let (begin, end) = (BEGIN + first * SHARD_SECONDS, BEGIN + (last + 1) * SHARD_SECONDS);
        self.run(&format!(
            "SELECT {what} FROM load WHERE time >= {begin}s AND time < {end}s {rest}"
        ))
    }

    /// The results of statements.
    ///
    /// # Errors
    /// When the server refuses one.
    pub fn run(&mut self, statements: &str) -> Result<Value> {
        let mut answer = self.answer(statements)?;
        let results = answer["results"].as_array().with_context(|| format!("{answer}"))?;
        let failed = results.iter().any(|result| !result["error"].is_null());
        ensure!(!failed, "{statements}: {answer}");
        Ok(answer["results"].take())
    }

    /// All that it answers, an error too.
    ///
    /// # Errors
    /// When it answers in another form.
    pub fn answer(&mut self, statements: &str) -> Result<Value> {
        let path = format!("/query?db=test&epoch=s&q={}", encoded(statements));
        Ok(serde_json::from_str(&self.0.post(&path, "", b"")?.body)?)
    }
}

fn program() -> Result<PathBuf> {
    let path = cache().join("debian/influxdb/usr/bin/influxd");
    ensure!(path.is_file(), "no {}: run `cargo xtask setup go-servers`", path.display());
    Ok(path)
}

/// The points of all shards in the line protocol: a field of each type.
fn points_text() -> String {
    let mut text = String::new();
    for series in 0..SERIES {
        for point in 0..SHARDS * SHARD_SECONDS / 10 {
            let (number, time) = (series * 10_000 + point, BEGIN + point * 10);
            let even = point % 2 == 0;
            // Writing into a string does not fail.
            let _ = writeln!(
                text,
                "load,host=h{series} v={number}.5,i={number}i,b={even},s=\"p{point}\" {time}"
            );
        }
    }
    text
}
