//! Which words of a call a site records: a bounded program the kernel side runs.
//!
//! A probe has one program for its enter and one for its exit, at
//! [`CaptureProgram::index`] of the BPF map `CAPTURES`. Each instruction yields one word, in
//! order, behind the event's header; a word whose memory cannot be read is 0 and its bit is set in
//! [`crate::EventHeader::faults`].

use crate::{ProbeId, Role};

/// How many words one site may record.
pub const MAX_WORDS: usize = 8;

/// Where a word comes from: a register, by its place in the kernel's `struct pt_regs` (`arch/x86/include/asm/ptrace.h`),
/// in words from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Source {
    /// rdi
    Rdi = 15,
    /// rsi
    Rsi = 14,
    /// rdx
    Rdx = 13,
    /// rcx
    Rcx = 12,
    /// r8
    R8 = 10,
    /// r9
    R9 = 9,
    /// rax
    Rax = 11,
    /// rbx
    Rbx = 6,
    /// r10
    R10 = 8,
    /// r11
    R11 = 7,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 10] = [
        Self::Rdi,
        Self::Rsi,
        Self::Rdx,
        Self::Rcx,
        Self::R8,
        Self::R9,
        Self::Rax,
        Self::Rbx,
        Self::R10,
        Self::R11,
    ];

    /// The return value of C, C++ and Rust (System V x86-64 psABI, section 3.2.3, integer class), and
    /// the first word of Go's results.
    pub const RET: Self = Self::Rax;

    /// Argument `number`, counted from 1, of C, C++ and Rust (System V x86-64 psABI, section 3.2.3,
    /// integer class).
    #[must_use]
    pub const fn arg(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Rdi),
            2 => Some(Self::Rsi),
            3 => Some(Self::Rdx),
            4 => Some(Self::Rcx),
            5 => Some(Self::R8),
            6 => Some(Self::R9),
            _ => None,
        }
    }

    /// Word `number`, counted from 1, of the integers and pointers that are arguments of a Go function,
    /// its receiver first, or its results (`src/cmd/compile/abi-internal.md` of Go 1.17 and later).
    #[must_use]
    pub const fn go_word(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Rax),
            2 => Some(Self::Rbx),
            3 => Some(Self::Rcx),
            4 => Some(Self::Rdi),
            5 => Some(Self::Rsi),
            6 => Some(Self::R8),
            7 => Some(Self::R9),
            8 => Some(Self::R10),
            9 => Some(Self::R11),
            _ => None,
        }
    }

    /// The source of a raw value, if it is one.
    #[must_use]
    pub fn from_raw(raw: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|source| *source as u8 == raw)
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
    /// The two words of the `context.Context` of the call: its type and its data; all zero: it has none.
    pub context: [Capture; 2],
}

impl CaptureProgram {
    /// The most words it may capture where the call has a context, which takes two.
    pub const MAX_WITH_CONTEXT: usize = MAX_WORDS - 2;

    /// Whether the call has a context.
    #[must_use]
    pub const fn has_context(&self) -> bool {
        self.context[0].source != 0
    }
}

const _: () = {
    assert!(size_of::<Capture>() == 8);
    assert!(size_of::<CaptureProgram>() == 88);
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
