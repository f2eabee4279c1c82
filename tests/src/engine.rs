//! A Python process with a query engine in it, told what to do line by line.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use crate::environment::{cache, repository};
use crate::process::{Process, tail};
use crate::timeout::until;

/// Making the tables of a test, or a round of statements, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The process.
#[derive(Debug)]
pub struct Engine {
    process: Process,
    answered: usize,
}

impl Engine {
    /// Starts `tests/clients/SCRIPT` with things of the given sizes, and waits until it has them.
    ///
    /// # Errors
    /// When the environment is not installed, or the script fails.
    pub fn start(script: &str, sizes: &[(&str, usize)]) -> Result<Self> {
        let sizes: BTreeMap<_, _> = sizes.iter().copied().collect();
        Self::start_in("engines", script, &serde_json::to_value(sizes)?)
    }

    /// Starts `tests/clients/SCRIPT` by the Python of an environment with an argument, and waits
    /// until it is ready.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_in(environment: &str, script: &str, argument: &Value) -> Result<Self> {
        let python = cache().join("venv").join(environment).join("bin/python");
        ensure!(python.is_file(), "no {}: run `cargo xtask setup engines`", python.display());
        let mut command = Command::new(python);
        command.arg(client(script)).arg(argument.to_string());
        let process = Process::spawn(script.trim_end_matches(".py"), command)?;
        let mut engine = Self { process, answered: 0 };
        let ready = engine.answer().with_context(|| format!("starting {script}"))?;
        ensure!(ready == "ready", "{script} began with {ready}");
        Ok(engine)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// Tells it what to do, and waits for what came of it.
    ///
    /// # Errors
    /// When it has ended, or does not answer.
    pub fn ask(&mut self, task: &Value) -> Result<Value> {
        self.process.say(&task.to_string())?;
        self.answer().with_context(|| format!("asked for {task}"))
    }

    fn answer(&mut self) -> Result<Value> {
        let line = until(LIMIT, "an answer", || {
            let said = self.process.stdout();
            let whole = said.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(line) = whole.into_iter().nth(self.answered) {
                return Ok(Some(line.to_owned()));
            }
            let stderr = self.process.stderr();
            ensure!(self.process.alive(), "the process ended: {}", tail(&stderr));
            Ok(None)
        })?;
        self.answered += 1;
        serde_json::from_str(&line).map_err(|error| anyhow!("{error} in the answer {line}"))
    }
}

fn client(script: &str) -> PathBuf {
    repository().join("tests/clients").join(script)
}
