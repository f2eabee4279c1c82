//! Ring loss at full load, with the default ring.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::report::Section;
use crate::cache::Scratch;
use crate::child::Guarded;
use crate::cli::Context;
use crate::command;
use crate::json::Json;
use crate::qprof::Attached;
use crate::say;

const SECONDS: u64 = 10;
/// What must come through without loss, and then as fast as the target can.
const RATES: [(u64, &str); 2] = [(20_000, "20,000 spans a second"), (0, "as fast as it can")];

/// What came of one load.
struct Outcome {
    made: f64,
    per_second: f64,
    seen: f64,
    lost: f64,
}

/// The section, and whether anything was lost at the rate that must come through.
///
/// # Errors
/// When the target does not build or run, or qprof fails.
pub(super) fn run(context: &Context, qprof: &Path) -> Result<(Section, bool)> {
    let scratch = Scratch::new(context.root.join("target/bench-load"))?;
    let program = scratch.join("load");
    let source = context.root.join("xtask/bench/load.c");
    command::run(
        Command::new("cc").args(["-O2", "-g", "-pthread", "-o"]).arg(&program).arg(&source),
    )?;
    let map = context.root.join("xtask/bench/load.toml");
    let map = map.to_str().context("the checkout's path is not UTF-8")?;

    let mut rows = Vec::new();
    let mut numbers = Vec::new();
    let mut lost_at_rate = false;
    for (rate, name) in RATES {
        say::step("bench", &format!("ring loss: {name}"));
        let outcome = load(&program, qprof, map, &scratch, rate)?;
        let Outcome { made, per_second, seen, lost } = outcome;
        lost_at_rate |= rate > 0 && (lost > 0.0 || seen < made);
        rows.push(vec![
            name.to_owned(),
            format!("{per_second:.0}"),
            format!("{made:.0}"),
            format!("{seen:.0}"),
            format!("{lost:.0}"),
            format!("{:.4}", seen / made),
        ]);
        let key = if rate == 0 { "unpaced".to_owned() } else { format!("at_{rate}") };
        numbers.extend([
            (format!("{key}_spans_per_s"), per_second),
            (format!("{key}_made"), made),
            (format!("{key}_seen"), seen),
            (format!("{key}_lost"), lost),
        ]);
    }
    let section = Section {
        name: "loss",
        title: "Ring loss at full load, default ring, four threads".to_owned(),
        columns: vec!["load", "spans a second", "made", "seen", "events lost", "seen / made"],
        rows,
        numbers,
    };
    Ok((section, lost_at_rate))
}

fn load(program: &Path, qprof: &Path, map: &str, scratch: &Scratch, rate: u64) -> Result<Outcome> {
    let summary = scratch.join("summary.json");
    let mut target = Guarded::start_talking(
        "the load",
        Command::new(program).args([SECONDS.to_string(), rate.to_string()]),
    )?;
    let mut said = BufReader::new(target.take_stdout().context("the load has no output")?).lines();
    said.next().context("the load ended at its start")??;
    let words =
        ["-m", map, "--output", "none", "--summary-json", summary.to_str().context("not UTF-8")?];
    let attached = Attached::start(qprof, target.id(), &words, false)?;
    target.take_stdin().context("the load has no input")?.write_all(b"go\n")?;
    let Some(status) = target.wait(Duration::from_secs(SECONDS + 60))? else {
        bail!("the load was not done in time");
    };
    if !status.success() {
        bail!("the load failed ({status})");
    }
    let made = Json::parse(&said.next().context("the load printed no result")??)?;
    attached.finish()?;
    let text = std::fs::read_to_string(&summary)
        .with_context(|| format!("qprof wrote no {}", summary.display()))?;
    let seen = Json::parse(&text)?;
    Ok(Outcome {
        made: made.number("spans")?,
        per_second: made.number("spans")? / made.number("seconds")?,
        seen: seen.number("spans")?,
        lost: seen.number("lost")?,
    })
}
