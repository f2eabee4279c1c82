//! `bench`: what Qprof costs, against a named rival in the same run where there is one.
//!
//! Absolute times belong to a machine; the ratios are the message. Each section is written to
//! `target/bench/NAME.json`, and after a run of all benches as tables into `docs/benchmarks.md`; the
//! curve to `target/bench/cost.svg`, and then to `docs/cost.svg`.

mod attach;
mod cost;
mod curve;
mod engine;
mod exits;
mod flood;
mod functions;
mod go;
mod go_tables;
mod goal;
mod loss;
mod postgres;
mod prometheus;
mod report;
mod servers;
mod stall;
mod stitch;
mod svg;
mod talker;
mod tracer;

use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};

use self::engine::Installed;
use self::report::Section;
use self::tracer::Build;
use crate::args::{Args, Usage};
use crate::cache::replace_file;
use crate::cli::Context;
use crate::debian::PROMETHEUS;
use crate::host::{self, Need};
use crate::toolchain::Toolchain;
use crate::venv::{ENGINES, MilvusVenv};
use crate::{build, jaeger, milvus_server, say, sys};

/// Rounds of the short benches.
const DEFAULT_RUNS: usize = 5;
/// And of what has to be compared with a number: one pair is no median.
const LEAST_ROUNDS: usize = 3;

/// What can be asked for, in the order it is taken and shown.
const BENCHES: [&str; 8] = ["exits", "go", "servers", "flood", "attach", "stall", "loss", "stitch"];

/// What the benches gave.
#[derive(Default)]
struct Results {
    sections: Vec<Section>,
    /// The plot, as a file.
    curve: Option<String>,
    /// Why the whole fails.
    failures: Vec<String>,
}

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let runs = args.value("--runs")?.unwrap_or(DEFAULT_RUNS);
    let keep_docs = args.flag("--no-docs");
    let asked = args.plain();
    args.finish()?;
    if runs == 0 {
        return Err(anyhow!(Usage("--runs must be at least 1".to_owned())));
    }
    if let Some(other) = asked.iter().find(|name| !BENCHES.contains(&name.as_str())) {
        return Err(anyhow!(Usage(format!(
            "no bench `{other}`: there are {}",
            BENCHES.join(", ")
        ))));
    }
    host::require_root("attaching to a process", "cargo xtask bench")?;
    host::ensure(&context.cache, &[Need::Compilers, Need::Binutils, Need::Bpftrace])?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let qprof = Build::of(build::release(context, &toolchain)?);
    let dir = report::directory(&context.root)?;

    let mut results = Results::default();
    for name in BENCHES {
        if asked.is_empty() || asked.iter().any(|asked| asked == name) {
            sys::check_stop()?;
            let before = results.sections.len();
            results.take(name, context, &toolchain, &qprof, runs)?;
            // At once: whoever stops a later bench keeps this one.
            for section in results.sections.iter().skip(before) {
                section.write(&dir)?;
                say::out(&section.table());
            }
        }
    }
    if let Some(curve) = &results.curve {
        replace_file(&dir.join("cost.svg"), curve.as_bytes())?;
    }
    // The tables are of one run on one machine, or they could not be compared.
    if asked.is_empty() && !keep_docs {
        report::rewrite(&context.root.join("docs/benchmarks.md"), &results.sections)?;
        if let Some(curve) = &results.curve {
            replace_file(&context.root.join("docs/cost.svg"), curve.as_bytes())?;
        }
    }
    if !results.failures.is_empty() {
        bail!("{}", results.failures.join("\n"));
    }
    Ok(ExitCode::SUCCESS)
}

impl Results {
    fn take(
        &mut self,
        name: &str,
        context: &Context,
        toolchain: &Toolchain,
        qprof: &Build,
        runs: usize,
    ) -> Result<()> {
        // Servers and bpftrace take long to start.
        let few = runs.div_ceil(2);
        match name {
            "exits" => self.with_goals(exits::run(context, qprof, runs)?),
            "go" => {
                let go = jaeger::ensure_go(&context.cache)?;
                let milvus = milvus_server::ensure(&context.cache)?;
                let (sections, goals) = go::run(context, &go, qprof, runs)?;
                self.sections.extend(sections);
                self.failures.extend(goals.iter().filter_map(goal::Goal::failure));
                self.with_goals(go_tables::run(context, toolchain, &go, &milvus, runs)?);
            }
            "servers" => {
                let milvus = MilvusVenv::ensure(&context.cache)?;
                let engines = ENGINES.ensure(&context.cache)?;
                let prometheus = PROMETHEUS.ensure(&context.cache)?;
                let installed =
                    Installed { milvus: &milvus, engines: &engines, prometheus: &prometheus };
                let rounds = few.max(LEAST_ROUNDS);
                let taken = servers::run(context, &installed, qprof, rounds)?;
                self.curve = Some(taken.curve.svg(&report::machine()?));
                self.sections.extend(taken.sections);
                self.failures.extend(taken.goals.iter().filter_map(goal::Goal::failure));
            }
            "flood" => {
                let engines = ENGINES.ensure(&context.cache)?;
                let (section, goals, wrong) = flood::run(context, &engines, qprof, few)?;
                self.with_goals((section, goals));
                self.failures.extend(wrong);
            }
            "attach" => {
                let venv = MilvusVenv::ensure(&context.cache)?;
                let (attach, memory) = attach::run(context, &venv, qprof, few)?;
                self.sections.push(attach);
                self.with_goals(memory);
            }
            "stall" => self.with_goals(stall::run(context, qprof, runs)?),
            "loss" => {
                let (loss, agent, lost) = loss::run(context, qprof)?;
                self.sections.push(loss);
                self.with_goals(agent);
                if lost {
                    self.failures.push(
                        "spans were lost at the rate that the default ring must carry".to_owned(),
                    );
                }
            }
            _ => self.with_goals(stitch::run(toolchain)?),
        }
        Ok(())
    }

    fn with_goals(&mut self, (section, goals): (Section, Vec<goal::Goal>)) {
        self.sections.push(section);
        self.failures.extend(goals.iter().filter_map(goal::Goal::failure));
    }
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
