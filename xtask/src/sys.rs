//! The five C library calls that `std` does not offer, and the only `unsafe` code here.
//! `std` links the C library on Linux anyway, so no crate is needed for them.

use std::ffi::{c_int, c_long};
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// A signal sent to a process or group that this program started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// What Ctrl-C sends.
    Interrupt = 2,
    /// The end without a chance to clean up.
    Kill = 9,
}

// Numbers: include/uapi/asm-generic/signal.h and fcntl.h of the kernel.
const SIGHUP: c_int = 1;
const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIG_DFL: usize = 0;
const SIG_ERR: usize = usize::MAX;
const LOCK_EX: c_int = 2;
const LOCK_NB: c_int = 4;
/// `CPUCLOCK_SCHED` of include/linux/posix-timers.h: time as the scheduler accounts it.
const CPUCLOCK_SCHED: c_int = 2;

unsafe extern "C" {
    fn signal(signum: c_int, handler: usize) -> usize;
    fn kill(pid: c_int, signum: c_int) -> c_int;
    fn flock(fd: c_int, operation: c_int) -> c_int;
    fn clock_gettime(clock: c_int, time: *mut TimeSpec) -> c_int;
}

/// `struct timespec` of 64-bit Linux.
#[repr(C)]
struct TimeSpec {
    seconds: c_long,
    nanoseconds: c_long,
}

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_stop(signum: c_int) {
    STOP.store(true, Ordering::Relaxed);
    // SAFETY: signal(2) is async-signal-safe; a second Ctrl-C then ends the program at once.
    unsafe { signal(signum, SIG_DFL) };
}

/// From now on Ctrl-C and its kin set [`stop_requested`] instead of ending the program, so that
/// what was started is also ended.
///
/// # Errors
/// When the C library refuses the handler.
pub(crate) fn catch_stop_signals() -> Result<()> {
    for signum in [SIGINT, SIGTERM, SIGHUP] {
        let handler = on_stop as extern "C" fn(c_int) as usize;
        // SAFETY: the handler has the signature signal(2) asks for and touches only an atomic.
        if unsafe { signal(signum, handler) } == SIG_ERR {
            return Err(std::io::Error::last_os_error()).context("signal(2) failed");
        }
    }
    Ok(())
}

/// Whether the person or the machine asked this program to stop.
pub(crate) fn stop_requested() -> bool {
    STOP.load(Ordering::Relaxed)
}

/// # Errors
/// When [`stop_requested`].
pub(crate) fn check_stop() -> Result<()> {
    if stop_requested() {
        bail!("stopped on request");
    }
    Ok(())
}

/// Sends `signal` to the process group that `leader` leads. A group that is gone is fine.
pub(crate) fn signal_group(leader: u32, signal: Signal) {
    let Ok(pid) = c_int::try_from(leader) else { return };
    // 0, 1 and negative numbers would name other processes than the one that was started.
    if pid > 1 {
        // SAFETY: kill(2) takes two numbers and touches no memory of this program.
        unsafe { kill(-pid, signal as c_int) };
    }
}

/// Takes the lock of `file` without waiting; `false` when another process or thread holds it.
///
/// # Errors
/// Any other failure of flock(2).
pub(crate) fn try_lock(file: &File) -> Result<bool> {
    flock_checked(file, LOCK_EX | LOCK_NB)
}

/// Takes the lock of `file`, waiting for whoever holds it. Closing the file lets it go.
///
/// # Errors
/// When flock(2) fails, or a stop was requested while waiting.
pub(crate) fn lock(file: &File) -> Result<()> {
    loop {
        check_stop()?;
        if try_lock(file)? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn flock_checked(file: &File, operation: c_int) -> Result<bool> {
    // SAFETY: the descriptor is open for as long as `file` is borrowed.
    if unsafe { flock(file.as_raw_fd(), operation) } == 0 {
        return Ok(true);
    }
    let error = std::io::Error::last_os_error();
    if error.kind() == std::io::ErrorKind::WouldBlock {
        return Ok(false);
    }
    Err(error).context("flock(2) failed")
}

/// The CPU time that all threads of process `pid` have used, those that ended included. Exact,
/// where `/proc/PID/stat` counts in hundredths of a second.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let number = c_int::try_from(pid).context("not a process id")?;
    // What clock_getcpuclockid(3) makes of a process id.
    let clock = (!number << 3) | CPUCLOCK_SCHED;
    let mut time = TimeSpec { seconds: 0, nanoseconds: 0 };
    // SAFETY: clock_gettime(2) writes one timespec, and `time` is one.
    if unsafe { clock_gettime(clock, &raw mut time) } != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("the CPU time of process {pid} cannot be read"));
    }
    Ok(Duration::new(u64::try_from(time.seconds)?, u32::try_from(time.nanoseconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_cpu_time_grows() {
        let before = cpu_time(std::process::id()).unwrap();
        while cpu_time(std::process::id()).unwrap() == before {}
        assert!(cpu_time(u32::MAX).is_err());
    }
}
