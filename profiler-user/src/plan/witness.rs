//! Witnesses: silent probes that see a stack unwound.
//!
//! A call left by an exception has no `ret`. Until the next call at a higher address it would look
//! open, and calls made meanwhile deeper on the stack would look like its children. The runtime
//! itself tells when an exception lands: `__cxa_begin_catch` (Itanium C++ ABI: Exception Handling,
//! section 2.5.3) and the `cleanup` of Rust's `std::panicking` (never inlined) are called from the
//! landing pad, with the stack pointer of the frame that catches. All calls whose return slots are
//! not above theirs are gone.

use std::sync::Arc;

use profiler_common::{CaptureProgram, MAX_PROBES, ProbeId, Role};

use super::analyse::{Disassembler, analyse};
use super::assemble::site;
use super::enter::Needs;
use super::{PlannedProbe, ProbePlan};
use crate::config::Select;
use crate::model::ProbeRule;
use crate::symbols::Function;
use crate::target::Target;

/// Where exceptions land, by name: in whichever objects have a copy.
#[must_use]
pub fn witnesses() -> [Select; 2] {
    [
        Select::Linkage("__cxa_begin_catch".to_owned()),
        Select::Function("std::panicking::*::cleanup".to_owned()),
    ]
}

/// Adds witnesses to a plan. A function that the map probes itself, or that cannot be probed, is
/// left out.
pub fn add_witnesses<'a>(
    plan: &mut ProbePlan,
    target: &Target,
    functions: impl IntoIterator<Item = &'a Function>,
) {
    let mut disassembler = Disassembler::new();
    for function in functions {
        let taken = plan
            .probes
            .iter()
            .any(|probe| probe.object == function.object && probe.function == function.name);
        let Ok(analysis) = analyse(function, &|_| false) else { continue };
        let Some(spec) = analysis.enters.best(Needs::default()).filter(|_| !taken) else {
            continue;
        };
        let Ok(id) = u16::try_from(plan.probes.len()) else { return };
        if u32::from(id) >= MAX_PROBES {
            return;
        }
        let instruction = disassembler.text(&spec.insn);
        plan.probes.push(PlannedProbe {
            id: ProbeId(id),
            function: Arc::clone(&function.name),
            object: function.object,
            span: None,
            copies: 1,
            sites: vec![site(function.object, Role::Enter, spec, 0, instruction)],
            at_enter: CaptureProgram::default(),
            at_ret: CaptureProgram::default(),
            notes: vec!["witness: calls left by an exception end when it lands here".to_owned()],
        });
        let object = target.object(function.object);
        plan.rules.probes.push(ProbeRule {
            function: Arc::clone(&function.base_name),
            object: object.map_or_else(|| "?".into(), |object| object.file_name().into()),
            span: None,
            witness: true,
            source: None,
        });
    }
}
