//! `--config FILE`: what a command line leaves open.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::units;
use crate::agent::{Aim, RunAim, Search, Whom};
use crate::config::{Settings, SettingsError, load_settings};
use crate::model::Pid;
use crate::plan::KernelForms;

/// How many functions a pattern may match, unless something else is said.
const MAX_FUNCTIONS: usize = 256;

#[derive(Debug, Default, Args)]
pub(super) struct ConfigArg {
    /// Take what no flag and no OTEL_* variable says from this file (docs/configuration.md).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArg {
    /// The file's settings; without a file, none.
    pub(super) fn load(&self) -> Result<Settings, SettingsError> {
        self.config.as_deref().map_or_else(|| Ok(Settings::default()), load_settings)
    }
}

/// Whom to profile: one of these, here or in the file.
#[derive(Debug, Default, Args)]
pub(super) struct TargetArgs {
    /// A process to attach to; may be given several times.
    #[arg(short, long)]
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
}

/// Whom to profile by which maps: flag, then file, then default. `forms`: what this kernel may be
/// trusted with.
pub(super) fn run_aim(
    args: &TargetArgs,
    maps: &[String],
    search_args: &SearchArgs,
    settings: &Settings,
    forms: KernelForms,
) -> Result<RunAim, SettingsError> {
    let file = &settings.target;
    let pids = |pids: &[u32]| Whom::Processes(pids.iter().copied().map(Pid).collect());
    let whom = if let Some(glob) = &args.exe {
        Whom::Exe(glob.clone())
    } else if !args.command.is_empty() {
        Whom::Command(args.command.clone())
    } else if !args.pid.is_empty() {
        pids(&args.pid)
    } else if let Some(glob) = &file.exe {
        Whom::Exe(glob.clone())
    } else if !file.pids.is_empty() {
        pids(&file.pids)
    } else {
        return Err(SettingsError::NoTarget);
    };
    let follow = args.follow || file.follow == Some(true);
    Ok(RunAim {
        // What was started is not waited for.
        follow: follow && !matches!(whom, Whom::Command(_)),
        whom,
        children: args.children || file.children == Some(true),
        search: search(search_args, settings, forms),
        maps: named(maps, settings),
    })
}

/// The one process to look at, by which maps; `forms`: what this kernel may be trusted with.
pub(super) fn aim(
    pid: Option<u32>,
    maps: &[String],
    search_args: &SearchArgs,
    settings: &Settings,
    forms: KernelForms,
) -> Result<Aim, SettingsError> {
    let pid = match (pid, settings.target.pids.as_slice()) {
        (Some(pid), _) => pid,
        (None, [pid]) => *pid,
        (None, []) => return Err(SettingsError::NoTarget),
        (None, _) => return Err(SettingsError::SeveralTargets),
    };
    let search = search(search_args, settings, forms);
    Ok(Aim { pid: Pid(pid), maps: named(maps, settings), search })
}

fn named(maps: &[String], settings: &Settings) -> Vec<String> {
    if maps.is_empty() { settings.maps.clone() } else { maps.to_vec() }
}

/// How maps and functions are looked for: the same for all verbs that plan.
#[derive(Debug, Default, Args)]
pub(super) struct SearchArgs {
    /// How many functions one pattern of the map may match [default: 256].
    #[arg(long, value_name = "N", value_parser = units::count)]
    max_functions: Option<usize>,

    /// Take what must be known of the version of Go that built the target from FILE: any program that
    /// the same Go built with debug information.
    #[arg(long, value_name = "FILE")]
    go_offsets_from: Option<PathBuf>,
}

fn search(args: &SearchArgs, settings: &Settings, forms: KernelForms) -> Search {
    let max_functions = args.max_functions;
    Search {
        forms,
        go_offsets_from: args.go_offsets_from.as_deref().map(Arc::from),
        folders: settings.map_dirs.clone().into(),
        max_functions: max_functions.or(settings.max_functions).unwrap_or(MAX_FUNCTIONS),
    }
}
