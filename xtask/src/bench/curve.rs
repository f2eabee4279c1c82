//! The cost of a query against the number of probed functions, as a plot.

use std::time::Duration;

use super::svg::{Line, Plot};

/// Ratios of a query's CPU time to that without a probe.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) functions: usize,
    pub(super) qprof: f64,
    pub(super) ret: Option<f64>,
    /// None where it did not attach in time.
    pub(super) bpftrace: Option<f64>,
}

/// What is drawn.
#[derive(Debug)]
pub(super) struct Curve {
    pub(super) server: &'static str,
    pub(super) rounds: usize,
    /// What bpftrace was given to attach.
    pub(super) limit: Duration,
    /// By ascending number of functions.
    pub(super) points: Vec<Point>,
}

impl Curve {
    /// The plot as a file. `machine`: what it was measured on.
    pub(super) fn svg(&self, machine: &str) -> String {
        let line = |name: &str, of: &dyn Fn(&Point) -> Option<f64>| {
            let measured = self
                .points
                .iter()
                .filter_map(|point| of(point).map(|ratio| (point.functions as f64, ratio)));
            let points = std::iter::once((0.0, 1.0)).chain(measured).collect();
            Line { name: name.to_owned(), points }
        };
        let mut lines = vec![
            line("nothing attached", &|_| Some(1.0)),
            line("Qprof", &|point| Some(point.qprof)),
        ];
        if self.points.iter().any(|point| point.ret.is_some()) {
            lines.push(line("Qprof with ret traps", &|point| point.ret));
        }
        lines.push(line("bpftrace, entries only", &|point| point.bpftrace));
        let ticks = self.points.iter().map(|point| point.functions as f64);
        Plot {
            title: format!("CPU time of a query against probed functions, {}", self.server),
            x: "probed functions (logarithmic)".to_owned(),
            y: "CPU time, nothing attached = 1×".to_owned(),
            caption: format!("{machine}; medians of {} rounds in turn", self.rounds),
            ticks: std::iter::once(0.0).chain(ticks).collect(),
            note: self.note(),
            lines,
        }
        .svg()
    }

    /// Where the line of bpftrace ends, if it ends before the others.
    fn note(&self) -> Option<String> {
        let most = self.points.iter().rfind(|point| point.bpftrace.is_some());
        let most = most.map_or(0, |point| point.functions);
        let whole = self.points.iter().all(|point| point.functions <= most);
        let limit = self.limit.as_secs();
        (!whole).then(|| {
            format!("bpftrace did not attach to more than {most} functions within {limit} s")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stops_where_nothing_was_measured() {
        let point = |functions, bpftrace| Point { functions, qprof: 1.2, ret: Some(2.0), bpftrace };
        let points = vec![point(10, Some(1.1)), point(100, None)];
        let svg = Curve { server: "DuckDB", rounds: 3, limit: Duration::from_secs(20), points };
        let svg = svg.svg("a CPU, 2 cores");
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(svg.contains("did not attach to more than 10 functions within 20 s"));
        assert!(svg.contains("a CPU, 2 cores; medians of 3 rounds in turn"));
    }
}
