//! Trace and span ids from a seeded generator: a replay gives the same ids again.

use crate::model::{SpanId, TraceId};

/// Where ids come from: `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number
/// generators", 2014), which visits every 64-bit state once and so repeats no span id in a run.
#[derive(Clone, Debug)]
pub struct IdSource(u64);

impl IdSource {
    /// A generator; the same seed gives the same ids.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn trace(&mut self) -> TraceId {
        TraceId(u128::from(self.next()) << 64 | u128::from(self.next()))
    }

    pub(super) fn span(&mut self) -> SpanId {
        SpanId(self.next())
    }

    /// Never 0, which OpenTelemetry calls invalid.
    fn next(&mut self) -> u64 {
        loop {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^= z >> 31;
            if z != 0 {
                return z;
            }
        }
    }
}
