//! What every hit of a site begins with: the time, whether it is the target's, and the site.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::generated::{bpf_get_attach_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::ProbeContext;
use profiler_common::{Cookie, Counter, EventHeader, EventKind};

use crate::lane::Lane;
use crate::maps::{GO, TARGET_PID, TARGETS};
use crate::{count, goroutine};

/// On what lanes the calls are that a program is for. Where a program is long, one for both would be more
/// than the verifier looks through.
#[derive(Clone, Copy)]
pub(crate) enum On {
    Thread,
    Goroutine,
    /// As the cookie says.
    Either,
}

/// A hit of a site by the target.
pub(crate) struct Hit<'a> {
    /// `CLOCK_MONOTONIC`, nanoseconds, taken before anything else.
    pub(crate) time: u64,
    /// On what lane.
    pub(crate) lane: Lane,
    /// Its address space.
    pub(crate) space: u64,
    /// Where.
    pub(crate) cookie: Cookie,
    /// The target's registers before the probed instruction.
    pub(crate) regs: &'a pt_regs,
}

impl<'a> Hit<'a> {
    /// Takes the time; none if it is not a target's, or no call.
    #[inline(always)]
    pub(crate) fn begin(ctx: &'a ProbeContext, on: On) -> Option<Self> {
        let time = now();
        let thread = bpf_get_current_pid_tgid();
        let Some(space) = space_of(thread) else {
            count::count(Counter::OtherProcess);
            return None;
        };
        // SAFETY: the context is the one this program was started with.
        let cookie = Cookie(unsafe { bpf_get_attach_cookie(ctx.as_ptr()) });
        // SAFETY: the context of a uprobe program is the saved registers, valid while it runs.
        let regs = unsafe { &*ctx.regs };
        let on_thread = match on {
            On::Thread => true,
            On::Goroutine => false,
            On::Either => GO.load() == 0 || !cookie.has(Cookie::GO),
        };
        if on_thread {
            return Some(Self { time, lane: Lane::of_thread(thread), space, cookie, regs });
        }
        if cookie.has(Cookie::RESTARTS) && regs.eflags & BELOW_OR_EQUAL != 0 {
            return None;
        }
        let Some(lane) = goroutine::running(thread, space, regs) else {
            count::count(Counter::NoGoroutine);
            return None;
        };
        Some(Self { time, lane, space, cookie, regs })
    }

    /// The address of the call's return slot.
    #[inline(always)]
    pub(crate) fn slot(&self) -> u64 {
        self.regs.rsp.wrapping_add_signed(i64::from(self.cookie.slot_offset()))
    }

    /// How that is named on its lane.
    #[inline(always)]
    pub(crate) fn frame(&self) -> u64 {
        self.lane.named(self.slot())
    }

    /// The header of an event of this hit, without its number.
    #[inline(always)]
    pub(crate) fn header(&self, kind: EventKind) -> EventHeader {
        EventHeader { probe: self.cookie.probe().0, ..self.lane.header(self.time, kind) }
    }
}

/// The flags with which `jbe` jumps: CF and ZF.
const BELOW_OR_EQUAL: u64 = 0x41;

#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no precondition.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether the process of `thread` is one we look at.
///
/// Always asked, also where the link itself filters: a multi link's own filter drops all threads
/// but one on kernels before 6.10, so there it is not used, and a forked child inherits the
/// breakpoints.
#[inline(always)]
pub(crate) fn is_target(thread: u64) -> bool {
    space_of(thread).is_some()
}

/// The address space of `thread`, if its process is one we look at.
#[inline(always)]
pub(crate) fn space_of(thread: u64) -> Option<u64> {
    let pid = (thread >> 32) as u32;
    match TARGET_PID.load() {
        // SAFETY: a live map value.
        0 => TARGETS.get_ptr(&pid).map(|state| unsafe { (*state).space }),
        target => (pid == target).then_some(u64::from(target)),
    }
}
