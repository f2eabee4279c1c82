//! Functions in C that Go calls: for which goroutine a thread runs them.

use profiler_common::{EventKind, EventRecord};

use crate::hit::Hit;
use crate::maps::{GO, LaneState};
use crate::{emit, goroutine, inner, lane};

/// A call is about to be recorded. If it is the first on its thread's stack, says for which goroutine it
/// is, unless that was the last thing said: as long as calls are open there that does not change.
#[inline(always)]
pub(crate) fn before(state: &mut LaneState, hit: &Hit<'_>, slot: u64, record: &mut EventRecord) {
    if GO.load() == 0 {
        return;
    }
    if !state.inner.is_none() && !inner::is_gone(&hit.lane, &state.inner, slot) {
        return;
    }
    let goid = goroutine::carried(hit.space);
    if state.carries == goid {
        return;
    }
    state.carries = goid;
    // In the place of the event of the call: there is no room for another.
    record.header.kind = EventKind::Carries as u8;
    record.header.words = 1;
    record.words[0] = goid;
    record.header.sequence = lane::next(&mut Some(&mut *state));
    emit::send(record, None);
    record.header.kind = EventKind::Enter as u8;
    record.header.words = 0;
    record.words[0] = 0;
}
