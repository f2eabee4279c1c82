//! The command line: a file a verb. Only here does anything know clap.

mod check;
mod discover;
mod doctor;
mod generate;
mod maps;
mod outcome;
mod replay;
mod run;
mod settings;
mod symbols;

use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{ArgAction, CommandFactory as _, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

pub use outcome::Outcome;

use crate::{agent, units};

const EXAMPLES: &str = "\
Examples:
  sudo qprof run -p $(pidof milvus)                     trace a running server, summary at the end
  sudo qprof run -p 4711 --otlp http://127.0.0.1:4317   send its traces to Jaeger
  sudo qprof run -p 4711 -m ./my-server.toml --output tree --slow 5ms
  sudo qprof check -p 4711 -m milvus-lite               what would be probed, and at what cost
  sudo qprof discover -p 4711 -o my-server.toml         a first map of a server you do not know
  qprof symbols ./my-server 'Engine::*Search*'          find the functions for a map of your own
  sudo qprof doctor                                     can this machine do it?

Exit codes: 0 ok, 1 failed, 2 usage, 3 permission or kernel, 4 target or symbols, 5 export;
of `run -- CMD`, the program's own, 127 and 126 where there is none to run.";

/// Zero-code query profiler: traces every query of a running server, without changing it.
#[derive(Debug, Parser)]
#[command(name = "qprof", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    /// Say more on stderr (-v: info and debug of qprof, -vv: everything).
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,

    /// Say only errors on stderr.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,

    /// When to use colour.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    Always,
    Never,
}

impl Color {
    fn on(self, terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()),
        }
    }
}

#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one, and it is read once")]
enum Command {
    /// Attach to a running server and trace its queries until Ctrl-C.
    Run(run::RunArgs),
    /// Show the map and the plan for a process, without attaching anything.
    Check(check::CheckArgs),
    /// Watch an unknown server briefly and write a first symbol map for it.
    Discover(discover::DiscoverArgs),
    /// Find functions by (demangled) name in a process or an ELF file.
    Symbols(symbols::SymbolsArgs),
    /// Report whether this machine can run qprof, and what is missing.
    Doctor(doctor::DoctorArgs),
    /// List the symbol maps, print one, or say which fit a process.
    Maps(maps::MapsArgs),
    /// Send a recording (`run --record`) through the same pipeline.
    Replay(replay::ReplayArgs),
    /// Print shell completions, the man page, or the JSON Schema of maps and configuration.
    Generate(generate::GenerateArgs),
    /// The child that `doctor` traces.
    #[command(hide = true)]
    SelfTestChild,
    /// The child whose instructions `doctor` probes, in code that it finds in an open file.
    #[command(hide = true)]
    FormTestChild { file: i32 },
    /// What becomes the program of `run -- CMD`.
    #[command(hide = true)]
    ExecHeld {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<std::ffi::OsString>,
    },
}

/// Starts logging to stderr, as loud as asked; `QPROF_LOG` overrides with `tracing` directives.
pub fn start_logging(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => LevelFilter::WARN,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    };
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_env_var("QPROF_LOG")
        .with_default_directive(if cli.verbose > 1 { level } else { LevelFilter::ERROR }.into())
        .from_env_lossy();
    let filter = match format!("qprof={level}").parse() {
        Ok(directive) if std::env::var_os("QPROF_LOG").is_none() => filter.add_directive(directive),
        _ => filter,
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(cli.color.on(io::stderr().is_terminal()))
        .without_time()
        .with_target(false)
        .init();
}

/// Runs the verb and says what went wrong, if anything did.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let color = cli.color.on(io::stdout().is_terminal());
    let mut out = io::stdout().lock();
    let result = match cli.command {
        Command::Run(args) => {
            // The run writes from its own thread.
            drop(out);
            return finish(run::run(&args, color, cli.quiet));
        }
        Command::Check(args) => check::run(&args, &mut out).map(|()| Outcome::Ok),
        Command::Discover(args) => discover::run(&args, cli.quiet, &mut out).map(|()| Outcome::Ok),
        Command::Symbols(args) => symbols::run(&args, &mut out).map(|()| Outcome::Ok),
        Command::Doctor(args) => doctor::run(&args, &mut out),
        Command::Maps(args) => maps::run(&args, &mut out).map(|()| Outcome::Ok),
        Command::Replay(args) => {
            drop(out);
            return finish(replay::run(&args, color).map(ExitCode::from));
        }
        Command::Generate(args) => {
            generate::run(&args, Cli::command(), &mut out).map(|()| Outcome::Ok)
        }
        Command::SelfTestChild => doctor::child().map(|()| Outcome::Ok),
        Command::FormTestChild { file } => doctor::form_child(file).map(|()| Outcome::Ok),
        Command::ExecHeld { words } => return agent::exec_held(&words).into(),
    };
    let flushed = out.flush().map_err(anyhow::Error::from);
    finish(result.and_then(|outcome| flushed.map(|()| outcome.into())))
}

#[expect(clippy::print_stderr, reason = "the one place that reports a failed run to the user")]
fn finish(result: anyhow::Result<ExitCode>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(error) => {
            let outcome = Outcome::of_error(&error);
            // `qprof maps | head` is not a failure.
            if outcome != Outcome::Ok {
                eprintln!("qprof: {error:#}");
            }
            let of_program = error.downcast_ref().and_then(agent::CommandError::exit_code);
            of_program.map_or(outcome.into(), ExitCode::from)
        }
    }
}
