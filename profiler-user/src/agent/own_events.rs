//! Events that the agent makes itself. They are stitched and recorded like those of the kernel side.

use profiler_common::{Fold, FoldKey, LaneKind, ProbeId};

use crate::model::{Event, EventBody, FrameAddr, Goid, Lane, MonoNs, Pid, Tid};

/// A process has ended.
pub(super) fn process_end(pid: Pid, time: MonoNs) -> Event {
    of_process(pid, time, EventBody::ProcessEnd)
}

/// It is no process's: we are the one who says so.
pub(super) fn gave_up(probe: ProbeId, time: MonoNs) -> Event {
    of_process(Pid(std::process::id()), time, EventBody::GaveUp { probe })
}

fn of_process(pid: Pid, time: MonoNs, body: EventBody) -> Event {
    let tid = Tid(pid.0);
    Event { time, lane: Lane::Thread(pid, tid), tid, sequence: 0, body }
}

/// What the kernel side has folded below a call that has not ended.
pub(super) fn folded(key: &FoldKey, fold: &Fold, time: MonoNs) -> Event {
    let (pid, number) = (Pid(key.lane.pid()), key.lane.number());
    let (lane, tid) = match key.lane.kind() {
        LaneKind::Thread => (Lane::Thread(pid, Tid(number as u32)), Tid(number as u32)),
        LaneKind::Goroutine => (Lane::Goroutine(pid, Goid(number)), Tid(0)),
    };
    let body = EventBody::Folded {
        probe: key.probe(),
        frame: FrameAddr(key.slot),
        serial: fold.serial as u32,
        calls: fold.calls,
    };
    Event { time, lane, tid, sequence: 0, body }
}
