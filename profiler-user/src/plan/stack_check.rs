//! The check of the stack at the start of a Go function.
//!
//! A goroutine's stack is small at first. Before anything else a function compares the stack pointer
//! with the goroutine's limit, and where there is too little room jumps to code that calls
//! `runtime.morestack`, which moves the stack and begins the function anew (`stacksplit` in
//! `cmd/internal/obj/x86/obj6.go`). A probe on its first instruction would see one call twice. At the
//! last conditional jump of the check nothing has been pushed yet and every argument is where it was;
//! and the flags tell whether the jump is taken, and so whether this is a call or the start is about to
//! come again.

use iced_x86::{ConditionCode, FlowControl, Instruction, InstructionInfoFactory, Register};

use super::flow::is_write;
use super::listing::{Listing, Refused, direct_target};
use crate::model::VirtAddr;

/// How many instructions the check has at most: one of a very large frame in Go 1.18 has 8.
const CHECK: usize = 16;
/// How many the code that grows the stack has: it saves each register that holds an argument, and
/// loads them again.
const GROWING: usize = 96;

/// How the start of a function comes to be executed more than once for one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// It does not.
    Once,
    /// The stack is checked, and this instruction is the last conditional jump of that.
    Checked(usize),
}

/// How a Go function starts.
///
/// # Errors
/// [`Refused::LoopAtStart`] if something other than the check leads back to the start;
/// [`Refused::StackCheck`] if something grows the stack and its check is not one that is known.
pub(super) fn start(listing: &Listing<'_>) -> Result<Start, Refused> {
    let start = listing.start();
    let back = |insn: &Instruction| {
        insn.flow_control() != FlowControl::Call && direct_target(insn) == Some(start)
    };
    let jumps: Vec<usize> =
        listing.insns.iter().enumerate().filter(|(_, insn)| back(insn)).map(|(at, _)| at).collect();
    if jumps.is_empty() {
        return Ok(Start::Once);
    }
    let mut checked = None;
    let mut restarts = Vec::new();
    let mut next = Some(0);
    let mut info = InstructionInfoFactory::new();
    let mut left = CHECK;
    while let Some(index) = next
        && let Some(insn) = listing.insns.get(index)
        && left > 0
    {
        left -= 1;
        if insn.flow_control() == FlowControl::ConditionalBranch {
            let grows = direct_target(insn).and_then(|to| grows_the_stack(listing, to));
            let Some(restart) = grows else { break };
            restarts.push(restart);
            checked = Some((index, insn.condition_code()));
        } else if !only_compares(insn, &mut info) {
            break;
        }
        next = listing.next(index);
    }
    if jumps.iter().any(|jump| !restarts.contains(jump)) {
        // A jump back from code that grows nothing is a loop; one from code that does, and that
        // nothing at the start leads to, is a check of another kind.
        let grown = |jump: &usize| jump.checked_sub(1).is_some_and(|at| is_restored(listing, at));
        return Err(if jumps.iter().all(grown) {
            Refused::StackCheck(VirtAddr(start))
        } else {
            Refused::LoopAtStart(VirtAddr(start))
        });
    }
    match checked {
        Some((index, ConditionCode::be)) => Ok(Start::Checked(index)),
        _ => Err(Refused::StackCheck(VirtAddr(start))),
    }
}

/// Whether an instruction of the check may be one: it writes no memory and does not move the stack.
fn only_compares(insn: &Instruction, info: &mut InstructionInfoFactory) -> bool {
    if insn.flow_control() != FlowControl::Next {
        return false;
    }
    let used = info.info(insn);
    let moves = used.used_registers().iter().any(|used| {
        is_write(used.access())
            && matches!(used.register().full_register(), Register::RSP | Register::RBP)
    });
    !moves && !used.used_memory().iter().any(|memory| is_write(memory.access()))
}

/// The jump back to the start, if the code at an address does nothing but save registers, call one
/// function, and load them again.
fn grows_the_stack(listing: &Listing<'_>, address: u64) -> Option<usize> {
    let mut next = listing.at(address);
    let mut called = false;
    for _ in 0..GROWING {
        let index = next?;
        let insn = listing.insns.get(index)?;
        match insn.flow_control() {
            FlowControl::Next if is_move(insn) => {}
            FlowControl::Call if !called => {
                direct_target(insn).filter(|to| !listing.contains(*to))?;
                called = true;
            }
            FlowControl::UnconditionalBranch => {
                return (called && direct_target(insn) == Some(listing.start())).then_some(index);
            }
            _ => return None,
        }
        next = listing.next(index);
    }
    None
}

/// Whether what ends at an instruction is the end of code that grows the stack: the call itself, or
/// the registers loaded again behind it.
fn is_restored(listing: &Listing<'_>, index: usize) -> bool {
    let before = (0..=index).rev().take(GROWING);
    let mut insns = before.filter_map(|at| listing.insns.get(at));
    insns.find(|insn| !is_move(insn)).is_some_and(|insn| insn.flow_control() == FlowControl::Call)
}

/// Whether this moves between a register and the stack, or pads.
fn is_move(insn: &Instruction) -> bool {
    use iced_x86::Mnemonic::{
        Mov, Movaps, Movd, Movdqa, Movdqu, Movq, Movsd, Movss, Movsx, Movsxd, Movups, Movzx, Nop,
        Xchg,
    };
    match insn.mnemonic() {
        Nop => true,
        // `xchg ax, ax`.
        Xchg => insn.op0_kind() == insn.op1_kind() && insn.op0_register() == insn.op1_register(),
        Mov | Movzx | Movsx | Movsxd | Movq | Movd | Movups | Movaps | Movdqu | Movdqa | Movss
        | Movsd => insn.memory_base() == Register::RSP,
        _ => false,
    }
}
