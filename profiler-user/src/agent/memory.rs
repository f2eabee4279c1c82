//! Memory that is not used any more.

/// Gives what was freed back to the system. The allocator keeps it otherwise, scattered among what is
/// in use: as much as all that a run takes after its beginning.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}
