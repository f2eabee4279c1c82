//! Where a `longjmp` lands.
//!
//! Both C libraries keep the stack pointer of `setjmp`'s caller at offset 48 of the `jmp_buf` on
//! x86-64 (glibc: `JB_RSP`, `sysdeps/x86_64/jmpbuf-offsets.h`; musl: `src/setjmp/x86_64/longjmp.s`).
//! glibc mangles it: xor with the thread header's `pointer_guard`, rotated left by 17
//! (`PTR_MANGLE`, `sysdeps/unix/sysv/linux/x86_64/pointer_guard.h`). The guard is the second word of
//! the random bytes the kernel gives a program at its start (`_dl_setup_pointer_guard`).

use rustc_hash::FxHashMap;

use crate::model::{Event, EventBody, FrameAddr, Pid};
use crate::target::random_word;

/// Which of the words of `AT_RANDOM` is the guard.
const GUARD: usize = 1;
/// How far glibc rotates (`2 * LP_SIZE + 1`).
const ROTATED: u32 = 17;
/// No jump goes further up one stack. One that seems to goes to another stack, or was not understood.
const FURTHEST: u64 = 1 << 30;
/// Bounds what is remembered of processes that come and go.
const REMEMBERED: usize = 16_384;

/// The pointer guards of processes.
#[derive(Debug, Default)]
pub(super) struct Jumps {
    guards: FxHashMap<Pid, Option<u64>>,
    /// Jumps whose end is not known.
    pub(super) unknown: u64,
}

impl Jumps {
    /// What the call of a `longjmp` says, with its first argument's word: the calls that are gone. As
    /// the event itself if that is not known.
    pub(super) fn landing(&mut self, event: &Event) -> Event {
        let EventBody::Enter { frame, words, .. } = event.body else { return *event };
        let pid = event.lane.pid();
        let below = words.get(0).and_then(|word| {
            let guard = self.guard(pid);
            let mangled = guard.map(|guard| word.rotate_right(ROTATED) ^ guard);
            mangled.into_iter().chain([word]).find(|address| is_above(frame, *address))
        });
        let Some(below) = below else {
            self.unknown += 1;
            return *event;
        };
        Event { body: EventBody::Unwound { frame, below: FrameAddr(below) }, ..*event }
    }

    /// A process has become another program, or its number another process's.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.guards.remove(&pid);
    }

    fn guard(&mut self, pid: Pid) -> Option<u64> {
        if self.guards.len() >= REMEMBERED {
            self.guards.clear();
        }
        *self.guards.entry(pid).or_insert_with(|| random_word(pid, GUARD))
    }
}

/// Whether an address can be where a jump from a call lands: on its stack, above it.
const fn is_above(slot: FrameAddr, address: u64) -> bool {
    address > slot.0 && address - slot.0 < FURTHEST && address.is_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lane, MonoNs, ProbeId, ReturnAddr, Tid, Words};

    const SLOT: u64 = 0x7ffd_0000_1000;

    fn jump(word: u64) -> Event {
        let pid = Pid(std::process::id());
        Event {
            time: MonoNs(1),
            lane: Lane::Thread(pid, Tid(pid.0)),
            tid: Tid(pid.0),
            sequence: 1,
            body: EventBody::Enter {
                probe: ProbeId(0),
                frame: FrameAddr(SLOT),
                return_address: ReturnAddr(2),
                words: Words::new(&[word], 0),
            },
        }
    }

    #[test]
    fn glibcs_and_musls_words_are_understood() {
        let to = SLOT + 0x400;
        let guard = random_word(Pid(std::process::id()), GUARD).unwrap();
        let mut jumps = Jumps::default();
        for word in [to, (to ^ guard).rotate_left(ROTATED)] {
            let body = jumps.landing(&jump(word)).body;
            let below = FrameAddr(to);
            assert_eq!(body, EventBody::Unwound { frame: FrameAddr(SLOT), below });
        }
        assert_eq!(jumps.unknown, 0);
    }

    #[test]
    fn a_jump_to_another_stack_says_nothing() {
        let mut jumps = Jumps::default();
        for word in [0, SLOT, SLOT - 8, SLOT + 9, SLOT + FURTHEST, u64::MAX] {
            assert_eq!(jumps.landing(&jump(word)), jump(word));
        }
        assert_eq!(jumps.unknown, 6);
    }
}
