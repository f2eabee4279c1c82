//! Where a call is seen to have come back: in its caller, behind the call.
//!
//! Control is at the return address as soon as the callee has returned. The landing is the first
//! instruction on the straight line from there that the kernel emulates. A direct call is one, and
//! no line goes past another call: within a function a landing belongs to one return address. The
//! line may run past a place where other ways join; what comes by there without an awaited call is
//! told apart by its return slot.

use std::cell::OnceCell;
use std::fmt;

use iced_x86::{Code, FlowControl, Instruction};
use profiler_common::{CaptureProgram, Source};

use super::flow::{Depth, Flow, depths};
use super::line::{End, Line};
use super::listing::{Listing, direct_target, falls_through};
use super::{CostClass, KernelForms};
use crate::model::{FileOffset, VirtAddr};
use crate::symbols::Function;

/// An instruction at which a call is seen to have returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LandingSite {
    /// Where in the file.
    pub offset: FileOffset,
    /// Where as the ELF file names it.
    pub address: VirtAddr,
    /// The return slot of the call that came back, minus the stack pointer before this
    /// instruction; bytes. −8 where nothing has been pushed or popped since.
    pub slot_offset: i32,
    /// What a hit costs.
    pub cost: CostClass,
    /// The register of the return value is not written between the return and this instruction.
    pub keeps_value: bool,
    /// Nor is any memory.
    pub keeps_memory: bool,
    /// The instruction, disassembled.
    pub instruction: String,
}

impl LandingSite {
    pub(super) fn keeps(&self, needs: ReturnNeeds) -> bool {
        match needs {
            ReturnNeeds::Nothing => true,
            ReturnNeeds::Value => self.keeps_value,
            ReturnNeeds::Pointee => self.keeps_value && self.keeps_memory,
        }
    }
}

/// What must be as the callee left it where its return is observed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReturnNeeds {
    /// Nothing but the stack.
    #[default]
    Nothing,
    /// The value returned, in rax.
    Value,
    /// That, and the memory read through it.
    Pointee,
}

impl ReturnNeeds {
    /// What the words need that are captured at an exit.
    #[must_use]
    pub fn of(program: &CaptureProgram) -> Self {
        let captures = program.captures.iter().take(usize::from(program.len));
        let of_value = captures.filter(|capture| capture.source == Source::RET as u8);
        of_value.fold(Self::Nothing, |needs, capture| match (needs, capture.deref) {
            (Self::Nothing | Self::Value, 0) => Self::Value,
            _ => Self::Pointee,
        })
    }
}

/// How the return of a call is observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Return {
    /// At an instruction of the caller.
    Landing(LandingSite),
    /// The caller itself returns straight away: this call's return is seen as the caller's.
    Caller(Up),
    /// Not at all.
    None(NoLanding),
}

/// Where the caller's own return slot lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Up {
    /// So many bytes above the call's; at least 8.
    Bytes(u32),
    /// At rbp + 8, with rbp as it is when the call begins: its callees preserve it, but may change it
    /// themselves, so this holds only for the innermost call, at a site that comes before that.
    FramePointer,
}

/// All that is known of the calls that return to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnPlan {
    /// The best way to see them return.
    pub first: Return,
    /// The first instruction at or behind the return address that may carry a probe, whatever it
    /// costs: where the chain of callers that return straight away is too long to follow, or
    /// where a value is wanted that the landing does not keep.
    pub point: Option<LandingSite>,
    /// Why the line ends before an instruction that the kernel emulates, if it does.
    pub stop: Option<StopAt>,
}

impl ReturnPlan {
    pub(super) const fn none(why: NoLanding) -> Self {
        Self { first: Return::None(why), point: None, stop: None }
    }
}

/// Why the return of a call cannot be observed at its caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoLanding {
    /// The function's code does not add up.
    #[error("the code of the caller cannot be read: {0}")]
    Unreadable(String),
    /// It is no address behind an instruction of the function.
    #[error("{0} does not lie behind an instruction of the caller: its bounds are wrong")]
    Outside(VirtAddr),
    /// No call stands before it.
    #[error("no call stands before {0}, as decoded from the caller's start")]
    NotBehindCall(VirtAddr),
    /// A call to the instruction behind it: nothing returns.
    #[error("the call at {0} goes to the next instruction: it reads its own address")]
    ReadsItsAddress(VirtAddr),
    /// No way is known from the function's start, and it does not read as code.
    #[error("what lies around the call at {0} cannot be told from data and is left alone")]
    MayBeData(VirtAddr),
    /// Nothing comes behind the call.
    #[error("the call at {0} is the last instruction of its function: it is not meant to return")]
    EndOfCode(VirtAddr),
    /// What comes behind the call may not carry a probe.
    #[error("no instruction behind the call may carry a probe: {0}")]
    NothingLegal(StopAt),
    /// What may carry a probe comes too late.
    #[error("what the call returns is lost before an instruction that may carry a probe: {0}")]
    ValueLost(StopAt),
}

impl NoLanding {
    /// The same without addresses and instructions: to be counted.
    #[must_use]
    pub fn in_general(&self) -> String {
        match self {
            Self::Unreadable(_) => "the code of the caller cannot be read".to_owned(),
            Self::Outside(_) => "its bounds are wrong".to_owned(),
            Self::NotBehindCall(_) => "no call stands before it".to_owned(),
            Self::ReadsItsAddress(_) => "a call that reads its own address".to_owned(),
            Self::MayBeData(_) => "the call cannot be told from data".to_owned(),
            Self::EndOfCode(_) => "the call is the last instruction of its function".to_owned(),
            Self::NothingLegal(stop) => {
                format!("nothing behind the call may carry a probe: what comes {}", stop.why)
            }
            Self::ValueLost(_) => {
                "what it returns is overwritten before an instruction that may carry a probe"
                    .to_owned()
            }
        }
    }
}

/// An instruction at which something ends, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopAt {
    /// The instruction.
    pub address: VirtAddr,
    /// The same, disassembled.
    pub instruction: String,
    /// Why.
    pub why: Stop,
}

impl fmt::Display for StopAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` at {} {}", self.instruction, self.address, self.why)
    }
}

/// What an instruction does that ends a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// An indirect jump or call, or a direct one in a form that may not carry a probe.
    #[error("goes elsewhere, and may not carry a probe")]
    Leaves,
    /// The stack pointer is not known behind it.
    #[error("moves the stack pointer to where it is not known")]
    UnknownStack,
    /// It returns.
    #[error("returns from the caller")]
    Returns,
    /// It returns, but not as compilers let functions return.
    #[error("returns with another stack than its function was called with")]
    OddReturn,
    /// It may take as long as it likes.
    #[error("may take long")]
    Slow,
    /// Control does not go on behind it.
    #[error("does not let control go on: the call is not meant to return")]
    Traps,
    /// It is the last of its function.
    #[error("is the last instruction of its function")]
    EndOfCode,
    /// It is still none of the cheap ones.
    #[error("is too far from the return")]
    TooFar,
    /// It overwrites the register that says which goroutine this is.
    #[error("overwrites r14, which says which goroutine it is")]
    LosesGoroutine,
    /// It overwrites what was returned.
    #[error("overwrites it")]
    Overwrites,
}

/// A function as a caller, decoded: where calls are seen to return into it.
#[derive(Debug)]
pub struct Returns<'a> {
    pub(super) listing: Listing<'a>,
    flow: Flow,
    /// How deep its stack is, by instruction: asked for at few places, dear for large functions.
    depths: OnceCell<Vec<Option<Depth>>>,
    /// What this kernel may be trusted with.
    pub(super) forms: KernelForms,
}

impl<'a> Returns<'a> {
    /// Decodes a function. `forms`: what this kernel may be trusted with.
    ///
    /// # Errors
    /// [`NoLanding::Unreadable`] if its code does not add up.
    pub fn of(function: &'a Function, forms: KernelForms) -> Result<Self, NoLanding> {
        let listing =
            Listing::of(function).map_err(|why| NoLanding::Unreadable(why.to_string()))?;
        let flow = Flow::of(&listing).map_err(|why| NoLanding::Unreadable(why.to_string()))?;
        Ok(Self { listing, flow, depths: OnceCell::new(), forms })
    }

    /// What a call that returns to `return_address` can be observed at.
    #[must_use]
    pub fn at(&self, return_address: VirtAddr, needs: ReturnNeeds) -> ReturnPlan {
        match self.behind_a_call(return_address) {
            Ok(index) => plan(Line::walk(self, index, needs), needs),
            Err(why) => ReturnPlan::none(why),
        }
    }

    /// Whether the call that returns to an address may be made again, before the function returns that made
    /// it. Also where that cannot be told. `never_returns`: whether a call of what begins at an address does
    /// not come back.
    #[must_use]
    pub fn may_call_again(
        &self,
        return_address: VirtAddr,
        never_returns: &dyn Fn(VirtAddr) -> bool,
    ) -> bool {
        let Ok(from) = self.behind_a_call(return_address) else { return true };
        let call = self.listing.covering(return_address.0.saturating_sub(1));
        let mut seen = vec![false; self.listing.insns.len()];
        let mut work = vec![from];
        while let Some(index) = work.pop() {
            if Some(index) == call {
                return true;
            }
            let (Some(seen), Some(insn)) = (seen.get_mut(index), self.listing.insns.get(index))
            else {
                return true;
            };
            if std::mem::replace(seen, true) {
                continue;
            }
            let target = direct_target(insn);
            match insn.flow_control() {
                FlowControl::IndirectBranch => return true,
                FlowControl::Call if target.is_some_and(|at| never_returns(VirtAddr(at))) => {
                    continue;
                }
                FlowControl::Call | FlowControl::IndirectCall => {}
                // To its start it jumps when its stack has grown, before it has called anybody.
                _ => work.extend(
                    target
                        .filter(|at| *at != self.listing.start())
                        .and_then(|at| self.listing.at(at)),
                ),
            }
            if falls_through(insn) {
                work.extend(self.listing.next(index));
            }
        }
        false
    }

    /// Every address the function's calls may return to.
    pub fn addresses(&self) -> impl Iterator<Item = VirtAddr> + '_ {
        let behind = self.listing.insns.iter().filter(|insn| is_near_call(insn));
        behind
            .map(|call| VirtAddr(call.next_ip()))
            .filter(|&address| self.behind_a_call(address).is_ok())
    }

    /// The instruction at a return address, if a call that comes back there stands before it.
    fn behind_a_call(&self, address: VirtAddr) -> Result<usize, NoLanding> {
        let before = address.0.checked_sub(1).and_then(|last| self.listing.covering(last));
        let Some((call, insn)) =
            before.and_then(|index| Some((index, self.listing.insns.get(index)?)))
        else {
            return Err(NoLanding::Outside(address));
        };
        let at = VirtAddr(insn.ip());
        if let Some(first) = self.behind_no_call(call, address) {
            return Ok(first);
        }
        if insn.next_ip() != address.0 || !is_near_call(insn) {
            return Err(NoLanding::NotBehindCall(address));
        }
        if direct_target(insn) == Some(address.0) {
            return Err(NoLanding::ReadsItsAddress(at));
        }
        if !self.is_live(call) {
            return Err(NoLanding::MayBeData(at));
        }
        self.listing.next(call).filter(|&index| self.is_live(index)).ok_or(NoLanding::EndOfCode(at))
    }

    /// The instruction behind the first of `runtime.goexit`, a nop: to there a goroutine's first
    /// function returns, as if that nop had called it (`newproc1` in `runtime/proc.go`).
    fn behind_no_call(&self, nop: usize, address: VirtAddr) -> Option<usize> {
        let insn = self.listing.insns.get(nop).filter(|_| self.listing.is_go && nop == 0)?;
        let begins = insn.code() == Code::Nopd && insn.len() == 1 && insn.next_ip() == address.0;
        let next = self.listing.next(nop).filter(|_| begins)?;
        let calls = self.listing.insns.get(next).is_some_and(|insn| {
            insn.flow_control() == FlowControl::Call && direct_target(insn).is_some()
        });
        calls.then_some(next)
    }

    /// Whether control may come to an instruction.
    pub(super) fn is_live(&self, index: usize) -> bool {
        self.flow.live.get(index).copied().unwrap_or(false)
    }

    /// Whether a branch within the function leads to an instruction.
    pub(super) fn is_target(&self, index: usize) -> bool {
        self.flow.target.get(index).copied().unwrap_or(true)
    }

    /// How deep the function's stack is before an instruction, as far as that is known.
    pub(super) fn depth(&self, index: usize) -> Depth {
        let depths = self.depths.get_or_init(|| depths(&self.listing, &self.flow));
        depths.get(index).copied().flatten().unwrap_or(Depth::UNKNOWN)
    }
}

fn plan(line: Line, needs: ReturnNeeds) -> ReturnPlan {
    let Line { point, overwrites, end } = line;
    let at_point = || point.clone().filter(|site| site.keeps(needs)).map(Return::Landing);
    let (first, stop) = match (end, overwrites) {
        (End::Cheap(site), None) => (Return::Landing(site), None),
        (End::Cheap(_), Some(by)) => {
            (at_point().unwrap_or(Return::None(NoLanding::ValueLost(by))), None)
        }
        // Further up nothing is known of what the call returned.
        (End::Returns(stop, up), _) if needs == ReturnNeeds::Nothing => {
            (Return::Caller(up), Some(stop))
        }
        (End::Returns(stop, _) | End::Stops(stop), by) => {
            let none = || by.map_or(NoLanding::NothingLegal(stop.clone()), NoLanding::ValueLost);
            (at_point().unwrap_or_else(|| Return::None(none())), Some(stop))
        }
    };
    ReturnPlan { first, point, stop }
}

/// Whether this calls, and is returned to: not a `syscall`, nor a far call.
fn is_near_call(insn: &Instruction) -> bool {
    matches!(insn.flow_control(), FlowControl::Call | FlowControl::IndirectCall)
        && (insn.is_call_near() || insn.is_call_near_indirect())
}
