//! `qprof doctor`: can this machine do it?

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Outcome;
use crate::doctor::{diagnose, diagnose_process};
use crate::model::Pid;

pub(super) use crate::doctor::{child, form_child};

#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    /// Measure again what was measured since this machine was started.
    #[arg(long)]
    again: bool,

    /// Report on this process instead: what is known of the Go that built it, and whether it holds
    #[arg(short, long, value_name = "PID", conflicts_with = "again")]
    pid: Option<u32>,

    /// Take what must be known of a version of Go from a program that it built with debug
    /// information
    #[arg(long, value_name = "FILE", requires = "pid")]
    go_offsets_from: Option<PathBuf>,
}

pub(super) fn run(args: &DoctorArgs, out: &mut impl Write) -> anyhow::Result<Outcome> {
    if let Some(pid) = args.pid {
        let diagnosis = diagnose_process(Pid(pid), args.go_offsets_from.as_deref())?;
        write(&diagnosis, &diagnosis.to_text(), args.json, out)?;
        return Ok(if diagnosis.usable() { Outcome::Ok } else { Outcome::Target });
    }
    let diagnosis = diagnose(args.again);
    write(&diagnosis, &diagnosis.to_text(), args.json, out)?;
    Ok(if diagnosis.ready { Outcome::Ok } else { Outcome::Kernel })
}

fn write(
    diagnosis: &impl Serialize,
    text: &str,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    if json {
        serde_json::to_writer_pretty(&mut *out, diagnosis)?;
        writeln!(out)?;
    } else {
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}
