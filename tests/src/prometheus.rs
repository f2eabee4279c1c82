//! A Prometheus of the test's own, with a known number of blocks.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::environment::{cache, free_port, scratch};
use crate::http::{Connection, encoded};
use crate::process::{Process, run, tail};
use crate::timeout::{PATIENCE, until};

/// Blocks on disk, each of two hours.
pub const BLOCKS: u32 = 6;

/// The head is one block more for a query, the last.
pub const HEAD: u32 = BLOCKS;

/// Series, each with a sample a minute.
pub const SERIES: u32 = 12;

/// When the first block begins: Unix time in seconds, a multiple of two hours.
const BEGIN: u32 = 1_699_999_200;

const BLOCK_SECONDS: u32 = 7_200;

/// The server.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: String,
}

/// A client with a connection of its own.
#[derive(Debug)]
pub struct Client(Connection);

impl Prometheus {
    /// Starts it with [`BLOCKS`] blocks and samples in its head, and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        let directory = scratch("prometheus-data")?;
        let (text, data) = (directory.join("samples.om"), directory.join("data"));
        fs::write(&text, samples_text())?;
        let mut create = Command::new(program("promtool")?);
        create.args(["tsdb", "create-blocks-from", "openmetrics"]).arg(&text).arg(&data);
        let made = run("promtool", create, PATIENCE)?;
        ensure!(made.code == Some(0), "promtool failed: {}", tail(&made.stderr));
        let blocks = fs::read_dir(&data)?.filter_map(|entry| Some(entry.ok()?.path()));
        let blocks = blocks.filter(|path| path.join("meta.json").is_file()).count();
        ensure!(blocks == BLOCKS as usize, "promtool made {blocks} blocks");

        let config = directory.join("prometheus.yml");
        fs::write(&config, "global: {}\n")?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let mut command = Command::new(program("prometheus")?);
        command.current_dir(&directory);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", data.display()));
        command.arg(format!("--web.listen-address={address}"));
        command.args([
            "--web.enable-remote-write-receiver",
            // So that blocks stay as they are: they would be made into larger ones.
            "--storage.tsdb.min-block-duration=2h",
            "--storage.tsdb.max-block-duration=2h",
            "--storage.tsdb.retention.time=100y",
        ]);
        let mut server = Self { process: Process::spawn("prometheus", command)?, address };
        until(PATIENCE, "Prometheus to answer", || {
            ensure!(server.alive(), "Prometheus ended: {}", server.log());
            let Ok(mut connection) = Connection::open(&server.address) else { return Ok(None) };
            Ok((connection.get("/-/ready")?.status == 200).then_some(()))
        })?;
        let headers = "Content-Encoding: snappy\r\nContent-Type: application/x-protobuf\r\n\
                       X-Prometheus-Remote-Write-Version: 0.1.0\r\n";
        let mut connection = Connection::open(&server.address)?;
        connection.post("/api/v1/write", headers, &snappy(&head_request()))?.good()?;
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
    /// The answer of a range query over the blocks `first` to `last`.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn range(&mut self, query: &str, first: u32, last: u32) -> Result<Value> {
        let (query, start, end) = (encoded(query), within(first), within(last) + 600);
        self.data(&format!("/api/v1/query_range?query={query}&start={start}&end={end}&step=60"))
    }

    /// The answer of a query at a moment in a block.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn instant(&mut self, query: &str, block: u32) -> Result<Value> {
        self.data(&format!("/api/v1/query?query={}&time={}", encoded(query), within(block)))
    }

    /// What it answers about series and labels (`series?match[]=up`, `labels?`), of some blocks.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn about(&mut self, what: &str, first: u32, last: u32) -> Result<Value> {
        self.data(&format!("/api/v1/{what}&start={}&end={}", within(first), within(last)))
    }

    /// What the server says of a query that it refuses, and its status code.
    ///
    /// # Errors
    /// When it answers in another form.
    pub fn refused(&mut self, query: &str) -> Result<(u16, String)> {
        let path = format!("/api/v1/query?query={}&time={}", encoded(query), within(0));
        let answer = self.0.get(&path)?;
        let value: Value = serde_json::from_str(&answer.body)?;
        let error = value["error"].as_str().with_context(|| format!("no error: {value}"))?;
        Ok((answer.status, error.to_owned()))
    }

    fn data(&mut self, path: &str) -> Result<Value> {
        let mut value: Value = serde_json::from_str(&self.0.get(path)?.good()?)?;
        ensure!(value["status"] == "success", "{path}: {value}");
        Ok(value["data"].take())
    }
}

/// A moment in a block: far enough behind its begin that a query does not look into the one before
/// for the newest sample.
const fn within(block: u32) -> u32 {
    BEGIN + block * BLOCK_SECONDS + 1_800
}

fn program(name: &str) -> Result<PathBuf> {
    let path = cache().join("debian/prometheus/usr/bin").join(name);
    ensure!(path.is_file(), "no {}: run `cargo xtask setup go-servers`", path.display());
    Ok(path)
}

/// The samples of all blocks, as OpenMetrics text.
fn samples_text() -> String {
    let mut text = String::from("# TYPE load gauge\n");
    for series in 0..SERIES {
        for minute in 0..BLOCKS * BLOCK_SECONDS / 60 {
            let (value, time) = (value(series, minute), BEGIN + minute * 60);
            // Writing into a string does not fail.
            let _ = writeln!(text, "load{{host=\"h{series}\"}} {value} {time}");
        }
    }
    text.push_str("# EOF\n");
    text
}

/// A number that tells which sample it is.
const fn value(series: u32, minute: u32) -> u32 {
    series * 10_000 + minute
}

/// The samples of the head's first hour, as a request of the remote write protocol, version 0.1.0:
/// protocol buffers, `prompb/remote.proto` and `prompb/types.proto`.
fn head_request() -> Vec<u8> {
    let mut request = Vec::new();
    for series in 0..SERIES {
        let mut one = Vec::new();
        for (name, value) in [("__name__", "load"), ("host", &format!("h{series}"))] {
            let mut label = Vec::new();
            field(&mut label, 1, name.as_bytes());
            field(&mut label, 2, value.as_bytes());
            field(&mut one, 1, &label);
        }
        for minute in 0..60 {
            let minute = HEAD * BLOCK_SECONDS / 60 + minute;
            let mut sample = vec![0x09];
            sample.extend(f64::from(value(series, minute)).to_le_bytes());
            sample.push(0x10);
            varint(&mut sample, u64::from(BEGIN + minute * 60) * 1_000);
            field(&mut one, 2, &sample);
        }
        field(&mut request, 1, &one);
    }
    request
}

fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

fn varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// Snappy's block format without a single copy: its length, then pieces as they are.
fn snappy(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    varint(&mut out, bytes.len() as u64);
    for piece in bytes.chunks(60) {
        out.push((piece.len() as u8 - 1) << 2);
        out.extend(piece);
    }
    out
}
