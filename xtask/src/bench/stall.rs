//! Attaching to a busy program and detaching from it: how long it takes, and what the program
//! itself notices.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::goal::Goal;
use super::median;
use super::report::Section;
use super::talker::{Talker, compile};
use super::tracer::{Build, Run, Tracer};
use crate::cache::Scratch;
use crate::cli::Context;
use crate::json::Json;
use crate::{say, sys};

/// The functions of `many.c`: each has an entry and a `ret`.
const FUNCTIONS: std::ops::Range<u32> = 1000..2000;
/// How long qprof stays attached, so that what it learns is attached as well.
const STAY: Duration = Duration::from_millis(1500);
const ATTACH_GOAL_S: f64 = 1.0;
const DETACH_GOAL_S: f64 = 0.5;

/// What one run of each took.
#[derive(Default)]
struct Taken {
    attach_s: Vec<f64>,
    first_span_s: Vec<f64>,
    detach_s: Vec<f64>,
    /// The longest gaps, in microseconds: while nothing, while qprof came, stayed, and went.
    quiet_us: Vec<f64>,
    attach_us: Vec<f64>,
    stay_us: Vec<f64>,
    detach_us: Vec<f64>,
}

/// The section and its goals.
///
/// # Errors
/// When the target or qprof fails.
pub(super) fn run(context: &Context, build: &Build, rounds: usize) -> Result<(Section, Vec<Goal>)> {
    let scratch = Scratch::new(context.root.join("target/bench-stall"))?;
    let target = compile(context, scratch.path(), "many")?;
    let map = scratch.join("many.toml");
    fs::write(&map, map_text()).with_context(|| format!("cannot write {}", map.display()))?;
    let mut many = Talker::start("the target", &mut Command::new(&target), "")?;
    let mut taken = Taken::default();
    for round in 1..=rounds {
        sys::check_stop()?;
        say::step("bench", &format!("stall, round {round} of {rounds}"));
        taken.round(build, &mut many, &map, &scratch)?;
    }
    many.end()?;
    Ok(taken.section())
}

fn map_text() -> String {
    let mut text =
        "version = 1\nname = \"many\"\nsystem = \"many\"\norphans = \"keep\"\n".to_owned();
    for number in FUNCTIONS {
        let _ = write!(
            text,
            "\n[[span]]\nname = \"many_{number}\"\nfunction = \"many_{number}\"\nroot = true\n"
        );
    }
    text
}

/// The longest gap the target saw while `act` ran, in microseconds, and what `act` gave.
fn watched<T>(many: &mut Talker, act: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    many.say("begin")?;
    let result = act()?;
    let longest = Json::parse(&many.ask("end")?)?.number("longest_us")?;
    Ok((longest, result))
}

impl Taken {
    fn round(
        &mut self,
        build: &Build,
        many: &mut Talker,
        map: &Path,
        scratch: &Scratch,
    ) -> Result<()> {
        let out = scratch.join("traces.jsonl");
        let words = ["--out", out.to_str().context("a path is not UTF-8")?];
        let pid = many.pid();
        let pause = || {
            std::thread::sleep(STAY);
            Ok(())
        };
        self.quiet_us.push(watched(many, pause)?.0);
        let started = SystemTime::now();
        let (gap, run) =
            watched(many, || Run::start(build, Tracer::Qprof, pid, map, scratch.path(), &words))?;
        self.attach_us.push(gap);
        self.attach_s.push(run.after().as_secs_f64());
        self.stay_us.push(watched(many, pause)?.0);
        let (gap, outcome) = watched(many, || run.finish())?;
        self.detach_us.push(gap);
        self.detach_s.push(outcome.detach.as_secs_f64());
        let first = first_start(&out)?;
        self.first_span_s.push((first - since_epoch(started)?).max(0.0));
        fs::remove_file(&out).with_context(|| format!("cannot remove {}", out.display()))
    }

    fn section(&self) -> (Section, Vec<Goal>) {
        let sites = 2 * FUNCTIONS.len();
        let goals = vec![
            Goal::seconds(
                format!("attach of {sites} sites"),
                ATTACH_GOAL_S,
                median(&self.attach_s),
            ),
            Goal::seconds("detach".to_owned(), DETACH_GOAL_S, median(&self.detach_s)),
        ];
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        let quiet = median(&self.quiet_us);
        let row = |what: &str, seconds: &[f64], gaps: &[f64]| {
            let time = |value: f64| {
                if value.is_nan() { "–".to_owned() } else { format!("{value:.2} s") }
            };
            vec![
                what.to_owned(),
                time(median(seconds)),
                format!("{:.1} ms", median(gaps) / 1e3),
                format!("{:.1} ms", most(gaps) / 1e3),
                format!("{:.2}", median(gaps) / quiet),
            ]
        };
        let section = Section {
            name: "stall",
            title: format!(
                "Attaching {sites} sites to a busy thread, {} rounds",
                self.attach_s.len()
            ),
            columns: vec![
                "while",
                "it takes",
                "longest gap, median",
                "longest gap, most",
                "ratio to nothing attached",
            ],
            rows: vec![
                row("nothing is attached, for as long as it stays attached", &[], &self.quiet_us),
                row("qprof attaches, from its start", &self.attach_s, &self.attach_us),
                row("it stays attached", &[], &self.stay_us),
                row("it detaches, to its end", &self.detach_s, &self.detach_us),
            ],
            numbers: vec![
                ("sites".to_owned(), sites as f64),
                ("attach_s".to_owned(), median(&self.attach_s)),
                ("first_span_s".to_owned(), median(&self.first_span_s)),
                ("detach_s".to_owned(), median(&self.detach_s)),
                ("gap_quiet_us".to_owned(), quiet),
                ("gap_attach_us".to_owned(), median(&self.attach_us)),
                ("gap_attached_us".to_owned(), median(&self.stay_us)),
                ("gap_detach_us".to_owned(), median(&self.detach_us)),
            ],
            notes: std::iter::once(format!(
                "From the start of qprof to the begin of the first span it saw: {:.2} s.",
                median(&self.first_span_s)
            ))
            .chain(goals.iter().map(Goal::line))
            .collect(),
        };
        (section, goals)
    }
}

/// When the first of the spans in the first batch began, in seconds since 1970. Batches are
/// written in the order of time.
fn first_start(file: &Path) -> Result<f64> {
    let cannot = || format!("cannot read {}", file.display());
    let mut line = String::new();
    BufReader::new(fs::File::open(file).with_context(cannot)?)
        .read_line(&mut line)
        .with_context(cannot)?;
    line.split("\"startTimeUnixNano\":\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next()?.parse::<u64>().ok())
        .min()
        .map(|nanoseconds| nanoseconds as f64 / 1e9)
        .context("qprof wrote no span")
}

fn since_epoch(time: SystemTime) -> Result<f64> {
    Ok(time.duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sites_a_function() {
        assert_eq!(map_text().matches("[[span]]").count() * 2, 2000);
        assert!(map_text().contains("function = \"many_1999\""));
    }
}
