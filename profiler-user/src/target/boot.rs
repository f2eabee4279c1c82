//! Which boot of the kernel this is.

use std::fs;

/// The random id the kernel gave itself when it started; none without `/proc`.
#[must_use]
pub fn boot_id() -> Option<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
}
