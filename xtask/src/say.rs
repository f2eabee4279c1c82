//! Talk for the person at the terminal: progress on standard error, results on standard output.

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

static START: OnceLock<Instant> = OnceLock::new();

/// Elapsed times count from here.
pub(crate) fn start_clock() {
    START.get_or_init(Instant::now);
}

/// One line of progress: `[ 12.3 s] jaeger: building v1.76.0`.
pub(crate) fn step(who: &str, what: &str) {
    let elapsed = START.get_or_init(Instant::now).elapsed();
    err(&format!("[{:>9}] {who}: {what}", seconds(elapsed)));
}

/// A line of results.
pub(crate) fn out(text: &str) {
    // A closed pipe (`| head`) is no reason to fail.
    let _ = writeln!(std::io::stdout().lock(), "{text}");
}

/// A line of talk.
pub(crate) fn err(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

pub(crate) fn error(error: &anyhow::Error) {
    err(&format!("error: {error:#}"));
}

/// `41.2 s`, and from two minutes on `3 min 05 s`.
pub(crate) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(120) {
        format!("{:.1} s", time.as_secs_f64())
    } else {
        format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_naturally() {
        assert_eq!(seconds(Duration::from_millis(1_240)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(119)), "119.0 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 05 s");
    }
}
