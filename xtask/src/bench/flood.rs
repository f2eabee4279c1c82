//! A function that each row calls: what it costs a sequential scan of PostgreSQL as it is, folded,
//! and under a budget.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::goal::Goal;
use super::median;
use super::postgres::{Postgres, Session};
use super::report::Section;
use super::tracer::{Build, Run, Tracer};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::json::Json;
use crate::{say, sys};

const ROWS: u32 = 10_000_000;
/// Rows where every call is paid in full: with all of them a query would make three million events.
const FEW: u32 = 100_000;
/// Queries of few rows that make one measurement, and those that let return addresses be learned.
const SHORT: usize = 9;
/// Queries of all rows that make one measurement, and fewer where each takes seconds.
const LONG: usize = 9;
const FOLDED: usize = 3;
const BUDGET: &str = "2%";
/// What an unprobed query may differ by from one whose dear probe is gone.
const AFTERWARDS: f64 = 1.03;
/// How long the target may be held up.
const HELD_UP: f64 = 1.0;

/// The function, and its span.
const FUNCTION: &str = "ExecSeqScan";
const SPAN: &str = "seq_scan";

/// Times of one way to probe, as ratios to unprobed beside them.
#[derive(Default)]
struct Ratios {
    plain: Vec<f64>,
    fold: Vec<f64>,
    /// The first query after attaching, and the queries afterwards.
    first: Vec<f64>,
    afterwards: Vec<f64>,
}

/// What else is told.
#[derive(Default)]
struct Seen {
    off_s: Vec<f64>,
    /// How much longer the first query under a budget took, and when it was said that the probe
    /// is gone, from the query's start.
    held_up_s: Vec<f64>,
    told_s: Vec<f64>,
    /// Folded spans, and those with the right number of calls.
    folded: usize,
    exact: usize,
    lost: f64,
    /// Rounds in which later traces said that something is detached.
    marked: usize,
}

struct Bench<'a> {
    build: &'a Build,
    scratch: &'a Scratch,
    session: Session,
    /// Rows that the query finds: the function is called once more.
    found: f64,
    found_of_few: f64,
}

/// The section, what is to be reached, and why the whole fails.
///
/// # Errors
/// When the server or qprof fails.
pub(super) fn run(
    context: &Context,
    engines: &Path,
    build: &Build,
    rounds: usize,
) -> Result<(Section, Vec<Goal>, Option<String>)> {
    let scratch = Scratch::new(context.root.join("target/bench-flood"))?;
    say::step("bench", &format!("flood: {ROWS} rows"));
    let postgres = Postgres::start(engines, &context.root)?;
    let mut session = postgres.session()?;
    for (table, rows) in [("numbers", ROWS), ("few", FEW)] {
        session.run(&format!("create table {table} (x int)"))?;
        session.run(&format!("insert into {table} select generate_series(1, {rows})"))?;
        session.run(&format!("vacuum (freeze, analyze) {table}"))?;
    }
    let found = session.run(&query("numbers"))?.value.context("no count")?;
    let found_of_few = session.run(&query("few"))?.value.context("no count")?;
    let mut bench = Bench { build, scratch: &scratch, session, found, found_of_few };
    let (mut ratios, mut seen) = (Ratios::default(), Seen::default());
    for round in 1..=rounds {
        sys::check_stop()?;
        say::step("bench", &format!("flood, round {round} of {rounds}"));
        ratios.plain.push(bench.plain(&mut seen)?);
        let before = bench.time("numbers", LONG)?;
        let fold = bench.folded(&mut seen)?;
        let between = bench.time("numbers", LONG)?;
        let (first, afterwards) = bench.within_budget(between, &mut seen)?;
        let after = bench.time("numbers", LONG)?;
        ratios.fold.push(fold / f64::midpoint(before, between));
        ratios.first.push(first / f64::midpoint(between, after));
        ratios.afterwards.push(afterwards / f64::midpoint(between, after));
        seen.off_s.push(between);
    }
    Ok(section(&ratios, &seen, rounds))
}

fn query(table: &str) -> String {
    format!("select count(*) from {table} where x % 7 = 3")
}

impl Bench<'_> {
    /// Seconds of a query: the median of so many.
    fn time(&mut self, table: &str, times: usize) -> Result<f64> {
        let query = query(table);
        let seconds = (0..times).map(|_| Ok(self.session.run(&query)?.seconds));
        Ok(median(&seconds.collect::<Result<Vec<_>>>()?))
    }

    /// Until return addresses are learned.
    fn warm(&mut self) -> Result<()> {
        self.time("few", SHORT)?;
        std::thread::sleep(Tracer::Qprof.settling());
        Ok(())
    }

    fn start(&self, fold: bool, words: &[&str]) -> Result<(Run, PathBuf)> {
        let file = self.scratch.join("map.toml");
        fs::write(&file, map(fold)).with_context(|| format!("cannot write {}", file.display()))?;
        let traces = self.scratch.join("traces.jsonl");
        if traces.exists() {
            fs::remove_file(&traces)?;
        }
        let out = traces.to_str().context("a path is not UTF-8")?.to_owned();
        let words = [words, &["-o", &out]].concat();
        let (pid, scratch) = (self.session.pid, self.scratch.path());
        let run = Run::within(self.build, Tracer::Qprof, pid, &file, scratch, &words)?;
        Ok((run, traces))
    }

    /// Every call recorded, at any price.
    fn plain(&mut self, seen: &mut Seen) -> Result<f64> {
        let before = self.time("few", SHORT)?;
        let (run, _) = self.start(false, self.build.at_any_price())?;
        self.warm()?;
        let with = self.time("few", SHORT)?;
        seen.lost += run.finish()?.lost;
        Ok(with / f64::midpoint(before, self.time("few", SHORT)?))
    }

    /// Folded in the kernel, at any price: seconds of a query.
    fn folded(&mut self, seen: &mut Seen) -> Result<f64> {
        let (run, traces) = self.start(true, self.build.at_any_price())?;
        self.warm()?;
        let seconds = self.time("numbers", FOLDED)?;
        seen.lost += run.finish()?.lost;
        let calls = calls(&fs::read_to_string(&traces)?)?;
        if calls.len() != SHORT + FOLDED {
            bail!("{} queries gave {} folded spans", SHORT + FOLDED, calls.len());
        }
        seen.folded += calls.len();
        let right = |calls: &f64| {
            // Once a row that is found, and once to say that there are no more.
            [self.found, self.found_of_few].iter().any(|found| (calls - found - 1.0).abs() < 0.5)
        };
        seen.exact += calls.iter().filter(|calls| right(calls)).count();
        Ok(seconds)
    }

    /// Under a budget, not folded: seconds of the first query, which begins as soon as it is
    /// attached, and of those afterwards.
    fn within_budget(&mut self, off: f64, seen: &mut Seen) -> Result<(f64, f64)> {
        let (run, traces) = self.start(false, &["--budget", BUDGET])?;
        let begun = Instant::now();
        let first = self.time("numbers", 1)?;
        seen.held_up_s.push(first - off);
        // The last links may still be on their way out.
        std::thread::sleep(Duration::from_secs(1));
        let afterwards = self.time("numbers", LONG)?;
        let told = run.said().find(|(_, line)| line.contains("budget") && line.contains(SPAN));
        let (at, _) = told.context("qprof did not say that the budget was not kept")?;
        seen.told_s.push(at.saturating_duration_since(begun).as_secs_f64());
        run.finish()?;
        seen.marked += usize::from(fs::read_to_string(&traces)?.contains("qprof.detached"));
        Ok((first, afterwards))
    }
}

/// A root of each query, and the function.
fn map(fold: bool) -> String {
    let mut text = format!(
        "version = 1\nname = \"flood\"\nsystem = \"postgresql\"\norphans = \"drop\"\n\n\
         [[span]]\nname = \"query\"\nfunction = \"exec_simple_query\"\nroot = true\n\n\
         [[span]]\nname = \"{SPAN}\"\nfunction = \"{FUNCTION}\"\n"
    );
    if fold {
        let _ = writeln!(text, "fold = true");
    }
    text
}

/// What the spans of the function in traces as OTLP JSON say of their calls.
fn calls(traces: &str) -> Result<Vec<f64>> {
    let mut calls = Vec::new();
    for line in traces.lines() {
        let batch = Json::parse(line)?;
        let resources = batch.list("resourceSpans").iter();
        let scopes = resources.flat_map(|resource| resource.list("scopeSpans"));
        let spans = scopes.flat_map(|scope| scope.list("spans"));
        for span in spans.filter(|span| span.text("name") == Some(SPAN)) {
            let attributes = span.list("attributes").iter();
            let value = attributes
                .filter(|attribute| attribute.text("key") == Some("qprof.calls"))
                // 64-bit integers are text in JSON.
                .find_map(|attribute| attribute.text("value.intValue"));
            calls.push(value.and_then(|value| value.parse().ok()).unwrap_or(f64::NAN));
        }
    }
    Ok(calls)
}

fn section(ratios: &Ratios, seen: &Seen, rounds: usize) -> (Section, Vec<Goal>, Option<String>) {
    let rows: [(&str, &str, &Vec<f64>); 4] = [
        ("each call recorded, at any price", "plain_ratio", &ratios.plain),
        ("folded, at any price", "fold_ratio", &ratios.fold),
        ("budget of 2 %: first query after attaching", "budget_first_ratio", &ratios.first),
        ("budget of 2 %: queries afterwards", "budget_afterwards_ratio", &ratios.afterwards),
    ];
    let goals = vec![
        Goal::at_most(
            "a query afterwards over one without a probe".to_owned(),
            AFTERWARDS,
            median(&ratios.afterwards),
        ),
        Goal::seconds(
            "how much longer the first query takes".to_owned(),
            HELD_UP,
            median(&seen.held_up_s),
        ),
        Goal::seconds(
            "from its start until it is said that the probe is gone".to_owned(),
            HELD_UP,
            median(&seen.told_s),
        ),
    ];
    let mut numbers: Vec<(String, f64)> =
        rows.iter().map(|(_, key, ratios)| ((*key).to_owned(), median(ratios))).collect();
    numbers.extend([
        ("off_s".to_owned(), median(&seen.off_s)),
        ("budget_held_up_s".to_owned(), median(&seen.held_up_s)),
        ("budget_told_s".to_owned(), median(&seen.told_s)),
        ("folded_spans".to_owned(), seen.folded as f64),
        ("folded_spans_exact".to_owned(), seen.exact as f64),
        ("lost".to_owned(), seen.lost),
    ]);
    let Seen { folded, exact, marked, .. } = *seen;
    let mut notes = vec![format!(
        "Without a probe a query takes {:.2} s. {exact} of {folded} folded spans tell the exact \
         number of calls. In {marked} of {rounds} rounds the traces after the budget was exceeded \
         say that a probe is detached.",
        median(&seen.off_s)
    )];
    notes.extend(goals.iter().map(Goal::line));
    let section = Section {
        name: "flood",
        title: format!(
            "A function called once a row: PostgreSQL scans {ROWS} rows, {rounds} rounds in turn"
        ),
        columns: vec![FUNCTION, "time of a query, ratio to unprobed"],
        rows: rows
            .iter()
            .map(|(what, _, ratios)| vec![(*what).to_owned(), format!("{:.2}", median(ratios))])
            .collect(),
        numbers,
        notes,
    };
    let wrong = (exact != folded)
        .then(|| format!("{} of {folded} folded spans do not tell all calls", folded - exact));
    (section, goals, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_folded_spans_say() {
        let span = |name: &str, calls: &str| {
            format!(
                "{{\"name\": \"{name}\", \"attributes\": [{{\"key\": \"qprof.calls\", \
                 \"value\": {{\"intValue\": \"{calls}\"}}}}]}}"
            )
        };
        let line = format!(
            "{{\"resourceSpans\": [{{\"scopeSpans\": [{{\"spans\": [{}, {}]}}]}}]}}\n",
            span("query", "7"),
            span("seq_scan", "1428573")
        );
        assert_eq!(calls(&line).unwrap(), [1_428_573.0]);
        assert!(calls("").unwrap().is_empty() && calls("no JSON").is_err());
    }

    #[test]
    fn only_one_map_folds() {
        assert!(map(true).starts_with(&map(false)) && map(true).ends_with("fold = true\n"));
    }

    #[test]
    fn a_wrong_count_fails() {
        let ratios = Ratios { afterwards: vec![1.01], ..Ratios::default() };
        let seen = Seen { folded: 12, exact: 11, ..Seen::default() };
        let (section, goals, wrong) = section(&ratios, &seen, 1);
        assert!(goals[0].failure().is_none());
        assert!(wrong.unwrap().starts_with("1 of 12 folded spans"));
        assert_eq!(section.rows[3][1], "1.01");
    }
}
