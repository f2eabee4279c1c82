//! The one live line on a terminal.

use std::io;
use std::time::Duration;

use super::format::{count, duration, percent};
use super::line::{Line, Style};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Since attached.
    pub elapsed: Duration,
    /// Traces so far.
    pub traces: u64,
    /// Spans so far.
    pub spans: u64,
    /// Median and 95th percentile of traces' durations, nanoseconds; none before the first.
    pub percentiles: Option<(u64, u64)>,
    /// Events lost.
    pub lost: u64,
    /// Spans that were not exported: failed and dropped.
    pub export_failures: u64,
    /// What the probes take lately, as a share of the CPU time the target may use; none before that
    /// is known.
    pub cost: Option<f64>,
}

/// Draws [`Progress`] over itself, again and again.
///
/// Other text for the same terminal goes out after [`StatusLine::clear`].
#[derive(Debug)]
pub struct StatusLine {
    colour: bool,
    drawn: bool,
    /// Of the drawing before, for the rate.
    before: Option<(Duration, u64)>,
    rate: f64,
}

impl StatusLine {
    /// A line that is not drawn yet.
    #[must_use]
    pub const fn new(colour: bool) -> Self {
        Self { colour, drawn: false, before: None, rate: 0.0 }
    }

    /// Draws the line, at most `width` characters of it, in one write.
    ///
    /// # Errors
    ///
    /// Only those of `out`.
    pub fn draw(
        &mut self,
        mut out: impl io::Write,
        progress: &Progress,
        width: usize,
    ) -> io::Result<()> {
        self.measure(progress);
        let mut text = String::from("\r");
        // A character less than the terminal has: some break the line when its last is written.
        let written =
            self.line(progress).write(&mut text, self.colour, Some(width.saturating_sub(1)));
        written.map_err(io::Error::other)?;
        text.push_str("\x1b[K");
        self.drawn = true;
        out.write_all(text.as_bytes())?;
        out.flush()
    }

    /// Removes the line.
    ///
    /// # Errors
    ///
    /// Only those of `out`.
    pub fn clear(&mut self, mut out: impl io::Write) -> io::Result<()> {
        if std::mem::take(&mut self.drawn) {
            out.write_all(b"\r\x1b[K")?;
            out.flush()?;
        }
        Ok(())
    }

    /// Traces a second, smoothed over some drawings.
    fn measure(&mut self, progress: &Progress) {
        if let Some((elapsed, traces)) = self.before {
            let time = progress.elapsed.saturating_sub(elapsed).as_secs_f64();
            if time > 0.0 {
                let rate = progress.traces.saturating_sub(traces) as f64 / time;
                self.rate += (rate - self.rate) * 0.5;
            }
        }
        self.before = Some((progress.elapsed, progress.traces));
    }

    fn line(&self, progress: &Progress) -> Line {
        let mut line = Line::default();
        let elapsed = progress.elapsed.as_secs();
        line.add(format!("{:02}:{:02}", elapsed / 60, elapsed % 60), Style::Bold);
        if progress.traces == 0 {
            line.add("  attached, waiting for the first query", Style::Dim);
        } else {
            line.add(format!("  {} traces", count(progress.traces)), Style::Plain);
            line.add(format!("  {:.0}/s", self.rate), Style::Plain);
            line.add(format!("  {} spans", count(progress.spans)), Style::Dim);
        }
        if let Some((p50, p95)) = progress.percentiles {
            line.add(format!("  p50 {}", duration(p50)), Style::Green);
            line.add(format!("  p95 {}", duration(p95)), Style::Yellow);
        }
        if let Some(cost) = progress.cost {
            line.add(format!("  cost {}", percent(cost)), Style::Plain);
        }
        let bad = |number: u64| if number == 0 { Style::Dim } else { Style::Red };
        line.add(format!("  lost {}", count(progress.lost)), bad(progress.lost));
        if progress.export_failures > 0 {
            let text = format!("  not exported {}", count(progress.export_failures));
            line.add(text, Style::Red);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(status: &mut StatusLine, progress: &Progress, width: usize) -> String {
        let mut out = Vec::new();
        status.draw(&mut out, progress, width).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_line_over_itself() {
        let mut status = StatusLine::new(false);
        let mut progress = Progress { elapsed: Duration::from_secs(61), ..Progress::default() };
        let first = drawn(&mut status, &progress, 100);
        assert_eq!(first, "\r01:01  attached, waiting for the first query  lost 0\x1b[K");
        progress.elapsed += Duration::from_secs(1);
        progress.traces = 1200;
        progress.spans = 9600;
        progress.percentiles = Some((2_140_000, 4_310_000));
        progress.export_failures = 3;
        progress.cost = Some(0.0042);
        let second = drawn(&mut status, &progress, 120);
        let expected = "\r01:02  1,200 traces  600/s  9,600 spans  p50 2.14 ms  p95 4.31 ms  cost 0.4%  lost 0  \
                        not exported 3\x1b[K";
        assert_eq!(second, expected);
        assert_eq!(drawn(&mut status, &progress, 20), "\r01:02  1,200 trace…\x1b[K");
    }

    #[test]
    fn cleared_only_if_drawn() {
        let (mut status, mut out) = (StatusLine::new(true), Vec::new());
        status.clear(&mut out).unwrap();
        assert_eq!(out, b"");
        drawn(&mut status, &Progress::default(), 80);
        status.clear(&mut out).unwrap();
        status.clear(&mut out).unwrap();
        assert_eq!(out, b"\r\x1b[K");
    }
}
