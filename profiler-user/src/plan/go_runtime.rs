//! Places in Go's runtime that tell something of goroutines, probed besides what the map names.
//!
//! - `runtime.recovery` runs on the scheduler's stack where a panic was recovered, for the goroutine in
//!   its argument: calls below where that goes on are gone (`runtime/panic.go`).
//! - `runtime.goexit1` ends a goroutine, whether its first function has returned or something has
//!   called `runtime.Goexit` (`runtime/proc.go`).
//! - A goroutine is made by `runtime.newproc1`. Its callers do not show that it has been called, but
//!   where it comes back there its result is the new goroutine.

use std::sync::Arc;

use iced_x86::{Code, FlowControl, Instruction, InstructionInfoFactory, OpKind, Register};
use profiler_common::{Capture, CaptureProgram, Cookie, MAX_PROBES, ProbeId, Role, Source};

use super::analyse::{Disassembler, SiteSpec, analyse};
use super::assemble::site;
use super::captures::Words;
use super::enter::source_of;
use super::flow::is_write;
use super::landing::Returns;
use super::listing::direct_target;
use super::{CostClass, KernelForms, PlannedProbe, ProbePlan, Skipped};
use crate::config::Select;
use crate::model::{ProbeRule, VirtAddr, Watches};
use crate::symbols::{Function, Language};
use crate::target::{ObjectId, Target};

/// How many instructions behind the return of `runtime.newproc1` are looked at.
const LINE: usize = 24;

/// The function that makes a goroutine.
const NEWPROC1: &str = "runtime.newproc1";

/// A place in Go's runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoPlace {
    /// A panic was recovered.
    Recovery,
    /// A goroutine ends.
    End,
    /// One was made.
    Spawn,
}

impl GoPlace {
    /// What to call it.
    const fn function(self) -> &'static str {
        match self {
            Self::Recovery => "runtime.recovery",
            Self::End => "runtime.goexit1",
            Self::Spawn => NEWPROC1,
        }
    }

    /// What a hit of it tells.
    const fn note(self) -> &'static str {
        match self {
            Self::Recovery => "Go runtime: calls left by a recovered panic end here",
            Self::End => "Go runtime: a goroutine ends here, which costs each one hit",
            Self::Spawn => "Go runtime: a goroutine has been made here, which costs each one hit",
        }
    }

    /// What is not known without it.
    const fn without(self) -> &'static str {
        match self {
            Self::Recovery => {
                "calls left by a recovered panic stay open until their callers return"
            }
            Self::End => "calls that a goroutine leaves by runtime.Goexit stay open",
            Self::Spawn => "which goroutine was made by which is not known",
        }
    }

    const fn flags(self) -> u16 {
        Cookie::GO
            | Cookie::NO_EXIT
            | match self {
                Self::Recovery => Cookie::UNWINDS,
                Self::End => Cookie::ENDS_LANE,
                Self::Spawn => Cookie::SPAWNS | Cookie::HAS_CAPTURE,
            }
    }
}

/// The places, and which functions are to be found for each: of `Spawn`, `runtime.newproc1` and what may
/// call it.
#[must_use]
pub fn go_runtime() -> Vec<(GoPlace, Vec<Select>)> {
    let named = |name: &str| Select::Linkage(name.to_owned());
    let like = |glob: &str| Select::Function(glob.to_owned());
    vec![
        (GoPlace::Recovery, vec![named(GoPlace::Recovery.function())]),
        (GoPlace::End, vec![named(GoPlace::End.function())]),
        // A coroutine (`iter.Pull`, from Go 1.23 on) is a goroutine, too.
        (GoPlace::Spawn, vec![like("runtime.newproc*"), like("runtime.newcoro*")]),
    ]
}

/// Adds a place in Go's runtime to a plan: of each object of which the plan follows Go functions. What
/// cannot be found or probed there is added to what is skipped.
pub fn add_go_runtime(
    plan: &mut ProbePlan,
    target: &Target,
    place: GoPlace,
    functions: &[Function],
    forms: KernelForms,
) {
    let mut objects: Vec<ObjectId> = plan
        .probes
        .iter()
        .filter(|probe| probe.sites.iter().any(|site| site.flags & Cookie::GO != 0))
        .map(|probe| probe.object)
        .collect();
    objects.sort_unstable();
    objects.dedup();
    for object in objects {
        let here =
            |function: &&Function| function.object == object && function.language == Language::Go;
        let functions: Vec<&Function> = functions.iter().filter(here).collect();
        let found = match place {
            GoPlace::Recovery | GoPlace::End => starts(place, &functions, forms),
            GoPlace::Spawn => spawns(&functions, forms),
        };
        let why = match found {
            Ok(places) => {
                for found in places {
                    add(plan, target, place, &found);
                }
                continue;
            }
            Err(why) => why,
        };
        plan.skipped.push(Skipped {
            wanted_by: "Go's runtime".to_owned(),
            what: place.function().to_owned(),
            why: format!("{why}: {}", place.without()),
            line: 0,
        });
    }
}

/// A site in a function, and which register has the goroutine there, if it is asked.
pub(super) struct Found<'a> {
    pub(super) function: &'a Function,
    pub(super) spec: SiteSpec,
    pub(super) goroutine: Option<Source>,
}

/// Where functions of the runtime begin. One may have a twin of the older calling convention, which only
/// goes on to it.
pub(super) fn starts<'a>(
    place: GoPlace,
    functions: &[&'a Function],
    forms: KernelForms,
) -> Result<Vec<Found<'a>>, String> {
    let mut needs = Words::default();
    if place == GoPlace::Recovery {
        needs.add(Capture::register(Source::Rax));
    }
    let goes_on = |function: &Function| {
        let others =
            || functions.iter().filter(|other| other.code.address != function.code.address);
        direct_targets(function).any(|to| others().any(|other| other.code.address == to))
    };
    let mut found = Vec::new();
    let mut why = format!("no function has the name `{}` (a renamed runtime?)", place.function());
    for function in functions.iter().filter(|function| !goes_on(function)) {
        match analyse(function, &|_| false, forms) {
            Ok(analysis) => match analysis.enters.best(needs.needs()) {
                Some(spec) => found.push(Found { function, spec: spec.clone(), goroutine: None }),
                None => "its argument is overwritten before an instruction that may carry a probe"
                    .clone_into(&mut why),
            },
            Err(refused) => why = refused.to_string(),
        }
    }
    if found.is_empty() { Err(why) } else { Ok(found) }
}

/// The addresses that a function's direct jumps and calls go to.
fn direct_targets(function: &Function) -> impl Iterator<Item = VirtAddr> {
    let listing = super::listing::Listing::of(function).map(|listing| listing.insns);
    listing.unwrap_or_default().into_iter().filter_map(|insn| direct_target(&insn)).map(VirtAddr)
}

/// Where `runtime.newproc1` has come back.
pub(super) fn spawns<'a>(
    functions: &[&'a Function],
    forms: KernelForms,
) -> Result<Vec<Found<'a>>, String> {
    let Some(newproc1) = functions.iter().find(|function| &*function.base_name == NEWPROC1) else {
        return Err(format!("no function has the name `{NEWPROC1}` (a renamed runtime?)"));
    };
    let mut found = Vec::new();
    let mut why = format!("nothing that is known calls `{NEWPROC1}`");
    for function in functions {
        let returns = match Returns::of(function, forms) {
            Ok(returns) => returns,
            Err(refused) => {
                why = refused.to_string();
                continue;
            }
        };
        let calls = returns.listing.insns.iter().enumerate().filter(|(_, insn)| {
            insn.flow_control() == FlowControl::Call
                && direct_target(insn) == Some(newproc1.code.address.0)
        });
        for (call, insn) in calls {
            let behind = returns.listing.next(call).and_then(|from| made_at(&returns, from));
            match behind {
                Some((spec, source)) => {
                    found.push(Found { function, spec, goroutine: Some(source) });
                }
                None => {
                    why = format!(
                        "no instruction behind its call at {:#x} has its result and may carry a probe",
                        insn.ip()
                    );
                }
            }
        }
    }
    if found.is_empty() { Err(why) } else { Ok(found) }
}

/// The cheapest instruction on the straight line from a return at which a register has what was returned, and
/// that register.
fn made_at(returns: &Returns<'_>, from: usize) -> Option<(SiteSpec, Source)> {
    let mut holding = vec![Register::RAX];
    let mut dear = None;
    let mut info = InstructionInfoFactory::new();
    let mut next = Some(from);
    for _ in 0..LINE {
        let Some(index) = next else { break };
        let insn = returns.listing.insns.get(index)?;
        let (bytes, offset) = returns.listing.bytes_of(index)?;
        let source = holding.iter().copied().find_map(source_of);
        let Some(source) = source else { break };
        // What comes by there otherwise has made no goroutine, and nothing would tell it apart.
        if index != from && returns.is_target(index) {
            break;
        }
        if let Some(cost) = returns.forms.cost(bytes, false) {
            let spec = SiteSpec {
                address: VirtAddr(insn.ip()),
                offset,
                slot_offset: 0,
                cost,
                keeps_frame_pointer: false,
                restarts: false,
                insn: *insn,
            };
            if cost == CostClass::Emulated {
                return Some((spec, source));
            }
            dear.get_or_insert((spec, source));
        }
        if insn.flow_control() != FlowControl::Next {
            break;
        }
        follow(&mut holding, insn, &mut info);
        next = returns.listing.next(index);
    }
    dear
}

/// Which registers have a value behind an instruction, given which have it before.
fn follow(holding: &mut Vec<Register>, insn: &Instruction, info: &mut InstructionInfoFactory) {
    let copies = matches!(insn.code(), Code::Mov_r64_rm64 | Code::Mov_rm64_r64)
        && insn.op0_kind() == OpKind::Register
        && insn.op1_kind() == OpKind::Register
        && holding.contains(&insn.op1_register());
    for used in info.info(insn).used_registers() {
        if is_write(used.access()) {
            holding.retain(|register| *register != used.register().full_register());
        }
    }
    if copies {
        holding.push(insn.op0_register());
    }
}

fn add(plan: &mut ProbePlan, target: &Target, place: GoPlace, found: &Found<'_>) {
    let Found { function, spec, goroutine } = found;
    let Ok(id) = u16::try_from(plan.probes.len()) else { return };
    // The map may name it as well, and two probes on one instruction cost twice: but they tell
    // different things, so that both are needed.
    if u32::from(id) >= MAX_PROBES {
        return;
    }
    let mut words = Words::default();
    words_of(&mut words, *goroutine);
    let at_enter = words.program().unwrap_or_default();
    let restarts = if spec.restarts { Cookie::RESTARTS } else { 0 };
    let instruction = Disassembler::new().text(&spec.insn);
    let flags = place.flags() | restarts;
    let object = function.object;
    plan.probes.push(PlannedProbe {
        id: ProbeId(id),
        function: Arc::clone(&function.name),
        object,
        span: None,
        copies: 1,
        sites: vec![site(object, Role::GoRuntime, spec, flags, instruction)],
        at_enter,
        at_ret: CaptureProgram::default(),
        exits_with: ProbeId(id),
        notes: vec![place.note().to_owned()],
    });
    plan.rules.probes.push(ProbeRule {
        function: Arc::clone(&function.base_name),
        object: target.object(object).map_or_else(|| "?".into(), |of| of.file_name().into()),
        span: None,
        watches: Watches::Unwinding,
        source: None,
    });
}

fn words_of(words: &mut Words, goroutine: Option<Source>) {
    if let Some(source) = goroutine {
        words.add(Capture::register(source));
    }
}
