//! `qprof run`: attach, trace, detach.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{Outcome, units};
use crate::agent::{self, RunAim, RunSettings, Whom};
use crate::attach::AttachOptions;
use crate::model::Pid;
use crate::sink::{OtlpFlags, Protocol};
use crate::ui::TreeStyle;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sudo qprof run -p $(pidof milvus)
  sudo qprof run -p 4711 --otlp http://127.0.0.1:4317          send traces to Jaeger
  sudo qprof run -p 4711 -m my-server.toml --output tree       print each query as a tree
  sudo qprof run -p 4711 --slow 50ms -o slow.otlp.jsonl        keep only slow queries, in a file
  sudo qprof run -p 4711 --record run.qprof --duration 30s     keep the raw events for `replay`
  sudo qprof run --exe postgres --children                     a server of many processes
  sudo qprof run -m duckdb -- python3 report.py                start a program and trace it")]
pub(super) struct RunArgs {
    /// A process to attach to; may be given several times.
    #[arg(short, long, required_unless_present_any = ["exe", "command"])]
    pid: Vec<u32>,

    /// Attach to the one process whose executable has this name, or with a `/` this path.
    #[arg(long, value_name = "GLOB", conflicts_with_all = ["pid", "command"])]
    exe: Option<String>,

    /// Profile its child processes too: those there are, and those to come.
    #[arg(long)]
    children: bool,

    /// When the target has ended, wait until it runs again, and attach again.
    #[arg(long, conflicts_with = "command")]
    follow: bool,

    /// Start this program, attach before its `main`, and end it with qprof; its exit code becomes
    /// qprof's.
    #[arg(last = true, value_name = "CMD", conflicts_with = "pid")]
    command: Vec<OsString>,

    /// Symbol map: a built-in name (`qprof maps`) or a file; default: the built-in one that fits.
    /// May be given several times.
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

    /// Size of the kernel's ring buffer: a power of two, at least 4KiB.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = units::size)]
    ring: u32,

    /// How many functions one pattern of the map may match.
    #[arg(long, value_name = "N", default_value = "256", value_parser = units::count)]
    max_functions: usize,

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

    /// What to print on stdout.
    #[arg(long, value_name = "WHAT", default_value = "summary")]
    output: Output,

    /// Write traces to FILE as OTLP JSON, a line a batch.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Keep only traces whose root takes at least this long. The summary still counts all.
    #[arg(long, value_name = "TIME", value_parser = units::duration)]
    slow: Option<Duration>,

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

    /// How long a trace may wait for its last span.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    grace: Duration,

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
enum ProtocolArg {
    Grpc,
    #[value(name = "http/protobuf", alias = "http")]
    Http,
}

impl OutArgs {
    /// As the agent wants it: nothing below here knows clap.
    pub(super) fn settings(&self, color: bool) -> agent::OutSettings {
        agent::OutSettings {
            otlp: OtlpFlags {
                endpoint: self.otlp.clone(),
                protocol: self.protocol.map(|protocol| match protocol {
                    ProtocolArg::Grpc => Protocol::Grpc,
                    ProtocolArg::Http => Protocol::HttpProtobuf,
                }),
            },
            file: self.file.clone(),
            print: match self.output {
                Output::Summary => agent::Print::Summary,
                Output::Tree => agent::Print::Tree,
                Output::Json => agent::Print::Json,
                Output::None => agent::Print::Nothing,
            },
            style: TreeStyle {
                colour: color,
                width: agent::terminal_width(std::io::stdout()),
                max_spans: None,
            },
            slow: self.slow,
            min_span: self.min_span,
            service: self.service.clone(),
            grace: self.grace,
            summary_json: self.summary_json.clone(),
        }
    }
}

fn whom(args: &RunArgs) -> Whom {
    if let Some(glob) = &args.exe {
        return Whom::Exe(glob.clone());
    }
    if !args.command.is_empty() {
        return Whom::Command(args.command.clone());
    }
    Whom::Processes(args.pid.iter().copied().map(Pid).collect())
}

pub(super) fn run(args: &RunArgs, color: bool, quiet: bool) -> anyhow::Result<ExitCode> {
    let settings = RunSettings {
        aim: RunAim {
            whom: whom(args),
            children: args.children,
            follow: args.follow,
            maps: args.map.clone(),
            max_functions: args.max_functions,
        },
        attach: AttachOptions { ring_bytes: args.ring, kernel_log: args.kernel_log },
        record: args.record.clone(),
        duration: args.duration,
        out: args.out.settings(color),
        quiet,
    };
    let ended = agent::run(&settings)?;
    // What was asked of us goes before what the program says of itself.
    Ok(match (Outcome::of_run(ended), ended.code) {
        (Outcome::Ok, Some(code)) => ExitCode::from(code),
        (outcome, _) => outcome.into(),
    })
}
