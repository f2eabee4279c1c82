//! What is known of the Go program that a process runs: where its goroutines are, and where its functions
//! have their `context.Context`, as its own types tell.

use std::path::Path;

use profiler_common::{Capture, ContextParent, GoRuntime, LaneKind};

use crate::model::Pid;
use crate::plan::{self, GoPlan, PlannedProbe, ProbePlan};
use crate::symbols::SymbolSet;
use crate::symbols::go_types::{ContextSource, GoTypes, Place, Register, Signature};
use crate::target::go::{GoError, go_runtime};
use crate::target::{MappedObject, Target};

/// The type of the requests of Go's HTTP servers, which have a context.
const REQUEST: &str = "*net/http.Request";

/// The object that a plan's functions in Go lie in, if it has some.
pub(super) fn object_in_go<'a>(plan: &ProbePlan, target: &'a Target) -> Option<&'a MappedObject> {
    let in_go = |probe: &&PlannedProbe| probe.lane() == LaneKind::Goroutine;
    plan.probes.iter().find(in_go).and_then(|probe| target.object(probe.object))
}

/// What the kernel side must know of it; and its contexts, as far as its types tell.
pub(super) fn read_go(
    pid: Pid,
    object: &MappedObject,
    offsets_from: Option<&Path>,
) -> Result<(GoPlan, Option<GoContexts>), GoError> {
    let (runtime, moved) = go_runtime(pid, &object.open_path, offsets_from)?;
    let known = moved.and_then(|moved| Some((GoContexts::read(&object.open_path)?, moved)));
    let parents = known.as_ref().map(|(types, moved)| types.parents(*moved));
    let go = GoPlan { runtime, contexts: parents.unwrap_or_default() };
    Ok((go, known.map(|(types, _)| types)))
}

/// The same where no call's context is asked for.
pub(super) fn goroutines_of(plan: &ProbePlan, target: &Target) -> Result<Option<GoPlan>, GoError> {
    let Some(object) = object_in_go(plan, target) else { return Ok(None) };
    let (runtime, _) = go_runtime(target.pid, &object.open_path, None)?;
    Ok(Some(GoPlan { runtime, contexts: Vec::new() }))
}

/// What the types of a program tell of contexts.
pub(super) struct GoContexts {
    types: GoTypes,
}

impl GoContexts {
    /// Reads them. None if the program has none that can be read: then only what the map declares is known.
    fn read(program: &Path) -> Option<Self> {
        match GoTypes::read(program) {
            Ok(types) => Some(Self { types }),
            Err(error) => {
                tracing::warn!("contexts of requests are not followed: {error}");
                None
            }
        }
    }

    /// The types of contexts that have a parent: their addresses in a process whose program was loaded
    /// `moved` bytes from where its file says, and where they keep it.
    fn parents(&self, moved: u64) -> Vec<(u64, ContextParent)> {
        let contexts = self.types.contexts();
        let parents = contexts.iter().filter_map(|context| {
            let through = match context.parent.pointer {
                Some(pointer) => u32::try_from(pointer).ok()?,
                None => GoRuntime::NONE,
            };
            let offset = u32::try_from(context.parent.offset).ok()?;
            Some((context.ty.address().wrapping_add(moved), ContextParent { through, offset }))
        });
        parents.collect()
    }

    /// Where a probed function has its context; none where its types are not known, or have none.
    pub(super) fn of(&self, probe: &PlannedProbe, symbols: &SymbolSet) -> Option<[Capture; 2]> {
        let site = probe.sites.first()?;
        let function = symbols.containing(site.object, site.address)?;
        let signature = self.types.signature(function.code.address.0, &function.linkage)?;
        let ContextSource { register, deref_offset } = self.types.context_source(&signature)?;
        let number = register.checked_add(1)?;
        match deref_offset {
            None => plan::context_in_registers(number),
            // That of a server may be in its receiver: all requests have it.
            Some(offset) if self.is_request(&signature, register) => {
                plan::context_in_memory(number, i32::try_from(offset).ok()?)
            }
            Some(_) => None,
        }
    }

    fn is_request(&self, signature: &Signature<'_>, register: u8) -> bool {
        let Some(request) = self.types.named(REQUEST) else { return false };
        signature.parameters.iter().flatten().any(|parameter| {
            let Place::Registers(parts) = &parameter.place else { return false };
            parameter.ty == request
                && parts.first().is_some_and(|part| part.register == Register::Integer(register))
        })
    }
}
