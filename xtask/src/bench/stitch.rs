//! How the stitcher's speed and memory depend on the number of lanes that are busy at once.

use anyhow::{Context as _, Result, bail};

use super::goal::Goal;
use super::report::Section;
use crate::command::stdout_of;
use crate::json::Json;
use crate::say;
use crate::toolchain::Toolchain;

/// What one core must do, in millions of spans a second, and at how many lanes how much of what it
/// does with one.
const LEAST_MILLIONS: f64 = 1.0;
const LEAST_OF_ONE_LANE: f64 = 0.33;

/// What came of one number of lanes.
struct Rate {
    lanes: f64,
    spans_per_s: f64,
    bytes_a_lane: f64,
    allocations_an_event: f64,
}

/// Runs the example `stitch_rate`, which prints a JSON object a line.
///
/// # Errors
/// When it does not build or print that.
pub(super) fn run(toolchain: &Toolchain) -> Result<(Section, Vec<Goal>)> {
    say::step("bench", "the stitcher with 1, 100 and 10,000 lanes");
    let mut cargo = toolchain.cargo();
    cargo.args(["run", "--quiet", "--locked", "--release", "-p", "profiler-user"]);
    section(&stdout_of(cargo.args(["--example", "stitch_rate"]))?)
}

fn section(printed: &str) -> Result<(Section, Vec<Goal>)> {
    let mut rates = Vec::new();
    for line in printed.lines().filter(|line| line.starts_with('{')) {
        let json = Json::parse(line)?;
        rates.push(Rate {
            lanes: json.number("lanes")?,
            spans_per_s: json.number("spans_per_s")?,
            bytes_a_lane: json.number("bytes_a_lane")?,
            allocations_an_event: json.number("allocations_an_event")?,
        });
    }
    let Some(first) = rates.first().map(|rate| rate.spans_per_s) else {
        bail!("the example stitch_rate printed no rate: {printed}");
    };
    let rows = rates.iter().map(|rate| {
        vec![
            format!("{}", rate.lanes),
            format!("{:.2} million", rate.spans_per_s / 1e6),
            format!("{:.2}", rate.spans_per_s / first),
            format!("{:.0}", rate.bytes_a_lane),
            format!("{:.3}", rate.allocations_an_event),
        ]
    });
    let numbers = rates.iter().flat_map(|rate| {
        let lanes = rate.lanes;
        [
            (format!("spans_per_s_{lanes}_lanes"), rate.spans_per_s),
            (format!("ratio_{lanes}_lanes"), rate.spans_per_s / first),
            (format!("bytes_a_lane_{lanes}_lanes"), rate.bytes_a_lane),
            (format!("allocations_an_event_{lanes}_lanes"), rate.allocations_an_event),
        ]
    });
    let last = rates.last().context("no rate")?;
    let mut goals: Vec<Goal> = rates
        .iter()
        .map(|rate| {
            let what = format!("spans a second, lanes: {}", rate.lanes);
            Goal::millions(what, LEAST_MILLIONS, rate.spans_per_s / 1e6)
        })
        .collect();
    goals.push(Goal::at_least(
        format!("speed with {} lanes over that with the first", last.lanes),
        LEAST_OF_ONE_LANE,
        last.spans_per_s / first,
    ));
    let section = Section {
        name: "stitch",
        title: format!("Stitcher, one core, up to {} lanes busy at once", last.lanes),
        columns: vec![
            "lanes",
            "spans a second",
            "ratio to the first row",
            "bytes a lane",
            "allocations an event",
        ],
        rows: rows.collect(),
        numbers: numbers.collect(),
        notes: goals.iter().map(Goal::line).collect(),
    };
    Ok((section, goals))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows_and_goals() {
        let line = |lanes: u32, rate: f64| {
            format!(
                "{{\"lanes\":{lanes},\"spans_per_s\":{rate},\"bytes_a_lane\":900.4,\"allocations_an_event\":0.125}}"
            )
        };
        let printed = format!("{}\n{}\n", line(1, 4e6), line(100, 0.8e6));
        let (section, goals) = section(&printed).unwrap();
        assert_eq!(section.rows[1], ["100", "0.80 million", "0.20", "900", "0.125"]);
        assert_eq!(section.notes.len(), 3);
        assert!(
            section.notes[1].ends_with("at least 1 million; measured 0.80 million, **missed**.")
        );
        assert_eq!(goals.iter().filter_map(Goal::failure).count(), 1);
        assert!(super::section("error").is_err());
    }
}
