//! How the BPF maps name a lane: in 64 bits.
//!
//! ```text
//! thread      bits 32..63 process, bits 0..32 thread: as `bpf_get_current_pid_tgid` has it
//! goroutine   bit 63, bits 41..63 process, bits 0..41 the low bits of its number
//! ```
//!
//! A process id has at most 22 bits (`PID_MAX_LIMIT` in the kernel's `include/linux/threads.h`). Two
//! goroutines of a process whose numbers have the same 41 bits are made months apart, and one of them
//! must live all the time to be mistaken for the other.

use crate::LaneKind;

const GOROUTINE: u64 = 1 << 63;
const GOID_BITS: u32 = 41;
const PID_BITS: u64 = 0x3f_ffff;

/// How many words the kernel side keeps of a lane.
pub const LANE_WORDS: usize = 12;

/// A lane, as a key of BPF maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct LaneKey(pub u64);

impl LaneKey {
    /// That of a thread: `pid << 32 | tid`.
    #[must_use]
    pub const fn of_thread(thread: u64) -> Self {
        Self(thread)
    }

    /// That of a goroutine.
    #[must_use]
    pub const fn of_goroutine(pid: u32, goid: u64) -> Self {
        let pid = (pid as u64 & PID_BITS) << GOID_BITS;
        Self(GOROUTINE | pid | (goid & ((1 << GOID_BITS) - 1)))
    }

    /// Of what kind it is.
    #[must_use]
    pub const fn kind(self) -> LaneKind {
        if self.0 & GOROUTINE == 0 { LaneKind::Thread } else { LaneKind::Goroutine }
    }

    /// Its process.
    #[must_use]
    pub const fn pid(self) -> u32 {
        match self.kind() {
            LaneKind::Thread => (self.0 >> 32) as u32,
            LaneKind::Goroutine => ((self.0 >> GOID_BITS) & PID_BITS) as u32,
        }
    }

    /// The number of its thread, or as many bits of the number of its goroutine as it holds.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self.kind() {
            LaneKind::Thread => self.0 as u32 as u64,
            LaneKind::Goroutine => self.0 & ((1 << GOID_BITS) - 1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_whose_it_is() {
        for pid in [1, 4_194_303] {
            let thread = LaneKey::of_thread((u64::from(pid) << 32) + 77);
            assert_eq!((thread.kind(), thread.pid(), thread.number()), (LaneKind::Thread, pid, 77));
            for goid in [1, (1 << 41) - 1] {
                let key = LaneKey::of_goroutine(pid, goid);
                assert_eq!((key.kind(), key.pid()), (LaneKind::Goroutine, pid));
                assert_eq!(key.number(), goid);
            }
        }
    }
}
