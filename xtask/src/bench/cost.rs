//! What `qprof check` says that calls will cost, before anything is attached, against what they
//! turn out to cost.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::engine::{Server, WARM};
use super::goal::Goal;
use super::report::Section;
use super::tracer::{Build, probe};
use crate::command::stdout_of;
use crate::json::Json;

/// How far off a prediction may be, either way.
const FACTOR: f64 = 1.5;
/// Of what a query costs without a probe: what is predicted to add less is not held against the
/// goal, as queries differ by as much themselves.
const LEAST_SHARE: f64 = 0.1;

/// A function as it would be probed.
#[derive(Debug)]
struct Planned {
    name: String,
    path: PathBuf,
    /// Where it is probed, in the file.
    offsets: Vec<u64>,
    call_ns: f64,
}

/// What a map would cost a query.
#[derive(Debug, Clone, Default)]
pub(super) struct Prediction {
    /// CPU time of the server, microseconds.
    pub(super) us: f64,
    /// Functions that are probed, and how many of them a query calls.
    pub(super) functions: usize,
    pub(super) called: usize,
    /// The functions: object and name.
    pub(super) names: Vec<(PathBuf, String)>,
}

impl Prediction {
    /// Asks `qprof check` for the price of a call of each function of `map`, and counts the calls
    /// of a query with `counter`. `off_s`: the server's CPU time for a query without a probe, seconds.
    ///
    /// # Errors
    /// When one of them fails, or the plan names no price.
    pub(super) fn of(
        build: &Build,
        counter: &Path,
        server: &mut Server,
        map: &str,
        off_s: f64,
    ) -> Result<Self> {
        let pid = server.pid.to_string();
        let check = |more: &[&str]| -> Result<Vec<Planned>> {
            let mut check = Command::new(&build.program);
            check.args(["check", "--json", "--max-functions", "4096", "-m", map, "-p", &pid]);
            planned(&Json::parse(&stdout_of(check.args(more))?)?)
        };
        let planned = check(&[])?;
        let sites: Vec<_> = planned
            .iter()
            .flat_map(|function| function.offsets.iter().map(|&at| (function.path.as_path(), at)))
            .collect();
        let counting = probe(counter, "count", server.pid, &sites)?;
        server.ask(WARM)?;
        let counts = counting.end()?;
        let mut counts = counts.iter();
        let mut prediction = Self { functions: planned.len(), ..Self::default() };
        let mut calls = Vec::with_capacity(planned.len());
        for function in &planned {
            let mut of_function = 0.0;
            for count in counts.by_ref().take(function.offsets.len()) {
                let count: u32 = count.parse().context("a count of the probe is no number")?;
                of_function += f64::from(count) / f64::from(WARM);
            }
            calls.push(of_function);
        }
        // What a hit costs depends on how many there are all together, in a second of the server's.
        let each = calls.iter().sum::<f64>() / planned.len() as f64 / off_s;
        for (function, calls) in check(&["--rate", &format!("{each:.3}")])?.into_iter().zip(calls) {
            prediction.us += calls * function.call_ns / 1e3;
            prediction.called += usize::from(calls > 0.0);
            prediction.names.push((function.path, function.name));
        }
        Ok(prediction)
    }
}

fn planned(plan: &Json) -> Result<Vec<Planned>> {
    let mut planned = Vec::new();
    // The witnesses are no functions of the map, and run when an exception is caught.
    for function in plan.list("probes").iter().filter(|probe| probe.text("span").is_some()) {
        let text = |key| {
            let missing = || format!("a function of `qprof check` has no `{key}`");
            function.text(key).map(str::to_owned).with_context(missing)
        };
        let enters = function.list("sites").iter();
        let enters = enters.filter(|site| site.text("role") == Some("enter"));
        planned.push(Planned {
            name: text("function")?,
            path: text("path")?.into(),
            offsets: enters.map(offset).collect::<Result<_>>()?,
            call_ns: function.number("cost.call_ns")?,
        });
    }
    if planned.is_empty() {
        bail!("`qprof check` planned no function");
    }
    Ok(planned)
}

#[expect(clippy::cast_sign_loss, reason = "a file offset, exact below 2^53")]
fn offset(site: &Json) -> Result<u64> {
    site.number("offset").map(|offset| offset as u64)
}

/// Prediction and truth for one set of functions of one server.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) server: &'static str,
    /// Which functions.
    pub(super) set: String,
    /// File-name-safe.
    pub(super) key: String,
    pub(super) events: f64,
    /// CPU microseconds a query: without a probe, predicted to be added, and added.
    pub(super) off_us: f64,
    pub(super) predicted_us: f64,
    pub(super) added_us: f64,
}

impl Row {
    fn ratio(&self) -> f64 {
        self.added_us / self.predicted_us
    }

    fn share(&self) -> f64 {
        self.predicted_us / self.off_us
    }

    fn goal(&self) -> Option<Goal> {
        let ratio = self.ratio();
        // Nothing added at all is no factor, and reaches no goal.
        let off = if ratio > 0.0 { ratio.max(1.0 / ratio) } else { f64::NAN };
        let what = format!(
            "prediction and truth apart by a factor, {}, {} functions",
            self.server, self.set
        );
        (self.share() >= LEAST_SHARE).then(|| Goal::at_most(what, FACTOR, off))
    }
}

/// The section, and what is to be reached.
pub(super) fn section(rows: &[Row], rounds: usize) -> (Section, Vec<Goal>) {
    let goals: Vec<Goal> = rows.iter().filter_map(Row::goal).collect();
    let (mut cells, mut numbers) = (Vec::new(), Vec::new());
    for row in rows {
        cells.push(vec![
            row.server.to_owned(),
            row.set.clone(),
            format!("{:.0}", row.events),
            format!("{:.0} µs ({:.0} %)", row.predicted_us, row.share() * 100.0),
            format!("{:.0} µs", row.added_us),
            format!("{:.2}", row.ratio()),
        ]);
        for (what, number) in [
            ("off_us", row.off_us),
            ("predicted_us", row.predicted_us),
            ("added_us", row.added_us),
            ("ratio", row.ratio()),
        ] {
            numbers.push((format!("{}_{what}", row.key), number));
        }
    }
    let section = Section {
        name: "cost",
        title: format!(
            "What a query is predicted to cost, and what it does, {rounds} rounds in turn"
        ),
        columns: vec![
            "server",
            "functions (called by a query)",
            "events a query",
            "predicted to be added (of the query's own)",
            "added",
            "added / predicted",
        ],
        rows: cells,
        numbers,
        notes: goals.iter().map(Goal::line).collect(),
    };
    (section, goals)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(predicted_us: f64, added_us: f64) -> Row {
        Row {
            server: "DuckDB",
            set: "200 (190)".to_owned(),
            key: "duckdb_200".to_owned(),
            events: 400.0,
            off_us: 1000.0,
            predicted_us,
            added_us,
        }
    }

    #[test]
    fn either_way_is_off() {
        let fails = |predicted, added| row(predicted, added).goal().unwrap().failure().is_some();
        assert!(!fails(400.0, 700.0) && !fails(700.0, 400.0));
        assert!(fails(400.0, 800.0) && fails(800.0, 400.0) && fails(400.0, -1.0));
        assert!(row(50.0, 5000.0).goal().is_none());
    }

    #[test]
    fn a_row_says_both() {
        let (section, goals) = section(&[row(400.0, 500.0)], 3);
        assert_eq!(section.rows[0][3..], ["400 µs (40 %)", "500 µs", "1.25"]);
        assert_eq!(goals.len(), 1);
        assert!(section.notes[0].ends_with("at most 1.5; measured 1.25, reached."));
    }

    #[test]
    fn what_is_planned() {
        let plan = r#"{"probes": [
            {"span": "a", "function": "f", "path": "/x", "cost": {"call_ns": 1700},
             "sites": [{"role": "enter", "offset": 16}, {"role": "ret", "offset": 32}]},
            {"span": null, "function": "g", "path": "/y", "sites": []}]}"#;
        let planned = planned(&Json::parse(plan).unwrap()).unwrap();
        assert_eq!(planned.len(), 1);
        assert_eq!(planned[0].offsets, [16]);
        assert!((planned[0].call_ns - 1700.0).abs() < 1e-9);
        assert!(super::planned(&Json::parse("{}").unwrap()).is_err());
    }
}
