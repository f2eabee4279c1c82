//! The only writer of the ring.

use core::ptr;

use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_PROD_POS, BPF_RB_RING_SIZE,
    BPF_RINGBUF_HDR_SZ,
};
use profiler_common::{Counter, EventHeader, EventRecord, MAX_WORDS};

use crate::count::{self, OfProbe};
use crate::maps::EVENTS;

/// Writes the event: its header and as many words as it has. What cannot be written is counted,
/// for its probe as well if it has one.
#[inline(always)]
pub(crate) fn send(record: &EventRecord, counts: Option<OfProbe>) {
    let words = usize::from(record.header.words).min(MAX_WORDS);
    let len = size_of::<EventHeader>() + words * size_of::<u64>();
    // SAFETY: `len` is at most the record's size, which has no padding.
    let bytes = unsafe { core::slice::from_raw_parts(ptr::from_ref(record).cast::<u8>(), len) };
    let sent = EVENTS.output(bytes, wakeup(len as u64)).is_ok();
    count::count(if sent { Counter::Emitted } else { Counter::RingFull });
    if let Some(counts) = counts {
        counts.sent(sent);
    }
}

/// Waking the reader costs the target more than the whole event, and the reader looks every few
/// milliseconds anyway. It is woken only when the ring is more than half full, and then at each
/// further sixteenth, not at each event: it may have been woken and not yet run.
#[inline(always)]
fn wakeup(len: u64) -> u64 {
    let size = EVENTS.query(u64::from(BPF_RB_RING_SIZE));
    if EVENTS.query(u64::from(BPF_RB_AVAIL_DATA)) <= size / 2 {
        return u64::from(BPF_RB_NO_WAKEUP);
    }
    let step = size / 16;
    let into_step = EVENTS.query(u64::from(BPF_RB_PROD_POS)) & step.wrapping_sub(1);
    let crosses = into_step + len + u64::from(BPF_RINGBUF_HDR_SZ) >= step;
    u64::from(if crosses { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP })
}
