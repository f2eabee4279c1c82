//! `qprof discover`: a first symbol map of a server nobody has written one for.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;

use super::units;
use crate::agent::{DiscoverSettings, discover};
use crate::doctor::tried_kernel;
use crate::model::Pid;

/// Watch an unknown server briefly and write a first symbol map for it
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  sudo qprof discover -p $(pidof engined) > engined.toml
  sudo qprof discover -p 4711 --duration 30s -o engined.toml
  sudo qprof discover -p 4711 --object 'libengine.so*'
  sudo qprof check -p 4711 -m ./engined.toml && sudo qprof run -p 4711 -m ./engined.toml

Send the server its usual queries all the while: only what is called is seen. Watching takes 2
to 4 % of a processor from the server, in short slices; what is called too often is given up.")]
pub(super) struct DiscoverArgs {
    /// The process.
    #[arg(short, long)]
    pid: u32,

    /// How long to watch, all in all.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::duration)]
    duration: Duration,

    /// Write the map here, not to stdout.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Only objects whose file name matches [default: the executable and its own libraries].
    #[arg(long, value_name = "GLOB")]
    object: Option<String>,

    /// How many functions to watch: those whose names look most like stages of a query.
    #[arg(long, value_name = "N", default_value = "1500", value_parser = units::count)]
    max_functions: usize,
}

pub(super) fn run(args: &DiscoverArgs, quiet: bool, out: &mut impl Write) -> anyhow::Result<()> {
    let tell = |text: &str| {
        if !quiet {
            // Nobody to tell is no reason to stop.
            io::stderr().write_all(text.as_bytes()).unwrap_or_default();
        }
    };
    tell(&format!(
        "watching process {} for {:.0} s; send it queries all the while\n",
        args.pid,
        args.duration.as_secs_f64()
    ));
    let found = discover(&DiscoverSettings {
        pid: Pid(args.pid),
        duration: args.duration,
        object: args.object.clone(),
        max_functions: args.max_functions.min(profiler_common::MAX_PROBES as usize / 4),
        kernel: tried_kernel(),
    })?;
    match &args.output {
        None => out.write_all(found.text.as_bytes())?,
        Some(path) => fs::write(path, &found.text)
            .with_context(|| format!("cannot write the map to {}", path.display()))?,
    }
    tell(&format!("proposed: {}\n", found.summary));
    Ok(())
}
