//! A function's machine code as a list of instructions, each on a boundary found by decoding from
//! the start of its part.

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind};

use crate::model::{FileOffset, VirtAddr};
use crate::symbols::{CodePart, Function, Language};

/// Why a function's code cannot be read, or not be probed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("its symbol has no code")]
    Empty,
    #[error(
        "it was built by {0}, whose goroutines Qprof does not follow: of Go only functions that Go's \
         own toolchain compiled are foreseen"
    )]
    OtherGo(&'static str),
    #[error("its parts overlap or lie beyond the end of the address space: a broken symbol table")]
    BadExtent,
    #[error(
        "not decodable: control reaches {0}, which is not an instruction found by decoding from \
         the function's start (data among the code, or overlapping instructions)"
    )]
    NotDecodable(VirtAddr),
    #[error(
        "its first instruction, at {0}, is the target of a jump inside it: one call would look \
         like several"
    )]
    LoopAtStart(VirtAddr),
    #[error(
        "the code at {0}, its start, checks the stack in a way that is not known: where the stack \
         grows, one call would look like several"
    )]
    StackCheck(VirtAddr),
    #[error(
        "the conditional jump behind its stack check, at {at}, must not carry a probe here (`{text}`), \
         and elsewhere one call would look like several where the stack grows"
    )]
    NoProbeAtStackCheck { at: VirtAddr, text: String },
    #[error(
        "its start is not where an instruction starts: it lies inside `{text}` at {at}, which \
         control comes to from {around}, and a probe would change that instruction (a broken symbol \
         table)"
    )]
    InsideInstruction { text: String, at: VirtAddr, around: VirtAddr },
    #[error(
        "it lies inside code that begins at {0} and is too large to be followed: whether an \
         instruction starts at its start cannot be told"
    )]
    SurroundingsTooLarge(VirtAddr),
    #[error("it consists of a single return instruction: there is nothing to measure")]
    OnlyReturn,
    #[error("no instruction at its start may carry a probe (it starts with `{0}`)")]
    NoLegalEnter(String),
}

/// A part of a function, decoded.
#[derive(Debug)]
pub(super) struct Part<'a> {
    start: u64,
    end: u64,
    offset: u64,
    bytes: &'a [u8],
    /// Its instructions: `first..last` of [`Listing::insns`].
    pub(super) first: usize,
    pub(super) last: usize,
    /// Where decoding stopped short of `end`: bytes that are no instruction.
    pub(super) undecoded: Option<u64>,
}

/// A function's instructions: those of its code first, then those of each cold part.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    /// Go's own compiler and assembler made it. They put no data among code, and pad with `int3`.
    pub(super) is_go: bool,
    pub(super) parts: Vec<Part<'a>>,
    pub(super) insns: Vec<Instruction>,
}

impl<'a> Listing<'a> {
    /// Decodes every part from its start to its end, or to the first bytes that are no
    /// instruction.
    pub(super) fn of(function: &'a Function) -> Result<Self, Refused> {
        let size = function
            .cold
            .iter()
            .fold(function.code.bytes.len(), |sum, part| sum.saturating_add(part.bytes.len()));
        let mut listing = Self {
            is_go: function.language == Language::Go,
            parts: Vec::new(),
            insns: Vec::with_capacity(size / 4),
        };
        for code in std::iter::once(&function.code).chain(&function.cold) {
            listing.add(code)?;
        }
        if listing.insns.is_empty() || listing.parts.first().is_none_or(|part| part.last == 0) {
            return Err(Refused::Empty);
        }
        Ok(listing)
    }

    fn add(&mut self, code: &'a CodePart) -> Result<(), Refused> {
        let start = code.address.0;
        let length = code.bytes.len() as u64;
        let end = start.checked_add(length).ok_or(Refused::BadExtent)?;
        code.offset.0.checked_add(length).ok_or(Refused::BadExtent)?;
        if length == 0 {
            return if self.parts.is_empty() { Err(Refused::Empty) } else { Ok(()) };
        }
        if self.parts.iter().any(|part| start < part.end && part.start < end) {
            return Err(Refused::BadExtent);
        }
        let first = self.insns.len();
        let mut undecoded = None;
        let mut decoder = Decoder::with_ip(64, &code.bytes, start, DecoderOptions::NONE);
        while decoder.can_decode() {
            let insn = decoder.decode();
            if insn.is_invalid() {
                undecoded = Some(insn.ip());
                break;
            }
            self.insns.push(insn);
        }
        let last = self.insns.len();
        self.parts.push(Part {
            start,
            end,
            offset: code.offset.0,
            bytes: &code.bytes,
            first,
            last,
            undecoded,
        });
        Ok(())
    }

    /// Where the function starts.
    pub(super) fn start(&self) -> u64 {
        self.parts.first().map_or(0, |part| part.start)
    }

    fn part_at(&self, address: u64) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| (part.start..part.end).contains(&address))
    }

    /// Whether an address lies in the function or one of its cold parts.
    pub(super) fn contains(&self, address: u64) -> bool {
        self.part_at(address).is_some()
    }

    /// The instruction a branch to `address` executes.
    ///
    /// A branch that skips nothing but a `lock` prefix (a single-threaded shortcut of C libraries)
    /// lands in that instruction: from there on the decoding is the same.
    pub(super) fn at(&self, address: u64) -> Option<usize> {
        let part = self.part_at(address)?;
        let insns = self.insns.get(part.first..part.last)?;
        match insns.binary_search_by_key(&address, Instruction::ip) {
            Ok(index) => Some(part.first + index),
            Err(after) => {
                let index = after.checked_sub(1)?;
                let insn = insns.get(index)?;
                (insn.has_lock_prefix() && insn.ip().checked_add(1) == Some(address))
                    .then_some(part.first + index)
            }
        }
    }

    /// The instruction that has a byte at `address`.
    pub(super) fn covering(&self, address: u64) -> Option<usize> {
        let part = self.part_at(address)?;
        let insns = self.insns.get(part.first..part.last)?;
        let index = insns.partition_point(|insn| insn.ip() <= address).checked_sub(1)?;
        let insn = insns.get(index)?;
        (address - insn.ip() < insn.len() as u64).then_some(part.first + index)
    }

    /// The instruction that follows `index` in the same part.
    pub(super) fn next(&self, index: usize) -> Option<usize> {
        let next = index + 1;
        let ends = self.parts.iter().any(|part| part.last == next);
        (next < self.insns.len() && !ends).then_some(next)
    }

    /// The part an instruction belongs to.
    pub(super) fn part_of(&self, index: usize) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| (part.first..part.last).contains(&index))
    }

    /// The bytes of an instruction, and where they lie in the file.
    pub(super) fn bytes_of(&self, index: usize) -> Option<(&'a [u8], FileOffset)> {
        let insn = self.insns.get(index)?;
        let part = self.part_of(index)?;
        let from = insn.ip().checked_sub(part.start)?;
        let at = usize::try_from(from).ok()?;
        let bytes = part.bytes.get(at..at.checked_add(insn.len())?)?;
        Some((bytes, FileOffset(part.offset.checked_add(from)?)))
    }
}

/// The target of a direct jump or call; none for other instructions.
pub(super) fn direct_target(insn: &Instruction) -> Option<u64> {
    (insn.op_count() > 0 && matches!(insn.op0_kind(), OpKind::NearBranch64))
        .then(|| insn.near_branch_target())
}

/// Whether control may go on with the instruction behind this one.
pub(super) fn falls_through(insn: &Instruction) -> bool {
    match insn.flow_control() {
        FlowControl::Next
        | FlowControl::ConditionalBranch
        | FlowControl::Call
        | FlowControl::IndirectCall
        | FlowControl::XbeginXabortXend => true,
        FlowControl::Interrupt => insn.code() != Code::Int3,
        FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::Return
        | FlowControl::Exception => false,
    }
}

/// Whether this is what linkers and compilers put between pieces of code.
pub(super) fn is_padding(insn: &Instruction, bytes: &[u8]) -> bool {
    matches!(insn.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
        || bytes == [0, 0]
        // `xchg ax, ax` in its long forms.
        || bytes.ends_with(&[0x66, 0x90])
}
