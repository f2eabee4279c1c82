//! The kernel side: what runs in the target's context at every probed instruction.
//!
//! It records and decides nothing: which call belongs to which, and what was lost, is worked out in
//! user space. It reads the target's registers and memory, and writes to neither.
//!
//! One event's way: [`hit`] (time, target filter) → [`enter`] ([`returns`]: where it will end),
//! [`landing`] or [`ret`] (the frame, if it is [`open`]) → [`capture`] (words) → [`lane`] (its
//! number) → [`emit`] (the ring). Every BPF map is in [`maps`].
//!
//! In Go the lane is a [`goroutine`]; [`cgo`] tells for which one C is running, [`context`] for which
//! request, [`go_runtime`] what becomes of goroutines.
//!
//! What need not be recorded is turned away as early as may be: calls outside of any trace
//! ([`in_trace`]); and calls that are only added up ([`fold`]) below the call they are made in
//! ([`inner`]).
//!
//! Processes and threads come and go in [`fork`], [`exec`] and [`thread_end`]; [`entry`] holds a
//! program that was started to be profiled until its probes are there.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    clippy::inline_always,
    reason = "one function per program: the verifier follows pointers badly across calls"
)]

mod born;
mod capture;
mod cgo;
mod context;
mod count;
mod emit;
mod enter;
mod entry;
mod exec;
mod fold;
mod fork;
mod go_runtime;
mod goroutine;
mod hit;
mod in_trace;
mod inner;
mod landing;
mod lane;
mod maps;
mod open;
mod ret;
mod returns;
mod task;
mod thread_end;
mod twin;

use aya_ebpf::macros::{raw_tracepoint, uprobe};
use aya_ebpf::programs::{ProbeContext, RawTracePointContext};

use hit::On;

#[uprobe(multi)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn enter(ctx: ProbeContext) -> u32 {
    enter::run(&ctx, On::Thread);
    0
}

#[uprobe(multi)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn go_enter(ctx: ProbeContext) -> u32 {
    enter::run(&ctx, On::Goroutine);
    0
}

#[uprobe(multi)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn ret(ctx: ProbeContext) -> u32 {
    ret::run(&ctx);
    0
}

#[uprobe(multi)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn landing(ctx: ProbeContext) -> u32 {
    landing::run(&ctx);
    0
}

#[uprobe(multi)]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn go_runtime(ctx: ProbeContext) -> u32 {
    go_runtime::run(&ctx);
    0
}

#[uprobe(multi)]
fn entry(_ctx: ProbeContext) -> u32 {
    entry::run();
    0
}

#[raw_tracepoint(tracepoint = "sched_process_fork")]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn fork(ctx: RawTracePointContext) -> i32 {
    fork::run(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exec")]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn exec(ctx: RawTracePointContext) -> i32 {
    exec::run(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "sched_process_exit")]
#[expect(clippy::needless_pass_by_value, reason = "the macro hands it over")]
fn thread_end(ctx: RawTracePointContext) -> i32 {
    thread_end::run(&ctx);
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier refuses any program from which this can be reached.
    loop {}
}

/// The kernel gives its tracing helpers to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
