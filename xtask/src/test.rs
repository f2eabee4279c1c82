//! `test`: the tests that need no root, then those that need root, a kernel and real servers;
//! one table and one closing line over all of them.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::args::{Args, Usage};
use crate::child::{Guarded, TICK};
use crate::cli::Context;
use crate::tally::{NotRun, Tally, parse_not_run};
use crate::toolchain::Toolchain;
use crate::{build, host, say, setup, sys};

/// A hung test must not eat the time of all of CI.
const PURE_LIMIT: Duration = Duration::from_secs(25 * 60);
const ROOT_LIMIT: Duration = Duration::from_secs(45 * 60);
const FULL_LIMIT: Duration = Duration::from_secs(4 * 60 * 60);
/// The files of root tests that hold a hazard of `docs/safety.md`.
const SAFETY: [&str; 14] = [
    "attach",
    "bad_input",
    "children",
    "costs",
    "exceptions",
    "fixtures",
    "go_calls",
    "go_odd",
    "kill",
    "loading",
    "odd_targets",
    "overwritten",
    "safety",
    "storms",
];
/// How long after cargo's end something may still hold its output open.
const LEFTOVER_LIMIT: Duration = Duration::from_secs(5);

/// Which tests, and how many of each soak.
#[derive(Debug, Clone, Default)]
pub(crate) struct Choice {
    pub(crate) no_pure: bool,
    pub(crate) no_root: bool,
    pub(crate) full: bool,
    /// Of the root tests only those that hold the hazards.
    pub(crate) safety: bool,
    /// Words for the test programs, after their `--`.
    pub(crate) filter: Vec<String>,
}

/// What the phases that ran came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    phases: Vec<(&'static str, Tally, Duration)>,
    not_run: Vec<NotRun>,
    /// Checks beside the tests that failed, by name.
    pub(crate) failed_checks: Vec<String>,
}

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let safety = args.flag("--safety");
    let choice = Choice {
        no_root: args.flag("--pure"),
        no_pure: args.flag("--root-only") || safety,
        full: args.flag("--full"),
        safety,
        filter: args.passed_on(),
    };
    args.finish()?;
    if choice.no_pure && choice.no_root {
        let why = "--pure leaves nothing to run of --root-only or --safety";
        return Err(anyhow!(Usage(why.to_owned())));
    }
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let mut report = Report::default();
    let outcome = run_phases(context, &toolchain, &choice, &mut report);
    if let Err(error) = &outcome {
        // The tests that ran still count; what stopped the others is a failure beside them.
        report.failed_checks.push(format!("{error:#}"));
    }
    let code = report.close()?;
    match outcome {
        Err(error) if error.is::<host::NeedsRoot>() => Err(error),
        _ => Ok(code),
    }
}

/// Runs what `choice` asks for into `report`.
///
/// # Errors
/// What keeps a phase from being run; failed tests are no error but a part of the report.
pub(crate) fn run_phases(
    context: &Context,
    toolchain: &Toolchain,
    choice: &Choice,
    report: &mut Report,
) -> Result<()> {
    std::thread::scope(|scope| {
        // Downloads and the Go compiler keep the second core busy while rustc links.
        let servers =
            (!choice.no_root && host::is_root()).then(|| scope.spawn(|| setup::servers(context)));
        if !choice.no_pure {
            let mut cargo = toolchain.cargo();
            cargo.args(["test", "--locked", "--no-fail-fast"]);
            cargo.args(["-p", "profiler-common", "-p", "profiler-user", "-p", "xtask"]);
            report.phase("pure", &mut cargo, &choice.filter, &[], PURE_LIMIT)?;
        }
        if !choice.no_root {
            let again = "cargo xtask test --root-only";
            host::require_root("the second half of the tests", again)?;
            let qprof = build::release(context, toolchain)?;
            if let Some(servers) = servers {
                setup::joined(servers)?;
            }
            root_phase(context, toolchain, choice, &qprof, report)?;
        }
        Ok(())
    })
}

fn root_phase(
    context: &Context,
    toolchain: &Toolchain,
    choice: &Choice,
    qprof: &Path,
    report: &mut Report,
) -> Result<()> {
    let skips = skip_file(&context.root)?;
    let mut cargo = toolchain.cargo();
    cargo
        .args(["test", "--locked", "--no-fail-fast", "-p", "profiler-tests"])
        .args(
            choice.safety.then_some(SAFETY).into_iter().flatten().flat_map(|file| ["--test", file]),
        )
        .env("QPROF", qprof)
        .env("QPROF_CACHE", context.cache.root())
        .env("QPROF_SKIPS", &skips)
        .env_remove("QPROF_FULL");
    let limit = if choice.full {
        cargo.env("QPROF_FULL", "1");
        FULL_LIMIT
    } else {
        ROOT_LIMIT
    };
    let name = if choice.safety { "safety" } else { "root" };
    // One at a time: they measure, count what the kernel lost, and share two cores.
    report.phase(name, &mut cargo, &choice.filter, &["--test-threads=1"], limit)?;
    let text = std::fs::read_to_string(&skips)
        .with_context(|| format!("cannot read {}", skips.display()))?;
    report.not_run.extend(parse_not_run(&text));
    Ok(())
}

/// An empty file for the tests to say what they could not run.
fn skip_file(root: &Path) -> Result<PathBuf> {
    let dir = root.join("target/test");
    let file = dir.join("skips.tsv");
    std::fs::create_dir_all(&dir)
        .and_then(|()| std::fs::write(&file, ""))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

impl Report {
    /// Runs one `cargo test` and takes its numbers.
    fn phase(
        &mut self,
        name: &'static str,
        cargo: &mut Command,
        filter: &[String],
        harness: &[&str],
        limit: Duration,
    ) -> Result<()> {
        say::step("test", &format!("the {name} tests"));
        cargo.arg("--").args(harness).args(filter);
        let started = Instant::now();
        let tally = watched(cargo, limit, show)?;
        self.phases.push((name, tally, started.elapsed()));
        sys::check_stop()
    }

    /// Prints the table and the closing line; the exit code says whether all is well.
    ///
    /// # Errors
    /// When the kernel's version cannot be read.
    pub(crate) fn close(&self) -> Result<ExitCode> {
        let Self { phases, not_run, failed_checks } = self;
        say::out(&table(phases));
        for line in not_run {
            let kind = if line.not_applicable { "not applicable" } else { "skipped" };
            say::out(&format!("{kind}: {}: {}", line.test, line.reason));
        }
        for (phase, tally, _) in phases {
            for failure in &tally.failures {
                say::out(&format!("failed: {phase}: {failure}"));
            }
        }
        for check in failed_checks {
            say::out(&format!("failed: {check}"));
        }
        let sum = |number: fn(&Tally) -> u64| phases.iter().map(|(_, t, _)| number(t)).sum::<u64>();
        let passed = sum(|tally| tally.passed);
        let failed = sum(|tally| tally.failed) + failed_checks.len() as u64;
        let skips = not_run.iter().filter(|line| !line.not_applicable).count() as u64;
        let skipped = sum(|tally| tally.ignored) + skips;
        // A kernel that has all we ask for leaves no reason to skip.
        let skips_allowed = host::kernel_version()? < (6, 6);
        if skipped > 0 && !skips_allowed {
            say::out("this kernel is 6.6 or newer: a skipped test counts as a failed run");
        }
        say::out(&format!("\n{passed} passed, {failed} failed, {skipped} skipped"));
        let green = failed == 0 && (skipped == 0 || skips_allowed);
        Ok(if green { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn table(phases: &[(&'static str, Tally, Duration)]) -> String {
    let mut text =
        format!("\n{:<8} {:>7} {:>7} {:>8}  time", "tests", "passed", "failed", "ignored");
    for (name, tally, time) in phases {
        let Tally { passed, failed, ignored, .. } = tally;
        let time = say::seconds(*time);
        let _ = write!(text, "\n{name:<8} {passed:>7} {failed:>7} {ignored:>8}  {time}");
    }
    text
}

enum Line {
    Out(String),
    Err(String),
}

fn show(line: &Line) {
    match line {
        Line::Out(text) => say::out(text),
        Line::Err(text) => say::err(text),
    }
}

/// Runs a `cargo test` call, shows its output as it comes, and counts.
fn watched(cargo: &mut Command, limit: Duration, show: fn(&Line)) -> Result<Tally> {
    let mut child =
        Guarded::start("cargo test", cargo.stdout(Stdio::piped()).stderr(Stdio::piped()))?;
    let (sender, lines) = mpsc::channel();
    match (child.take_stdout(), child.take_stderr()) {
        (Some(out), Some(err)) => {
            forward(out, Line::Out, sender.clone());
            forward(err, Line::Err, sender);
        }
        _ => bail!("cargo test has no output to read"),
    }
    let deadline = Instant::now() + limit;
    let mut tally = Tally::default();
    let mut ended = None;
    let mut trouble = None;
    loop {
        match lines.recv_timeout(TICK) {
            Ok(line) => {
                show(&line);
                match &line {
                    Line::Out(text) => tally.stdout_line(text),
                    Line::Err(text) => tally.stderr_line(text),
                }
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() && child.poll()?.is_some() {
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|at| at.elapsed() > LEFTOVER_LIMIT) {
            trouble = Some("a test left a process behind that holds its output open".to_owned());
            break;
        }
        if ended.is_none() && (sys::stop_requested() || Instant::now() >= deadline) {
            let why = if sys::stop_requested() { "stopped on request" } else { "over its limit" };
            trouble = Some(format!("{why} after {}", say::seconds(limit)));
            child.interrupt(Duration::from_secs(10))?;
            ended = Some(Instant::now());
        }
    }
    let status = child.wait(LEFTOVER_LIMIT)?;
    Ok(tally.close(status.is_some_and(|status| status.success()), trouble))
}

/// Sends what comes on `pipe` line by line. The thread ends with the pipe.
fn forward(pipe: impl Read + Send + 'static, wrap: fn(String) -> Line, to: Sender<Line>) {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line);
            if to.send(wrap(text.trim_end_matches(['\n', '\r']).to_owned())).is_err() {
                break;
            }
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_table_of_hazards_names_is_run_for_safety() {
        let table = include_str!("../../docs/safety.md");
        let rows = table.lines().filter(|line| line.starts_with('|'));
        let mut files: Vec<&str> = rows
            .flat_map(|row| row.split('`'))
            .filter_map(|name| Some(name.split_once("::")?.0))
            .filter(|file| file.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'))
            .collect();
        files.sort_unstable();
        files.dedup();
        assert_eq!(files, SAFETY);
    }

    /// Runs it unseen: lines of results would be counted by whoever counts ours.
    fn watched(command: &mut Command, limit: Duration) -> Tally {
        super::watched(command, limit, |_| ()).unwrap()
    }

    fn script(text: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", text]);
        command
    }

    #[test]
    fn output_is_counted_and_the_exit_code_heard() {
        let ok = "echo 'test result: ok. 2 passed; 0 failed; 0 ignored'";
        let tally = watched(&mut script(ok), Duration::from_secs(20));
        assert!(tally.is_green() && tally.passed == 2);
        let tally = watched(&mut script(&format!("{ok}; exit 1")), Duration::from_secs(20));
        assert!(!tally.is_green());
    }

    #[test]
    fn a_hung_run_is_ended_and_counts_as_failed() {
        let tally = watched(&mut script("sleep 600"), Duration::from_millis(100));
        assert!(tally.failures.iter().any(|why| why.contains("over its limit")), "{tally:?}");
    }

    #[test]
    fn the_table_has_a_row_a_phase() {
        let mut tally = Tally::default();
        tally.stdout_line("test result: ok. 320 passed; 0 failed; 0 ignored");
        let text = table(&[("pure", tally, Duration::from_secs(41))]);
        assert!(text.lines().nth(2).unwrap().starts_with("pure         320       0"), "{text}");
    }
}
