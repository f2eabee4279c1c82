//! A program of the benches that is told what to do line by line, and answers line by line.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::child::Guarded;
use crate::cli::Context;
use crate::command;

/// How long one may take to end once its input has ended.
const END_LIMIT: Duration = Duration::from_secs(60);

/// The running program; dropping it ends it.
#[derive(Debug)]
pub(super) struct Talker {
    child: Guarded,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    name: &'static str,
}

impl Talker {
    /// Starts it, says `first`, and waits for its first line, which says that it is ready.
    ///
    /// # Errors
    /// When it cannot be started or says nothing.
    pub(super) fn start(name: &'static str, command: &mut Command, first: &str) -> Result<Self> {
        let mut child = Guarded::start_talking(name, command)?;
        let input = child.take_stdin().with_context(|| format!("{name} has no input"))?;
        let output = child.take_stdout().with_context(|| format!("{name} has no output"))?;
        let mut talker = Self { child, input, output: BufReader::new(output).lines(), name };
        talker.input.write_all(first.as_bytes())?;
        talker.hear()?;
        Ok(talker)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Says a line.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .with_context(|| format!("{} does not listen", self.name))
    }

    /// Says a line and waits for the answer.
    ///
    /// # Errors
    /// When it has ended.
    pub(super) fn ask(&mut self, line: &str) -> Result<String> {
        self.say(line)?;
        self.hear()
    }

    fn hear(&mut self) -> Result<String> {
        match self.output.next() {
            Some(line) => Ok(line?),
            None => match self.child.wait(END_LIMIT)? {
                Some(status) => bail!("{} has ended ({status})", self.name),
                None => bail!("{} has closed its output", self.name),
            },
        }
    }

    /// Ends its input and waits for its end: the lines it said until then.
    ///
    /// # Errors
    /// When it does not end, or fails.
    pub(super) fn end(self) -> Result<Vec<String>> {
        let Self { mut child, input, output, name } = self;
        drop(input);
        let said = output.collect::<std::io::Result<Vec<_>>>()?;
        match child.wait(END_LIMIT)? {
            Some(status) if status.success() => Ok(said),
            Some(status) => bail!("{name} failed ({status})"),
            None => bail!("{name} did not end"),
        }
    }
}

/// Compiles `xtask/bench/NAME.c` into `dir`.
///
/// # Errors
/// When the compiler fails.
pub(super) fn compile(context: &Context, dir: &Path, name: &str) -> Result<PathBuf> {
    let program = dir.join(name);
    command::run(
        Command::new("cc")
            .args(["-O2", "-g", "-pthread", "-o"])
            .arg(&program)
            .arg(context.root.join("xtask/bench").join(format!("{name}.c"))),
    )?;
    Ok(program)
}
