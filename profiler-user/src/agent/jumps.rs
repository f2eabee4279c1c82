//! Where a `longjmp` lands.
//!
//! Both C libraries keep the stack pointer of `setjmp`'s caller at offset 48 of the `jmp_buf` on
//! x86-64 (glibc: `JB_RSP`, `sysdeps/x86_64/jmpbuf-offsets.h`; musl: `src/setjmp/x86_64/longjmp.s`).
//! glibc mangles it: xor with the thread header's `pointer_guard`, rotated left by 17
//! (`PTR_MANGLE`, `sysdeps/unix/sysv/linux/x86_64/pointer_guard.h`). The guard is the second word of
//! the random bytes the kernel gives a program at its start (`_dl_setup_pointer_guard`).
//!
//! A jump may also lead to another stack, as in coroutines made of `longjmp`: then nothing is gone. A
//! stack is one mapping, so a jump out of the mapping says nothing. (One within it the stitcher takes
//! only on a thread's own stack, or among calls it knows: coroutines may share a mapping.)

use rustc_hash::FxHashMap;

use crate::model::{Event, EventBody, FrameAddr, Pid};
use crate::target::{mapping_around, random_word};

/// Which of the words of `AT_RANDOM` is the guard.
const GUARD: usize = 1;
/// How far glibc rotates (`2 * LP_SIZE + 1`).
const ROTATED: u32 = 17;
/// Bounds what is remembered of processes that come and go.
const REMEMBERED: usize = 16_384;
/// And the stacks of one: they grow, and threads come and go.
const STACKS: usize = 256;

/// The pointer guards of processes.
#[derive(Debug, Default)]
pub(super) struct Jumps {
    guards: FxHashMap<Pid, Option<u64>>,
    /// The mappings that jumps were seen in.
    stacks: FxHashMap<Pid, Vec<(u64, u64)>>,
    /// Who has forked whom: a process may be gone before it is known that it jumped, and what it has
    /// of its parent its parent still has.
    parents: FxHashMap<Pid, Pid>,
}

impl Jumps {
    /// What the call of a `longjmp` says, with its first argument's word: the calls that are gone. As
    /// the event itself if that is not known.
    pub(super) fn landing(&mut self, event: &Event) -> Event {
        let EventBody::Enter { frame, words, .. } = event.body else { return *event };
        let pid = event.lane.pid();
        let below = words.get(0).and_then(|word| {
            let guard = self.guard(pid);
            let plain = guard.map(|guard| word.rotate_right(ROTATED) ^ guard);
            let stack = self.stack(pid, frame)?;
            plain.into_iter().chain([word]).find(|address| is_above(frame, *address, stack))
        });
        let Some(below) = below else { return *event };
        Event { body: EventBody::Unwound { frame, below: FrameAddr(below) }, ..*event }
    }

    /// A process has a child, which has its guard and its stacks.
    pub(super) fn forked(&mut self, parent: Pid, child: Pid) {
        self.forget(child);
        let guard = self.guard(parent);
        self.guards.insert(child, guard);
        if self.parents.len() >= REMEMBERED {
            self.parents.clear();
        }
        self.parents.insert(child, parent);
    }

    /// A process has become another program, or its number another process's.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.guards.remove(&pid);
        self.stacks.remove(&pid);
        self.parents.remove(&pid);
    }

    /// The mapping a call's stack lies in.
    fn stack(&mut self, pid: Pid, slot: FrameAddr) -> Option<(u64, u64)> {
        if self.stacks.len() >= REMEMBERED {
            self.stacks.clear();
        }
        let known = self.stacks.entry(pid).or_default();
        let around = |(start, end): &&(u64, u64)| (*start..*end).contains(&slot.0);
        if let Some(stack) = known.iter().find(around) {
            return Some(*stack);
        }
        let parent = self.parents.get(&pid);
        let of_parent = || mapping_around(*parent?, slot.0);
        let stack = mapping_around(pid, slot.0).or_else(of_parent)?;
        if known.len() >= STACKS {
            known.clear();
        }
        known.push(stack);
        Some(stack)
    }

    /// The pointer guard of a process, if it has one.
    pub(super) fn guard(&mut self, pid: Pid) -> Option<u64> {
        if self.guards.len() >= REMEMBERED {
            self.guards.clear();
        }
        *self.guards.entry(pid).or_insert_with(|| random_word(pid, GUARD))
    }
}

/// Whether an address can be where a jump from a call lands: on its stack, above it.
const fn is_above(slot: FrameAddr, address: u64, (_, end): (u64, u64)) -> bool {
    address > slot.0 && address <= end && address.is_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Ahead, Lane, MonoNs, ProbeId, ReturnAddr, Tid, Words};

    fn jump(slot: u64, word: u64) -> Event {
        let pid = Pid(std::process::id());
        Event {
            time: MonoNs(1),
            lane: Lane::Thread(pid, Tid(pid.0)),
            tid: Tid(pid.0),
            sequence: 1,
            body: EventBody::Enter {
                contexts: None,
                probe: ProbeId(0),
                frame: FrameAddr(slot),
                return_address: ReturnAddr(2),
                ahead: Ahead::Nothing,
                words: Words::new(&[word], 0),
            },
        }
    }

    #[test]
    fn glibcs_and_musls_words_are_understood() {
        let here = 0_u64;
        let slot = std::ptr::from_ref(&here).addr() as u64;
        let to = slot + 0x40;
        let guard = random_word(Pid(std::process::id()), GUARD).unwrap();
        let mut jumps = Jumps::default();
        for word in [to, (to ^ guard).rotate_left(ROTATED)] {
            let body = jumps.landing(&jump(slot, word)).body;
            assert_eq!(body, EventBody::Unwound { frame: FrameAddr(slot), below: FrameAddr(to) });
        }
    }

    #[test]
    fn a_child_that_is_gone_jumped_as_its_parent_would() {
        let here = 0_u64;
        let slot = std::ptr::from_ref(&here).addr() as u64;
        let (to, own) = (slot + 0x40, Pid(std::process::id()));
        let guard = random_word(own, GUARD).unwrap();
        let gone = Pid(u32::MAX - 1);
        let mut event = jump(slot, (to ^ guard).rotate_left(ROTATED));
        event.lane = Lane::Thread(gone, Tid(gone.0));
        let mut jumps = Jumps::default();
        assert_eq!(jumps.landing(&event), event);
        jumps.forked(own, gone);
        let body = jumps.landing(&event).body;
        assert_eq!(body, EventBody::Unwound { frame: FrameAddr(slot), below: FrameAddr(to) });
    }

    #[test]
    fn a_jump_to_another_stack_says_nothing() {
        let here = 0_u64;
        let slot = std::ptr::from_ref(&here).addr() as u64;
        let (_, end) = mapping_around(Pid(std::process::id()), slot).unwrap();
        let mut jumps = Jumps::default();
        for word in [0, slot, slot - 8, slot + 9, end + 8, u64::MAX] {
            assert_eq!(jumps.landing(&jump(slot, word)), jump(slot, word));
        }
    }
}
