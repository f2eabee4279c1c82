//! The plan: what will be probed, where, at what cost class, and what will not be, and why.

use std::sync::Arc;

use profiler_common::{CaptureProgram, ContextParent, Cookie, GoRuntime, LaneKind, ProbeId, Role};

use super::ReturnPlan;
use crate::model::{FileOffset, Rules, VirtAddr};
use crate::target::ObjectId;

/// What a hit of a site costs, by how the kernel executes the probed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CostClass {
    /// A 5-byte nop as first instruction: rewritten to a call, no trap (kernel ≥ 6.18).
    Optimised,
    /// The kernel emulates the instruction: one trap.
    Emulated,
    /// The instruction is single-stepped out of line: two traps.
    SingleStepped,
}

/// One probed instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The object.
    pub object: ObjectId,
    /// Where in the file.
    pub offset: FileOffset,
    /// Where as the ELF file names it.
    pub address: VirtAddr,
    /// What it observes.
    pub role: Role,
    /// The return slot's address minus the stack pointer before this instruction; bytes.
    pub slot_offset: i32,
    /// [`Cookie`] flags.
    pub flags: u16,
    /// What a hit costs.
    pub cost: CostClass,
    /// The instruction, disassembled, for `qprof check`.
    pub instruction: String,
}

impl Site {
    /// Which program of the kernel side is for it.
    #[must_use]
    pub const fn program(&self) -> Role {
        match self.role {
            Role::Enter if self.flags & Cookie::GO != 0 => Role::GoEnter,
            role => role,
        }
    }

    /// The site's cookie for `probe`.
    #[must_use]
    pub fn cookie(&self, probe: ProbeId) -> Cookie {
        Cookie::new(probe, self.flags, self.slot_offset)
    }
}

/// One function under observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedProbe {
    /// Its id: the index in [`ProbePlan::probes`].
    pub id: ProbeId,
    /// Demangled name with parameters.
    pub function: Arc<str>,
    /// The object it lives in.
    pub object: ObjectId,
    /// The span it makes, if it makes one.
    pub span: Option<Arc<str>>,
    /// How many copies of the function there are (addresses).
    pub copies: usize,
    /// Its sites: at least one enter.
    pub sites: Vec<Site>,
    /// What its enter captures.
    pub at_enter: CaptureProgram,
    /// What its exits capture.
    pub at_ret: CaptureProgram,
    /// The probe that stands for all whose calls may end at each other's exit sites: itself, where it
    /// shares none.
    pub exits_with: ProbeId,
    /// What the user should know: exits that cannot be seen, tail calls, copies refused.
    pub notes: Vec<String>,
}

impl PlannedProbe {
    /// On what lanes its calls are.
    #[must_use]
    pub fn lane(&self) -> LaneKind {
        let go = self.sites.iter().any(|site| site.flags & Cookie::GO != 0);
        if go { LaneKind::Goroutine } else { LaneKind::Thread }
    }
}

/// A function (or a whole selector) that will not be probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The span or hand-off it was for.
    pub wanted_by: String,
    /// The pattern or the function.
    pub what: String,
    /// Why not, and what to do.
    pub why: String,
    /// Line in the map; from 1. 0: the map does not ask for it.
    pub line: usize,
}

/// A place where calls of probed functions will come back, told from the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeseenReturn {
    /// The object of the caller.
    pub object: ObjectId,
    /// The return address, as an offset into its file.
    pub offset: FileOffset,
    /// On what lanes the calls are that come back there.
    pub lane: LaneKind,
    /// How the return is observed.
    pub plan: ReturnPlan,
    /// The same where the return value is needed; none if it is not.
    pub for_value: Option<ReturnPlan>,
}

/// All that will be attached, and the rules to read what comes of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProbePlan {
    /// The probes, by [`ProbeId`].
    pub probes: Vec<PlannedProbe>,
    /// What the stitcher must know.
    pub rules: Rules,
    /// Where their calls will come back, as far as the code tells.
    pub foreseen: Vec<ForeseenReturn>,
    /// What is not probed, and why.
    pub skipped: Vec<Skipped>,
    /// What must be known of the Go program, where functions in Go are probed.
    pub go: Option<GoPlan>,
}

/// What the kernel side must know of a Go program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoPlan {
    /// Where its runtime keeps what it knows of goroutines.
    pub runtime: GoRuntime,
    /// The types of contexts that have a parent: their addresses in the target, and where they keep it.
    pub contexts: Vec<(u64, ContextParent)>,
}
