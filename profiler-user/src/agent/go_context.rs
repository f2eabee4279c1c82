//! Where the functions of a Go program have their `context.Context`, as its own types tell.

use std::path::Path;

use profiler_common::{Capture, ContextParent, GoRuntime};

use crate::plan::{self, PlannedProbe};
use crate::symbols::SymbolSet;
use crate::symbols::go_types::{ContextSource, GoTypes, Place, Register, Signature};

/// The type of the requests of Go's HTTP servers, which have a context.
const REQUEST: &str = "*net/http.Request";

/// What the types of a program tell of contexts.
pub(super) struct GoContexts {
    types: GoTypes,
}

impl GoContexts {
    /// Reads them. None if the program has none that can be read: then only what the map declares is known.
    pub(super) fn read(program: &Path) -> Option<Self> {
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
    pub(super) fn parents(&self, moved: u64) -> Vec<(u64, ContextParent)> {
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
