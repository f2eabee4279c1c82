//! The program under test, run as a person would.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::environment::{self, scratch};
use crate::process::{Finished, Process, run, tail};
use crate::timeout::{PATIENCE, until};

/// `qprof run`, not yet started.
#[derive(Debug)]
pub struct Run {
    command: Command,
    directory: PathBuf,
    /// The program to start, and its arguments: they come last.
    program: Vec<OsString>,
    budget: String,
}

/// `qprof run`, attached.
#[derive(Debug)]
pub struct Running {
    process: Process,
    attached: String,
    summary: PathBuf,
}

/// A run that has ended.
#[derive(Clone, Debug)]
pub struct Done {
    /// How it ended, and what it said.
    pub finished: Finished,
    /// What it counted.
    pub summary: Summary,
}

/// The summary as JSON (`--summary-json`).
#[derive(Clone, Debug)]
pub struct Summary(pub Value);

impl Summary {
    /// The number at a path of keys.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, path: &[&str]) -> Result<u64> {
        let found = path.iter().fold(&self.0, |value, key| &value[key]);
        found.as_u64().ok_or_else(|| anyhow!("no number at {path:?} in the summary {}", self.0))
    }

    /// Nothing lost, and no span without its parent: neither in the kernel nor after it.
    ///
    /// # Errors
    /// What was lost.
    pub fn check_nothing_lost(&self) -> Result<()> {
        for key in ["lost", "orphans"] {
            ensure!(self.number(&[key])? == 0, "{key} is not 0: {}", self.0);
        }
        Ok(())
    }
}

impl Run {
    /// `qprof run -p PID`.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn on(pid: u32) -> Result<Self> {
        Self::with(&["-p", &pid.to_string()])
    }

    /// `qprof run -- PROGRAM ARGUMENTS…`.
    ///
    /// # Errors
    /// As [`Run::on`].
    pub fn command(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<Self> {
        let mut run = Self::with::<&str>(&[])?;
        run.program.push(program.as_ref().to_owned());
        run.program.extend(arguments.iter().map(OsString::from));
        Ok(run)
    }

    /// `qprof run ARGUMENTS…`.
    ///
    /// # Errors
    /// As [`Run::on`].
    pub fn with<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Self> {
        let directory = scratch("qprof")?;
        let mut command = Command::new(environment::qprof()?);
        // What the shell of whoever runs the tests exports must not steer them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("OTEL_") {
                command.env_remove(name);
            }
        }
        command.arg("run").args(arguments).arg("--summary-json");
        command.arg(directory.join("summary.json"));
        Ok(Self { command, directory, program: Vec::new(), budget: "off".to_owned() })
    }

    /// A directory for what this run writes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// `-m MAP`: a built-in map's name, or a file.
    #[must_use]
    pub fn map(self, map: impl AsRef<OsStr>) -> Self {
        self.arg("-m").arg(map)
    }

    /// `--output KIND`.
    #[must_use]
    pub fn output(self, kind: &str) -> Self {
        self.arg("--output").arg(kind)
    }

    /// `--budget BUDGET`. Without, `off`: what a test asks of a server within a second, and on a machine
    /// that does other things too, says nothing of what the probes cost in production.
    #[must_use]
    pub fn budget(mut self, budget: &str) -> Self {
        budget.clone_into(&mut self.budget);
        self
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it and waits until it says that it is attached.
    ///
    /// # Errors
    /// When it ends before that, or does not say so in time.
    pub fn start(self) -> Result<Running> {
        let (mut process, summary) = self.spawn()?;
        let attached = until(PATIENCE, "qprof to attach", || {
            let stderr = process.stderr();
            if let Some(line) = stderr.lines().find(|line| line.starts_with("attached")) {
                return Ok(Some(line.to_owned()));
            }
            ensure!(process.alive(), "qprof ended before it was attached: {}", tail(&stderr));
            Ok(None)
        })
        .with_context(|| format!("stderr of qprof: {}", tail(&process.stderr())))?;
        Ok(Running { process, attached, summary })
    }

    /// Starts it and waits for its end, which it is expected to find by itself.
    ///
    /// # Errors
    /// When it does not end.
    pub fn fail(self) -> Result<Finished> {
        let (mut process, _) = self.spawn()?;
        process.wait(PATIENCE)
    }

    /// Starts it, and does not wait for anything.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut self) -> Result<(Process, PathBuf)> {
        self.command.args(["--budget", &self.budget]);
        if !self.program.is_empty() {
            self.command.arg("--").args(&self.program);
        }
        let summary = self.directory.join("summary.json");
        Ok((Process::spawn_in("qprof", self.command, self.directory)?, summary))
    }
}

impl Running {
    /// The line that said so: `attached: 9 functions, 31 sites in 0.31 s …`.
    #[must_use]
    pub fn attached(&self) -> &str {
        &self.attached
    }

    /// What it has written to stderr so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// What it has written to stdout so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Waits until it has said something on stderr so many times.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn until_said(&mut self, what: &str, times: usize) -> Result<()> {
        until(PATIENCE, &format!("qprof to say {what:?} {times} times"), || {
            let alive = self.process.alive();
            if self.process.stderr().matches(what).count() >= times {
                return Ok(Some(()));
            }
            ensure!(alive, "qprof has ended");
            Ok(None)
        })
        .with_context(|| format!("stderr of qprof: {}", tail(&self.process.stderr())))
    }

    /// Says something to the program that it has started, and waits for its answer.
    ///
    /// # Errors
    /// When either ends before that.
    pub fn ask(&mut self, line: &str) -> Result<String> {
        self.process.ask(line)
    }

    /// Waits for the next line of the program that it has started.
    ///
    /// # Errors
    /// When either ends before that.
    pub fn hear(&mut self) -> Result<String> {
        self.process.hear()
    }

    /// Closes the stdin of the program that it has started.
    pub fn close_stdin(&mut self) {
        self.process.close_stdin();
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ctrl-C, and waits for the summary.
    ///
    /// # Errors
    /// When it does not end, or leaves no summary.
    pub fn stop(mut self) -> Result<Done> {
        self.signal(Signal::INT)?;
        self.wait()
    }

    /// Waits until it has ended by itself, as it does when the target is gone.
    ///
    /// # Errors
    /// When it does not end, or leaves no summary.
    pub fn wait(mut self) -> Result<Done> {
        let finished = self.process.wait(PATIENCE)?;
        let summary = read_summary(&self.summary)
            .with_context(|| format!("stderr of qprof: {}", tail(&finished.stderr)))?;
        Ok(Done { finished, summary })
    }

    /// `kill -9`.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(mut self) -> Result<Finished> {
        self.process.kill()
    }
}

impl Done {
    /// That it ended as it should: exit code 0.
    ///
    /// # Errors
    /// When it did not; the message carries what it said.
    pub fn check_ok(&self) -> Result<()> {
        check_code(&self.finished, 0)
    }
}

/// Reads a summary that `--summary-json` wrote.
///
/// # Errors
/// When it is not there, or not JSON.
pub fn read_summary(path: &Path) -> Result<Summary> {
    let text =
        fs::read_to_string(path).with_context(|| format!("no summary at {}", path.display()))?;
    Ok(Summary(serde_json::from_str(&text)?))
}

/// That a run ended with this exit code, and not by a panic.
///
/// # Errors
/// When it did not; the message carries what it said.
pub fn check_code(finished: &Finished, code: i32) -> Result<()> {
    ensure!(
        finished.code == Some(code),
        "exit code {:?} (signal {:?}) instead of {code}; stderr: {}",
        finished.code,
        finished.signal,
        tail(&finished.stderr)
    );
    ensure!(!finished.stderr.contains("panicked at"), "it panicked: {}", finished.stderr);
    Ok(())
}

/// Any other verb, run to its end: `verb(&["doctor", "--json"])`.
///
/// # Errors
/// When there is no binary, or it does not end.
pub fn verb<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Finished> {
    let mut command = Command::new(environment::qprof()?);
    command.args(arguments);
    run("qprof", command, PATIENCE)
}

/// What `qprof check --json` answers.
#[derive(Clone, Debug)]
pub struct Check {
    /// The functions that would be probed.
    pub functions: Vec<CheckedFunction>,
    /// What would not be, and why.
    pub skipped: Vec<(String, String)>,
}

/// A function that would be probed.
#[derive(Clone, Debug)]
pub struct CheckedFunction {
    /// What its calls tell: `calls`, `unwinding`, `loading`.
    pub watches: String,
    /// Demangled.
    pub function: String,
    /// The object's file name.
    pub object: String,
    /// The span it makes.
    pub span: Option<String>,
    /// Its sites.
    pub sites: Vec<CheckedSite>,
    /// Where direct calls of it will be seen to come back, in the file.
    pub landings: Vec<u64>,
}

/// A site that would be probed.
#[derive(Clone, Debug)]
pub struct CheckedSite {
    /// `enter`, `ret`, …
    pub role: String,
    /// Where in the file.
    pub offset: u64,
    /// What a hit costs.
    pub cost: String,
    /// The instruction, disassembled.
    pub instruction: String,
}

/// `qprof check -p PID -m MAP --json`.
///
/// # Errors
/// When it fails, or answers in another form.
pub fn check(pid: u32, map: &str) -> Result<Check> {
    let finished = verb(&["check", "-p", &pid.to_string(), "-m", map, "--json"])?;
    check_code(&finished, 0)?;
    let answer: Value = serde_json::from_str(&finished.stdout)
        .with_context(|| format!("not JSON: {}", finished.stdout))?;
    let functions = list(&answer["probes"])?
        .iter()
        .map(|function| {
            let sites = list(&function["sites"])?.iter().map(site).collect::<Result<_>>()?;
            Ok(CheckedFunction {
                watches: word(&function["watches"])?,
                function: word(&function["function"])?,
                object: word(&function["object"])?,
                span: function["span"].as_str().map(str::to_owned),
                sites,
                landings: landings(&function["ends"]),
            })
        })
        .collect::<Result<_>>()?;
    let skipped = list(&answer["skipped"])?
        .iter()
        .map(|skipped| Ok((word(&skipped["what"])?, word(&skipped["why"])?)))
        .collect::<Result<_>>()?;
    Ok(Check { functions, skipped })
}

fn site(site: &Value) -> Result<CheckedSite> {
    let offset = match &site["offset"] {
        // Addresses read better in hex, and JSON has none.
        Value::String(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16)?,
        other => other.as_u64().ok_or_else(|| anyhow!("a site without an offset: {site}"))?,
    };
    Ok(CheckedSite {
        role: word(&site["role"])?,
        offset,
        cost: word(&site["cost"])?,
        instruction: word(&site["instruction"])?,
    })
}

fn landings(ends: &Value) -> Vec<u64> {
    let calls = ends["calls"].as_array().into_iter().flatten();
    calls
        .flat_map(|call| [&call["landing"]["offset"], &call["point"]["offset"]])
        .filter_map(Value::as_u64)
        .collect()
}

fn list(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().ok_or_else(|| anyhow!("expected a list, found {value}"))
}

fn word(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| anyhow!("expected text, found {value}"))
}
