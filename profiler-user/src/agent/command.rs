//! A program that is started to be profiled: held until its probes are there, ended with us.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{
    Signal, WaitId, WaitIdOptions, getpid, kill_process, set_parent_process_death_signal, waitid,
};
use thiserror::Error;

use super::live::{Live, LiveError};
use super::prepare::PrepareError;
use crate::model::Pid;
use crate::plan::{self, KernelForms};
use crate::symbols::{SymbolError, entry_point};
use crate::target::{Target, TargetError};

/// How long a program may take to get through `exec` and its loader.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end once asked to.
const END: Duration = Duration::from_secs(5);
/// How often it is looked at meanwhile.
const STEP: Duration = Duration::from_millis(1);

/// Why a program could not be started to be profiled.
#[derive(Debug, Error)]
pub enum CommandError {
    /// It cannot be started at all.
    #[error("cannot start `{program}`")]
    Start {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// It does not reach its first instruction.
    #[error("`{program}` was not ready to be attached to within {} s", START.as_secs())]
    Slow {
        /// The program.
        program: String,
    },
    /// Its first instruction may not carry a probe.
    #[error(
        "`{program}` begins with an instruction that may not carry a probe: start it by yourself \
         and attach with -p PID"
    )]
    Entry {
        /// The program.
        program: String,
    },
    /// It cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Its symbols cannot be read.
    #[error(transparent)]
    Symbols(#[from] SymbolError),
    /// There is no plan for it.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Attaching failed.
    #[error(transparent)]
    Live(#[from] LiveError),
}

impl CommandError {
    /// What a shell would end with in the place of a program that does not run.
    #[must_use]
    pub fn exit_code(&self) -> Option<u8> {
        let Self::Start { source, .. } = self else { return None };
        Some(if source.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN })
    }
}

/// The program. Dropped, it is ended.
pub(super) struct Started {
    child: Child,
    program: String,
    ended: Option<ExitStatus>,
    /// Which forms of instructions this kernel may be trusted with.
    forms: KernelForms,
}

impl Started {
    /// Starts a program and holds it before its first instruction, its libraries mapped.
    ///
    /// A process of our own stops itself, is told to the kernel side, and becomes the program; the
    /// kernel side stops it there, and again at its entry point. Nobody traces it, and nothing is
    /// written to it but the kernel's own breakpoint.
    pub(super) fn hold(
        words: &[OsString],
        live: &mut Live,
        forms: KernelForms,
    ) -> Result<(Self, Target), CommandError> {
        let program = words.first().map_or_else(String::new, |w| w.to_string_lossy().into_owned());
        let start = |source| CommandError::Start { program: program.clone(), source };
        let child = Command::new("/proc/self/exe").arg("exec-held").args(words).spawn();
        let child = child.map_err(start)?;
        let mut this = Self { child, program: program.clone(), ended: None, forms };
        let pid = Pid(this.child.id());
        this.until_stopped()?;
        live.attached().hold(pid).map_err(LiveError::Attach)?;
        this.go_on();
        this.until_stopped()?;
        let target = this.run_to_entry(live)?;
        live.forget_changes()?;
        Ok((this, target))
    }

    /// It has become another program, as a script does that ends in `exec`, and is held again: has
    /// it held at its first instruction. To be let run then.
    pub(super) fn held_again(&mut self, live: &mut Live) -> Result<(), CommandError> {
        self.until_stopped()?;
        self.run_to_entry(live)?;
        live.look_now(Pid(self.child.id()))?;
        Ok(())
    }

    /// From where the kernel has begun a program to the program's own first instruction.
    fn run_to_entry(&mut self, live: &mut Live) -> Result<Target, CommandError> {
        let pid = Pid(self.child.id());
        let target = Target::open(pid)?;
        let exe = target.objects.first().ok_or(TargetError::Exited(pid))?;
        let entry = entry_point(&exe.open_path, &exe.path)?;
        if plan::entry_cost(&entry.bytes, self.forms).is_none() {
            return Err(CommandError::Entry { program: self.program.clone() });
        }
        live.attached().stop_at(pid, exe, entry.offset).map_err(LiveError::Attach)?;
        self.go_on();
        let stopped = self.until_stopped();
        live.attached().stop_no_more();
        stopped?;
        Ok(Target::open(pid)?)
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Lets it run.
    pub(super) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// How it has ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended
    }

    /// Ends it: politely, then not. Its exit status; none if it was we who ended it.
    pub(super) fn end(mut self) -> Option<ExitStatus> {
        if let Some(status) = self.ended() {
            return Some(status);
        }
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
        let deadline = Instant::now() + END;
        while self.ended().is_none() && Instant::now() < deadline {
            std::thread::sleep(STEP);
        }
        None
    }

    fn until_stopped(&mut self) -> Result<(), CommandError> {
        let pid = rustix_pid(&self.child);
        let deadline = Instant::now() + START;
        loop {
            let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
            let waited = pid.map(|pid| waitid(WaitId::Pid(pid), options));
            if let Some(Ok(Some(status))) = waited
                && status.stopped()
            {
                return Ok(());
            }
            if let Some(status) = self.ended() {
                let source = match status.code() {
                    // What `exec-held` ends with where there is nothing to run.
                    Some(code) if code == i32::from(NOT_FOUND) => {
                        io::Error::from(io::ErrorKind::NotFound)
                    }
                    Some(code) if code == i32::from(NOT_RUN) => {
                        io::Error::other("it cannot be executed")
                    }
                    _ => io::Error::other(format!(
                        "it ended before its first instruction ({status})"
                    )),
                };
                return Err(CommandError::Start { program: self.program.clone(), source });
            }
            if Instant::now() >= deadline {
                return Err(CommandError::Slow { program: self.program.clone() });
            }
            std::thread::sleep(STEP);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = rustix_pid(&self.child) {
            // It is our child and not yet waited for: the number is its own.
            let _ = kill_process(pid, signal);
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a shell says of a program as an exit code: its own, or 128 and the signal that ended it.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code & 0xff).ok()).unwrap_or(1)
}

fn rustix_pid(child: &Child) -> Option<rustix::process::Pid> {
    i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw)
}

/// As shells have it: the program is not there.
const NOT_FOUND: u8 = 127;
/// It is there, and cannot be executed.
const NOT_RUN: u8 = 126;

/// The process that becomes the program: waits until it is told to go on, and to end with us.
/// Returns only if there is nothing to run: the exit code.
#[must_use]
pub fn exec_held(words: &[OsString]) -> u8 {
    let Some((program, args)) = words.split_first() else { return NOT_RUN };
    // Should we be killed, it is not left behind: neither if it is held just then, which no other
    // signal would end, nor if it is deaf to others.
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err()
        || kill_process(getpid(), Signal::STOP).is_err()
    {
        return NOT_RUN;
    }
    let error = Command::new(program).args(args).exec();
    if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_RUN }
}
