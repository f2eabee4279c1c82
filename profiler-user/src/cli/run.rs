//! `qprof run`: attach, trace, detach.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgGroup, Args, ValueEnum};

use super::settings::{self, ConfigArg};
use super::{Outcome, units};
use crate::agent::{self, Exits, RunSettings};
use crate::attach::AttachOptions;
use crate::config::Settings;
use crate::doctor::tried_kernel;
use crate::sink::{OtlpFlags, Protocol};
use crate::ui::TreeStyle;
use crate::units::Budget;

/// The ring buffer, unless something else is said.
const RING_BYTES: u32 = 8 << 20;
/// How long a trace may wait, unless something else is said.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("whom").required(true).multiple(true)
    .args(["pid", "exe", "command", "config"]))]
#[command(after_help = "\
Examples:
  sudo qprof run -p $(pidof milvus)
  sudo qprof run -p 4711 --otlp http://127.0.0.1:4317          send traces to Jaeger
  sudo qprof run -p 4711 -m my-server.toml --output tree       print each query as a tree
  sudo qprof run -p 4711 --slow 50ms -o slow.otlp.jsonl        keep only slow queries, in a file
  sudo qprof run --config /etc/qprof/qprof.toml                take all of that from a file
  sudo qprof run -p 4711 --record run.qprof --duration 30s     keep the raw events for `replay`
  sudo qprof run --exe postgres --children                     a server of many processes
  sudo qprof run -m duckdb -- python3 report.py                start a program and trace it")]
pub(super) struct RunArgs {
    #[command(flatten)]
    target: settings::TargetArgs,

    #[command(flatten)]
    config: ConfigArg,

    /// Symbol map: a name (`qprof maps`) or a file; default: the one that fits. May be given several
    /// times.
    #[arg(short, long, value_name = "NAME|FILE")]
    map: Vec<String>,

    #[command(flatten)]
    out: OutArgs,

    /// Keep the raw events in FILE, for `qprof replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,

    /// Stop after this long (default: at Ctrl-C, or when the target ends).
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    duration: Option<Duration>,

    /// Size of the kernel's ring buffer: a power of two, at least 4KiB [default: 8MiB].
    #[arg(long, value_name = "SIZE", value_parser = units::size)]
    ring: Option<u32>,

    #[command(flatten)]
    search: settings::SearchArgs,

    /// What the probes may cost.
    #[arg(
        long,
        value_name = "PERCENT|off",
        value_parser = units::budget,
        help = "What the probes may cost, as a share of the CPU time the target may use; over it the \
                dearest are detached, roots never [default: 2%]"
    )]
    budget: Option<Budget>,

    /// Where exits are observed: where calls come back, or at each `ret` (for comparison).
    #[arg(long, value_name = "WHERE", default_value = "landings", hide = true)]
    exits: ExitsArg,

    /// Log every event the kernel side sees (slow; for debugging Qprof).
    #[arg(long)]
    kernel_log: bool,
}

/// Where traces go and which are kept: the same for `run` and `replay`.
#[derive(Debug, Args)]
pub(super) struct OutArgs {
    /// Send traces to this OTLP endpoint.
    #[arg(
        long,
        value_name = "URL",
        help = "Send traces to this OTLP endpoint, for example http://127.0.0.1:4317 (gRPC) or \
                http://127.0.0.1:4318 (HTTP); the OTEL_EXPORTER_OTLP_* variables are honoured"
    )]
    otlp: Option<String>,

    /// OTLP protocol.
    #[arg(
        long,
        value_name = "PROTOCOL",
        help = "OTLP protocol [default: OTEL_EXPORTER_OTLP_PROTOCOL, else by the port, else grpc]"
    )]
    protocol: Option<ProtocolArg>,

    /// What to print on stdout [default: summary].
    #[arg(long, value_name = "WHAT")]
    output: Option<Output>,

    /// Write traces to FILE as OTLP JSON, a line a batch.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Keep only traces whose root takes at least this long. The summary still counts all.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    slow: Option<Duration>,

    /// Keep this share of the traces, chosen by trace id: 0.1 is a tenth. The summary still counts all.
    #[arg(long, value_name = "SHARE", value_parser = units::share)]
    sample: Option<f64>,

    /// Fold spans shorter than this into a count, except on the critical path.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    min_span: Option<Duration>,

    /// `service.name` of the traces.
    #[arg(
        long,
        value_name = "NAME",
        help = "service.name of the traces [default: OTEL_SERVICE_NAME, else the map's system]"
    )]
    service: Option<String>,

    /// How long a trace may wait for its last span [default: 10s].
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    grace: Option<Duration>,

    /// Write the final summary to FILE as JSON.
    #[arg(long, value_name = "FILE")]
    summary_json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A summary at the end.
    Summary,
    /// Every kept trace as a tree, and the summary at the end.
    Tree,
    /// Every kept trace as OTLP JSON, a line a batch; no summary.
    Json,
    /// Nothing.
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExitsArg {
    Landings,
    Ret,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProtocolArg {
    Grpc,
    #[value(name = "http/protobuf", alias = "http")]
    Http,
}

impl OutArgs {
    /// As the agent wants it: flag, then file, then default. Nothing below here knows clap.
    pub(super) fn settings(&self, color: bool, file: &Settings) -> agent::OutSettings {
        let output = &file.output;
        agent::OutSettings {
            otlp: OtlpFlags {
                endpoint: self.otlp.clone(),
                protocol: self.protocol.map(|protocol| match protocol {
                    ProtocolArg::Grpc => Protocol::Grpc,
                    ProtocolArg::Http => Protocol::HttpProtobuf,
                }),
                file: file.otlp.clone(),
            },
            file: self.file.clone().or_else(|| output.file.clone()),
            print: match self.output {
                None => output.print.unwrap_or(agent::Print::Summary),
                Some(Output::Summary) => agent::Print::Summary,
                Some(Output::Tree) => agent::Print::Tree,
                Some(Output::Json) => agent::Print::Json,
                Some(Output::None) => agent::Print::Nothing,
            },
            style: TreeStyle {
                colour: color,
                width: agent::terminal_width(std::io::stdout()),
                max_spans: None,
            },
            slow: self.slow.or(output.slow),
            sample: self.sample.or(output.sample),
            min_span: self.min_span.or(output.min_span),
            service: self.service.clone(),
            service_in_file: file.service.clone(),
            grace: self.grace.or(file.grace).unwrap_or(GRACE),
            summary_json: self.summary_json.clone().or_else(|| output.summary_json.clone()),
        }
    }
}

pub(super) fn run(args: &RunArgs, color: bool, quiet: bool) -> anyhow::Result<ExitCode> {
    let file = args.config.load()?;
    let kernel = tried_kernel();
    let settings = RunSettings {
        aim: settings::run_aim(&args.target, &args.map, &args.search, &file, kernel.forms)?,
        attach: AttachOptions {
            ring_bytes: args.ring.or(file.ring).unwrap_or(RING_BYTES),
            kernel_log: args.kernel_log,
            link_filter: kernel.link_filter,
            ..AttachOptions::default()
        },
        exits: match args.exits {
            ExitsArg::Landings => Exits::Landings,
            ExitsArg::Ret => Exits::Rets,
        },
        costs: kernel.costs,
        budget: args.budget.or(file.budget).unwrap_or(Budget::DEFAULT).share(),
        record: args.record.clone().or_else(|| file.output.record.clone()),
        duration: args.duration.or(file.duration),
        out: args.out.settings(color, &file),
        quiet,
    };
    let ended = agent::run(&settings)?;
    // What was asked of us goes before what the program says of itself.
    Ok(match (Outcome::of_run(ended), ended.code) {
        (Outcome::Ok, Some(code)) => ExitCode::from(code),
        (outcome, _) => outcome.into(),
    })
}
