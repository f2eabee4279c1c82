//! Waiting, always bounded.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything local may take to come up or to end, on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const PACE: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer.
///
/// # Errors
/// When `limit` has passed; the message names `what` was waited for. An error of `ask` ends the
/// wait at once.
pub fn until<T>(
    limit: Duration,
    what: &str,
    mut ask: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begun.elapsed() >= limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(PACE);
    }
}
