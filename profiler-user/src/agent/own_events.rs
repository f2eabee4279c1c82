//! Events that the agent makes itself. They are stitched and recorded like those of the kernel side.

use profiler_common::{Fold, FoldKey, ProbeId};

use crate::model::{Event, EventBody, FrameAddr, Lane, MonoNs, Pid, Tid};

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
    let (pid, tid) = (Pid((key.thread >> 32) as u32), Tid(key.thread as u32));
    let body = EventBody::Folded {
        probe: key.probe(),
        frame: FrameAddr(key.slot),
        serial: fold.serial as u32,
        calls: fold.calls,
    };
    Event { time, lane: Lane::Thread(pid, tid), tid, sequence: 0, body }
}
