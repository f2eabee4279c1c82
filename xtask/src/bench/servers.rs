//! What probing costs real servers: CPU time a query, with ever more functions probed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::functions::Functions;
use super::median;
use super::report::Section;
use super::talker::{Talker, compile};
use super::tracer::{Bpftrace, Build, Run, Tracer};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::milvus::Milvus;
use crate::venv::MilvusVenv;
use crate::{say, sys};

/// How many functions are probed.
const SIZES: [usize; 3] = [20, 200, 1000];
const COLLECTION: &str = "bench";
const ROWS: u32 = 20_000;
/// Queries before something is measured, so that return addresses are learned, and then.
const WARM: u32 = 20;
const QUERIES: u32 = 100;
/// What bpftrace is given to attach.
const BPFTRACE_LIMIT: Duration = Duration::from_secs(20);

/// A server under test and who asks it.
struct Server {
    name: &'static str,
    /// The built-in map, whose functions are probed first.
    map: &'static str,
    /// What the names of the engine's own functions begin with.
    namespace: &'static str,
    pid: u32,
    client: Talker,
    /// Ends with us.
    milvus: Option<Milvus>,
}

/// CPU milliseconds a query under one tracer, and the ratios to `off` beside it.
#[derive(Default, Clone)]
struct Cost {
    ms: Vec<f64>,
    ratios: Vec<f64>,
    lost: f64,
    events: f64,
    landed: f64,
}

/// All costs of one server at one size.
struct Row {
    server: &'static str,
    functions: usize,
    /// How many of them every query calls.
    called: usize,
    off_ms: f64,
    qprof: Cost,
    ret: Option<Cost>,
    bpftrace: Result<Cost, String>,
}

/// The section.
///
/// # Errors
/// When a server, its client or qprof fails.
pub(super) fn run(
    context: &Context,
    milvus: &MilvusVenv,
    engines: &Path,
    build: &Build,
    rounds: usize,
) -> Result<Section> {
    let scratch = Scratch::new(context.root.join("target/bench-servers"))?;
    let counter = compile(context, scratch.path(), "probe")?;
    let mut rows = Vec::new();
    for start in [start_milvus, start_duckdb] {
        let mut server = start(context, milvus, engines)?;
        say::step("bench", &format!("{}: which functions a query calls", server.name));
        let functions = Functions::find(
            build,
            &counter,
            server.pid,
            server.map,
            server.namespace,
            |queries| server.client.ask(&queries.to_string()).map(drop),
        )?;
        let mut bench = Bench { build, functions: &functions, scratch: &scratch, rounds };
        let mut too_many = None;
        for size in SIZES {
            rows.push(bench.at(&mut server, size, &mut too_many)?);
        }
        server.end()?;
    }
    Ok(section(build, &rows, rounds))
}

fn start_milvus(context: &Context, venv: &MilvusVenv, _engines: &Path) -> Result<Server> {
    let milvus = Milvus::start(venv, &context.root)?;
    milvus.fill(COLLECTION, ROWS)?;
    let mut client = milvus.client(&["on-demand", COLLECTION, "--rest", "0.005"]);
    Ok(Server {
        name: "Milvus Lite",
        map: "milvus-lite",
        namespace: "milvus::",
        pid: milvus.pid(),
        client: Talker::start("the Milvus client", &mut client, "")?,
        milvus: Some(milvus),
    })
}

fn start_duckdb(context: &Context, _venv: &MilvusVenv, engines: &Path) -> Result<Server> {
    let mut python = Command::new(engines.join("bin/python"));
    let client =
        Talker::start("DuckDB", python.arg(context.root.join("xtask/bench/duckdb_load.py")), "")?;
    Ok(Server {
        name: "DuckDB",
        map: "duckdb",
        namespace: "duckdb::",
        pid: client.pid(),
        client,
        milvus: None,
    })
}

impl Server {
    /// CPU milliseconds of the server for a query.
    fn measure(&mut self, tracer: Tracer) -> Result<f64> {
        sys::check_stop()?;
        self.client.ask(&WARM.to_string())?;
        std::thread::sleep(tracer.settling());
        let before = sys::cpu_time(self.pid)?;
        self.client.ask(&QUERIES.to_string())?;
        let used = sys::cpu_time(self.pid)?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1e3 / f64::from(QUERIES))
    }

    fn end(mut self) -> Result<()> {
        if let Some(milvus) = &mut self.milvus {
            milvus.check_alive()?;
        }
        self.client.end().map(drop)
    }
}

struct Bench<'a> {
    build: &'a Build,
    functions: &'a Functions,
    scratch: &'a Scratch,
    rounds: usize,
}

impl Bench<'_> {
    /// `too_many`: the size from which bpftrace is not asked any more, and why.
    fn at(
        &mut self,
        server: &mut Server,
        size: usize,
        too_many: &mut Option<String>,
    ) -> Result<Row> {
        let functions = self.functions.first(size).len();
        let map = self.scratch.join("functions.toml");
        self.functions.write_map(size, &map)?;
        let (mut off, mut qprof, mut ret) = (Vec::new(), Cost::default(), Cost::default());
        for round in 1..=self.rounds {
            say::step(
                "bench",
                &format!(
                    "{}, {functions} functions, round {round} of {}",
                    server.name, self.rounds
                ),
            );
            let base = server.measure(Tracer::Off)?;
            off.push(base);
            for &tracer in self.build.variants() {
                let cost = if tracer == Tracer::Qprof { &mut qprof } else { &mut ret };
                let words = ["--max-functions", "4096"];
                let scratch = self.scratch.path();
                let run = Run::start(self.build, tracer, server.pid, &map, scratch, &words)?;
                let taken = server.measure(tracer)?;
                let outcome = run.finish()?;
                cost.ms.push(taken);
                cost.ratios.push(taken / base);
                cost.lost += outcome.lost;
                cost.landed = outcome.landed;
                cost.events = outcome.events / f64::from(WARM + QUERIES);
            }
        }
        let bpftrace = if let Some(why) = too_many {
            Err(why.clone())
        } else if let Some(cost) = self.bpftrace(server, size)? {
            Ok(cost)
        } else {
            *too_many = Some(format!("not tried: {functions} functions were too many"));
            Err(format!("did not attach within {}", say::seconds(BPFTRACE_LIMIT)))
        };
        let ret = self.build.lands.then_some(ret);
        let called = self.functions.called(functions);
        Ok(Row {
            server: server.name,
            functions,
            called,
            off_ms: median(&off),
            qprof,
            ret,
            bpftrace,
        })
    }

    /// The entries only: a return probe kills a C++ program when an exception passes it.
    fn bpftrace(&self, server: &mut Server, size: usize) -> Result<Option<Cost>> {
        say::step("bench", &format!("{}, {size} functions, bpftrace", server.name));
        let object = self.functions.object.display();
        let probes: Vec<String> = self
            .functions
            .first(size)
            .iter()
            .map(|function| format!("uprobe:{object}:{}", function.linkage))
            .collect();
        let before = server.measure(Tracer::Off)?;
        let script = format!("{} {{ @at[tid] = nsecs; }}", probes.join(", "));
        let Some(attached) =
            Bpftrace::start(self.scratch.path(), &script, server.pid, BPFTRACE_LIMIT)?
        else {
            return Ok(None);
        };
        let ms = (0..self.rounds)
            .map(|_| server.measure(Tracer::Bpftrace))
            .collect::<Result<Vec<_>>>()?;
        drop(attached);
        let base = f64::midpoint(before, server.measure(Tracer::Off)?);
        let ratios = ms.iter().map(|ms| ms / base).collect();
        Ok(Some(Cost { ms, ratios, ..Cost::default() }))
    }
}

impl Cost {
    fn cell(&self) -> String {
        let lost =
            if self.lost > 0.0 { format!(", {:.0} events lost", self.lost) } else { String::new() };
        format!("{:.2} ms ({:.2}×{lost})", median(&self.ms), median(&self.ratios))
    }
}

fn section(build: &Build, rows: &[Row], rounds: usize) -> Section {
    let mut numbers = Vec::new();
    let mut cells = Vec::new();
    for row in rows {
        let ret = row.ret.as_ref().unwrap_or(&row.qprof);
        cells.push(vec![
            row.server.to_owned(),
            format!("{} ({})", row.functions, row.called),
            format!("{:.0}", row.qprof.events),
            format!("{:.2} ms", row.off_ms),
            row.qprof.cell(),
            ret.cell(),
            row.bpftrace.as_ref().map_or_else(Clone::clone, Cost::cell),
        ]);
        let key = format!("{}_{}", row.server.to_lowercase().replace(' ', "_"), row.functions);
        numbers.push((format!("{key}_off_ms"), row.off_ms));
        numbers.push((format!("{key}_events"), row.qprof.events));
        numbers.push((format!("{key}_landed_share"), row.qprof.landed));
        let costs = [
            ("qprof", Some(&row.qprof)),
            ("ret", row.ret.as_ref()),
            ("bpftrace_entries", row.bpftrace.as_ref().ok()),
        ];
        for (who, cost) in costs {
            if let Some(cost) = cost {
                numbers.push((format!("{key}_{who}_ms"), median(&cost.ms)));
                numbers.push((format!("{key}_{who}_ratio"), median(&cost.ratios)));
                numbers.push((format!("{key}_{who}_lost"), cost.lost));
            }
        }
    }
    Section {
        name: "servers",
        title: format!("CPU time of a server for a query, {rounds} rounds in turn"),
        columns: vec![
            "server",
            "functions (called by a query)",
            "events a query",
            "off",
            build.own_column(),
            "`ret` sites",
            "bpftrace, entries only",
        ],
        rows: cells,
        numbers,
        notes: vec![
            "bpftrace sees the entries only, without any duration: a return probe ends a C++ \
             program as soon as an exception passes it."
                .to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_was_not_measured() {
        let cost = Cost { ms: vec![2.0], ratios: vec![2.5], lost: 3.0, ..Cost::default() };
        let row = Row {
            server: "Milvus Lite",
            functions: 200,
            called: 150,
            off_ms: 0.8,
            qprof: cost,
            ret: None,
            bpftrace: Err("did not attach".to_owned()),
        };
        let section = section(
            &Build { program: "qprof".into(), lands: false },
            std::slice::from_ref(&row),
            1,
        );
        assert_eq!(section.rows[0][4], "2.00 ms (2.50×, 3 events lost)");
        assert_eq!(section.rows[0][6], "did not attach");
        assert!(section.numbers.iter().any(|(name, _)| name == "milvus_lite_200_qprof_ratio"));
    }
}
