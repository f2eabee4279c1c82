//! Which words of a call a site records: a bounded program the kernel side runs.
//!
//! A probe has one program for its enter and one for its exit, at
//! [`CaptureProgram::index`] of the BPF map `CAPTURES`. Each instruction yields one word, in
//! order, behind the event's header; a word whose memory cannot be read is 0 and its bit is set in
//! [`crate::EventHeader::faults`].

use crate::{ProbeId, Role};

/// How many words one site may record.
pub const MAX_WORDS: usize = 8;

/// Where a word comes from. Arguments follow the System V x86-64 psABI (section 3.2.3), integer
/// class: 1–6 are rdi, rsi, rdx, rcx, r8, r9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// The first integer argument.
    Arg1 = 1,
    /// The second integer argument.
    Arg2 = 2,
    /// The third integer argument.
    Arg3 = 3,
    /// The fourth integer argument.
    Arg4 = 4,
    /// The fifth integer argument.
    Arg5 = 5,
    /// The sixth integer argument.
    Arg6 = 6,
    /// The return value (rax); at an exit only.
    Ret = 16,
}

impl Source {
    /// The source of argument `number`, counted from 1.
    #[must_use]
    pub const fn arg(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Arg1),
            2 => Some(Self::Arg2),
            3 => Some(Self::Arg3),
            4 => Some(Self::Arg4),
            5 => Some(Self::Arg5),
            6 => Some(Self::Arg6),
            _ => None,
        }
    }
}

/// One capture instruction: a register, or the word in memory at register + `offset`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Capture {
    /// A [`Source`] as its raw value.
    pub source: u8,
    /// 1: read the word at `source + offset` from the target's memory; 0: the register itself.
    pub deref: u8,
    /// Always zero.
    pub pad: [u8; 2],
    /// Added to the register before it is dereferenced, in bytes.
    pub offset: i32,
}

impl Capture {
    /// The register itself.
    #[must_use]
    pub const fn register(source: Source) -> Self {
        Self { source: source as u8, deref: 0, pad: [0; 2], offset: 0 }
    }

    /// The word in memory at register + `offset`.
    #[must_use]
    pub const fn word_at(source: Source, offset: i32) -> Self {
        Self { source: source as u8, deref: 1, pad: [0; 2], offset }
    }
}

/// The capture instructions of one side of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CaptureProgram {
    /// How many instructions count.
    pub len: u8,
    /// Always zero.
    pub pad: [u8; 7],
    /// The instructions.
    pub captures: [Capture; MAX_WORDS],
}

const _: () = {
    assert!(size_of::<Capture>() == 8);
    assert!(size_of::<CaptureProgram>() == 72);
    assert!(align_of::<CaptureProgram>() == 4);
};

impl CaptureProgram {
    /// Where a probe's program lies in the BPF map `CAPTURES`, which has twice
    /// [`crate::MAX_PROBES`] entries.
    #[must_use]
    pub const fn index(probe: ProbeId, role: Role) -> u32 {
        probe.0 as u32 * 2 + !matches!(role, Role::Enter) as u32
    }
}
