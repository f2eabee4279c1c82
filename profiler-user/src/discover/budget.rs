//! How much of the target's time watching may take, and what to give up when it takes more.

use std::time::Duration;

/// A purse that fills by a share of a CPU and from which every hit is paid.
///
/// A round ends as soon as the purse is empty, and the next begins when it is full again: so the
/// share is kept over the whole time however busy the target is, and the burst bounds how long it
/// can be slowed at once.
#[derive(Clone, Debug)]
pub struct Budget {
    share: f64,
    burst: f64,
    purse: f64,
    spent: u64,
}

impl Budget {
    /// A full purse: `share` of a CPU, and at most `burst` of CPU time at once.
    #[must_use]
    pub fn new(share: f64, burst: Duration) -> Self {
        let burst = burst.as_nanos() as f64;
        Self { share, burst, purse: burst, spent: 0 }
    }

    /// A part of the watching begins that was given so much for itself.
    pub fn refill(&mut self, burst: Duration) {
        self.burst = burst.as_nanos() as f64;
        self.purse = self.burst;
    }

    /// From now on it fills by another share of a CPU.
    pub const fn set_share(&mut self, share: f64) {
        self.share = share;
    }

    /// Time passes.
    pub fn earn(&mut self, time: Duration) {
        let earned = time.as_nanos() as f64 * self.share;
        self.purse = (self.purse + earned).min(self.burst);
    }

    /// Hits were paid for. False: the purse is empty.
    pub fn spend(&mut self, nanoseconds: u64) -> bool {
        self.purse -= nanoseconds as f64;
        self.spent += nanoseconds;
        self.purse > 0.0
    }

    /// How long until the purse is full again.
    #[must_use]
    pub fn recovery(&self) -> Duration {
        let missing = (self.burst - self.purse).max(0.0);
        Duration::try_from_secs_f64(missing / self.share / 1e9).unwrap_or(Duration::MAX)
    }

    /// All that was spent.
    #[must_use]
    pub fn spent(&self) -> Duration {
        Duration::from_nanos(self.spent)
    }
}

/// Hits of each function, and in how much watched time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rates {
    /// By function.
    pub hits: Vec<u64>,
    /// For how long each was watched.
    pub watched: Vec<Duration>,
}

impl Rates {
    /// Of so many functions, not watched yet.
    #[must_use]
    pub fn of(functions: usize) -> Self {
        Self { hits: vec![0; functions], watched: vec![Duration::ZERO; functions] }
    }

    /// A function was watched for some time and called so often.
    pub fn add(&mut self, function: usize, hits: u64, time: Duration) {
        if let (Some(all), Some(watched)) =
            (self.hits.get_mut(function), self.watched.get_mut(function))
        {
            *all += hits;
            *watched += time;
        }
    }

    /// Calls a second.
    #[must_use]
    pub fn rate(&self, function: usize) -> f64 {
        let hits = self.hits.get(function).copied().unwrap_or(0);
        let time = self.watched.get(function).copied().unwrap_or_default().as_secs_f64();
        if time > 0.0 { hits as f64 / time } else { 0.0 }
    }
}

/// Which functions to give up after a slice that cost too much: those called far more often than
/// the others that are called at all. Given hits by function; none: they are all alike, and only
/// shorter slices help.
#[must_use]
pub fn thin(hits: &[(usize, u64)]) -> Vec<usize> {
    /// How much more often than the middle one. A stage may well be called once a segment.
    const FAR: u64 = 32;
    /// Fewer hits in a slice are no flood.
    const FEW: u64 = 200;
    let mut called: Vec<u64> =
        hits.iter().map(|(_, hits)| *hits).filter(|hits| *hits > 0).collect();
    called.sort_unstable();
    // The lower third: where many functions flood, the middle one does, too.
    let Some(usual) = called.get(called.len() / 3) else { return Vec::new() };
    let limit = usual.saturating_mul(FAR).max(FEW);
    hits.iter().filter(|(_, hits)| *hits > limit).map(|(function, _)| *function).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_purse_pays_for_a_burst_and_then_for_the_share() {
        let mut budget = Budget::new(0.02, Duration::from_millis(10));
        assert!(budget.spend(9_000_000));
        assert!(!budget.spend(1_000_000));
        assert_eq!(budget.recovery(), Duration::from_millis(500));
        budget.earn(Duration::from_millis(250));
        assert_eq!(budget.recovery(), Duration::from_millis(250));
        budget.earn(Duration::from_secs(100));
        assert_eq!(budget.recovery(), Duration::ZERO);
        assert_eq!(budget.spent(), Duration::from_millis(10));
    }

    #[test]
    fn floods_stand_out_and_even_load_does_not() {
        let flood = [(1, 20), (2, 20), (3, 20), (4, 40), (5, 4000), (6, 0)];
        assert_eq!(thin(&flood), [5]);
        let even: Vec<_> = (0..50).map(|at| (at, 500)).collect();
        assert_eq!(thin(&even), [0; 0]);
        let few = [(1, 1), (2, 100)];
        assert_eq!(thin(&few), [0; 0], "a hundred calls are no flood");
        assert_eq!(thin(&[]), [0; 0]);
    }

    #[test]
    fn rates_are_over_the_time_watched() {
        let mut rates = Rates::of(2);
        rates.add(0, 10, Duration::from_millis(500));
        rates.add(0, 10, Duration::from_millis(500));
        rates.add(9, 1, Duration::from_secs(1));
        assert!((rates.rate(0) - 20.0).abs() < 1e-9);
        assert!(rates.rate(1).abs() < 1e-9);
    }
}
