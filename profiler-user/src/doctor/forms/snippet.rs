//! The forms of instructions that are tried, each in small functions of its own. Pure.
//!
//! A snippet fills the 128 bytes below its stack pointer, as a leaf function may, either before the
//! instruction in question or, where that is its very first, after it. Whatever a probe changes
//! there, in the registers, the flags or memory shows when it is compared with the same snippet run
//! without a probe.

use serde::{Deserialize, Serialize};

use crate::plan::FormKind;

/// Where in its function the instruction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// It is the first.
    First,
    /// It comes after what fills the red zone.
    Inside,
}

/// What the processor and the kernel must have for a form to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    /// AVX, switched on.
    Avx,
    /// A shadow stack for user programs.
    ShadowStack,
}

/// A form at a position, in one or more snippets.
#[derive(Clone, Debug)]
pub(super) struct Form {
    pub(super) id: String,
    pub(super) name: String,
    /// What of the allow-list it speaks for; none: it is on no list and never used.
    pub(super) kind: Option<FormKind>,
    pub(super) position: Position,
    pub(super) needs: Needs,
    pub(super) cases: Vec<Case>,
}

/// One snippet.
#[derive(Clone, Debug)]
pub(super) struct Case {
    before: Vec<u8>,
    /// The instruction that is probed.
    insn: Vec<u8>,
    after: Vec<u8>,
    /// The flags it begins with.
    pub(super) flags: u64,
}

impl Case {
    /// All its code.
    pub(super) fn code(&self) -> Vec<u8> {
        [self.before.as_slice(), &self.insn, &self.after].concat()
    }

    /// Where in it the probed instruction stands.
    pub(super) fn site(&self) -> usize {
        self.before.len()
    }

    /// Whether kernels are known to refuse it, by its `cs` prefix.
    pub(super) fn is_doubtful(&self) -> bool {
        let prefixes = self.insn.iter().take_while(|byte| matches!(byte, 0x66 | 0x2e));
        prefixes.into_iter().any(|byte| *byte == 0x2e)
    }

    /// The probed instruction.
    pub(super) fn insn(&self) -> &[u8] {
        &self.insn
    }
}

const RET: u8 = 0xc3;
/// `mov al, 0x5a`: leaves a mark where it is executed.
const MARK: [u8; 2] = [0xb0, 0x5a];
/// The distance of every jump: over a [`MARK`].
const OVER_MARK: u8 = MARK.len() as u8;
/// All flags that instructions set clear; bit 1 is always set.
const NO_FLAGS: u64 = 0x2;

/// The nops as the GNU assembler writes them; those from 10 bytes on have a `cs` prefix.
const NOPS: [&[u8]; 15] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
    &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x66, 0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
    &[0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
];

const NOP_KINDS: [Option<FormKind>; 8] = [
    Some(FormKind::Nop1),
    Some(FormKind::Nop2),
    Some(FormKind::Nop3),
    Some(FormKind::Nop4),
    Some(FormKind::Nop5),
    Some(FormKind::Nop6),
    Some(FormKind::Nop7),
    Some(FormKind::Nop8),
];

/// By even condition code: flags with which it holds. The odd ones are their opposites, and with no
/// flag set no even one holds.
const CONDITIONS: [u64; 8] = [0x800, 0x1, 0x40, 0x1, 0x80, 0x4, 0x80, 0x40];

/// A form of one instruction, followed by some bytes of its own.
struct Plain<'a> {
    insn: &'a [u8],
    then: &'a [u8],
}

const fn plain(insn: &[u8]) -> Plain<'_> {
    Plain { insn, then: &[] }
}

/// Everything that is tried: what may be used first, then what never is.
pub(super) fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    for (length, nop) in (1_usize..).zip(NOPS) {
        for position in [Position::First, Position::Inside] {
            let kind = NOP_KINDS.get(length - 1).copied().flatten();
            // The optimised probe pushes, and inside a function live data may lie there.
            let kind = kind.filter(|kind| *kind != FormKind::Nop5 || position == Position::First);
            let name = format!("nop of {length} byte{}", if length == 1 { "" } else { "s" });
            forms.push(of(&format!("nop{length}"), &name, kind, position, &[plain(nop)]));
        }
    }
    for position in [Position::First, Position::Inside] {
        emulated(position, &mut forms);
        stepped(position, &mut forms);
    }
    on_the_stack(&mut forms);
    forms.push(Form {
        id: "call_shadow_stack".to_owned(),
        name: "call under a shadow stack".to_owned(),
        needs: Needs::ShadowStack,
        ..calls(Position::First)
    });
    for position in [Position::First, Position::Inside] {
        vex(position, &mut forms);
    }
    // It pushes the trap flag with which it is stepped.
    let pushf = [Plain { insn: &[0x9c], then: &[0x59] }];
    forms.push(of("pushf", "pushf", None, Position::Inside, &pushf));
    let popf = [Plain { insn: &[0x9c], then: &[0x9d] }];
    forms.push(of("pushf_popf", "pushf; popf", None, Position::Inside, &popf));
    forms
}

fn of(
    id: &str,
    name: &str,
    kind: Option<FormKind>,
    position: Position,
    insns: &[Plain<'_>],
) -> Form {
    let cases = insns.iter().map(|plain| case(plain.insn, plain.then, position, NO_FLAGS));
    form(id, name, kind, position, cases.collect())
}

fn form(
    id: &str,
    name: &str,
    kind: Option<FormKind>,
    position: Position,
    cases: Vec<Case>,
) -> Form {
    let (id, name) = (id.to_owned(), name.to_owned());
    Form { id, name, kind, position, needs: Needs::Nothing, cases }
}

fn case(insn: &[u8], then: &[u8], position: Position, flags: u64) -> Case {
    let (before, mut after) = match position {
        Position::First => (Vec::new(), [then, &fill()].concat()),
        Position::Inside => (fill(), then.to_vec()),
    };
    after.push(RET);
    Case { before, insn: insn.to_vec(), after, flags }
}

/// Fills the red zone: `mov [rsp - 8 * n], reg` for 16 registers.
fn fill() -> Vec<u8> {
    // rax, rcx, rdx, rbx, rbp, rsi, rdi, r8 … r15, and rax again.
    const REGISTERS: [u8; 16] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0];
    let mut code = Vec::with_capacity(80);
    for (down, register) in (1_u8..).zip(REGISTERS) {
        let rex = 0x48 | (register >> 3) << 2;
        let modrm = 0x44 | (register & 7) << 3;
        code.extend([rex, 0x89, modrm, 0x24, (down * 8).wrapping_neg()]);
    }
    code
}

fn emulated(position: Position, forms: &mut Vec<Form>) {
    // rbp, r12 and rsp itself, which is pushed as it was before; then `pop rcx`.
    let pop = &[0x59];
    let pushes: [Plain<'_>; 3] =
        [&[0x55][..], &[0x41, 0x54], &[0x54]].map(|insn| Plain { insn, then: pop });
    forms.push(of("push", "push register", Some(FormKind::Push), position, &pushes));
    for taken in [true, false] {
        let word = if taken { "taken" } else { "not taken" };
        let suffix = word.replace(' ', "_");
        let jumps = |near: bool| {
            let jump = |code: u8| {
                let holds = CONDITIONS.get(usize::from(code / 2)).copied().unwrap_or(0);
                let flags = if (code & 1 == 0) == taken { holds } else { 0 };
                let insn = if near {
                    vec![0x0f, 0x80 | code, OVER_MARK, 0, 0, 0]
                } else {
                    vec![0x70 | code, OVER_MARK]
                };
                case(&insn, &MARK, position, NO_FLAGS | flags)
            };
            (0..16).map(jump).collect()
        };
        forms.push(form(
            &format!("jcc_short_{suffix}"),
            &format!("jcc, 8-bit distance, {word}"),
            Some(FormKind::JccShort),
            position,
            jumps(false),
        ));
        forms.push(form(
            &format!("jcc_near_{suffix}"),
            &format!("jcc, 32-bit distance, {word}"),
            Some(FormKind::JccNear),
            position,
            jumps(true),
        ));
    }
    let jump = |insn| Plain { insn, then: &MARK };
    let jmp = [jump(&[0xeb, OVER_MARK][..]), jump(&[0xe9, OVER_MARK, 0, 0, 0])];
    forms.push(of("jmp", "jmp", Some(FormKind::Jmp), position, &jmp));
    let bnd = [jump(&[0xf2, 0xeb, OVER_MARK][..]), jump(&[0xf2, 0xe9, OVER_MARK, 0, 0, 0])];
    forms.push(of("bnd_jmp", "bnd jmp", Some(FormKind::BndJmp), position, &bnd));
    forms.push(calls(position));
}

/// `call` of what follows, which leaves a mark and returns.
fn calls(position: Position) -> Form {
    let mut case = case(&[0xe8], &[], position, NO_FLAGS);
    let distance = case.after.len() as u32;
    case.insn.extend(distance.to_le_bytes());
    case.after.extend(MARK);
    case.after.push(RET);
    form("call", "call", Some(FormKind::Call), position, vec![case])
}

fn stepped(position: Position, forms: &mut Vec<Form>) {
    let endbr64 = [plain(&[0xf3, 0x0f, 0x1e, 0xfa])];
    forms.push(of("endbr64", "endbr64", Some(FormKind::Endbr64), position, &endbr64));
    let rets = [&[RET][..], &[0xc2, 0x08, 0x00]];
    let cases = rets.map(|insn| Case {
        before: if position == Position::First { Vec::new() } else { fill() },
        insn: insn.to_vec(),
        after: Vec::new(),
        flags: NO_FLAGS,
    });
    forms.push(form("ret", "ret", Some(FormKind::Ret), position, cases.to_vec()));
    let kind = Some(FormKind::Stepped);
    // mov rbp, rsp; sub rsp, 8 (and back); test rdi, rdi; xor eax, eax; lea eax, [rdi + rsi];
    // mov [rsi], rax; movzx eax, byte [rdi]; imul rax, rdi; shl rax, 3; cmovz eax, esi.
    let integer = [
        plain(&[0x48, 0x89, 0xe5]),
        Plain { insn: &[0x48, 0x83, 0xec, 0x08], then: &[0x48, 0x83, 0xc4, 0x08] },
        plain(&[0x48, 0x85, 0xff]),
        plain(&[0x31, 0xc0]),
        plain(&[0x8d, 0x04, 0x37]),
        plain(&[0x48, 0x89, 0x06]),
        plain(&[0x0f, 0xb6, 0x07]),
        plain(&[0x48, 0x0f, 0xaf, 0xc7]),
        plain(&[0x48, 0xc1, 0xe0, 0x03]),
        plain(&[0x0f, 0x44, 0xc6]),
    ];
    forms.push(of("stepped", "integer instructions", kind, position, &integer));
    // lea rax, [rip + 0]; mov rcx, [rip + 0]; cmp dword [rip + 0], 1.
    let relative = [
        plain(&[0x48, 0x8d, 0x05, 0, 0, 0, 0]),
        plain(&[0x48, 0x8b, 0x0d, 0, 0, 0, 0]),
        plain(&[0x83, 0x3d, 0, 0, 0, 0, 0x01]),
    ];
    forms.push(of("rip_relative", "rip-relative instructions", kind, position, &relative));
    // mov rax, fs:[0x28], then what it read is taken from it: it differs from process to process.
    let guard: &[u8] = &[0x64, 0x48, 0x8b, 0x04, 0x25, 0x28, 0, 0, 0];
    let less_guard: &[u8] = &[0x64, 0x48, 0x2b, 0x04, 0x25, 0x28, 0, 0, 0];
    let segment = [Plain { insn: guard, then: less_guard }];
    forms.push(of("segment", "fs-relative load", kind, position, &segment));
    // movups [rdi], xmm0; movdqu xmm1, [rdi]; pxor xmm0, xmm1; movq xmm0, rdi; xorps xmm1, xmm2.
    let sse = [
        plain(&[0x0f, 0x11, 0x07]),
        plain(&[0xf3, 0x0f, 0x6f, 0x0f]),
        plain(&[0x66, 0x0f, 0xef, 0xc1]),
        plain(&[0x66, 0x48, 0x0f, 0x6e, 0xc7]),
        plain(&[0x0f, 0x57, 0xca]),
    ];
    forms.push(of("sse", "SSE instructions", kind, position, &sse));
}

/// What needs something on the stack before it.
fn on_the_stack(forms: &mut Vec<Form>) {
    let inside = |before: &[u8], insn: &[u8]| Case {
        before: [before, &fill()].concat(),
        insn: insn.to_vec(),
        after: vec![RET],
        flags: NO_FLAGS,
    };
    // push rbp; mov rbp, rsp; sub rsp, 32.
    let frame = [0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20];
    let leave = vec![inside(&frame, &[0xc9])];
    forms.push(form("leave", "leave", Some(FormKind::Leave), Position::Inside, leave));
    // push r12; pop rcx, pop r13.
    let pops = vec![inside(&[0x41, 0x54], &[0x59]), inside(&[0x41, 0x54], &[0x41, 0x5d])];
    forms.push(form("pop", "pop register", Some(FormKind::Pop), Position::Inside, pops));
}

/// Of which kernels take the byte after the prefix for an opcode of one byte.
fn vex(position: Position, forms: &mut Vec<Form>) {
    let tried: [(&str, &str, &[u8]); 7] = [
        ("vzeroupper", "vzeroupper", &[0xc5, 0xf8, 0x77]),
        ("vmovd", "vmovd edi, xmm0", &[0xc5, 0xf9, 0x7e, 0xc7]),
        ("vmovdqu", "vmovdqu [rdi], xmm0", &[0xc5, 0xfa, 0x7f, 0x07]),
        ("vpor", "vpor xmm0, xmm1, xmm2", &[0xc5, 0xf1, 0xeb, 0xc2]),
        ("vpsubsb", "vpsubsb xmm0, xmm1, xmm2", &[0xc5, 0xf1, 0xe8, 0xc2]),
        ("vandnps", "vandnps xmm0, xmm1, xmm2", &[0xc5, 0xf0, 0x55, 0xc2]),
        ("vmovups", "vmovups xmm0, [rdi]", &[0xc5, 0xf8, 0x10, 0x07]),
    ];
    for (id, name, insn) in tried {
        let form = of(id, name, None, position, &[plain(insn)]);
        forms.push(Form { needs: Needs::Avx, ..form });
    }
}

/// A snippet of each group of the allow-list with as little around the instruction as can be: to be
/// timed, as an ordinary function.
pub(super) fn timed() -> Vec<(FormKind, Case)> {
    let bare = |insn: &[u8], before: &[u8], then: &[u8]| Case {
        before: before.to_vec(),
        insn: insn.to_vec(),
        after: [then, &[RET]].concat(),
        flags: NO_FLAGS,
    };
    FormKind::ALL
        .into_iter()
        .map(|kind| {
            let nop =
                |length: usize| bare(NOPS.get(length - 1).copied().unwrap_or(&[0x90]), &[], &[]);
            let case = match kind {
                FormKind::Nop1 => nop(1),
                FormKind::Nop2 => nop(2),
                FormKind::Nop3 => nop(3),
                FormKind::Nop4 => nop(4),
                FormKind::Nop5 => nop(5),
                FormKind::Nop6 => nop(6),
                FormKind::Nop7 => nop(7),
                FormKind::Nop8 => nop(8),
                FormKind::Push => bare(&[0x55], &[], &[0x59]),
                FormKind::JccShort => bare(&[0x74, OVER_MARK], &[], &MARK),
                FormKind::JccNear => bare(&[0x0f, 0x84, OVER_MARK, 0, 0, 0], &[], &MARK),
                FormKind::Jmp => bare(&[0xeb, OVER_MARK], &[], &MARK),
                FormKind::BndJmp => bare(&[0xf2, 0xeb, OVER_MARK], &[], &MARK),
                // Over its own return, to another.
                FormKind::Call => bare(&[0xe8, 1, 0, 0, 0], &[], &[RET]),
                FormKind::Endbr64 => bare(&[0xf3, 0x0f, 0x1e, 0xfa], &[], &[]),
                FormKind::Leave => bare(&[0xc9], &[0x55, 0x48, 0x89, 0xe5], &[]),
                FormKind::Pop => bare(&[0x59], &[0x55], &[]),
                FormKind::Ret => bare(&[RET], &[], &[]),
                FormKind::Stepped => bare(&[0x48, 0x89, 0xf8], &[], &[]),
            };
            (kind, case)
        })
        .collect()
}

/// What events are timed on: an instruction whose trap is cheap, in a function whose first six
/// arguments point to its own stack: a word that cannot be read costs more than six that can.
pub(super) fn timed_event() -> Case {
    // mov rdi, rsp; the same for rsi, rdx, rcx, r8, r9.
    let before = [
        [0x48, 0x89, 0xe7],
        [0x48, 0x89, 0xe6],
        [0x48, 0x89, 0xe2],
        [0x48, 0x89, 0xe1],
        [0x49, 0x89, 0xe0],
        [0x49, 0x89, 0xe1],
    ];
    Case { before: before.concat(), insn: vec![0x90], after: vec![RET], flags: NO_FLAGS }
}

/// A call of a function that begins with a nop and comes back at another one, which is the site of
/// the case; and how far from the beginning the called function stands.
pub(super) fn timed_call() -> (Case, usize) {
    let case = Case {
        before: vec![0xe8, 2, 0, 0, 0],
        insn: vec![0x90],
        after: vec![RET, 0x90, RET],
        flags: NO_FLAGS,
    };
    (case, 7)
}

#[cfg(test)]
mod tests;
