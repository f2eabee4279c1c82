//! What the kernel side counts, by index into the per-CPU BPF array `COUNTERS`; by probe it counts in
//! [`crate::ProbeCount`].

/// One counter of the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Counter {
    /// Events written to the ring buffer.
    Emitted = 0,
    /// Events lost because the ring buffer was full.
    RingFull = 1,
    /// Events sent without a number because the lane table was full.
    LaneTableFull = 2,
    /// Enters whose return slot could not be read.
    ReturnSlotFault = 3,
    /// Captured words that could not be read.
    CaptureFault = 4,
    /// `ret`s of no frame that is known to be open (and were not sent).
    UnmatchedExit = 5,
    /// Open frames that could not be remembered: their exits are not seen.
    OpenTableFull = 6,
    /// Hits by processes that are not targets.
    OtherProcess = 7,
    /// Child processes that are not observed because the table of targets was full.
    TargetTableFull = 8,
    /// Calls that were to be folded and were recorded one by one: the call they were made in is not
    /// known, or the table was full.
    NotFolded = 9,
    /// Hits on a goroutine that cannot be told: they are not recorded.
    NoGoroutine = 10,
    /// Calls whose chain of contexts could not be read to its end.
    ContextFault = 11,
}

impl Counter {
    /// Every counter, in index order.
    pub const ALL: [Self; 12] = [
        Self::Emitted,
        Self::RingFull,
        Self::LaneTableFull,
        Self::ReturnSlotFault,
        Self::CaptureFault,
        Self::UnmatchedExit,
        Self::OpenTableFull,
        Self::OtherProcess,
        Self::TargetTableFull,
        Self::NotFolded,
        Self::NoGoroutine,
        Self::ContextFault,
    ];

    /// A stable name, as it appears in summaries and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emitted => "emitted",
            Self::RingFull => "ring_full",
            Self::LaneTableFull => "lane_table_full",
            Self::ReturnSlotFault => "return_slot_fault",
            Self::CaptureFault => "capture_fault",
            Self::UnmatchedExit => "unmatched_exit",
            Self::OpenTableFull => "open_table_full",
            Self::OtherProcess => "other_process",
            Self::TargetTableFull => "target_table_full",
            Self::NotFolded => "not_folded",
            Self::NoGoroutine => "no_goroutine",
            Self::ContextFault => "context_fault",
        }
    }
}
