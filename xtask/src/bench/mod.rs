//! `bench`: what Qprof costs, against a named rival in the same run where there is one.
//!
//! Absolute times belong to a machine; the ratios are the message. Each section is written to
//! `target/bench/NAME.json`, and all of them as tables into `docs/benchmarks.md`.

mod attach;
mod loss;
mod report;
mod stitch;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};

use crate::args::{Args, Usage};
use crate::cli::Context;
use crate::host::{self, Need};
use crate::toolchain::Toolchain;
use crate::venv::MilvusVenv;
use crate::{build, say, sys};

const DEFAULT_RUNS: usize = 7;

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let runs = args.value("--runs")?.unwrap_or(DEFAULT_RUNS);
    let keep_docs = args.flag("--no-docs");
    args.finish()?;
    if runs == 0 {
        return Err(anyhow!(Usage("--runs must be at least 1".to_owned())));
    }
    host::require_root("attaching to a process", "cargo xtask bench")?;
    host::ensure(&context.cache, &[Need::Compilers, Need::Binutils, Need::Bpftrace])?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let venv = MilvusVenv::ensure(&context.cache)?;
    let qprof = build::release(context, &toolchain)?;
    let dir = report::directory(&context.root)?;

    let mut sections = Vec::new();
    sections.extend(attach::run(context, &venv, &qprof, runs)?);
    sys::check_stop()?;
    sections.push(stitch::run(&toolchain)?);
    sys::check_stop()?;
    let (section, lost) = loss::run(context, &qprof)?;
    sections.push(section);

    for section in &sections {
        section.write(&dir)?;
        say::out(&section.table());
    }
    if !keep_docs {
        report::rewrite(&context.root.join("docs/benchmarks.md"), &sections)?;
    }
    if lost {
        bail!("spans were lost at the rate that the default ring must carry");
    }
    Ok(ExitCode::SUCCESS)
}

/// The middle of the sorted values; of two middles the mean.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match (sorted.get(half), sorted.len() % 2) {
        (Some(middle), 1) => *middle,
        (Some(upper), _) => f64::midpoint(sorted[half - 1], *upper),
        (None, _) => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]).to_bits(), 2.5_f64.to_bits());
        assert!(median(&[]).is_nan());
    }
}
