//! The ring buffer, drained by timer.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};

/// The ring buffer of events.
///
/// The kernel side does not wake its reader for an event, because that costs the target more than
/// the event itself; only when the ring is more than half full. So: [`wait`](Self::wait) about
/// 10 ms, then [`drain`](Self::drain), again and again.
pub struct Ring {
    ring: RingBuf<MapData>,
    epoll: OwnedFd,
}

impl Ring {
    /// The most records one [`drain`](Self::drain) hands out, so that the caller gets to its other
    /// duties however fast the target is.
    pub const BATCH: usize = 4096;

    /// A ring over its BPF map.
    pub(crate) fn new(ring: RingBuf<MapData>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        // Edge-triggered: woken by the kernel side's wake-ups, not by there being something to read.
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &ring, epoll::EventData::new_u64(0), flags)?;
        Ok(Self { ring, epoll })
    }

    /// Waits until the ring is more than half full, at most for `timeout`. May return early.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to wait, which it has no reason to.
    pub fn wait(&self, timeout: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        let mut events = Vec::with_capacity(1);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Hands out the raw records that are there, oldest first, and returns how many there were.
    /// [`Self::BATCH`] of them: there may be more, drain again before waiting.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) -> usize {
        let mut count = 0;
        while count < Self::BATCH
            && let Some(record) = self.ring.next()
        {
            each(&record);
            count += 1;
        }
        count
    }
}
