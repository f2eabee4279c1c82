//! How control leaves a function: its returns, the jumps that hand its frame on, and the indirect
//! jumps, which are switches if the stack says so.

use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::analyse::{Disassembler, SiteSpec};
use super::flow::{Depth, Flow, depths, is_call};
use super::listing::{Listing, direct_target, falls_through};
use super::{CostClass, KernelForms};
use crate::model::VirtAddr;

/// How far back the parts of a jump-table dispatch are looked for.
const WINDOW: usize = 16;

/// An indirect jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Indirect {
    /// A switch or computed goto: it stays in the function.
    Inside {
        /// How deep the stack is there.
        depth: Option<i32>,
    },
    /// The stack is as at the function's entry and no table is in sight: a tail call.
    Tail {
        /// Where.
        at: VirtAddr,
    },
    /// The stack depth there is not known, nor is a table in sight.
    Unknown {
        /// Where.
        at: VirtAddr,
    },
}

/// All ways out of a function.
#[derive(Clone, Debug, Default)]
pub(super) struct Leaves {
    /// Its `ret`s, by address.
    pub(super) rets: Vec<SiteSpec>,
    /// Returns that must not carry a probe: where, and what stands there.
    pub(super) unprobed_rets: Vec<SiteText>,
    /// Where direct jumps out of the function go: each once, by address.
    pub(super) tails: Vec<VirtAddr>,
    /// The jumps that go there and nowhere else, with the function's frame gone: where to, and from
    /// where.
    pub(super) jumps: Vec<(VirtAddr, SiteSpec)>,
    /// Its indirect jumps.
    pub(super) indirect: Vec<Indirect>,
    /// Control runs off the end of a part here.
    pub(super) runs_off: Vec<VirtAddr>,
}

/// An instruction to be named in a note.
#[derive(Clone, Debug)]
pub(super) struct SiteText {
    pub(super) address: VirtAddr,
    pub(super) text: String,
}

/// Finds the ways out.
pub(super) fn leaves(listing: &Listing<'_>, flow: &Flow, forms: KernelForms) -> Leaves {
    let mut leaves = Leaves::default();
    let mut depth_of: Option<Vec<Option<Depth>>> = None;
    for (index, insn) in listing.insns.iter().enumerate() {
        if !flow.live.get(index).copied().unwrap_or(false) {
            continue;
        }
        let address = VirtAddr(insn.ip());
        match insn.flow_control() {
            FlowControl::Return => leaves.add_return(listing, index, insn, forms),
            FlowControl::IndirectBranch => {
                let depths = depth_of.get_or_insert_with(|| depths(listing, flow));
                let depth = depths.get(index).copied().flatten().and_then(|depth| depth.sp);
                leaves.indirect.push(classify(listing, flow, index, insn, depth));
            }
            FlowControl::UnconditionalBranch
            | FlowControl::ConditionalBranch
            | FlowControl::XbeginXabortXend => {
                if let Some(target) = direct_target(insn)
                    && !listing.contains(target)
                {
                    leaves.tails.push(VirtAddr(target));
                    let depths = depth_of.get_or_insert_with(|| depths(listing, flow));
                    let depth = depths.get(index).copied().flatten().and_then(|depth| depth.sp);
                    if insn.flow_control() == FlowControl::UnconditionalBranch && depth == Some(0) {
                        leaves.add_jump(listing, index, insn, VirtAddr(target), forms);
                    }
                }
            }
            _ => {}
        }
        // Go's compiler puts a nop behind a last call, which does not return.
        let pads = |before: &Instruction| {
            listing.is_go && insn.mnemonic() == Mnemonic::Nop && is_call(before)
        };
        let padding = index.checked_sub(1).and_then(|at| listing.insns.get(at)).is_some_and(pads);
        if falls_through(insn) && !is_call(insn) && listing.next(index).is_none() && !padding {
            leaves.runs_off.push(address);
        }
    }
    leaves.tails.sort_unstable();
    leaves.tails.dedup();
    leaves
}

impl Leaves {
    fn add_jump(
        &mut self,
        listing: &Listing<'_>,
        index: usize,
        insn: &Instruction,
        to: VirtAddr,
        forms: KernelForms,
    ) {
        let Some((bytes, offset)) = listing.bytes_of(index) else { return };
        let Some(cost) = forms.cost(bytes, false) else { return };
        let site = SiteSpec {
            address: VirtAddr(insn.ip()),
            offset,
            slot_offset: 0,
            cost,
            keeps_frame_pointer: false,
            restarts: false,
            insn: *insn,
        };
        self.jumps.push((to, site));
    }

    fn add_return(
        &mut self,
        listing: &Listing<'_>,
        index: usize,
        insn: &Instruction,
        forms: KernelForms,
    ) {
        let address = VirtAddr(insn.ip());
        match listing.bytes_of(index) {
            // At a `ret` rsp points at the return slot: the instruction pops it.
            Some((bytes, offset)) if forms.is_probed_ret(bytes) => self.rets.push(SiteSpec {
                address,
                offset,
                slot_offset: 0,
                cost: CostClass::SingleStepped,
                keeps_frame_pointer: false,
                restarts: false,
                insn: *insn,
            }),
            _ => {
                let text = Disassembler::new().text(insn);
                self.unprobed_rets.push(SiteText { address, text });
            }
        }
    }
}

fn classify(
    listing: &Listing<'_>,
    flow: &Flow,
    index: usize,
    insn: &Instruction,
    depth: Option<i32>,
) -> Indirect {
    let at = VirtAddr(insn.ip());
    // Compilers mark the dispatch of a switch `notrack`, never a tail call: its target must be
    // an `endbr64`.
    let notrack = listing.bytes_of(index).is_some_and(|(bytes, _)| bytes.first() == Some(&0x3e));
    if notrack || depth.is_some_and(|depth| depth != 0) || is_table_dispatch(listing, flow, index) {
        return Indirect::Inside { depth };
    }
    // Where Go hands a frame on it is as at the entry, and the target is in a register or a method
    // table; through an index it never is.
    if listing.is_go && (depth.is_none() || insn.memory_index() != Register::None) {
        return Indirect::Inside { depth };
    }
    // A jump through a fixed place (a vtable, the GOT) is no table whatever the stack is.
    let fixed = insn.op0_kind() == OpKind::Memory && insn.memory_index() == Register::None;
    match depth {
        Some(_) => Indirect::Tail { at },
        None if fixed && insn.is_ip_rel_memory_operand() => Indirect::Tail { at },
        None => Indirect::Unknown { at },
    }
}

/// Whether a jump at entry depth is the dispatch of a switch.
///
/// Position-independent code: `movsxd r, [table + i*4]; add r, table; jmp r`. Other code:
/// `jmp [table + i*8]` or `mov r, [table + i*8]; jmp r` behind a bounds check, in a function that
/// has code nothing else reaches (its case labels); a call through an array of functions has none.
fn is_table_dispatch(listing: &Listing<'_>, flow: &Flow, index: usize) -> bool {
    let Some(jump) = listing.insns.get(index) else { return false };
    let first = listing.part_of(index).map_or(index, |part| part.first);
    let from = index.saturating_sub(WINDOW).max(first);
    let before = listing.insns.get(from..index).unwrap_or_default();
    let scaled = |insn: &Instruction, scale: u32| {
        insn.op_kinds().any(|kind| kind == OpKind::Memory)
            && insn.memory_index() != Register::None
            && insn.memory_index_scale() == scale
    };
    let absolute = || {
        let bounded =
            before.iter().any(|insn| insn.flow_control() == FlowControl::ConditionalBranch);
        let labels = flow.live.iter().zip(&flow.reached).any(|(live, reached)| *live && !reached);
        bounded && labels
    };
    if jump.op0_kind() == OpKind::Memory {
        return scaled(jump, 8) && absolute();
    }
    if jump.op0_kind() != OpKind::Register {
        return false;
    }
    // The nearest instructions that make the target, walking back.
    let mut target = jump.op0_register().full_register();
    let mut added = false;
    for insn in before.iter().rev() {
        if insn.op_count() == 0
            || insn.op0_kind() != OpKind::Register
            || insn.op0_register().full_register() != target
        {
            continue;
        }
        match insn.mnemonic() {
            Mnemonic::Cmp | Mnemonic::Test => {}
            Mnemonic::Add if insn.op1_kind() == OpKind::Register => added = true,
            Mnemonic::Movsxd => return added && scaled(insn, 4),
            Mnemonic::Mov if insn.op1_kind() == OpKind::Register => {
                target = insn.op1_register().full_register();
            }
            Mnemonic::Mov => return scaled(insn, 8) && absolute(),
            Mnemonic::Lea => return insn.memory_index() != Register::None,
            _ => return false,
        }
    }
    false
}
