//! The straight line from a return address, and how the stack moves along it.

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, Register};

use super::analyse::Disassembler;
use super::flow::{Depth, is_write};
use super::landing::{LandingSite, ReturnNeeds, Returns, Stop, StopAt, Up};
use super::{CostClass, FormKind, KernelForms};
use crate::model::{FileOffset, VirtAddr};

/// How many instructions are looked at. Nine in ten landings are among the first eight; one much
/// further on would be seen noticeably late.
const LINE: usize = 48;

/// A return slot lies directly below where the stack pointer is after the return.
const SLOT: i32 = 8;

/// What the straight line from a return address has.
pub(super) struct Line {
    /// The first instruction that may carry a probe.
    pub(super) point: Option<LandingSite>,
    /// The first that destroys what is needed of the call's result.
    pub(super) overwrites: Option<StopAt>,
    pub(super) end: End,
}

/// What it comes to.
pub(super) enum End {
    /// An instruction the kernel emulates.
    Cheap(LandingSite),
    /// The caller's own return.
    Returns(StopAt, Up),
    /// Something else.
    Stops(StopAt),
}

impl Line {
    /// Walks the line from an instruction, which is at a return address.
    pub(super) fn walk(caller: &Returns<'_>, from: usize, needs: ReturnNeeds) -> Self {
        let mut walk = Walk {
            caller,
            stack: Stack::at(caller, from),
            kept: Kept { value: true, memory: true },
            info: InstructionInfoFactory::new(),
            text: Disassembler::new(),
            point: None,
            overwrites: None,
        };
        let mut index = from;
        let mut steps = LINE;
        let end = loop {
            steps -= 1;
            match walk.step(index, needs) {
                Some(end) => break end,
                None if steps == 0 => break walk.stops(index, Stop::TooFar),
                None => {}
            }
            match caller.listing.next(index).filter(|&next| caller.is_live(next)) {
                Some(next) => index = next,
                None => break walk.stops(index, Stop::EndOfCode),
            }
        };
        Self { point: walk.point, overwrites: walk.overwrites, end }
    }
}

struct Walk<'a> {
    caller: &'a Returns<'a>,
    stack: Stack,
    kept: Kept,
    info: InstructionInfoFactory,
    text: Disassembler,
    point: Option<LandingSite>,
    overwrites: Option<StopAt>,
}

/// What is still as the callee left it.
#[derive(Clone, Copy)]
struct Kept {
    value: bool,
    memory: bool,
}

impl Walk<'_> {
    /// Looks at an instruction; what the line comes to if it ends there.
    fn step(&mut self, index: usize, needs: ReturnNeeds) -> Option<End> {
        let insn = *self.caller.listing.insns.get(index)?;
        let (bytes, offset) = self.caller.listing.bytes_of(index)?;
        if let Some(slot_offset) = self.stack.slot_offset()
            && let Some(cost) = may_land(bytes, self.caller.forms)
        {
            let site = self.site(&insn, offset, slot_offset, cost);
            if cost == CostClass::Emulated {
                self.point.get_or_insert_with(|| site.clone());
                return Some(End::Cheap(site));
            }
            self.point.get_or_insert(site);
        }
        if insn.flow_control() == FlowControl::Return {
            let up = self.stack.up().filter(|_| is_common_return(bytes));
            let why = if up.is_some() { Stop::Returns } else { Stop::OddReturn };
            let at = self.stop_at(&insn, why);
            return Some(up.map_or(End::Stops(at.clone()), |up| End::Returns(at, up)));
        }
        if let Some(why) = stops(&insn) {
            return Some(End::Stops(self.stop_at(&insn, why)));
        }
        match self.writes_goroutine(&insn) {
            None => {}
            // Behind a call of Go's older convention, which does not keep it, it is set anew.
            Some(true) => self.point = None,
            Some(false) => {
                return Some(End::Stops(self.stop_at(&insn, Stop::LosesGoroutine)));
            }
        }
        self.stack = self.stack.after(&insn, &mut self.info);
        if self.stack.is_lost() {
            return Some(End::Stops(self.stop_at(&insn, Stop::UnknownStack)));
        }
        self.note_writes(&insn, needs);
        None
    }

    /// In Go code: whether an instruction writes the register that has the goroutine, and if so whether
    /// it has it afterwards.
    fn writes_goroutine(&mut self, insn: &Instruction) -> Option<bool> {
        if !self.caller.listing.is_go {
            return None;
        }
        let mut used = self.info.info(insn).used_registers().iter();
        let writes = used.any(|used| {
            is_write(used.access()) && used.register().full_register() == Register::R14
        });
        let loads = insn.code() == Code::Mov_r64_rm64 && insn.memory_segment() == Register::FS;
        writes.then_some(loads)
    }

    fn site(
        &mut self,
        insn: &Instruction,
        offset: FileOffset,
        slot_offset: i32,
        cost: CostClass,
    ) -> LandingSite {
        LandingSite {
            offset,
            address: VirtAddr(insn.ip()),
            slot_offset,
            cost,
            keeps_value: self.kept.value,
            keeps_memory: self.kept.memory,
            instruction: self.text.text(insn),
        }
    }

    fn note_writes(&mut self, insn: &Instruction, needs: ReturnNeeds) {
        let used = self.info.info(insn);
        self.kept.value &= !used.used_registers().iter().any(|used| {
            is_write(used.access()) && used.register().full_register() == Register::RAX
        });
        self.kept.memory &= !used.used_memory().iter().any(|used| is_write(used.access()));
        let lost = match needs {
            ReturnNeeds::Nothing => false,
            ReturnNeeds::Value => !self.kept.value,
            ReturnNeeds::Pointee => !(self.kept.value && self.kept.memory),
        };
        if lost && self.overwrites.is_none() {
            self.overwrites = Some(self.stop_at(insn, Stop::Overwrites));
        }
    }

    fn stop_at(&mut self, insn: &Instruction, why: Stop) -> StopAt {
        StopAt { address: VirtAddr(insn.ip()), instruction: self.text.text(insn), why }
    }

    fn stops(&mut self, index: usize, why: Stop) -> End {
        let insn = self.caller.listing.insns.get(index).copied().unwrap_or_default();
        End::Stops(self.stop_at(&insn, why))
    }
}

/// What a probe behind a return costs on the instruction that is exactly `bytes`, if it may carry
/// one. A caller's plain `ret` may, too.
fn may_land(bytes: &[u8], forms: KernelForms) -> Option<CostClass> {
    forms.cost(bytes, false).or_else(|| forms.is_probed_ret(bytes).then(|| FormKind::Ret.class()))
}

/// Whether this takes the return address off the stack and nothing else: `ret`, `rep ret`, `bnd
/// ret`. One that takes more leaves the caller's caller with another stack than a landing there
/// expects; with other prefixes processors differ.
fn is_common_return(bytes: &[u8]) -> bool {
    matches!(bytes, [0xc3] | [0xf2 | 0xf3, 0xc3])
}

/// Whether the line ends at an instruction, returns aside.
fn stops(insn: &Instruction) -> Option<Stop> {
    if insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix()) {
        return Some(Stop::Slow);
    }
    match insn.flow_control() {
        FlowControl::Next => None,
        FlowControl::Call if !insn.is_call_near() => Some(Stop::Slow),
        FlowControl::Interrupt if insn.code() != Code::Int3 => Some(Stop::Slow),
        FlowControl::Interrupt | FlowControl::Exception => Some(Stop::Traps),
        FlowControl::Call
        | FlowControl::IndirectCall
        | FlowControl::ConditionalBranch
        | FlowControl::UnconditionalBranch
        | FlowControl::IndirectBranch
        | FlowControl::XbeginXabortXend => Some(Stop::Leaves),
        FlowControl::Return => Some(Stop::OddReturn),
    }
}

/// Where the stack pointer is, measured from two points.
#[derive(Clone, Copy)]
struct Stack {
    /// Below the stack pointer right after the return.
    from_return: Depth,
    /// Below rbp right after the return: all there is where the size of a frame is only known when
    /// it runs (`alloca`).
    from_frame: Depth,
    /// How deep the function's stack was right after the return, where that is known.
    whole: Option<i32>,
    /// The same for rbp.
    whole_frame: Option<i32>,
}

impl Stack {
    fn at(caller: &Returns<'_>, index: usize) -> Self {
        let Depth { sp, bp } = caller.depth(index);
        let between = sp.zip(bp).and_then(|(sp, bp)| bp.checked_sub(sp));
        Self {
            from_return: Depth { sp: Some(0), bp: between },
            from_frame: Depth { sp: None, bp: Some(0) },
            whole: sp,
            whole_frame: bp,
        }
    }

    fn after(self, insn: &Instruction, info: &mut InstructionInfoFactory) -> Self {
        Self {
            from_return: self.from_return.after(insn, info),
            from_frame: self.from_frame.after(insn, info),
            ..self
        }
    }

    fn is_lost(&self) -> bool {
        self.from_return.sp.is_none() && self.from_frame.sp.is_none()
    }

    /// The call's return slot minus the stack pointer.
    fn slot_offset(&self) -> Option<i32> {
        self.from_return.sp?.checked_sub(SLOT)
    }

    /// Where the caller's return slot is, if the stack pointer is at it now; none if what else is
    /// known of the caller's stack contradicts.
    fn up(&self) -> Option<Up> {
        let fits = |whole: Option<i32>, moved: i32| {
            whole.is_none_or(|whole| whole.checked_add(moved) == Some(0))
        };
        if let Some(moved) = self.from_return.sp {
            let up = SLOT.checked_sub(moved).and_then(|up| u32::try_from(up).ok())?;
            return (moved <= 0 && fits(self.whole, moved)).then_some(Up::Bytes(up));
        }
        let moved = self.from_frame.sp?;
        (moved == -SLOT && fits(self.whole_frame, moved)).then_some(Up::FramePointer)
    }
}
