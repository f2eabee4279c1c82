//! Where a call will come back, as far as user space has learned it.

use aya_ebpf::helpers::bpf_probe_read_user;
use profiler_common::{Ahead, LandingId, MAX_LEVELS, Return, ReturnKey};

use crate::maps::RETURNS;

/// A call that begins.
pub(crate) struct Call {
    /// Its address space.
    pub(crate) space: u64,
    /// The address of its return slot.
    pub(crate) slot: u64,
    /// What stands there.
    pub(crate) return_address: u64,
    /// The caller's rbp, where it is known.
    pub(crate) frame_pointer: Option<u64>,
    /// Whether the return value is wanted.
    pub(crate) wants_value: bool,
}

/// How a call will end.
pub(crate) struct Outlook {
    pub(crate) ahead: Ahead,
    /// For the event: see [`profiler_common::EventHeader::awaited`].
    pub(crate) awaited: u64,
    /// The slot whose return ends it.
    pub(crate) slot: u64,
    pub(crate) landing: LandingId,
}

/// Follows callers that return at once up to one that goes on.
#[inline(always)]
pub(crate) fn follow(call: &Call) -> Outlook {
    let nothing =
        Outlook { ahead: Ahead::Nothing, awaited: 0, slot: call.slot, landing: LandingId::NONE };
    let ask = |ahead, address| Outlook { ahead, awaited: address, ..nothing };
    let lands = |slot, landing| Outlook { ahead: Ahead::Landing, awaited: slot, slot, landing };
    let (mut slot, mut address) = (call.slot, call.return_address);
    for level in 0..MAX_LEVELS {
        let key = ReturnKey { space: call.space, address };
        let Some(known) = RETURNS.get_ptr(&key) else { return ask(Ahead::Unknown, address) };
        // SAFETY: a live map value, replaced whole.
        let known = unsafe { *known };
        if call.wants_value {
            return match known {
                _ if known.flags & Return::LANDING_KEEPS_VALUE != 0 => lands(slot, known.landing),
                _ if known.flags & Return::POINT_KEEPS_VALUE != 0 => lands(slot, known.point),
                _ if known.kind == Return::NOTHING || known.flags & Return::NO_VALUE != 0 => {
                    nothing
                }
                _ => ask(Ahead::WantsValue, address),
            };
        }
        let above = match known.kind {
            Return::LANDING => return lands(slot, known.landing),
            Return::CALLER => Some(slot.wrapping_add(u64::from(known.up))),
            Return::CALLER_BY_FRAME_POINTER if level == 0 => {
                call.frame_pointer.map(|rbp| rbp.wrapping_add(8))
            }
            Return::CALLER_BY_FRAME_POINTER => None,
            _ => return nothing,
        };
        // A caller's slot lies above; whatever does not is no frame pointer.
        let next = match above {
            Some(above) if above > slot && level + 1 < MAX_LEVELS => {
                // SAFETY: the helper checks the address and fails where it cannot read.
                unsafe { bpf_probe_read_user(above as *const u64) }.ok().map(|next| (above, next))
            }
            _ => None,
        };
        let Some(next) = next else {
            return match known {
                _ if known.point.0 != 0 => lands(slot, known.point),
                _ if known.flags & Return::NO_POINT != 0 => nothing,
                _ => ask(Ahead::WantsPoint, address),
            };
        };
        (slot, address) = next;
    }
    nothing
}
