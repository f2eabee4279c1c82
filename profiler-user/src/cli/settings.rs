//! `--config FILE`: what a command line leaves open.

use std::path::PathBuf;

use clap::Args;

use crate::agent::Aim;
use crate::config::{Settings, SettingsError, TargetSettings, load_settings};
use crate::model::Pid;

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

/// Whom to profile by which maps: flag, then file, then default.
pub(super) fn aim(
    pid: Option<u32>,
    maps: &[String],
    max_functions: Option<usize>,
    settings: &Settings,
) -> Result<Aim, SettingsError> {
    let pid = match pid {
        Some(pid) => pid,
        None => the_pid(&settings.target)?,
    };
    refuse_unavailable(&settings.target)?;
    Ok(Aim {
        pid: Pid(pid),
        maps: if maps.is_empty() { settings.maps.clone() } else { maps.to_vec() },
        map_dirs: settings.map_dirs.clone(),
        max_functions: max_functions.or(settings.max_functions).unwrap_or(MAX_FUNCTIONS),
    })
}

fn the_pid(target: &TargetSettings) -> Result<u32, SettingsError> {
    match target.pids.as_slice() {
        [pid] => Ok(*pid),
        [] if target.exe.is_none() => Err(SettingsError::NoTarget),
        [] => Err(SettingsError::NotAvailable {
            key: "[target] exe",
            instead: "name the process with `pid`, or with --pid",
        }),
        _ => Err(SettingsError::NotAvailable {
            key: "[target] pid",
            instead: "name one process only",
        }),
    }
}

/// Nothing that is asked for is passed over in silence.
fn refuse_unavailable(target: &TargetSettings) -> Result<(), SettingsError> {
    for (wanted, key) in
        [(target.children, "[target] children"), (target.follow, "[target] follow")]
    {
        if wanted == Some(true) {
            return Err(SettingsError::NotAvailable { key, instead: "leave it out" });
        }
    }
    Ok(())
}
