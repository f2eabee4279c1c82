//! Types for numbers that look alike.

use std::fmt;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

pub use profiler_common::ProbeId;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $format:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// A process id (tgid) as `/proc` names it.
    Pid(u32), "{}"
);
number!(
    /// A thread id.
    Tid(u32), "{}"
);
number!(
    /// A goroutine's number: never given twice in a process.
    Goid(u64), "{}"
);
number!(
    /// The address of a `context.Context`'s value.
    ContextAddr(u64), "{:#x}"
);
number!(
    /// A position in a file, in bytes: what the kernel wants for a uprobe.
    FileOffset(u64), "{:#x}"
);
number!(
    /// An address as the ELF file names it, before any load bias.
    VirtAddr(u64), "{:#x}"
);
number!(
    /// A return address: absolute, in the target.
    ReturnAddr(u64), "{:#x}"
);
number!(
    /// The address of a call's return slot. A lower address is a younger frame. Of a goroutine's call it
    /// is counted from the end of its stack: [`profiler_common::GO_STACK_END`].
    FrameAddr(u64), "{:#x}"
);
number!(
    /// `CLOCK_MONOTONIC`, nanoseconds.
    MonoNs(u64), "{}"
);
number!(
    /// Nanoseconds since the Unix epoch.
    WallNs(u64), "{}"
);
number!(
    /// An OpenTelemetry trace id.
    TraceId(u128), "{:032x}"
);
number!(
    /// An OpenTelemetry span id.
    SpanId(u64), "{:016x}"
);

impl MonoNs {
    /// Nanoseconds since an earlier moment; 0 if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What to add to the monotonic clock to get wall time; measured again and again while running.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockOffset(pub i64);

impl ClockOffset {
    /// The wall time of a monotonic moment.
    #[must_use]
    pub const fn wall(self, mono: MonoNs) -> WallNs {
        WallNs(mono.0.saturating_add_signed(self.0))
    }
}

/// What carries one stack of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// A thread of a process.
    Thread(Pid, Tid),
    /// A goroutine of a process.
    Goroutine(Pid, Goid),
}

impl Lane {
    /// The process the lane belongs to.
    #[must_use]
    pub const fn pid(self) -> Pid {
        match self {
            Self::Thread(pid, _) | Self::Goroutine(pid, _) => pid,
        }
    }
}

/// The names of the target's threads, as far as they are known.
pub type ThreadNames = FxHashMap<Tid, Arc<str>>;
