//! Monotonic time and its offset to wall time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::model::{ClockOffset, MonoNs};

/// `CLOCK_MONOTONIC` now: the clock of the kernel's `bpf_ktime_get_ns`.
pub(super) fn now() -> MonoNs {
    MonoNs(read(ClockId::Monotonic))
}

/// The processor time this process has used so far.
pub(super) fn cpu_time() -> Duration {
    Duration::from_nanos(read(ClockId::ProcessCPUTime))
}

/// What to add to the monotonic clock to get wall time, measured now.
///
/// Wall time is read between two readings of the monotonic clock and set against their middle;
/// of a few tries the tightest counts, because a thread can lose the processor in between.
pub(super) fn offset() -> ClockOffset {
    let tries = (0..5).map(|_| {
        let before = read(ClockId::Monotonic);
        let wall = read(ClockId::Realtime);
        let after = read(ClockId::Monotonic);
        let middle = before + (after - before) / 2;
        (after - before, wall.wrapping_sub(middle).cast_signed())
    });
    ClockOffset(tries.min_by_key(|(width, _)| *width).map_or(0, |(_, offset)| offset))
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    // Both clocks count up from 0 and stay far below 2^63 ns (292 years).
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offset_gives_the_time_of_day() {
        let wall = offset().wall(now()).0;
        let told = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .expect("after 1970")
            .as_nanos();
        assert!(told.abs_diff(u128::from(wall)) < 1_000_000_000);
    }
}
