//! Where to see that a call has begun: the cheapest legal instruction on the straight line from
//! the function's start, and how far the return slot is from the stack pointer there.

use iced_x86::{FlowControl, InstructionInfoFactory, Register};
use profiler_common::{Capture, Source};

use super::KernelForms;
use super::analyse::{Disassembler, SiteSpec};
use super::exits::{Indirect, Leaves};
use super::flow::{Depth, Flow, is_write};
use super::listing::{Listing, Refused};
use super::stack_check::{self, Start};
use crate::model::VirtAddr;

/// How far the line is walked: an enter further in would be seen noticeably late.
const LINE: usize = 24;

/// What the captures of a probe need to be intact at its enter site.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Bit N: the register that is [`Source`] N.
    registers: u16,
    /// Memory is read through one of them.
    memory: bool,
}

impl Needs {
    /// Adds what one captured word needs.
    pub(super) fn add(&mut self, capture: Capture) {
        self.registers |= Source::from_raw(capture.source).map_or(0, bit);
        self.memory |= capture.deref != 0;
    }
}

fn bit(source: Source) -> u16 {
    1 << source as u8
}

/// A legal enter site, and what has been overwritten before it executes.
#[derive(Clone, Debug)]
struct Candidate {
    site: SiteSpec,
    /// Bit N: the register that is [`Source`] N no longer holds what it held at the call.
    overwritten: u16,
    /// Memory other than the function's own stack has been written.
    wrote_memory: bool,
}

/// The legal enter sites of a function, in the order they execute: at least one.
#[derive(Clone, Debug)]
pub(super) struct Enters {
    candidates: Vec<Candidate>,
}

impl Enters {
    /// The cheapest site at which everything needed is still intact, the earliest of equals.
    pub(super) fn best(&self, needs: Needs) -> Option<&SiteSpec> {
        self.candidates
            .iter()
            .filter(|c| c.overwritten & needs.registers == 0 && !(needs.memory && c.wrote_memory))
            .min_by_key(|c| c.site.cost)
            .map(|c| &c.site)
    }
}

/// Finds the legal enter sites.
///
/// `starts_another`: whether another function starts at an address; a site there would see that
/// function's calls too.
pub(super) fn enters(
    listing: &Listing<'_>,
    flow: &Flow,
    leaves: &Leaves,
    starts_another: &dyn Fn(VirtAddr) -> bool,
    forms: KernelForms,
) -> Result<Enters, Refused> {
    let start = VirtAddr(listing.start());
    if listing.is_go {
        if let Start::Checked(jump) = stack_check::start(listing)? {
            return behind_stack_check(listing, flow, jump, starts_another, forms);
        }
    } else if flow.target.first().copied().unwrap_or(true) {
        return Err(Refused::LoopAtStart(start));
    }
    let line = Line::walk(listing, flow, None, starts_another, forms);
    let candidates: Vec<Candidate> = line
        .candidates
        .into_iter()
        .filter(|(index, candidate)| {
            *index == 0
                || leaves.indirect.iter().all(|jump| match jump {
                    // It goes elsewhere.
                    Indirect::Tail { .. } => true,
                    // A label cannot be where the stack is deeper or shallower than at the jump …
                    Indirect::Inside { depth: Some(depth) } => candidate.site.slot_offset != *depth,
                    // … nor in the middle of a prologue: it would push again on every pass.
                    Indirect::Inside { depth: None } | Indirect::Unknown { .. } => {
                        line.last_push.is_some_and(|push| *index <= push)
                    }
                })
        })
        .map(|(_, candidate)| candidate)
        .collect();
    if candidates.is_empty() {
        let first = listing.insns.first().copied().unwrap_or_default();
        return Err(if first.flow_control() == FlowControl::Return {
            Refused::OnlyReturn
        } else {
            Refused::NoLegalEnter(Disassembler::new().text(&first))
        });
    }
    Ok(Enters { candidates })
}

/// The one enter site of a Go function that checks its stack.
fn behind_stack_check(
    listing: &Listing<'_>,
    flow: &Flow,
    jump: usize,
    starts_another: &dyn Fn(VirtAddr) -> bool,
    forms: KernelForms,
) -> Result<Enters, Refused> {
    let line = Line::walk(listing, flow, Some(jump), starts_another, forms);
    // Labels of tables lie behind the check: what leads to them has passed it.
    let at_jump = line.candidates.into_iter().find(|(index, _)| *index == jump);
    let Some((_, mut candidate)) = at_jump else {
        let insn = listing.insns.get(jump).copied().unwrap_or_default();
        let text = Disassembler::new().text(&insn);
        return Err(Refused::NoProbeAtStackCheck { at: VirtAddr(insn.ip()), text });
    };
    candidate.site.restarts = true;
    Ok(Enters { candidates: vec![candidate] })
}

/// The straight line from the start: up to and including the first branch, call or return, those of
/// a stack check aside, and not past a change of the stack pointer that is not known exactly.
struct Line {
    candidates: Vec<(usize, Candidate)>,
    /// The last instruction that makes the stack deeper.
    last_push: Option<usize>,
}

impl Line {
    /// `check`: the last conditional jump of the stack check, if there is one.
    fn walk(
        listing: &Listing<'_>,
        flow: &Flow,
        check: Option<usize>,
        starts_another: &dyn Fn(VirtAddr) -> bool,
        forms: KernelForms,
    ) -> Self {
        let mut line = Self { candidates: Vec::new(), last_push: None };
        let mut info = InstructionInfoFactory::new();
        let mut depth = Depth::AT_ENTRY;
        let (mut overwritten, mut wrote_memory, mut keeps_frame_pointer) = (0, false, true);
        let mut next = Some(0);
        while let Some(index) = next
            && index < LINE
            && let Some(insn) = listing.insns.get(index)
            && let Some((bytes, offset)) = listing.bytes_of(index)
            && let Some(slot_offset) = depth.sp.filter(|depth| *depth >= 0)
        {
            let address = VirtAddr(insn.ip());
            let elsewhere =
                flow.target.get(index).copied().unwrap_or(true) || starts_another(address);
            if index > 0 && elsewhere {
                break;
            }
            if let Some(cost) = forms.cost(bytes, index == 0) {
                let insn = *insn;
                let site = SiteSpec {
                    address,
                    offset,
                    slot_offset,
                    cost,
                    keeps_frame_pointer,
                    restarts: false,
                    insn,
                };
                line.candidates.push((index, Candidate { site, overwritten, wrote_memory }));
            }
            let in_check = check.is_some_and(|last| index < last);
            if insn.flow_control() != FlowControl::Next && !in_check {
                break;
            }
            let after = depth.after(insn, &mut info);
            if after.sp > depth.sp {
                line.last_push = Some(index);
            }
            depth = after;
            let used = info.info(insn);
            for register in used.used_registers() {
                if is_write(register.access()) {
                    overwritten |= overwritten_bit(register.register());
                    keeps_frame_pointer &= register.register().full_register() != Register::RBP;
                }
            }
            wrote_memory |= used.used_memory().iter().any(|memory| {
                is_write(memory.access()) && memory.base().full_register() != Register::RSP
            });
            next = listing.next(index);
        }
        line
    }
}

fn overwritten_bit(register: Register) -> u16 {
    source_of(register).map_or(0, bit)
}

/// The source that a register, or a part of it, is.
pub(super) fn source_of(register: Register) -> Option<Source> {
    Some(match register.full_register() {
        Register::RDI => Source::Rdi,
        Register::RSI => Source::Rsi,
        Register::RDX => Source::Rdx,
        Register::RCX => Source::Rcx,
        Register::R8 => Source::R8,
        Register::R9 => Source::R9,
        Register::RAX => Source::Rax,
        Register::RBX => Source::Rbx,
        Register::R10 => Source::R10,
        Register::R11 => Source::R11,
        _ => return None,
    })
}
