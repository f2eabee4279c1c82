//! Another tracer, bpftrace: what it sees of the same target at the same time.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use rustix::time::{ClockId, clock_gettime};

use crate::process::{Process, tail};
use crate::timeout::{PATIENCE, until};

/// bpftrace, attached.
#[derive(Debug)]
pub struct Bpftrace {
    process: Process,
}

/// A function that is watched: where it is, and what its calls are to be called.
#[derive(Clone, Debug)]
pub struct Watched<'a> {
    /// One word.
    pub kind: &'a str,
    /// The file it is in.
    pub file: PathBuf,
    /// Its name there.
    pub function: &'a str,
}

/// A call that bpftrace saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Nanoseconds of the clock that counts from boot.
    pub at: u64,
    /// The thread.
    pub thread: u32,
    /// What it is called.
    pub kind: String,
}

/// By how much the wall clock is ahead of the one that counts from boot, nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct ClockOffset {
    first: i128,
    last: i128,
}

impl Bpftrace {
    /// Runs a script, in which processes without a name are the target's if there is one, and waits
    /// until its probes are there.
    ///
    /// # Errors
    /// When it is not installed, or refuses the script.
    pub fn start(pid: Option<u32>, script: &str) -> Result<Self> {
        let mut command = Command::new("bpftrace");
        // What cannot be delivered at once would be lost.
        command.env("BPFTRACE_PERF_RB_PAGES", "1024").args(["-B", "line"]);
        if let Some(pid) = pid {
            command.args(["-p", &pid.to_string()]);
        }
        // Its first line comes when its probes are there.
        command.arg("-e").arg(format!("BEGIN {{ printf(\"begun\\n\"); }} {script}"));
        let process = Process::spawn("bpftrace", command)
            .context("bpftrace is not installed: run `cargo xtask setup host`")?;
        let mut bpftrace = Self { process };
        until(PATIENCE, "bpftrace to attach", || {
            let alive = bpftrace.process.alive();
            ensure!(alive, "bpftrace ended: {}", tail(&bpftrace.process.stderr()));
            Ok(bpftrace.stdout().contains("begun").then_some(()))
        })?;
        Ok(bpftrace)
    }

    /// Notes when and on which threads functions are called, by processes of a name if one is given.
    ///
    /// # Errors
    /// As [`Bpftrace::start`].
    pub fn calls(pid: Option<u32>, of: Option<&str>, watched: &[Watched<'_>]) -> Result<Self> {
        let filter = of.map_or_else(String::new, |name| format!("/comm == \"{name}\"/"));
        let mut script = String::new();
        for Watched { kind, file, function } in watched {
            let file = file.display();
            write!(
                script,
                " uprobe:\"{file}\":{function} {filter} {{ printf(\"{kind} %d %llu\\n\", tid, nsecs); }}"
            )?;
        }
        Self::start(pid, &script)
    }

    /// What it has printed.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// Ends it, at once: it takes its time to leave by itself.
    ///
    /// # Errors
    /// When it had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Ends it when it has printed all: what it saw, by time.
    ///
    /// # Errors
    /// When it did not end well, or has lost something.
    pub fn stop(mut self) -> Result<Vec<Seen>> {
        let finished = self.process.interrupt(PATIENCE)?;
        ensure!(finished.code == Some(0), "bpftrace failed: {}", tail(&finished.stderr));
        let lost = |text: &str| text.lines().any(|line| line.starts_with("Lost "));
        ensure!(!lost(&finished.stdout) && !lost(&finished.stderr), "bpftrace has lost events");
        // At its end stand maps, if the script has any.
        let (_, lines) = finished.stdout.split_once("begun\n").context("it has not begun")?;
        let lines = lines.lines().filter(|line| line.split(' ').count() == 3);
        let mut seen = lines.map(seen).collect::<Result<Vec<_>>>()?;
        seen.sort();
        Ok(seen)
    }
}

fn seen(line: &str) -> Result<Seen> {
    let words: Vec<&str> = line.split(' ').collect();
    let [kind, thread, at] = *words.as_slice() else { bail!("not a call: {line}") };
    Ok(Seen { at: at.parse()?, thread: thread.parse()?, kind: kind.to_owned() })
}

impl ClockOffset {
    /// Measures it for the first time.
    #[must_use]
    pub fn measured() -> Self {
        let offset = measure();
        Self { first: offset, last: offset }
    }

    /// Measures it once more, at the end of what is compared: the wall clock may be corrected.
    #[must_use]
    pub fn again(self) -> Self {
        Self { last: measure(), ..self }
    }

    /// The range of times, since boot, that a wall clock time may be, give or take `slack`.
    ///
    /// # Errors
    /// When it was before the boot.
    pub fn since_boot(self, wall: u64, slack: u64) -> Result<(u64, u64)> {
        let most = self.first.max(self.last) + i128::from(slack);
        let least = self.first.min(self.last) - i128::from(slack);
        let at = |offset: i128| {
            u64::try_from(i128::from(wall) - offset).map_err(|_before| anyhow!("{wall} ns"))
        };
        Ok((at(most)?, at(least)?))
    }
}

/// From the narrowest of several looks at one clock between two at the other.
fn measure() -> i128 {
    let now = |clock| {
        let time = clock_gettime(clock);
        i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
    };
    let look = || {
        // bpftrace takes the clock that goes on while the machine sleeps.
        let before = now(ClockId::Boottime);
        let wall = now(ClockId::Realtime);
        let after = now(ClockId::Boottime);
        (after - before, wall - i128::midpoint(before, after))
    };
    let looks = (0..100).map(|_| look()).min();
    looks.map_or(0, |(_, offset)| offset)
}
