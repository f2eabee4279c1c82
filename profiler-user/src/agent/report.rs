//! The end of a run: the summary, on stdout and as a file.

use std::io::{self, Write as _};

use super::landings::LandingStats;
use super::outputs::{OutputError, Print, SummaryFile, worth_a_word};
use crate::stitch::StitchStats;
use crate::ui::{RunReport, TreeStyle, write_summary};

/// The stitcher's counters by name, and the records that were no events.
pub(super) fn stitch_rows(stats: &StitchStats, undecodable: u64) -> Vec<(String, u64)> {
    let mut rows: Vec<(String, u64)> =
        stats.rows().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    rows.push(("undecodable".to_owned(), undecodable));
    rows
}

/// What became of return addresses, by name.
pub(super) fn landing_rows(stats: &LandingStats) -> Vec<(String, u64)> {
    let rows = [
        ("learned", stats.learned),
        ("callers_that_return_at_once", stats.callers),
        ("landings", stats.landings),
        ("landings_single_stepped", stats.dear),
        ("landings_moved", stats.moved),
        ("hits", stats.hits.hits),
        ("matched", stats.hits.matched),
        ("functions_without_ret_sites", stats.retired),
        ("postponed", stats.postponed),
    ];
    let rows = rows.map(|(name, count)| (name.to_owned(), count));
    let refused = stats.refused.iter().map(|(why, count)| (format!("refused: {why}"), *count));
    rows.into_iter().chain(refused).collect()
}

/// Spans that were to be exported and were not.
pub(super) fn unsent(report: &RunReport) -> u64 {
    let outputs = report.otlp.iter().chain(&report.file);
    outputs.map(|output| output.stats.failed + output.stats.dropped).sum()
}

/// Prints the summary where it is wanted, and says whether stdout could be written all along.
pub(super) fn print(
    report: &RunReport,
    print: Print,
    style: TreeStyle,
    file: Option<SummaryFile>,
    mut stdout_error: Option<io::Error>,
) -> Result<(), OutputError> {
    if matches!(print, Print::Summary | Print::Tree) {
        let mut text = String::new();
        if write_summary(&mut text, report, style).is_err() {
            tracing::error!("the summary could not be written as text");
        }
        let written = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
        stdout_error = stdout_error.or(written.err().and_then(worth_a_word));
    }
    file.map_or(Ok(()), |file| file.write(report))?;
    stdout_error.map_or(Ok(()), |error| Err(OutputError::Stdout(error)))
}
