//! Running programs: their output shown, kept in a log, or read.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::sys;

/// How many lines of a failed step's log are shown.
const LOG_TAIL: usize = 30;

/// The command about as a person would type it, for messages.
pub(crate) fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut text = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// Runs `command` with its output going where ours goes.
///
/// # Errors
/// When it cannot be started or does not succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| not_started(command))?;
    succeeded(command, status)
}

/// Runs `command` with its output going to the end of the file `log`.
///
/// # Errors
/// When it cannot be started or does not succeed; the message ends with the last lines of the log.
pub(crate) fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    let status = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .with_context(|| not_started(command))?;
    succeeded(command, status).map_err(|error| {
        anyhow!("{error:#}; the end of {}:\n{}", log.display(), tail(log, LOG_TAIL))
    })
}

/// What `command` prints on standard output.
///
/// # Errors
/// When it cannot be started, does not succeed (with what it printed on standard error), or
/// prints no UTF-8.
pub(crate) fn stdout_of(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| not_started(command))?;
    succeeded(command, output.status).map_err(|error| {
        anyhow!("{error:#}\n{}", String::from_utf8_lossy(&output.stderr).trim_end())
    })?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed no UTF-8", shown(command)))
}

/// Whether `command` starts and succeeds; what it prints is thrown away.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// The last `lines` lines of a file, or why there are none.
pub(crate) fn tail(file: &Path, lines: usize) -> String {
    match std::fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("(cannot be read: {error})"),
    }
}

pub(crate) fn not_started(command: &Command) -> String {
    format!("cannot start `{}`", shown(command))
}

fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    sys::check_stop()?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = stdout_of(Command::new("sh").args(["-c", "echo no such thing >&2; exit 7"]))
            .unwrap_err()
            .to_string();
        assert!(error.contains("exit status: 7") && error.contains("no such thing"), "{error}");
        let error = run(&mut Command::new("qprof-no-such-program")).unwrap_err();
        assert!(format!("{error:#}").contains("cannot start `qprof-no-such-program`"));
    }
}
