//! What probing costs real servers: CPU time a query, with ever more functions probed. The same
//! rounds say what a prediction is worth, and are drawn as a curve.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::cost::{self, Prediction};
use super::curve::{Curve, Point};
use super::engine::{Installed, Server};
use super::functions::Functions;
use super::goal::Goal;
use super::median;
use super::report::Section;
use super::talker::compile;
use super::tracer::{Bpftrace, Build, Run, Tracer};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::command;
use crate::say;

/// How many functions are probed; more steps where bpftrace attaches to most, for the curve.
const SIZES: [usize; 3] = [20, 200, 1000];
const STEPS: [usize; 5] = [10, 30, 100, 300, 1000];
/// Rows of PostgreSQL's table: few enough for a function that each of them calls.
const POSTGRES_ROWS: u32 = 1_000;
/// What bpftrace is given to attach.
const BPFTRACE_LIMIT: Duration = Duration::from_secs(20);

/// A root of each query, and a function that each row calls.
const ROW_MAP: &str = "version = 1
name = \"rows\"
system = \"postgresql\"
orphans = \"drop\"

[[span]]
name = \"query\"
function = \"exec_simple_query\"
root = true

[[span]]
name = \"row\"
function = \"ExecSeqScan\"
";

/// Some functions of a server.
struct Set {
    /// What they are, beside how many; may be empty.
    name: &'static str,
    /// File-name-safe.
    key: String,
    /// For `qprof -m`.
    map: String,
    /// As bpftrace is to be told, object and symbol, where the names in the plan are no symbols.
    symbols: Option<Vec<(PathBuf, String)>>,
    /// Why bpftrace is not asked.
    untraced: Option<&'static str>,
}

impl Set {
    fn named(name: &'static str, key: &str, map: &str) -> Self {
        Self { name, key: key.to_owned(), map: map.to_owned(), symbols: None, untraced: None }
    }
}

/// CPU milliseconds a query under one tracer, and the ratios to `off` beside it.
#[derive(Default, Clone)]
struct Cost {
    ms: Vec<f64>,
    ratios: Vec<f64>,
    /// Milliseconds more than `off` beside it.
    added: Vec<f64>,
    lost: f64,
    events: f64,
    landed: f64,
}

/// All costs of one server with one set of functions.
struct Row {
    server: &'static str,
    set: &'static str,
    key: String,
    prediction: Prediction,
    off_ms: f64,
    qprof: Cost,
    ret: Option<Cost>,
    bpftrace: Result<Cost, String>,
}

/// What came of it.
pub(super) struct Taken {
    pub(super) sections: Vec<Section>,
    pub(super) goals: Vec<Goal>,
    pub(super) curve: Curve,
}

/// The sections `servers` and `cost`, and the curve.
///
/// # Errors
/// When a server, its client or qprof fails.
pub(super) fn run(
    context: &Context,
    installed: &Installed<'_>,
    build: &Build,
    rounds: usize,
) -> Result<Taken> {
    let scratch = Scratch::new(context.root.join("target/bench-servers"))?;
    let counter = compile(context, scratch.path(), "probe")?;
    let mut bench = Bench { build, counter, scratch: &scratch, rounds, too_many: None };
    let (mut rows, mut points) = (Vec::new(), Vec::new());

    let milvus = Server::milvus(context, installed)?;
    rows.extend(bench.with_ever_more(milvus, "milvus::", &SIZES)?);
    let duckdb = bench.with_ever_more(Server::duckdb(context, installed)?, "duckdb::", &STEPS)?;
    points.extend(duckdb.iter().map(Row::point));
    rows.extend(duckdb);
    let postgres = Server::postgres(context, installed, POSTGRES_ROWS)?;
    let file = scratch.join("rows.toml");
    std::fs::write(&file, ROW_MAP)?;
    let built_in = Set::named("built-in map", "map", postgres.map);
    let one_a_row = Set::named("one a row", "rows", &file.display().to_string());
    rows.extend(bench.with_maps(postgres, &[built_in, one_a_row])?);
    let prometheus = Server::prometheus(context, installed)?;
    let built_in = Set::named("built-in map", "map", prometheus.map);
    let built_in = Set { untraced: Some("cannot: the server is stripped"), ..built_in };
    rows.extend(bench.with_maps(prometheus, &[built_in])?);

    let costs: Vec<cost::Row> = rows.iter().map(Row::cost).collect();
    let (cost, goals) = cost::section(&costs, rounds);
    let curve = Curve { server: "DuckDB", rounds, limit: BPFTRACE_LIMIT, points };
    Ok(Taken { sections: vec![section(build, &rows, rounds), cost], goals, curve })
}

struct Bench<'a> {
    build: &'a Build,
    counter: PathBuf,
    scratch: &'a Scratch,
    rounds: usize,
    /// Why bpftrace is not asked any more.
    too_many: Option<String>,
}

impl Bench<'_> {
    /// So many of a server's functions, by how often a query calls them. `namespace`: what the names
    /// of the engine's own begin with.
    fn with_ever_more(
        &mut self,
        mut server: Server,
        namespace: &str,
        sizes: &[usize],
    ) -> Result<Vec<Row>> {
        say::step("bench", &format!("{}: which functions a query calls", server.name));
        let map = server.map;
        let functions =
            Functions::find(self.build, &self.counter, server.pid, map, namespace, |queries| {
                server.ask(queries)
            })?;
        let file = self.scratch.join("functions.toml");
        let mut rows = Vec::new();
        for &size in sizes {
            functions.write_map(size, &file)?;
            let symbols = functions.first(size).iter();
            let symbols = symbols.map(|f| (functions.object.clone(), f.linkage.clone())).collect();
            let set = Set {
                symbols: Some(symbols),
                ..Set::named("", &size.to_string(), &file.display().to_string())
            };
            rows.push(self.at(&mut server, &set)?);
        }
        self.too_many = None;
        server.end()?;
        Ok(rows)
    }

    /// The functions of maps.
    fn with_maps(&mut self, mut server: Server, sets: &[Set]) -> Result<Vec<Row>> {
        let rows = sets.iter().map(|set| self.at(&mut server, set)).collect();
        server.end()?;
        rows
    }

    fn at(&mut self, server: &mut Server, set: &Set) -> Result<Row> {
        // What hits cost changes with what else the machine does: prediction and truth of one hour.
        command::run(
            std::process::Command::new(&self.build.program)
                .args(["doctor", "--again"])
                .stdout(std::process::Stdio::null()),
        )?;
        let (off_ms, _) = server.measure(Tracer::Off)?;
        let prediction = Prediction::of(self.build, &self.counter, server, &set.map, off_ms / 1e3)?;
        let functions = prediction.functions;
        let (mut offs, mut qprof, mut ret) = (Vec::new(), Cost::default(), Cost::default());
        for round in 1..=self.rounds {
            say::step(
                "bench",
                &format!(
                    "{}, {functions} functions, round {round} of {}",
                    server.name, self.rounds
                ),
            );
            let (before, _) = server.measure(Tracer::Off)?;
            let mut taken = Vec::new();
            for &tracer in self.build.variants() {
                let words = ["--max-functions", "4096"];
                let (map, scratch) = (set.map.as_ref(), self.scratch.path());
                let run = Run::start(self.build, tracer, server.pid, map, scratch, &words)?;
                let (ms, queries) = server.measure(tracer)?;
                taken.push((tracer, ms, queries, run.finish()?));
            }
            // Half of it from before and half from behind: what drifts falls out.
            let base = f64::midpoint(before, server.measure(Tracer::Off)?.0);
            offs.push(base);
            for (tracer, ms, queries, outcome) in taken {
                let cost = if tracer == Tracer::Qprof { &mut qprof } else { &mut ret };
                cost.take(ms, base);
                cost.lost += outcome.lost;
                cost.landed = outcome.landed;
                cost.events = outcome.events / f64::from(queries);
            }
        }
        let bpftrace = if let Some(why) = set.untraced {
            Err(why.to_owned())
        } else if let Some(why) = &self.too_many {
            Err(why.clone())
        } else if let Some(cost) =
            self.bpftrace(server, set.symbols.as_ref().unwrap_or(&prediction.names))?
        {
            Ok(cost)
        } else {
            self.too_many = Some(format!("not tried: {functions} functions were too many"));
            Err(format!("did not attach within {}", say::seconds(BPFTRACE_LIMIT)))
        };
        Ok(Row {
            server: server.name,
            set: set.name,
            key: format!("{}_{}", server.name.to_lowercase().replace(' ', "_"), set.key),
            prediction,
            off_ms: median(&offs),
            qprof,
            ret: self.build.lands.then_some(ret),
            bpftrace,
        })
    }

    /// The entries only: a return probe kills a C++ program when an exception passes it.
    fn bpftrace(&self, server: &mut Server, symbols: &[(PathBuf, String)]) -> Result<Option<Cost>> {
        say::step("bench", &format!("{}, {} functions, bpftrace", server.name, symbols.len()));
        let probes: Vec<String> = symbols
            .iter()
            .map(|(object, symbol)| format!("uprobe:{}:{symbol}", object.display()))
            .collect();
        let script = format!("{} {{ @at[tid] = nsecs; }}", probes.join(", "));
        let (before, _) = server.measure(Tracer::Off)?;
        let Some(attached) =
            Bpftrace::start(self.scratch.path(), &script, server.pid, BPFTRACE_LIMIT)?
        else {
            return Ok(None);
        };
        // Attached once: it takes too long.
        let taken = (0..self.rounds).map(|_| server.measure(Tracer::Bpftrace));
        let taken = taken.collect::<Result<Vec<_>>>()?;
        drop(attached);
        let base = f64::midpoint(before, server.measure(Tracer::Off)?.0);
        let mut cost = Cost::default();
        for (ms, _) in taken {
            cost.take(ms, base);
        }
        Ok(Some(cost))
    }
}

impl Cost {
    fn take(&mut self, ms: f64, base: f64) {
        self.ms.push(ms);
        self.ratios.push(ms / base);
        self.added.push(ms - base);
    }

    fn cell(&self) -> String {
        let lost =
            if self.lost > 0.0 { format!(", {:.0} events lost", self.lost) } else { String::new() };
        format!("{:.2} ms ({:.2}×{lost})", median(&self.ms), median(&self.ratios))
    }

    fn ratio(&self) -> f64 {
        median(&self.ratios)
    }
}

impl Row {
    /// How many functions, and which.
    fn functions(&self) -> String {
        let Prediction { functions, called, .. } = self.prediction;
        let set = if self.set.is_empty() { String::new() } else { format!(", {}", self.set) };
        format!("{functions} ({called}){set}")
    }

    fn cost(&self) -> cost::Row {
        cost::Row {
            server: self.server,
            set: self.functions(),
            key: self.key.clone(),
            events: self.qprof.events,
            off_us: self.off_ms * 1e3,
            predicted_us: self.prediction.us,
            added_us: median(&self.qprof.added) * 1e3,
        }
    }

    fn point(&self) -> Point {
        Point {
            functions: self.prediction.functions,
            qprof: self.qprof.ratio(),
            ret: self.ret.as_ref().map(Cost::ratio),
            bpftrace: self.bpftrace.as_ref().ok().map(Cost::ratio),
        }
    }
}

fn section(build: &Build, rows: &[Row], rounds: usize) -> Section {
    let mut numbers = Vec::new();
    let mut cells = Vec::new();
    for row in rows {
        let ret = row.ret.as_ref().unwrap_or(&row.qprof);
        cells.push(vec![
            row.server.to_owned(),
            row.functions(),
            format!("{:.0}", row.qprof.events),
            format!("{:.2} ms", row.off_ms),
            row.qprof.cell(),
            ret.cell(),
            row.bpftrace.as_ref().map_or_else(Clone::clone, Cost::cell),
        ]);
        let key = &row.key;
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
                numbers.push((format!("{key}_{who}_ratio"), cost.ratio()));
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
        let cost = Cost {
            ms: vec![2.0],
            ratios: vec![2.5],
            added: vec![1.2],
            lost: 3.0,
            ..Cost::default()
        };
        let row = Row {
            server: "Milvus Lite",
            set: "",
            key: "milvus_lite_200".to_owned(),
            prediction: Prediction {
                us: 400.0,
                functions: 200,
                called: 150,
                ..Prediction::default()
            },
            off_ms: 0.8,
            qprof: cost,
            ret: None,
            bpftrace: Err("did not attach".to_owned()),
        };
        let section = section(
            &Build { program: "qprof".into(), lands: false, budgets: false },
            std::slice::from_ref(&row),
            1,
        );
        assert_eq!(section.rows[0][4], "2.00 ms (2.50×, 3 events lost)");
        assert_eq!(section.rows[0][6], "did not attach");
        assert_eq!(section.rows[0][1], "200 (150)");
        assert!(section.numbers.iter().any(|(name, _)| name == "milvus_lite_200_qprof_ratio"));
    }
}
