//! The servers whose queries the benches pay for, each with a client that asks as often as it is
//! told.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::postgres::Postgres;
use super::prometheus::Prometheus;
use super::talker::Talker;
use super::tracer::Tracer;
use crate::cli::Context;
use crate::milvus::Milvus;
use crate::sys;
use crate::venv::MilvusVenv;

const COLLECTION: &str = "bench";
const ROWS: u32 = 20_000;
/// Queries before something is measured, and then.
pub(super) const WARM: u32 = 20;
const QUERIES: u32 = 100;
/// For so long Qprof sees queries before it is measured. Return addresses it learns at once; that a
/// landing is run into for nothing, and which one would do instead, takes it some seconds of them.
const LEARNING: Duration = Duration::from_secs(6);

/// Where the servers are installed.
#[derive(Debug)]
pub(super) struct Installed<'a> {
    pub(super) milvus: &'a MilvusVenv,
    /// The environment with DuckDB and PostgreSQL.
    pub(super) engines: &'a Path,
    /// Where Debian's package is unpacked.
    pub(super) prometheus: &'a Path,
}

/// A server under test and who asks it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: &'static str,
    /// The built-in map, whose functions are probed first.
    pub(super) map: &'static str,
    /// The process that does the work.
    pub(super) pid: u32,
    pub(super) client: Talker,
    keeper: Keeper,
}

/// What ends with the server.
#[derive(Debug)]
enum Keeper {
    /// The client is the server.
    Client,
    Milvus(Milvus),
    Postgres {
        _server: Postgres,
    },
    Prometheus {
        _server: Prometheus,
    },
}

impl Server {
    /// Milvus Lite, and a client that searches 20,000 vectors.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn milvus(context: &Context, installed: &Installed<'_>) -> Result<Self> {
        let milvus = Milvus::start(installed.milvus, &context.root)?;
        milvus.fill(COLLECTION, ROWS)?;
        let mut client = milvus.client(&["on-demand", COLLECTION, "--rest", "0.005"]);
        Ok(Self {
            name: "Milvus Lite",
            map: "milvus-lite",
            pid: milvus.pid(),
            client: Talker::start("the Milvus client", &mut client, "")?,
            keeper: Keeper::Milvus(milvus),
        })
    }

    /// A Python process with DuckDB, which aggregates 20,000 rows.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn duckdb(context: &Context, installed: &Installed<'_>) -> Result<Self> {
        let mut python = Command::new(installed.engines.join("bin/python"));
        let python = python.arg(context.root.join("xtask/bench/duckdb_load.py"));
        let client = Talker::start("DuckDB", python, "")?;
        Ok(Self {
            name: "DuckDB",
            map: "duckdb",
            pid: client.pid(),
            client,
            keeper: Keeper::Client,
        })
    }

    /// A backend of PostgreSQL, which reads a table of `rows` rows, one by one.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn postgres(
        context: &Context,
        installed: &Installed<'_>,
        rows: u32,
    ) -> Result<Self> {
        let postgres = Postgres::start(installed.engines, &context.root)?;
        let mut session = postgres.session()?;
        session.run(&format!(
            "create table numbers as select i, i % 10 as part from generate_series(1, {rows}) i"
        ))?;
        session.run("vacuum analyze numbers")?;
        session
            .client
            .ask("statement select part, count(*) from numbers group by part order by part")?;
        Ok(Self {
            name: "PostgreSQL",
            map: "postgres",
            pid: session.pid,
            client: session.client,
            keeper: Keeper::Postgres { _server: postgres },
        })
    }

    /// Prometheus, and a client that asks for the rates of 20 series over six blocks.
    ///
    /// # Errors
    /// When it does not start.
    pub(super) fn prometheus(context: &Context, installed: &Installed<'_>) -> Result<Self> {
        let prometheus = Prometheus::start(installed.prometheus, &context.root)?;
        Ok(Self {
            name: "Prometheus",
            map: "prometheus",
            pid: prometheus.pid(),
            client: Talker::start("the Prometheus client", &mut prometheus.client(), "")?,
            keeper: Keeper::Prometheus { _server: prometheus },
        })
    }

    /// Has it answer so many queries.
    ///
    /// # Errors
    /// When the client has ended.
    pub(super) fn ask(&mut self, queries: u32) -> Result<()> {
        self.client.ask(&queries.to_string()).map(drop)
    }

    /// CPU milliseconds of the server for a query, and how many queries went into finding out.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn measure(&mut self, tracer: Tracer) -> Result<(f64, u32)> {
        let mut asked = 0;
        let begin = Instant::now();
        while asked == 0 || (tracer == Tracer::Qprof && begin.elapsed() < LEARNING) {
            sys::check_stop()?;
            self.ask(WARM)?;
            asked += WARM;
            std::thread::sleep(Tracer::Off.settling());
        }
        let before = sys::cpu_time(self.pid)?;
        self.ask(QUERIES)?;
        let used = sys::cpu_time(self.pid)?.saturating_sub(before);
        Ok((used.as_secs_f64() * 1e3 / f64::from(QUERIES), asked + QUERIES))
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it has ended before.
    pub(super) fn end(mut self) -> Result<()> {
        if let Keeper::Milvus(milvus) = &mut self.keeper {
            milvus.check_alive()?;
        }
        self.client.end().map(drop)
    }
}
