//! How the calls of one probe are seen to end.

use std::time::{Duration, Instant};

/// For so long all calls of a function must have had landings before its exit sites go.
const SETTLED: Duration = Duration::from_secs(1);

/// How the calls of one probe are seen to end.
#[derive(Clone, Copy, Default)]
pub(super) struct Calls {
    /// The first with a landing since the last one without.
    with_landing: Option<Instant>,
    last_without: Option<Instant>,
    /// Without one, since its exit sites were removed.
    pub(super) missed: u32,
}

impl Calls {
    /// Whether every way back is known, as far as can be told.
    pub(super) fn are_settled(&self, now: Instant) -> bool {
        let is_long = |at: Instant| now - at >= SETTLED;
        self.with_landing.is_some_and(is_long) && self.last_without.is_none_or(is_long)
    }

    /// Whether it was never called.
    pub(super) const fn are_none(&self) -> bool {
        self.with_landing.is_none() && self.last_without.is_none()
    }

    /// A call that will come to a landing.
    pub(super) fn ends_with(&mut self) {
        self.with_landing.get_or_insert_with(Instant::now);
    }

    /// One that will not.
    pub(super) fn ends_without(&mut self) {
        self.with_landing = None;
        self.last_without = Some(Instant::now());
        self.missed = self.missed.saturating_add(1);
    }
}
