//! Silent probes: functions of the runtime, probed besides what the map names, that make no span.
//!
//! **Witnesses** see a stack unwound. A call left by an exception has no `ret`. Until the next call
//! at a higher address it would look open, and calls made meanwhile deeper on the stack would look
//! like its children. The runtime itself tells when an exception lands: `__cxa_begin_catch` (Itanium
//! C++ ABI: Exception Handling, section 2.5.3) and the `cleanup` of Rust's `std::panicking` (never
//! inlined) are called from the landing pad, with the stack pointer of the frame that catches. All
//! calls whose return slots are not above theirs are gone. Where a program has its own copy of the
//! C++ runtime and was stripped, the runtime's marker `libstdcxx:catch` still tells where it is.
//!
//! `longjmp` and its kin leave calls without any landing pad; the `jmp_buf`, their first argument, has
//! the stack pointer they return to (`agent/jumps.rs` reads it).
//!
//! The unwinder of gcc says where a frame goes on, in `_Unwind_SetIP`, whatever the language and its
//! runtime: just before the frame's landing pad runs. Its first argument has the frame's stack pointer.
//! That is so in any object with the one layout that is known here, which the function's code shows.
//!
//! **The dynamic loader** calls the empty function `_dl_debug_state` before and after it maps or
//! unmaps objects, for debuggers (`r_brk` in glibc's `elf/dl-debug.c`; musl's `ldso/dynlink.c` has
//! it under the same name).

use std::sync::Arc;

use profiler_common::{Capture, CaptureProgram, Cookie, MAX_PROBES, ProbeId, Role, Source};

use super::analyse::{Disassembler, SiteSpec, analyse, analyse_leaves};
use super::assemble::site;
use super::captures::Words;
use super::enter::Needs;
use super::{KernelForms, PlannedProbe, ProbePlan};
use crate::config::Select;
use crate::model::{ProbeRule, Watches};
use crate::symbols::Function;
use crate::target::Target;

/// Where a `jmp_buf` keeps the stack pointer, bytes: glibc's `JB_RSP`, and musl's.
const JMP_BUF_SP: i32 = 48;

/// The function that sets where a frame goes on, …
const SET_IP: &str = "_Unwind_SetIP";
/// … its code, where the address is kept at offset 0x98 of the context (`mov [rdi+0x98],rsi; ret`), …
const SET_IP_CODE: [u8; 8] = [0x48, 0x89, 0xb7, 0x98, 0x00, 0x00, 0x00, 0xc3];
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// … and where the context then keeps the stack pointer (`cfa` in libgcc's `unwind-dw2.c`), bytes.
const CONTEXT_SP: i32 = 0x90;

/// The functions by name, in whichever objects have a copy, and what their calls tell.
#[must_use]
pub fn silent() -> Vec<(Watches, Select)> {
    let jumps = ["longjmp", "_longjmp", "siglongjmp", "__longjmp_chk"];
    let jumps = jumps.map(|name| (Watches::Jumping, Select::Linkage(name.to_owned())));
    let others = [
        (Watches::Unwinding, Select::Linkage("__cxa_begin_catch".to_owned())),
        (Watches::Unwinding, Select::Linkage("_Unwind_Resume".to_owned())),
        (Watches::Jumping, Select::Linkage(SET_IP.to_owned())),
        (Watches::Unwinding, Select::Function("std::panicking::*::cleanup".to_owned())),
        (Watches::Loading, Select::Linkage("_dl_debug_state".to_owned())),
    ];
    others.into_iter().chain(jumps).collect()
}

/// The functions that markers in their code tell, whether or not they have a name: provider, marker,
/// and what the function is called.
pub const MARKED: [(Watches, &str, &str, &str); 1] =
    [(Watches::Unwinding, "libstdcxx", "catch", "__cxa_begin_catch")];

/// Adds silent probes to a plan. A function that the map probes itself, or that cannot be probed,
/// is left out.
pub fn add_silent<'a>(
    plan: &mut ProbePlan,
    target: &Target,
    watches: Watches,
    functions: impl IntoIterator<Item = &'a Function>,
    forms: KernelForms,
) {
    let note = match watches {
        Watches::Loading => "loader: tells when objects are mapped or unmapped",
        Watches::Jumping => "witness: calls left by longjmp end when it is called",
        Watches::Calls | Watches::Unwinding => {
            "witness: calls left by an exception end when it lands here"
        }
    };
    let mut disassembler = Disassembler::new();
    for function in functions {
        let sets_ip = &*function.linkage == SET_IP;
        if sets_ip && !has_known_layout(function) {
            continue;
        }
        let note =
            if sets_ip { "witness: calls left by an exception end when it lands" } else { note };
        let mut words = Words::default();
        if watches == Watches::Jumping {
            let sp = if sets_ip { CONTEXT_SP } else { JMP_BUF_SP };
            words.add(Capture::word_at(Source::Rdi, sp));
        }
        let Some(at_enter) = words.program() else { return };
        let Some(spec) = first_site(function, words.needs(), forms) else { continue };
        // One function may have several names.
        let taken = plan.probes.iter().any(|probe| {
            let here = || probe.sites.iter().any(|site| site.offset == spec.offset);
            probe.object == function.object && (probe.function == function.name || here())
        });
        if taken {
            continue;
        }
        let Ok(id) = u16::try_from(plan.probes.len()) else { return };
        if u32::from(id) >= MAX_PROBES {
            return;
        }
        let instruction = disassembler.text(&spec.insn);
        let tells = match watches {
            Watches::Unwinding => Cookie::UNWINDS,
            Watches::Jumping => Cookie::JUMPS,
            Watches::Calls | Watches::Loading => 0,
        };
        let flags = words.flag() | Cookie::NO_EXIT | tells;
        plan.probes.push(PlannedProbe {
            id: ProbeId(id),
            function: Arc::clone(&function.name),
            object: function.object,
            span: None,
            copies: 1,
            sites: vec![site(function.object, Role::Enter, &spec, flags, instruction)],
            at_enter,
            at_ret: CaptureProgram::default(),
            exits_with: ProbeId(id),
            notes: vec![note.to_owned()],
        });
        let object = target.object(function.object);
        plan.rules.probes.push(ProbeRule {
            function: Arc::clone(&function.base_name),
            object: object.map_or_else(|| "?".into(), |object| object.file_name().into()),
            span: None,
            watches,
            source: None,
        });
    }
}

/// Whether it is libgcc's of x86-64: that of another unwinder has another context.
fn has_known_layout(set_ip: &Function) -> bool {
    let code = &*set_ip.code.bytes;
    code.strip_prefix(&ENDBR64).unwrap_or(code) == SET_IP_CODE
}

/// Where a call of a function is seen to begin. A function may be nothing but its `ret`.
fn first_site(function: &Function, needs: Needs, forms: KernelForms) -> Option<SiteSpec> {
    let enter = analyse(function, &|_| false, forms)
        .ok()
        .and_then(|analysis| analysis.enters.best(needs).cloned());
    enter.or_else(|| {
        let leaves = analyse_leaves(function, forms).ok()?;
        leaves.rets.into_iter().find(|ret| ret.address == function.code.address)
    })
}
