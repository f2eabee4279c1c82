//! Which goroutine is running.
//!
//! Go's own code has its g in r14 (`src/cmd/compile/abi-internal.md`), other code what it likes; the
//! thread keeps its g besides. Whichever is taken must have the stack that the program is on.

use core::ffi::c_void;

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::bpf_probe_read_user;
use aya_ebpf::helpers::generated::bpf_get_current_task;
use profiler_common::{GO_STACK_END, GO_SYSTEM_STACK_END, GoRuntime};

use crate::lane::Lane;
use crate::maps::GO_RUNTIMES;
use crate::task::Task;

/// What is known of the Go program in an address space.
#[inline(always)]
pub(crate) fn runtime(space: u64) -> Option<GoRuntime> {
    // SAFETY: a live map value.
    GO_RUNTIMES.get_ptr(&space).map(|runtime| unsafe { *runtime })
}

/// The goroutine that a thread runs; none where that cannot be told.
#[inline(always)]
pub(crate) fn running(thread: u64, space: u64, regs: &pt_regs) -> Option<Lane> {
    let runtime = runtime(space)?;
    let (g, stack_end) = if let Some(end) = stack_end(regs.r14, regs.rsp) {
        (regs.r14, end)
    } else {
        let g = of_thread(&runtime)?;
        (g, stack_end(g, regs.rsp)?)
    };
    let goid = word(g, runtime.g_goid)?;
    if goid != 0 {
        return Some(Lane::of_goroutine(thread, goid, GO_STACK_END.wrapping_sub(stack_end)));
    }
    // It is the scheduler's, which works for another.
    let goid = current(&runtime, g)?;
    Some(Lane::of_goroutine(thread, goid, GO_SYSTEM_STACK_END.wrapping_sub(stack_end)))
}

/// The goroutine for which a thread runs functions in C; 0: none.
#[inline(always)]
pub(crate) fn carried(space: u64) -> u64 {
    let Some(runtime) = runtime(space) else { return 0 };
    of_thread(&runtime).and_then(|g| current(&runtime, g)).unwrap_or(0)
}

/// A goroutine by its g, and where its stack ends.
#[inline(always)]
pub(crate) fn by_g(thread: u64, runtime: &GoRuntime, g: u64) -> Option<Lane> {
    let [_, end] = stack(g)?;
    let goid = word(g, runtime.g_goid).filter(|goid| *goid != 0)?;
    Some(Lane::of_goroutine(thread, goid, GO_STACK_END.wrapping_sub(end)))
}

/// The number of the goroutine that the thread of a g runs.
#[inline(always)]
fn current(runtime: &GoRuntime, g: u64) -> Option<u64> {
    let m = word(g, runtime.g_m)?;
    let current = word(m, runtime.m_curg)?;
    word(current, runtime.g_goid).filter(|goid| *goid != 0)
}

/// The g that the thread keeps.
#[inline(always)]
fn of_thread(runtime: &GoRuntime) -> Option<u64> {
    // SAFETY: no precondition.
    let task = Task::new(unsafe { bpf_get_current_task() } as *const c_void);
    let g = word(task.fs_base()?.wrapping_add_signed(i64::from(runtime.tls)), 0)?;
    (g != 0).then_some(g)
}

/// Where the stack of a g ends, if that is the stack with an address on it.
#[inline(always)]
fn stack_end(g: u64, address: u64) -> Option<u64> {
    let [low, end] = stack(g)?;
    (low <= address && address < end).then_some(end)
}

/// The bounds of the stack of a g: they are its first two words in every version
/// (`src/runtime/runtime2.go`; the table of versions is checked for it).
#[inline(always)]
fn stack(g: u64) -> Option<[u64; 2]> {
    // SAFETY: the helper checks the address and fails where it cannot read.
    unsafe { bpf_probe_read_user(g as *const [u64; 2]) }.ok()
}

/// A word of the target's memory.
#[inline(always)]
pub(crate) fn word(base: u64, offset: u32) -> Option<u64> {
    let address = base.wrapping_add(u64::from(offset)) as *const u64;
    // SAFETY: the helper checks the address and fails where it cannot read.
    unsafe { bpf_probe_read_user(address) }.ok()
}
