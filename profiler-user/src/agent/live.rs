//! Attached to a target: from the ring to finished traces, one turn at a time.

use std::time::{Duration, Instant};

use profiler_common::Counter;
use thiserror::Error;

use super::outputs::nanoseconds;
use super::{Prepared, clock};
use crate::attach::{self, AttachError, AttachOptions, Attached, KernelCounts, RefusedSite};
use crate::model::{Event, EventBody, Lane, MonoNs, Pid, Tid, Trace};
use crate::reader::{self, Ring};
use crate::recording::{RecordingError, Writer};
use crate::stitch::{IdSource, Limits, StitchStats, Stitcher};
use crate::target::{ExitWatch, TargetError};

/// How long one turn waits for events: the ring is drained this often, or when half full.
const TURN: Duration = Duration::from_millis(10);

/// How long queries in flight may take to end after we were asked to stop.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// How to attach and to stitch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveOptions {
    pub(crate) attach: AttachOptions,
    pub(crate) grace: Duration,
}

/// Why a run came to an end it was not meant to.
#[derive(Debug, Error)]
pub enum LiveError {
    /// Loading or attaching failed.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The target cannot be watched.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The recording cannot be written.
    #[error(transparent)]
    Recording(#[from] RecordingError),
    /// The ring buffer cannot be waited on.
    #[error("cannot wait for events of the kernel side")]
    Ring(#[from] std::io::Error),
}

/// From raw events to traces: the same for a live target and a recording.
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

    pub(super) fn event(&mut self, raw: &[u8]) {
        match reader::decode(raw) {
            Ok(event) => {
                self.last = self.last.max(event.time);
                self.stitcher.push(&event);
            }
            Err(error) => {
                if self.undecodable == 0 {
                    tracing::warn!("an event cannot be read: {error}");
                }
                self.undecodable += 1;
            }
        }
    }
}

/// An attached target with the stages behind it. Dropping it detaches.
pub(crate) struct Live {
    attached: Attached,
    ring: Ring,
    pipeline: Pipeline,
    watch: ExitWatch,
    pid: Pid,
    recorder: Option<Writer>,
    attach_time: Duration,
}

/// What is left when everything is detached.
pub(crate) struct Stopped {
    /// The last traces.
    pub(crate) traces: Vec<Trace>,
    pub(super) stitch: StitchStats,
    pub(super) undecodable: u64,
    pub(super) counts: KernelCounts,
    pub(super) recorder: Option<Writer>,
}

impl Live {
    /// Loads the kernel side and attaches the plan.
    pub(crate) fn start(prepared: &Prepared, options: &LiveOptions) -> Result<Self, LiveError> {
        let begun = Instant::now();
        let Prepared { target, plan, .. } = prepared;
        let watch = target.watch()?;
        let mut attached = attach::attach(plan, target, &options.attach)?;
        let ring = attached
            .take_ring()
            .ok_or_else(|| std::io::Error::other("the ring buffer was taken before"))?;
        let limits = Limits { grace: nanoseconds(options.grace), ..Limits::default() };
        let stitcher = Stitcher::new(plan.rules.clone(), limits, IdSource::new(random_seed()));
        Ok(Self {
            attached,
            ring,
            pipeline: Pipeline::new(stitcher),
            watch,
            pid: target.pid,
            recorder: None,
            attach_time: begun.elapsed(),
        })
    }

    /// Also keeps the raw events.
    pub(super) fn record(&mut self, recorder: Writer) {
        self.recorder = Some(recorder);
    }

    pub(super) fn recorder(&mut self) -> Option<&mut Writer> {
        self.recorder.as_mut()
    }

    /// How long it took to load and attach.
    pub(super) const fn attach_time(&self) -> Duration {
        self.attach_time
    }

    /// The planned sites that the kernel would not probe.
    pub(super) fn refused(&self) -> &[RefusedSite] {
        self.attached.refused()
    }

    pub(super) const fn stitch_stats(&self) -> &StitchStats {
        self.pipeline.stitcher.stats()
    }

    /// Waits a moment for events and stitches what has come. False once the target has ended.
    pub(crate) fn turn(&mut self) -> Result<bool, LiveError> {
        self.ring.wait(TURN)?;
        // Asked before draining: what the target did before it ended is in the ring by then.
        let alive = !self.watch.has_exited();
        self.drain()?;
        self.attached.flush_kernel_log();
        let now = clock::now();
        if !alive {
            self.pipeline.stitcher.push(&process_end(self.pid, now));
        }
        self.pipeline.stitcher.tick(now);
        Ok(alive)
    }

    /// The traces finished since the last call.
    pub(crate) fn traces(&mut self) -> Vec<Trace> {
        self.pipeline.stitcher.take_completed()
    }

    /// Lets the queries in flight end, takes no new ones, and detaches.
    ///
    /// The probes stay for that long on purpose: a query whose later calls nobody sees would look
    /// complete and be wrong.
    pub(crate) fn stop(mut self) -> Result<Stopped, LiveError> {
        // What began before we were told to stop is taken.
        self.drain()?;
        self.pipeline.stitcher.refuse_new_traces();
        if let Some(recorder) = &mut self.recorder {
            recorder.last_calls()?;
        }
        let deadline = Instant::now() + LAST_CALLS;
        while self.pipeline.stitcher.open_traces() > 0
            && Instant::now() < deadline
            && self.turn()?
        {}
        self.attached.detach_enters();
        let counts = self.attached.counters()?;
        self.attached.detach();
        // Nothing writes any more: what is in the ring now is all there is.
        drain(&mut self.ring, &mut self.pipeline, self.recorder.as_mut())?;
        self.pipeline.stitcher.finish(clock::now());
        Ok(Stopped {
            traces: self.pipeline.stitcher.take_completed(),
            stitch: self.pipeline.stitcher.stats().clone(),
            undecodable: self.pipeline.undecodable,
            counts,
            recorder: self.recorder,
        })
    }

    fn drain(&mut self) -> Result<(), LiveError> {
        drain(&mut self.ring, &mut self.pipeline, self.recorder.as_mut())
    }
}

fn drain(
    ring: &mut Ring,
    pipeline: &mut Pipeline,
    mut recorder: Option<&mut Writer>,
) -> Result<(), LiveError> {
    let mut failed = None;
    let mut each = |raw: &[u8]| {
        if let (Some(recorder), None) = (&mut recorder, &failed) {
            failed = recorder.event(raw).err();
        }
        pipeline.event(raw);
    };
    while ring.drain(&mut each) == Ring::BATCH {}
    failed.map_or(Ok(()), |error| Err(error.into()))
}

fn process_end(pid: Pid, time: MonoNs) -> Event {
    let tid = Tid(pid.0);
    let (lane, body) = (Lane::Thread(pid, tid), EventBody::ProcessEnd);
    Event { time, lane, tid, sequence: 0, body }
}

/// A seed for ids: what the standard library seeds its hash maps with.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(clock::now())
}

/// The kernel side's counters by name, with how often its probes were hit.
pub(super) fn kernel_rows(counts: &KernelCounts) -> Vec<(String, u64)> {
    Counter::ALL.iter().map(|counter| (counter.name().to_owned(), counts.get(*counter))).collect()
}
