//! From raw events to traces: the same for a live target and a recording.

use super::jumps::Jumps;
use crate::model::{Event, EventBody, MonoNs, Pid, Tid, Watches};
use crate::reader;
use crate::stitch::Stitcher;

/// What events tell of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Forked {
        parent: Pid,
        child: Pid,
    },
    /// It runs another program; by its first thread, or by another that has taken its place.
    Became(Pid, Tid),
    /// Its loader has mapped or unmapped something.
    Loaded(Pid),
    Ended(Pid),
}

/// The stitcher, and what becomes of events on their way to it.
pub(super) struct Pipeline {
    pub(super) stitcher: Stitcher,
    /// Records that are no events: a fault in Qprof, or a damaged recording.
    pub(super) undecodable: u64,
    pub(super) last: MonoNs,
}

impl Pipeline {
    pub(super) fn new(stitcher: Stitcher) -> Self {
        Self { stitcher, undecodable: 0, last: MonoNs(0) }
    }

    /// Stitches an event; what it tells of its process, if it does. `jumps`: makes of the calls of
    /// `longjmp` what they do. An event that was made anew is handed to `record`, else the raw one. `see` is
    /// handed the event itself, and of a goroutine that is born says whether it is proven to do once what it
    /// does.
    pub(super) fn event(
        &mut self,
        raw: &[u8],
        mut jumps: Option<&mut Jumps>,
        record: impl FnOnce(&[u8]),
        see: impl FnOnce(&Event) -> bool,
    ) -> Option<Change> {
        match reader::decode(raw) {
            Ok(mut event) => {
                let proven = see(&event);
                let watches = self.watches(&event);
                if let (Some(jumps), EventBody::Fork { child }) = (&mut jumps, event.body) {
                    jumps.forked(event.lane.pid(), child);
                }
                let made = match event.body {
                    EventBody::Born { .. } => {
                        proven.then_some(Event { body: EventBody::RunsOnce, ..event })
                    }
                    _ => jumps
                        .filter(|_| watches == Some(Watches::Jumping))
                        .map(|jumps| jumps.landing(&event)),
                };
                match made {
                    Some(made) => {
                        event = made;
                        let mut bytes = Vec::new();
                        reader::encode(&event, &mut bytes);
                        record(&bytes);
                    }
                    None => record(raw),
                }
                self.last = self.last.max(event.time);
                self.stitcher.push(&event);
                change(&event, watches)
            }
            Err(error) => {
                record(raw);
                if self.undecodable == 0 {
                    tracing::warn!("an event cannot be read: {error}");
                }
                self.undecodable += 1;
                None
            }
        }
    }

    /// What the probe of a call watches.
    fn watches(&self, event: &Event) -> Option<Watches> {
        let EventBody::Enter { probe, .. } = event.body else { return None };
        Some(self.stitcher.rules().probes.get(probe.index())?.watches)
    }
}

/// What an event tells of its process; `watches`: what the probe of the call does.
fn change(event: &Event, watches: Option<Watches>) -> Option<Change> {
    let pid = event.lane.pid();
    match event.body {
        EventBody::Fork { child } => Some(Change::Forked { parent: pid, child }),
        EventBody::Exec => Some(Change::Became(pid, event.tid)),
        EventBody::ProcessEnd => Some(Change::Ended(pid)),
        EventBody::Enter { .. } => {
            (watches == Some(Watches::Loading)).then_some(Change::Loaded(pid))
        }
        EventBody::Exit { .. }
        | EventBody::Jump { .. }
        | EventBody::Unwound { .. }
        | EventBody::Folded { .. }
        | EventBody::Asks { .. }
        | EventBody::GaveUp { .. }
        | EventBody::Carries { .. }
        | EventBody::Spawn { .. }
        | EventBody::Born { .. }
        | EventBody::RunsOnce
        | EventBody::LaneEnd => None,
    }
}
