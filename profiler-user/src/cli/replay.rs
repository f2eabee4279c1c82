//! `qprof replay`: a recording through the same pipeline.

use std::path::PathBuf;

use clap::Args;

use super::Outcome;
use super::run::OutArgs;
use crate::agent;
use crate::config::Settings;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// A file written by `qprof run --record`.
    #[arg(value_name = "FILE")]
    recording: PathBuf,

    #[command(flatten)]
    out: OutArgs,
}

pub(super) fn run(args: &ReplayArgs, color: bool) -> anyhow::Result<Outcome> {
    Ok(Outcome::of_run(agent::replay(
        &args.recording,
        &args.out.settings(color, &Settings::default()),
    )?))
}
