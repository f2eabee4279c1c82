//! What a hit of a probe costs the target, by the class of its site.

use serde::{Deserialize, Serialize};

use super::{CostClass, KernelForms};

/// How many words of the call an event carries, of those that were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventWords {
    /// None.
    #[serde(rename = "0")]
    None,
    /// Two: the key of a hand-off.
    #[serde(rename = "2")]
    Two,
    /// Six.
    #[serde(rename = "6")]
    Six,
}

impl EventWords {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::None, Self::Two, Self::Six];

    /// The number.
    #[must_use]
    pub const fn count(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Two => 2,
            Self::Six => 6,
        }
    }
}

/// What a hit costs the target, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Costs {
    /// To come to a program and back, by class: [`CostClass::Optimised`], `Emulated`,
    /// `SingleStepped`.
    pub trap: [f64; 3],
    /// To record an event, besides, by [`EventWords::ALL`].
    pub event: [f64; 3],
    /// To record the end of a call, besides the trap, without words.
    pub landing: f64,
    /// A landing that a call comes by which nobody asked about, trap and all.
    pub unmatched_landing: f64,
    /// What each hit costs more where the program does other work between two of them, and the caches
    /// hold that instead of what a hit needs.
    pub apart: f64,
    /// Measured on this machine, not assumed.
    pub measured: bool,
}

impl Default for Costs {
    /// Of a machine that was never calibrated: deliberately high, so that a prediction errs towards
    /// less watching.
    fn default() -> Self {
        Self {
            trap: [400.0, 2_400.0, 3_900.0],
            event: [100.0, 200.0, 400.0],
            landing: 100.0,
            unmatched_landing: 2_500.0,
            apart: 0.0,
            measured: false,
        }
    }
}

impl Costs {
    /// The same where probes are hit so often in a second of the target's CPU time, all together: the
    /// rarer, the less of what a hit needs the caches still hold.
    #[must_use]
    pub fn at(&self, hits_per_cpu_second: f64) -> Self {
        let more = self.more_at(hits_per_cpu_second);
        Self { trap: self.trap.map(|ns| ns + more), ..*self }
    }

    /// What each hit costs more at that rate, nanoseconds: nothing where hits are a quarter of a microsecond
    /// apart or less, all where they are fifteen; between the two it grows with the logarithm.
    #[must_use]
    pub fn more_at(&self, hits_per_cpu_second: f64) -> f64 {
        const NEAR: f64 = 0.25e-6;
        const FAR: f64 = 15e-6;
        let apart = 1.0 / hits_per_cpu_second.max(f64::MIN_POSITIVE);
        let share = (apart.clamp(NEAR, FAR) / NEAR).ln() / (FAR / NEAR).ln();
        self.apart * share
    }

    /// A hit that makes an event without words, nanoseconds.
    #[must_use]
    pub fn hit_ns(&self, class: CostClass) -> u64 {
        self.event_ns(class, 0)
    }

    /// A hit that makes an event with so many words, nanoseconds.
    #[must_use]
    pub fn event_ns(&self, class: CostClass, words: u8) -> u64 {
        nanoseconds(self.trap_of(class) + self.event_of(words))
    }

    /// The end of a call, trap and event, with so many words, nanoseconds.
    #[must_use]
    pub fn exit_ns(&self, class: CostClass, words: u8) -> u64 {
        let [none, ..] = self.event;
        nanoseconds(self.trap_of(class) + self.landing + (self.event_of(words) - none))
    }

    /// To come to a program and back, nanoseconds.
    #[must_use]
    pub const fn trap_of(&self, class: CostClass) -> f64 {
        let [optimised, emulated, stepped] = self.trap;
        match class {
            CostClass::Optimised => optimised,
            CostClass::Emulated => emulated,
            CostClass::SingleStepped => stepped,
        }
    }

    /// To record an event with so many words, nanoseconds: between two measured numbers of words
    /// along the straight line, beyond the last along its continuation.
    #[must_use]
    pub fn event_of(&self, words: u8) -> f64 {
        let [none, two, six] = self.event;
        let words = f64::from(words);
        if words <= 2.0 {
            none + (two - none) * words / 2.0
        } else {
            two + (six - two) * (words - 2.0) / 4.0
        }
    }
}

#[expect(clippy::cast_sign_loss, reason = "at least 1, and a cast saturates")]
fn nanoseconds(ns: f64) -> u64 {
    ns.max(1.0).round() as u64
}

/// What is known of this machine's kernel, for planning and attaching.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernel {
    /// What it may be trusted with.
    pub forms: KernelForms,
    /// What a hit costs on it.
    pub costs: Costs,
    /// Nothing speaks against links that filter by process themselves.
    pub link_filter: bool,
}

impl Default for Kernel {
    /// Nothing is known.
    fn default() -> Self {
        Self { forms: KernelForms::default(), costs: Costs::default(), link_filter: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_between_what_was_measured() {
        let costs = Costs {
            trap: [100.0, 500.0, 3_000.0],
            event: [200.0, 260.0, 300.0],
            ..Costs::default()
        };
        assert_eq!(costs.hit_ns(CostClass::Optimised), 300);
        assert_eq!(costs.event_ns(CostClass::Emulated, 1), 730);
        assert_eq!(costs.event_ns(CostClass::Emulated, 2), 760);
        assert_eq!(costs.event_ns(CostClass::Emulated, 4), 780);
        assert_eq!(costs.event_ns(CostClass::SingleStepped, 8), 3_320);
    }

    #[test]
    fn rare_hits_are_dearer() {
        let costs = Costs { apart: 1_000.0, ..Costs::default() };
        let is = |ns: f64, expected: f64| assert!((ns - expected).abs() < 0.1, "{ns}");
        for (rate, expected) in
            [(1e9, 0.0), (4e6, 0.0), (516_397.8, 500.0), (66_000.0, 1e3), (10.0, 1e3), (0.0, 1e3)]
        {
            is(costs.more_at(rate), expected);
        }
        let [optimised, ..] = costs.at(0.0).trap;
        is(optimised, 1_400.0);
    }

    #[test]
    fn uncalibrated_is_dear() {
        let costs = Costs::default();
        let ns = [CostClass::Optimised, CostClass::Emulated, CostClass::SingleStepped]
            .map(|class| costs.hit_ns(class));
        assert_eq!(ns, [500, 2_500, 4_000]);
        assert!(!costs.measured);
    }
}
