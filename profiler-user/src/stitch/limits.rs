//! The bounds of the stitcher, and what it counts.

use serde::Serialize;

/// How much the stitcher keeps at most. Every bound that is hit is counted in [`StitchStats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Lanes. When there are too many, those without open frames are forgotten.
    pub lanes: usize,
    /// Open frames of one lane.
    pub frames_per_lane: usize,
    /// Traces that are not finished.
    pub traces: usize,
    /// Spans of one trace; beyond it, leaves fold into one span a parent and name.
    pub spans_per_trace: usize,
    /// Hand-off keys that are given and not taken.
    pub keys: usize,
    /// Open calls that are known by their contexts.
    pub contexts: usize,
    /// For so many goroutines that are made after it, one that has made no call yet is remembered.
    pub spawns: usize,
    /// How long a trace waits for its last span after its root has closed; nanoseconds.
    pub grace: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lanes: 65_536,
            frames_per_lane: 4096,
            traces: 10_000,
            spans_per_trace: 5000,
            keys: 100_000,
            contexts: 100_000,
            spawns: 16_384,
            grace: 10_000_000_000,
        }
    }
}

/// What the stitcher has seen, dropped and bounded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StitchStats {
    /// Events pushed.
    pub events: u64,
    /// Events that the numbering of their lane shows to be missing.
    pub lost: u64,
    /// Exits that end no open frame: their calls began before we attached, or were lost.
    pub unmatched_exits: u64,
    /// Jumps (`longjmp`) of which it is not known what they leave.
    pub unknown_jumps: u64,
    /// Spans that ended as `inferred`.
    pub inferred: u64,
    /// Spans without a parent that are no roots and were dropped (`orphans = "drop"`).
    pub orphans: u64,
    /// Hand-off keys given.
    pub given: u64,
    /// Hand-off keys taken.
    pub taken: u64,
    /// Calls that take a key nobody has given, or whose giver's trace has ended.
    pub not_given: u64,
    /// Keys given again while alive, for another span or for nothing known, and calls that asked for
    /// one: they prove nothing.
    pub ambiguous: u64,
    /// Keys that were never taken before their giver's trace ended.
    pub not_taken: u64,
    /// Keys, spans and links that prove nothing because events were lost meanwhile.
    pub doubtful: u64,
    /// Traces sent before they were whole: the grace time, a bound or our end came first.
    pub incomplete: u64,
    /// Parts of traces that came after their trace had been sent.
    pub late: u64,
    /// Calls folded into a sibling because their trace had too many spans.
    pub folded: u64,
    /// Events dropped because there were too many lanes.
    pub lanes_full: u64,
    /// Calls dropped because their lane had too many frames open.
    pub frames_full: u64,
    /// Traces sent early because there were too many.
    pub traces_full: u64,
    /// Keys dropped because there were too many.
    pub keys_full: u64,
    /// Calls that are not known by their contexts because there were too many.
    pub contexts_full: u64,
    /// Goroutines whose maker was forgotten before their first call because there were too many.
    pub spawns_full: u64,
    /// First calls of goroutines that were made in one trace and called in the context of another, whose
    /// they are then: workers that were started when first needed.
    pub disagreements: u64,
    /// Threads of which it is not known any more for which goroutine they run, because events were lost.
    pub unknown_carriers: u64,
}

impl StitchStats {
    /// The counters by name, in a fixed order.
    #[must_use]
    pub fn rows(&self) -> [(&'static str, u64); 23] {
        [
            ("events", self.events),
            ("lost", self.lost),
            ("unmatched_exits", self.unmatched_exits),
            ("unknown_jumps", self.unknown_jumps),
            ("inferred", self.inferred),
            ("orphans", self.orphans),
            ("given", self.given),
            ("taken", self.taken),
            ("not_given", self.not_given),
            ("ambiguous", self.ambiguous),
            ("not_taken", self.not_taken),
            ("doubtful", self.doubtful),
            ("incomplete", self.incomplete),
            ("late", self.late),
            ("folded", self.folded),
            ("lanes_full", self.lanes_full),
            ("frames_full", self.frames_full),
            ("traces_full", self.traces_full),
            ("keys_full", self.keys_full),
            ("contexts_full", self.contexts_full),
            ("spawns_full", self.spawns_full),
            ("disagreements", self.disagreements),
            ("unknown_carriers", self.unknown_carriers),
        ]
    }
}
