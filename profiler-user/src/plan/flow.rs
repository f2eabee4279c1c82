//! Which instructions control can reach, and how deep the stack is there.

use iced_x86::{
    FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::listing::{Listing, Refused, direct_target, falls_through, is_padding};
use crate::model::VirtAddr;

/// What is known of control flow in one function.
#[derive(Debug)]
pub(super) struct Flow {
    /// By instruction: it is code that runs. Reached over direct branches from the start, or part
    /// of a stretch that only a jump table or an exception can reach and that reads as code.
    pub(super) live: Vec<bool>,
    /// By instruction: reached over direct branches from the start.
    pub(super) reached: Vec<bool>,
    /// By instruction: a branch, or a call other than to the start, inside the function leads
    /// here.
    pub(super) target: Vec<bool>,
    /// Stretches that are neither reached nor read as code: no site is put there.
    pub(super) opaque: Vec<VirtAddr>,
}

impl Flow {
    /// Follows control from the function's first instruction.
    ///
    /// # Errors
    ///
    /// [`Refused::NotDecodable`] where it comes to something that is no instruction of the listing.
    pub(super) fn of(listing: &Listing<'_>) -> Result<Self, Refused> {
        let count = listing.insns.len();
        let mut flow = Self {
            live: Vec::new(),
            reached: vec![false; count],
            target: vec![false; count],
            opaque: Vec::new(),
        };
        flow.mark_targets(listing);
        flow.follow(listing)?;
        flow.live.clone_from(&flow.reached);
        flow.trust_what_reads_as_code(listing);
        Ok(flow)
    }

    /// Marks targets from everything decoded, reached or not: a mark too many only costs a site.
    fn mark_targets(&mut self, listing: &Listing<'_>) {
        let start = listing.start();
        for insn in &listing.insns {
            let Some(target) = direct_target(insn) else { continue };
            // Recursion calls the start; that is a call, not a second pass.
            if insn.flow_control() == FlowControl::Call && target == start {
                continue;
            }
            if let Some(mark) = listing.at(target).and_then(|index| self.target.get_mut(index)) {
                *mark = true;
            }
        }
    }

    fn follow(&mut self, listing: &Listing<'_>) -> Result<(), Refused> {
        let mut work = vec![0];
        while let Some(index) = work.pop() {
            let (Some(reached), Some(insn)) =
                (self.reached.get_mut(index), listing.insns.get(index))
            else {
                continue;
            };
            if std::mem::replace(reached, true) {
                continue;
            }
            if let Some(target) = direct_target(insn)
                && listing.contains(target)
            {
                let at = listing.at(target);
                work.push(at.ok_or(Refused::NotDecodable(VirtAddr(target)))?);
            }
            if !falls_through(insn) {
                continue;
            }
            if let Some(next) = listing.next(index) {
                work.push(next);
            } else if !is_call(insn)
                && let Some(at) = listing.part_of(index).and_then(|part| part.undecoded)
            {
                // Only a call that does not return may stand before bytes that are no code.
                return Err(Refused::NotDecodable(VirtAddr(at)));
            }
        }
        Ok(())
    }

    /// Looks at what was not reached: case labels and landing pads are code, tables are not, and a
    /// probe on a byte of a table would change what the target reads there.
    fn trust_what_reads_as_code(&mut self, listing: &Listing<'_>) {
        let can_be_entered = listing.insns.iter().zip(&self.reached).any(|(insn, reached)| {
            *reached && (is_call(insn) || insn.flow_control() == FlowControl::IndirectBranch)
        });
        for part in &listing.parts {
            let mut from = part.first;
            while from < part.last {
                if self.reached.get(from).copied().unwrap_or(true) {
                    from += 1;
                    continue;
                }
                let length = self
                    .reached
                    .get(from..part.last)
                    .map_or(0, |rest| rest.iter().take_while(|reached| !**reached).count());
                let to = from + length.max(1);
                let stretch = from..to;
                let before_junk = to == part.last && part.undecoded.is_some();
                match reads_as(listing, stretch.clone(), before_junk) {
                    // There it is the labels of a table.
                    Reading::Code | Reading::Data if listing.is_go && !before_junk => {
                        if let Some(live) = self.live.get_mut(stretch) {
                            live.fill(true);
                        }
                    }
                    Reading::Code if can_be_entered => {
                        if let Some(live) = self.live.get_mut(stretch) {
                            live.fill(true);
                        }
                    }
                    Reading::Padding => {}
                    Reading::Code | Reading::Data => {
                        if let Some(insn) = listing.insns.get(from) {
                            self.opaque.push(VirtAddr(insn.ip()));
                        }
                    }
                }
                from = to;
            }
        }
    }
}

/// What an unreached stretch looks like.
enum Reading {
    Code,
    Padding,
    Data,
}

fn reads_as(listing: &Listing<'_>, stretch: std::ops::Range<usize>, before_junk: bool) -> Reading {
    let mut padding = true;
    for index in stretch {
        let Some(insn) = listing.insns.get(index) else { return Reading::Data };
        let Some((bytes, _)) = listing.bytes_of(index) else { return Reading::Data };
        if is_padding(insn, bytes) {
            continue;
        }
        padding = false;
        let astray = direct_target(insn)
            .is_some_and(|target| listing.contains(target) && listing.at(target).is_none());
        if astray || is_implausible(insn) {
            return Reading::Data;
        }
    }
    match (padding, before_junk) {
        (true, _) => Reading::Padding,
        (false, true) => Reading::Data,
        (false, false) => Reading::Code,
    }
}

/// Whether compilers for user space never emit this: a sign that data was decoded.
fn is_implausible(insn: &Instruction) -> bool {
    if insn.is_privileged() {
        return true;
    }
    matches!(
        insn.mnemonic(),
        Mnemonic::In
            | Mnemonic::Out
            | Mnemonic::Insb
            | Mnemonic::Insd
            | Mnemonic::Insw
            | Mnemonic::Outsb
            | Mnemonic::Outsd
            | Mnemonic::Outsw
            | Mnemonic::Int
            | Mnemonic::Int1
            | Mnemonic::Iret
            | Mnemonic::Iretd
            | Mnemonic::Iretq
            | Mnemonic::Retf
            | Mnemonic::Enter
            | Mnemonic::Xlatb
            | Mnemonic::Loop
            | Mnemonic::Loope
            | Mnemonic::Loopne
            | Mnemonic::Jrcxz
            | Mnemonic::Jecxz
            | Mnemonic::Popf
            | Mnemonic::Popfq
            | Mnemonic::Cli
            | Mnemonic::Sti
            | Mnemonic::Cmc
            | Mnemonic::Hlt
    )
}

/// Whether this is a call of any form.
pub(super) fn is_call(insn: &Instruction) -> bool {
    matches!(insn.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
}

/// How far below the return slot two registers point: bytes; none where it is not known exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    pub(super) sp: Option<i32>,
    pub(super) bp: Option<i32>,
}

impl Depth {
    /// At the first instruction rsp points at the return slot (psABI 3.2.2).
    pub(super) const AT_ENTRY: Self = Self { sp: Some(0), bp: None };

    /// Where nothing is known.
    pub(super) const UNKNOWN: Self = Self { sp: None, bp: None };

    /// The depth behind `insn`, given the one before it.
    pub(super) fn after(self, insn: &Instruction, info: &mut InstructionInfoFactory) -> Self {
        let Self { sp, bp } = self;
        if is_call(insn) {
            // To the next instruction: nobody returns, the address is read from the stack.
            if direct_target(insn) == Some(insn.next_ip()) {
                return Self { sp: deeper(sp, 8), bp };
            }
            // The callee takes its return address off again and preserves rbp.
            return self;
        }
        match insn.mnemonic() {
            Mnemonic::Push | Mnemonic::Pushfq => {
                return Self { sp: deeper(sp, -insn.stack_pointer_increment()), bp };
            }
            Mnemonic::Pop | Mnemonic::Popfq => {
                let sp = deeper(sp, -insn.stack_pointer_increment());
                return match insn.op0_register().full_register() {
                    Register::RSP => Self { sp: None, bp },
                    Register::RBP => Self { sp, bp: None },
                    _ => Self { sp, bp },
                };
            }
            Mnemonic::Leave => return Self { sp: deeper(bp, -8), bp: None },
            _ => {}
        }
        if let Some(after) = self.after_known_write(insn) {
            return after;
        }
        // Anything else that writes one of the two makes it unknown.
        let mut after = self;
        for used in info.info(insn).used_registers() {
            if is_write(used.access()) {
                match used.register().full_register() {
                    Register::RSP => after.sp = None,
                    Register::RBP => after.bp = None,
                    _ => {}
                }
            }
        }
        after
    }

    /// The depth behind a form whose effect on rsp or rbp is known; none for other forms.
    fn after_known_write(self, insn: &Instruction) -> Option<Self> {
        if insn.op_count() != 2 || insn.op0_kind() != OpKind::Register {
            return None;
        }
        let (from, by) = match insn.mnemonic() {
            Mnemonic::Sub => (insn.op0_register(), immediate(insn)?),
            Mnemonic::Add => (insn.op0_register(), immediate(insn)?.checked_neg()?),
            Mnemonic::Mov if insn.op1_kind() == OpKind::Register => (insn.op1_register(), 0),
            Mnemonic::Lea if insn.memory_index() == Register::None => {
                let displacement = insn.memory_displacement64().cast_signed();
                (insn.memory_base(), displacement.checked_neg()?)
            }
            _ => return None,
        };
        let base = match from {
            Register::RSP => self.sp,
            Register::RBP => self.bp,
            _ => return None,
        };
        let value = i32::try_from(by).ok().and_then(|by| deeper(base, by));
        match insn.op0_register() {
            Register::RSP => Some(Self { sp: value, ..self }),
            Register::RBP => Some(Self { bp: value, ..self }),
            _ => None,
        }
    }

    /// What holds where two ways meet.
    fn join(self, other: Self) -> Self {
        let agree = |a: Option<i32>, b: Option<i32>| if a == b { a } else { None };
        Self { sp: agree(self.sp, other.sp), bp: agree(self.bp, other.bp) }
    }
}

fn deeper(depth: Option<i32>, by: i32) -> Option<i32> {
    depth.and_then(|depth| depth.checked_add(by))
}

fn immediate(insn: &Instruction) -> Option<i64> {
    match insn.op1_kind() {
        OpKind::Immediate8to64 => Some(insn.immediate8to64()),
        OpKind::Immediate32to64 => Some(insn.immediate32to64()),
        _ => None,
    }
}

/// Whether an access may write.
pub(super) fn is_write(access: OpAccess) -> bool {
    matches!(
        access,
        OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
    )
}

/// The depth before each live instruction; none where it was not come to.
///
/// Where two ways disagree (mostly behind a call that never returns, when another block follows
/// it) the depth is unknown. What only a jump table or an exception reaches is taken to start as
/// deep as the function's jumps through tables are, if they agree: true of case labels, and of
/// landing pads unless the compiler moved the prologue into a branch.
pub(super) fn depths(listing: &Listing<'_>, flow: &Flow) -> Vec<Option<Depth>> {
    let mut walk = DepthWalk {
        listing,
        info: InstructionInfoFactory::new(),
        known: vec![None; listing.insns.len()],
    };
    walk.from(0, Depth::AT_ENTRY);
    let mut tables = listing.insns.iter().zip(&walk.known).filter_map(|(insn, depth)| {
        let deep = depth.filter(|depth| depth.sp != Some(0));
        deep.filter(|_| insn.flow_control() == FlowControl::IndirectBranch)
    });
    let Some(first) = tables.next() else { return walk.known };
    let seed = tables.fold(first, Depth::join);
    for index in 0..listing.insns.len() {
        let is = |marks: &[bool], at: usize| marks.get(at).copied().unwrap_or(false);
        let starts_block = index
            .checked_sub(1)
            .and_then(|before| listing.insns.get(before))
            .is_none_or(|before| !falls_through(before));
        let unknown = walk.known.get(index).is_some_and(Option::is_none);
        if starts_block && unknown && is(&flow.live, index) && !is(&flow.target, index) {
            walk.from(index, seed);
        }
    }
    walk.known
}

struct DepthWalk<'a> {
    listing: &'a Listing<'a>,
    info: InstructionInfoFactory,
    known: Vec<Option<Depth>>,
}

impl DepthWalk<'_> {
    fn from(&mut self, index: usize, depth: Depth) {
        let mut work = vec![(index, depth)];
        while let Some((index, depth)) = work.pop() {
            let (Some(slot), Some(insn)) =
                (self.known.get_mut(index), self.listing.insns.get(index))
            else {
                continue;
            };
            let joined = slot.map_or(depth, |before| before.join(depth));
            if *slot == Some(joined) {
                continue;
            }
            *slot = Some(joined);
            let after = joined.after(insn, &mut self.info);
            if let Some(target) = direct_target(insn).and_then(|target| self.listing.at(target))
                && !is_call(insn)
            {
                work.push((target, after));
            }
            if falls_through(insn)
                && let Some(next) = self.listing.next(index)
            {
                work.push((next, after));
            }
        }
    }
}
