//! Small targets, compiled from `fixtures/` and driven over stdin and stdout.
//!
//! Every fixture that is driven speaks alike: it prints `ready` when it is set up, begins when it
//! reads a line, prints `done` when its work is over, and ends when stdin is closed.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::environment::{repository, target_directory};
use crate::process::{Finished, Process, tail};
use crate::timeout::{PATIENCE, until};

/// Compiles `fixtures/SOURCE` with `flags`; the result is kept per source and flags.
///
/// The language is told by the extension: `.c`, `.cc`, `.rs`.
///
/// # Errors
/// When there is no compiler, or it refuses the source.
pub fn build(source: &str, flags: &[&str]) -> Result<PathBuf> {
    let source = repository().join("tests/fixtures").join(source);
    compile(&source, flags)
}

/// As [`build`], by a compiler that takes the arguments of the usual one.
///
/// # Errors
/// As [`build`].
pub fn build_by(compiler: &str, source: &str, flags: &[&str]) -> Result<PathBuf> {
    compile_by(Some(compiler), &repository().join("tests/fixtures").join(source), flags)
}

/// As [`build`], for a source that a test wrote itself.
///
/// # Errors
/// As [`build`].
pub fn compile(source: &Path, flags: &[&str]) -> Result<PathBuf> {
    compile_by(None, source, flags)
}

fn compile_by(by: Option<&str>, source: &Path, flags: &[&str]) -> Result<PathBuf> {
    let stem = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let (compiler, always): (&str, &[&str]) = match source.extension().and_then(|e| e.to_str()) {
        Some("c") => ("gcc", &["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread"]),
        Some("cc") => ("g++", &["-std=c++17", "-Wall", "-Wextra", "-Werror", "-pthread"]),
        Some("rs") => ("rustc", &["--edition=2024"]),
        other => bail!("no compiler for {other:?} ({})", source.display()),
    };
    let compiler = by.unwrap_or(compiler);
    let mut hash = DefaultHasher::new();
    let text = fs::read(source).with_context(|| format!("reading {}", source.display()))?;
    let fixtures = repository().join("tests/fixtures");
    let headers = [fs::read(fixtures.join("truth.h"))?, fs::read(fixtures.join("talk.h"))?];
    (&text, &headers, compiler, always, flags).hash(&mut hash);
    let directory = target_directory().join("qprof-fixtures");
    fs::create_dir_all(&directory)?;
    let built = directory.join(format!("{stem}-{:016x}", hash.finish()));
    if built.is_file() {
        return Ok(built);
    }
    // Two tests may build the same at once: the rename makes either one whole.
    let mut half = built.clone().into_os_string();
    half.push(format!(".{}-{:?}", std::process::id(), std::thread::current().id()));
    let mut command = Command::new(compiler);
    command.args(always).arg(source).arg("-o").arg(&half).args(flags);
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed: {}", tail(&said));
    fs::rename(&half, &built)?;
    Ok(built)
}

/// A fixture that runs, set up and waiting for its start.
#[derive(Debug)]
pub struct Fixture {
    process: Process,
}

impl Fixture {
    /// Starts it and waits until it is `ready`.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn start(binary: &Path, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary);
        command.args(arguments);
        let name = binary.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut fixture = Self { process: Process::spawn(&name, command)? };
        fixture.until_line("ready")?;
        Ok(fixture)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has written to stdout.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Lets it do its work, and waits until that is `done`.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn work(&mut self) -> Result<()> {
        self.go()?;
        self.done()
    }

    /// Waits until its work is `done`.
    ///
    /// # Errors
    /// When it ends before that.
    pub fn done(&mut self) -> Result<()> {
        self.until_line("done")
    }

    /// Lets it begin.
    ///
    /// # Errors
    /// When it has ended.
    pub fn go(&mut self) -> Result<()> {
        self.process.say("go")
    }

    /// Whether it runs.
    #[must_use]
    pub fn alive(&mut self) -> bool {
        self.process.alive()
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(&mut self) -> Result<Finished> {
        self.process.kill()
    }

    /// Lets it end, and waits for that.
    ///
    /// # Errors
    /// When it does not end.
    pub fn finish(mut self) -> Result<Finished> {
        self.process.close_stdin();
        self.process.wait(PATIENCE)
    }

    fn until_line(&mut self, line: &str) -> Result<()> {
        let what = format!("the fixture to say {line}");
        until(PATIENCE, &what, || {
            if self.process.stdout().lines().any(|said| said == line) {
                return Ok(Some(()));
            }
            if !self.process.alive() {
                let end = self.process.wait(Duration::ZERO)?;
                bail!("the fixture ended ({:?}, signal {:?})", end.code, end.signal);
            }
            Ok(None)
        })
        .with_context(|| format!("its stderr: {}", tail(&self.process.stderr())))
    }
}
