//! Which instructions may carry a probe, by exact encoding, and what a hit of them costs.
//!
//! The kernel decides by bytes, not by meaning (`arch/x86/kernel/uprobes.c`), and where it reads
//! an encoding wrongly the *target* pays: VEX and EVEX instructions can lose their effect, a
//! rex-prefixed `90` is taken for a nop though it is an `xchg`, and one refused instruction refuses
//! the whole link it came with. So this is an allow-list: a form that is not listed is never a
//! site, however harmless it looks.
#![expect(clippy::match_same_arms, reason = "an arm a group of instructions, named above it")]

use iced_x86::{Decoder, DecoderOptions};

use super::{CostClass, FormKind, KernelForms};

/// The one 5-byte nop the kernel rewrites to a call (`x86_nops[5]`).
const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// The nops the kernel knows by their bytes: `x86_nops[1..=4]` and `[6..=8]`.
const NOPS: [(&[u8], FormKind); 7] = [
    (&[0x90], FormKind::Nop1),
    (&[0x66, 0x90], FormKind::Nop2),
    (&[0x0f, 0x1f, 0x00], FormKind::Nop3),
    (&[0x0f, 0x1f, 0x40, 0x00], FormKind::Nop4),
    (&[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00], FormKind::Nop6),
    (&[0x0f, 0x1f, 0x80, 0, 0, 0, 0], FormKind::Nop7),
    (&[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], FormKind::Nop8),
];

/// `endbr64`: accepted by the kernel, single-stepped.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// What a probe on the instruction that is exactly `bytes` costs; none if it must not carry one.
///
/// `first`: it is its function's first instruction. Only there is a 5-byte nop safe: the
/// optimised probe pushes, and anywhere later live data may lie in the red zone below the stack
/// pointer.
#[cfg(test)]
pub(super) fn cost(bytes: &[u8], first: bool) -> Option<CostClass> {
    kind(bytes, first).map(FormKind::class)
}

/// Which group of the allow-list the instruction that is exactly `bytes` is of; none if it must not
/// carry a probe. A `ret` is of none: it is an exit, never an enter. `first` as for [`cost`].
pub(super) fn kind(bytes: &[u8], first: bool) -> Option<FormKind> {
    if bytes == NOP5 {
        return first.then_some(FormKind::Nop5);
    }
    emulated(bytes).or_else(|| stepped(bytes))
}

/// What a probe on a program's very first instruction costs, if it may carry one; `code` begins with
/// it.
#[must_use]
pub fn entry_cost(code: &[u8], forms: KernelForms) -> Option<CostClass> {
    let insn = Decoder::new(64, code, DecoderOptions::NONE).decode();
    code.get(..insn.len()).filter(|_| !insn.is_invalid()).and_then(|bytes| forms.cost(bytes, true))
}

/// Whether a `ret` of exactly these bytes may carry a probe: `c3` and `c2 iw`. A prefixed one
/// (`rep ret`, `bnd ret`) may not.
pub(super) fn is_plain_ret(bytes: &[u8]) -> bool {
    matches!(bytes, [0xc3] | [0xc2, _, _])
}

/// What the kernel executes itself: `branch_setup_xol_ops`, `push_setup_xol_ops`.
fn emulated(bytes: &[u8]) -> Option<FormKind> {
    match bytes {
        [0x70..=0x7f, _] => Some(FormKind::JccShort),
        [0x0f, 0x80..=0x8f, _, _, _, _] => Some(FormKind::JccNear),
        [0xeb, _] | [0xe9, _, _, _, _] => Some(FormKind::Jmp),
        [0xf2, 0xeb, _] | [0xf2, 0xe9, _, _, _, _] => Some(FormKind::BndJmp),
        [0xe8, _, _, _, _] => Some(FormKind::Call),
        // Of a register. Other rex prefixes than 41 are not emulated.
        [0x50..=0x57] | [0x41, 0x50..=0x57] => Some(FormKind::Push),
        bytes => NOPS.iter().find(|(nop, _)| *nop == bytes).map(|(_, kind)| *kind),
    }
}

/// What the kernel copies out of line and steps over, and what we let it: plain integer work and
/// the legacy SSE moves and logic compilers put at the start of functions.
fn stepped(bytes: &[u8]) -> Option<FormKind> {
    if bytes == ENDBR64 {
        return Some(FormKind::Endbr64);
    }
    let shape = Shape::of(bytes)?;
    let allowed = match shape.opcode {
        [0x0f, opcode, rest @ ..] => shape.two_byte_allowed(*opcode, rest),
        [opcode, rest @ ..] => shape.one_byte_allowed(*opcode, rest),
        [] => false,
    };
    let kind = match shape.opcode {
        [0xc9] => FormKind::Leave,
        [0x58..=0x5f] => FormKind::Pop,
        _ => FormKind::Stepped,
    };
    allowed.then_some(kind)
}

/// An encoding taken apart: prefixes, then the opcode and what follows it.
struct Shape<'a> {
    /// `66`, as operand size or as part of an SSE opcode.
    operand_size: bool,
    /// `f2` or `f3`: here only as part of an SSE opcode.
    repeat: Option<u8>,
    /// `fs:` or `gs:`.
    segment: bool,
    rex: Option<u8>,
    opcode: &'a [u8],
}

impl<'a> Shape<'a> {
    /// None where a prefix alone forbids a probe: `26 2e 36 3e f0` are refused by the kernel, `67`
    /// and repeated prefixes have no business here.
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let mut shape =
            Self { operand_size: false, repeat: None, segment: false, rex: None, opcode: bytes };
        while let [byte, rest @ ..] = shape.opcode {
            match byte {
                0x66 if !shape.operand_size => shape.operand_size = true,
                0xf2 | 0xf3 if shape.repeat.is_none() => shape.repeat = Some(*byte),
                0x64 | 0x65 if !shape.segment => shape.segment = true,
                0x66 | 0xf2 | 0xf3 | 0x64 | 0x65 => return None,
                0x26 | 0x2e | 0x36 | 0x3e | 0x67 | 0xf0 => return None,
                0x40..=0x4f => {
                    shape.rex = Some(*byte);
                    shape.opcode = rest;
                    // A rex prefix counts only directly before the opcode: what follows is one.
                    return Some(shape);
                }
                _ => return Some(shape),
            }
            shape.opcode = rest;
        }
        None
    }

    fn one_byte_allowed(&self, opcode: u8, rest: &[u8]) -> bool {
        if self.repeat.is_some() {
            return false;
        }
        let reg = rest.first().map(|modrm| (modrm >> 3) & 7);
        match opcode {
            // add, or, and, sub, xor, cmp (not adc, sbb): both directions, and with al/eax.
            0x00..=0x05 | 0x08..=0x0d | 0x20..=0x25 | 0x28..=0x2d | 0x30..=0x35 | 0x38..=0x3d => {
                true
            }
            0x80 | 0x81 | 0x83 => matches!(reg, Some(0 | 1 | 4 | 5 | 6 | 7)),
            // movsxd; imul with immediate; test; mov; lea; test imm; mov imm; cwde/cdqe, cdq/cqo.
            0x63
            | 0x69
            | 0x6b
            | 0x84
            | 0x85
            | 0x88..=0x8b
            | 0x8d
            | 0xa8
            | 0xa9
            | 0xb0..=0xbf
            | 0x98
            | 0x99 => true,
            // shl, shr, sar.
            0xc0 | 0xc1 | 0xd0..=0xd3 => matches!(reg, Some(4 | 5 | 7)),
            // mov imm to memory; the other members of this group are xabort and xbegin.
            0xc6 | 0xc7 => reg == Some(0),
            // test imm, not, neg.
            0xf6 | 0xf7 => matches!(reg, Some(0 | 2 | 3)),
            // inc, dec; the other members of this group are calls, jumps and pushes.
            0xfe | 0xff => matches!(reg, Some(0 | 1)),
            // pop of a 64-bit register, leave.
            0x58..=0x5f => self.is_bare() && matches!(self.rex, None | Some(0x41)),
            0xc9 => self.is_bare() && self.rex.is_none(),
            _ => false,
        }
    }

    fn two_byte_allowed(&self, opcode: u8, rest: &[u8]) -> bool {
        let (none, x66) = (self.repeat.is_none(), self.operand_size);
        let f3 = self.repeat == Some(0xf3);
        if x66 && !none {
            return false;
        }
        match opcode {
            // cmovcc, setcc, imul, movzx, movsx.
            0x40..=0x4f | 0xaf | 0xb6 | 0xb7 | 0xbe | 0xbf => none,
            0x90..=0x9f => none && !x66,
            // movups, movupd, movss, movsd.
            0x10 | 0x11 => true,
            // movlps/movlpd, movhps/movhpd, movhlps, movlhps.
            0x12 | 0x13 | 0x16 | 0x17 => none,
            // movaps/movapd, and/andn/or/xor of packed floats.
            0x28 | 0x29 | 0x54..=0x57 => none,
            // movd/movq; without the prefix they would be MMX.
            0x6e => none && x66,
            0x7e => x66 || f3,
            // movdqa, movdqu.
            0x6f | 0x7f => x66 || f3,
            0xd6 => none && x66 && !rest.is_empty(),
            // pxor.
            0xef => none && x66,
            _ => false,
        }
    }

    fn is_bare(&self) -> bool {
        !self.operand_size && !self.segment
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
    }

    #[test]
    fn what_the_kernel_emulates() {
        for hex in [
            "74 05",
            "7f 80",
            "eb 10",
            "f2 eb 10",
            "0f 84 10 00 00 00",
            "e8 00 00 00 00",
            "e9 10 00 00 00",
            "f2 e9 10 00 00 00",
            "55",
            "54",
            "41 57",
            "90",
            "66 90",
            "0f 1f 00",
            "0f 1f 40 00",
            "66 0f 1f 44 00 00",
            "0f 1f 80 00 00 00 00",
            "0f 1f 84 00 00 00 00 00",
        ] {
            assert_eq!(cost(&bytes(hex), false), Some(CostClass::Emulated), "{hex}");
        }
    }

    #[test]
    fn what_is_stepped_over_out_of_line() {
        for hex in [
            "f3 0f 1e fa",
            "48 89 e5",
            "48 83 ec 08",
            "48 81 ec 00 10 00 00",
            "8d 04 37",
            "48 8d 05 00 00 00 00",
            "64 48 8b 04 25 28 00 00 00",
            "31 c0",
            "48 85 ff",
            "80 3f 00",
            "0f b6 07",
            "48 63 c7",
            "0f 44 c6",
            "0f 94 c0",
            "48 c1 e0 03",
            "d1 e8",
            "48 ff c7",
            "f7 d8",
            "48 0f af c7",
            "6b c7 0c",
            "5b",
            "41 5c",
            "c9",
            "0f 28 c1",
            "66 0f 6f 07",
            "f3 0f 6f 07",
            "f2 0f 10 07",
            "f3 0f 11 07",
            "66 0f ef c0",
            "0f 57 c0",
            "66 48 0f 6e c7",
            "f3 0f 7e 07",
            "66 0f d6 07",
            "c7 07 00 00 00 00",
            "48 98",
            "48 99",
            "66 c7 07 00 00",
            "44 0f b6 c7",
        ] {
            assert_eq!(cost(&bytes(hex), false), Some(CostClass::SingleStepped), "{hex}");
        }
    }

    #[test]
    fn what_never_carries_a_probe() {
        for hex in [
            // VEX, EVEX, XOP.
            "c5 f8 77",
            "c5 fa 7f 07",
            "c5 f9 6e c7",
            "c4 e2 f9 f7 c7",
            "62 f1 7c 48 28 c1",
            "8f e9 78 81 c0",
            // The flags, the kernel, the outside world.
            "9c",
            "9d",
            "0f 05",
            "0f 34",
            "cd 80",
            "cc",
            "e4 10",
            "ec",
            "f4",
            "0f 0b",
            "0f a2",
            // String operations, plain and repeated; lock; rep ret, bnd ret.
            "a4",
            "f3 48 ab",
            "f3 a4",
            "f2 ae",
            "f0 48 0f b1 17",
            "f0 ff 07",
            "f3 c3",
            "f2 c3",
            // Segment prefixes and hints the kernel refuses.
            "2e 74 05",
            "3e 75 05",
            "3e ff e0",
            "66 2e 0f 1f 84 00 00 00 00 00",
            "36 8b 07",
            "26 8b 07",
            "2e 90",
            // Looks like a nop or an emulated form, is none.
            "41 90",
            "48 90",
            "f3 90",
            "87 c0",
            "66 e8 00 00 00 00",
            "66 e9 00 00 00 00",
            "66 74 05",
            "48 50",
            "66 50",
            "40 50",
            "48 e9 00 00 00 00",
            "f2 e8 00 00 00 00",
            "f2 74 05",
            "0f 1f 44 00 00",
            "66 0f 1f 40 00",
            "0f 1f 44 00 01",
            // Indirect and far transfers, loops, pushes of other things.
            "ff e0",
            "ff d0",
            "ff 25 00 00 00 00",
            "ff 30",
            "ff 18",
            "ff 28",
            "e2 fe",
            "e3 02",
            "6a 01",
            "68 00 00 00 00",
            "8f 00",
            "cb",
            "ca 00 00",
            "cf",
            "c8 00 00 00",
            // x87, MMX, transactions, privileged and unusual moves, three-byte maps.
            "d9 ee",
            "0f 6e c7",
            "0f 6f 07",
            "c7 f8 00 00 00 00",
            "0f 20 c0",
            "8e d0",
            "8c d8",
            "66 0f 38 00 c1",
            "66 0f 3a 0f c1 08",
            "0f ae f0",
            "17",
            "0f c7 0f",
            "10 c0",
            "18 c0",
            "66 5d",
            "66 c9",
            "66 f3 0f 10 07",
            "f3 66 0f 6f 07",
            "66 66 90",
            "f3 31 c0",
            "f2 89 c0",
            // A rex prefix before another prefix, no opcode at all.
            "48 66 89 c0",
            "48",
            "66",
            "",
            // Returns are exits, never enters.
            "c3",
            "c2 08 00",
        ] {
            assert_eq!(cost(&bytes(hex), false), None, "{hex}");
        }
    }

    #[test]
    fn a_five_byte_nop_is_for_the_first_instruction_only() {
        assert_eq!(cost(&NOP5, true), Some(CostClass::Optimised));
        assert_eq!(cost(&NOP5, false), None);
        assert_eq!(cost(&bytes("66 0f 1f 40 00"), true), None);
    }

    #[test]
    fn returns_that_may_carry_a_probe() {
        assert!(is_plain_ret(&bytes("c3")));
        assert!(is_plain_ret(&bytes("c2 08 00")));
        for hex in ["f3 c3", "f2 c3", "48 c3", "cb", "66 c3", "c2 08"] {
            assert!(!is_plain_ret(&bytes(hex)), "{hex}");
        }
    }
}
