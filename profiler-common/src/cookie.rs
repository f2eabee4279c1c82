//! What a site tells its program: packed into the 64-bit BPF cookie of the uprobe.
//!
//! ```text
//! bits  0..16  probe            ProbeId; of a landing: LandingId
//! bits 16..32  flags            HAS_CAPTURE, WANTS_VALUE, KEEPS_FRAME_POINTER, NO_EXIT, JUMP,
//!                               OPENS_TRACE, ONLY_IN_TRACE, FOLD, UNWINDS, JUMPS, TWIN, GO,
//!                               RESTARTS, SPAWNS, ENDS_LANE
//! bits 32..64  slot offset      i32: address of the return slot minus the stack pointer at the site
//! ```

use crate::{LandingId, LaneKind, ProbeId};

/// What a probed instruction observes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Role {
    /// Control has entered the function; the return slot is `SP + offset`.
    Enter = 1,
    /// A `ret` of the function, before it executes; the return slot is `SP + offset`.
    Ret = 2,
    /// Where a call comes back; its return slot is `SP + offset`.
    Landing = 3,
    /// The same as [`Role::Enter`], of a call that a goroutine makes.
    GoEnter = 5,
    /// A place in Go's runtime that tells something of goroutines; which, the flags say.
    GoRuntime = 4,
}

/// A site's packed description; see the module for the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Cookie(pub u64);

impl Cookie {
    /// The site captures words: look up its [`crate::CaptureProgram`].
    pub const HAS_CAPTURE: u16 = 1 << 0;
    /// Enter: an exit of this function captures words; it must be seen where the return value still
    /// is.
    pub const WANTS_VALUE: u16 = 1 << 1;
    /// Enter: rbp is still the caller's at this site.
    pub const KEEPS_FRAME_POINTER: u16 = 1 << 2;
    /// Enter: nobody asks how the call ends.
    pub const NO_EXIT: u16 = 1 << 3;
    /// Exit: a jump to another function, which returns in this one's stead.
    pub const JUMP: u16 = 1 << 4;
    /// Enter: the call begins a trace, or takes work of one: while it is open its lane is in a trace.
    pub const OPENS_TRACE: u16 = 1 << 5;
    /// Enter: recorded only while its lane is in a trace.
    pub const ONLY_IN_TRACE: u16 = 1 << 6;
    /// Enter: not recorded by itself, but added up below the call it is made in.
    pub const FOLD: u16 = 1 << 7;
    /// Enter of a witness: calls below it are gone.
    pub const UNWINDS: u16 = 1 << 8;
    /// Enter of a witness: calls are about to be gone; how far, user space works out.
    pub const JUMPS: u16 = 1 << 9;
    /// Enter: of two links that hold the site for a moment, one has this flag: see
    /// [`Cookie::twin`].
    pub const TWIN: u16 = 1 << 10;
    /// The site is one of a call that a goroutine makes: its lane is the goroutine, its return slot is
    /// counted from the end of the goroutine's stack, which may move.
    pub const GO: u16 = 1 << 11;
    /// Enter of a Go function: the site is the conditional jump after the stack check. If it is taken
    /// the stack is too small, and the function begins anew: no call.
    pub const RESTARTS: u16 = 1 << 12;
    /// Go's runtime has made a goroutine: the word is its g.
    pub const SPAWNS: u16 = 1 << 13;
    /// Go's runtime ends the goroutine.
    pub const ENDS_LANE: u16 = 1 << 14;
    /// Two hits of twins further apart are two calls, nanoseconds. Those of one call come one right after
    /// the other, and both links stay for several times as long.
    pub const TWIN_NS: u64 = 5_000_000;

    /// Packs a site.
    #[must_use]
    pub const fn new(probe: ProbeId, flags: u16, slot_offset: i32) -> Self {
        Self(
            (probe.0 as u64)
                | ((flags as u64) << 16)
                | ((slot_offset.cast_unsigned() as u64) << 32),
        )
    }

    /// The probe this site belongs to.
    #[must_use]
    pub const fn probe(self) -> ProbeId {
        ProbeId(self.0 as u16)
    }

    /// Packs a landing of calls on such lanes.
    #[must_use]
    pub const fn of_landing(landing: LandingId, lane: LaneKind, slot_offset: i32) -> Self {
        let flags = match lane {
            LaneKind::Thread => 0,
            LaneKind::Goroutine => Self::GO,
        };
        Self::new(ProbeId(landing.0), flags, slot_offset)
    }

    /// The landing this site is; of a site with that role only.
    #[must_use]
    pub const fn landing(self) -> LandingId {
        LandingId(self.0 as u16)
    }

    /// The flags.
    #[must_use]
    pub const fn flags(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Whether all the given flags are set.
    #[must_use]
    pub const fn has(self, flags: u16) -> bool {
        self.flags() & flags == flags
    }

    /// The same site for another link: while both are attached each call hits both, and is to be
    /// recorded once.
    #[must_use]
    pub const fn twin(self) -> Self {
        Self(self.0 ^ ((Self::TWIN as u64) << 16))
    }

    /// Bytes from the stack pointer at the site to the return slot.
    #[must_use]
    pub const fn slot_offset(self) -> i32 {
        ((self.0 >> 32) as u32).cast_signed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_twin_differs_in_nothing_else() {
        let cookie = Cookie::new(ProbeId(7), Cookie::FOLD, -16);
        assert_ne!(cookie.twin(), cookie);
        assert_eq!(cookie.twin().twin(), cookie);
        assert_eq!(cookie.twin().flags(), Cookie::FOLD | Cookie::TWIN);
    }

    #[test]
    fn a_cookie_gives_back_what_was_packed() {
        for (probe, flags, offset) in [
            (ProbeId(0), 0, 0),
            (ProbeId(u16::MAX), u16::MAX, -8),
            (ProbeId(513), Cookie::HAS_CAPTURE | Cookie::WANTS_VALUE, i32::MAX),
            (ProbeId(1), Cookie::KEEPS_FRAME_POINTER, i32::MIN),
        ] {
            let cookie = Cookie::new(probe, flags, offset);
            assert_eq!(cookie.probe(), probe);
            assert_eq!(cookie.flags(), flags);
            assert_eq!(cookie.slot_offset(), offset);
            assert!(cookie.has(flags));
        }
    }
}
