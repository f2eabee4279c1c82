//! What is attached to a target while it is measured: Qprof, or a rival.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::talker::Talker;
use crate::child::{Guarded, TICK};
use crate::command::{stdout_of, succeeds};
use crate::json::Json;
use crate::qprof::Attached;
use crate::sys;

/// The `qprof` that is measured.
#[derive(Debug, Clone)]
pub(super) struct Build {
    pub(super) program: PathBuf,
    /// It ends calls by landings unless told `--exits ret`; else it knows only `ret` sites.
    pub(super) lands: bool,
    /// It keeps a budget unless told `--budget off`.
    pub(super) budgets: bool,
}

/// What may be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracer {
    Off,
    Qprof,
    /// Qprof with all exits at `ret` sites.
    Ret,
    /// A hand-written pair of entry probe and return probe.
    Pair,
    Bpftrace,
}

/// What came of a run of Qprof.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outcome {
    pub(super) spans: f64,
    /// Events the kernel side wrote.
    pub(super) events: f64,
    pub(super) lost: f64,
    /// Share of the frames that ended by a landing.
    pub(super) landed: f64,
    /// From the request to detach to the end of the process.
    pub(super) detach: Duration,
}

impl Tracer {
    /// How long what it learned of a target may take to be used. Qprof keeps a function's `ret`
    /// sites for a second after the last call it saw without a landing.
    pub(super) const fn settling(self) -> Duration {
        match self {
            Self::Qprof => Duration::from_millis(2500),
            Self::Off | Self::Ret | Self::Pair | Self::Bpftrace => Duration::from_millis(200),
        }
    }
}

impl Build {
    /// Finds out what `program` can.
    pub(super) fn of(program: PathBuf) -> Self {
        let knows = |words: [&str; 2]| {
            succeeds(
                Command::new(&program)
                    .arg("run")
                    .args(words)
                    .arg("--help")
                    .stdout(Stdio::null())
                    .stderr(Stdio::null()),
            )
        };
        let (lands, budgets) = (knows(["--exits", "ret"]), knows(["--budget", "off"]));
        Self { program, lands, budgets }
    }

    /// Where the functions of these names begin in the file `target`.
    ///
    /// # Errors
    /// When `qprof symbols` does not know one.
    pub(super) fn offsets(&self, target: &Path, names: &[String]) -> Result<Vec<u64>> {
        let offset = |name: &String| {
            let mut symbols = Command::new(&self.program);
            symbols.arg("symbols").arg(target).args([name, "--json"]);
            let listing = Json::parse(&stdout_of(&mut symbols)?)?;
            let Json::List(functions) = listing else { bail!("`qprof symbols` printed no list") };
            functions
                .iter()
                .find(|function| function.text("linkage") == Some(name))
                .and_then(|function| function.text("offset")?.strip_prefix("0x"))
                .and_then(|hex| u64::from_str_radix(hex, 16).ok())
                .with_context(|| format!("`qprof symbols` does not know {name}"))
        };
        names.iter().map(offset).collect()
    }

    /// What has `qprof run` go on at any price: what is measured is the whole price.
    pub(super) fn at_any_price(&self) -> &'static [&'static str] {
        if self.budgets { &["--budget", "off"] } else { &[] }
    }

    /// [`Tracer::Qprof`], and [`Tracer::Ret`] where that is something else.
    pub(super) fn variants(&self) -> &'static [Tracer] {
        if self.lands { &[Tracer::Qprof, Tracer::Ret] } else { &[Tracer::Qprof] }
    }

    /// What a column with its own numbers is called.
    pub(super) fn own_column(&self) -> &'static str {
        if self.lands { "qprof" } else { "qprof (a build with `ret` sites only)" }
    }
}

/// A run of Qprof that writes its summary.
#[derive(Debug)]
pub(super) struct Run {
    attached: Attached,
    summary: PathBuf,
}

impl Run {
    /// Attaches with `map`, at any price; traces are not printed. `words` go to `qprof run` as they
    /// are.
    ///
    /// # Errors
    /// As [`Attached::start`].
    pub(super) fn start(
        build: &Build,
        tracer: Tracer,
        pid: u32,
        map: &Path,
        scratch: &Path,
        words: &[&str],
    ) -> Result<Self> {
        let words = [words, build.at_any_price()].concat();
        Self::within(build, tracer, pid, map, scratch, &words)
    }

    /// The same within the budget that it keeps by itself, or that `words` tell.
    ///
    /// # Errors
    /// As [`Attached::start`].
    pub(super) fn within(
        build: &Build,
        tracer: Tracer,
        pid: u32,
        map: &Path,
        scratch: &Path,
        words: &[&str],
    ) -> Result<Self> {
        let summary = scratch.join("summary.json");
        let utf8 = |path: &Path| path.to_str().map(str::to_owned).context("a path is not UTF-8");
        let (map, summary_text) = (utf8(map)?, utf8(&summary)?);
        let mut all = vec!["-m", &map, "--output", "none", "--summary-json", &summary_text];
        if tracer == Tracer::Ret && build.lands {
            all.extend(["--exits", "ret"]);
        }
        all.extend(words);
        Ok(Self { attached: Attached::start(&build.program, pid, &all, false)?, summary })
    }

    pub(super) fn pid(&self) -> u32 {
        self.attached.pid()
    }

    /// From its start to the line that says it is attached.
    pub(super) fn after(&self) -> Duration {
        self.attached.after
    }

    /// As [`Attached::said`].
    pub(super) fn said(&self) -> impl Iterator<Item = (Instant, String)> + '_ {
        self.attached.said()
    }

    /// Detaches, and reads what it counted.
    ///
    /// # Errors
    /// When it does not end well or writes no summary.
    pub(super) fn finish(self) -> Result<Outcome> {
        let started = Instant::now();
        self.attached.finish()?;
        let detach = started.elapsed();
        let text = fs::read_to_string(&self.summary)
            .with_context(|| format!("qprof wrote no {}", self.summary.display()))?;
        outcome(&Json::parse(&text)?, detach)
    }

    /// The same of a run whose cost is to be compared.
    ///
    /// # Errors
    /// When it lost something, besides.
    pub(super) fn finish_whole(self) -> Result<Outcome> {
        let outcome = self.finish()?;
        if outcome.lost > 0.0 {
            bail!("qprof lost {} events, so its cost is not comparable", outcome.lost);
        }
        Ok(outcome)
    }
}

fn outcome(summary: &Json, detach: Duration) -> Result<Outcome> {
    let ended = match summary.at("exits") {
        Some(Json::Object(kinds)) => kinds.iter().map(|(kind, _)| kind.as_str()).collect(),
        _ => Vec::new(),
    };
    let of = |kind: &str| summary.number(&format!("exits.{kind}"));
    let mut all = 0.0;
    for kind in ended {
        all += of(kind)?;
    }
    Ok(Outcome {
        spans: summary.number("spans")?,
        events: summary.number("kernel.emitted")?,
        lost: summary.number("lost")?,
        landed: if all > 0.0 { of("landing").unwrap_or(0.0) / all } else { 0.0 },
        detach,
    })
}

/// The rival with return probes, or a counter of calls: `xtask/bench/probe.c`.
///
/// # Errors
/// When it cannot attach.
pub(super) fn probe(
    program: &Path,
    what: &str,
    pid: u32,
    sites: &[(&Path, u64)],
) -> Result<Talker> {
    let mut first = String::new();
    for (path, offset) in sites {
        let _ = writeln!(first, "{} {offset}", path.display());
    }
    first.push_str("go\n");
    let mut command = Command::new(program);
    Talker::start("the probe", command.arg(what).arg(pid.to_string()), &first)
}

/// bpftrace with a script of ours, attached. Dropping it ends it, and with it its probes: bpftrace
/// 0.17 sometimes goes on after an interrupt.
#[derive(Debug)]
pub(super) struct Bpftrace {
    _child: Guarded,
}

impl Bpftrace {
    /// Starts it with `probes`, and waits until it is attached; none when it is not within `limit`.
    ///
    /// # Errors
    /// When it ends before.
    pub(super) fn start(
        scratch: &Path,
        probes: &str,
        pid: u32,
        limit: Duration,
    ) -> Result<Option<Self>> {
        // The interval's first turn comes when all probes are attached.
        let script = format!(
            "{probes} interval:ms:10 /@said == 0/ {{ @said = 1; printf(\"attached\\n\"); }}"
        );
        // More probes than fit a command line.
        let file = scratch.join("probes.bt");
        fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
        let started = Instant::now();
        let mut child = Guarded::start(
            "bpftrace",
            Command::new("bpftrace")
                // Its default limit is lower than what is asked of it here.
                .env("BPFTRACE_MAX_PROBES", "4096")
                // Places in stripped files are taken only so.
                .args(["--unsafe", "-B", "line", "-p", &pid.to_string()])
                .arg(&file)
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
        )?;
        let output = child.take_stdout().context("bpftrace has no output")?;
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody listens any more once it is attached.
                let _ = sender.send(line);
            }
        });
        loop {
            match lines.recv_timeout(TICK) {
                Ok(line) if line == "attached" => return Ok(Some(Self { _child: child })),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) if started.elapsed() >= limit => return Ok(None),
                Err(RecvTimeoutError::Timeout) => sys::check_stop()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let status = child.wait(limit)?;
                    bail!("bpftrace ended before it was attached ({status:?})");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_summary_says() {
        let text = r#"{"spans": 10, "lost": 1, "kernel": {"emitted": 21},
                       "exits": {"landing": 6, "ret": 2}}"#;
        let outcome = outcome(&Json::parse(text).unwrap(), Duration::ZERO).unwrap();
        assert!((outcome.landed - 0.75).abs() < 1e-9);
        assert!((outcome.events - 21.0).abs() < 1e-9);
        assert!(super::outcome(&Json::parse("{}").unwrap(), Duration::ZERO).is_err());
    }
}
