//! `qprof doctor`: can this machine do it?

use std::io::Write;

use clap::Args;

use super::Outcome;
use crate::doctor::diagnose;

pub(super) use crate::doctor::{child, form_child};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Measure again what was measured since this machine was started.
    #[arg(long)]
    again: bool,
}

pub(super) fn run(args: &DoctorArgs, out: &mut impl Write) -> anyhow::Result<Outcome> {
    let diagnosis = diagnose(args.again);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &diagnosis)?;
        writeln!(out)?;
    } else {
        out.write_all(diagnosis.to_text().as_bytes())?;
    }
    Ok(if diagnosis.ready { Outcome::Ok } else { Outcome::Kernel })
}
