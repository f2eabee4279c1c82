//! How the stitcher's speed depends on the number of lanes that are busy at once.

use anyhow::{Context as _, Result, bail};

use super::report::Section;
use crate::command::stdout_of;
use crate::json::Json;
use crate::say;
use crate::toolchain::Toolchain;

/// Runs the example `stitch_rate`, which prints `{"lanes": N, "spans_per_s": X}` lines.
///
/// # Errors
/// When it does not build or print that.
pub(super) fn run(toolchain: &Toolchain) -> Result<Section> {
    say::step("bench", "the stitcher with 1, 100 and 10,000 lanes");
    let mut cargo = toolchain.cargo();
    cargo.args(["run", "--quiet", "--locked", "--release", "-p", "profiler-user"]);
    section(&stdout_of(cargo.args(["--example", "stitch_rate"]))?)
}

fn section(printed: &str) -> Result<Section> {
    let mut rates = Vec::new();
    for line in printed.lines().filter(|line| line.starts_with('{')) {
        let json = Json::parse(line)?;
        rates.push((json.number("lanes")?, json.number("spans_per_s")?));
    }
    let Some(&(_, first)) = rates.first() else {
        bail!("the example stitch_rate printed no rate: {printed}");
    };
    let rows = rates.iter().map(|(lanes, rate)| {
        vec![
            format!("{lanes}"),
            format!("{:.2} million", rate / 1e6),
            format!("{:.2}", rate / first),
        ]
    });
    let numbers = rates.iter().flat_map(|(lanes, rate)| {
        [
            (format!("spans_per_s_{lanes}_lanes"), *rate),
            (format!("ratio_{lanes}_lanes"), rate / first),
        ]
    });
    let lanes = rates.last().context("no rate")?.0;
    Ok(Section {
        name: "stitch",
        title: format!("Stitcher, one core, up to {lanes} lanes busy at once"),
        columns: vec!["lanes", "spans a second", "ratio to the first row"],
        rows: rows.collect(),
        numbers: numbers.collect(),
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows() {
        let section =
            section("{\"lanes\": 1, \"spans_per_s\": 4e6}\n{\"lanes\":100,\"spans_per_s\":2e6}\n")
                .unwrap();
        assert_eq!(section.rows[1], ["100", "2.00 million", "0.50"]);
        assert!(super::section("error").is_err());
    }
}
