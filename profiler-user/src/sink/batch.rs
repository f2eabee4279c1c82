//! Spans wait here until a batch is full or old enough, bounded, on their way to the network.
//!
//! Every span offered ends in exactly one of three counters: sent, failed, dropped.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::otlp_config::BatchLimits;
use super::{Outgoing, Resource};

/// Sends a batch, all of one resource; none asks whether the endpoint answers at all.
pub(super) type Export = Box<dyn Fn(Option<Batch>) -> Sending + Send + Sync>;
/// A request under way; the error is text for people.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// The first wait after the endpoint did not answer; doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(500);
/// The longest wait between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// How long one batch is held for an endpoint that does not answer.
const MAX_HOLD: Duration = Duration::from_secs(300);

/// Spans of one process.
#[derive(Clone)]
pub(super) struct Batch {
    pub(super) resource: Arc<Resource>,
    pub(super) spans: Vec<SpanData>,
}

/// What became of the spans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportStats {
    /// Spans accepted by the endpoint.
    pub sent: u64,
    /// Spans the endpoint refused, or that it could not be given in time.
    pub failed: u64,
    /// Spans dropped because the queue was full.
    pub dropped: u64,
    /// The last error, if there was one.
    pub last_error: Option<String>,
}

/// A bounded queue and the task that empties it.
#[derive(Debug)]
pub(super) struct Batcher {
    shared: Arc<Shared>,
    worker: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    endpoint: String,
    limits: BatchLimits,
    queue: Mutex<VecDeque<Outgoing>>,
    last_error: Mutex<Option<String>>,
    closing: AtomicBool,
    /// A full batch, or closing.
    wake: Notify,
    in_flight: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
}

impl Batcher {
    /// Starts the task on `handle`. It first asks whether the endpoint answers, and says so if not.
    pub(super) fn start(
        endpoint: String,
        limits: BatchLimits,
        export: Export,
        handle: &Handle,
    ) -> Self {
        let shared = Arc::new(Shared {
            endpoint,
            limits,
            queue: Mutex::default(),
            last_error: Mutex::default(),
            closing: AtomicBool::new(false),
            wake: Notify::new(),
            in_flight: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        });
        let worker = Worker { shared: Arc::clone(&shared), export, away: false };
        Self { shared, worker: handle.spawn(worker.run()) }
    }

    /// Takes the spans of one trace, or drops them all where they do not fit. Never blocks.
    pub(super) fn send(&self, spans: Vec<Outgoing>) {
        let shared = &self.shared;
        let count = spans.len();
        let mut queue = locked(&shared.queue);
        if queue.len().saturating_add(count) > shared.limits.queue {
            drop(queue);
            let before = shared.dropped.fetch_add(count as u64, Ordering::Relaxed);
            if before == 0 {
                tracing::warn!(
                    "the export queue is full ({} spans): traces are dropped and counted",
                    shared.limits.queue
                );
            }
            return;
        }
        queue.extend(spans);
        if queue.len() >= shared.limits.batch {
            shared.wake.notify_one();
        }
    }

    pub(super) fn stats(&self) -> ExportStats {
        self.shared.stats()
    }

    /// Sends what is waiting, for `limit` at most; what is left then has failed.
    pub(super) async fn shutdown(mut self, limit: Duration) -> ExportStats {
        self.shared.closing.store(true, Ordering::Release);
        self.shared.wake.notify_one();
        if timeout(limit, &mut self.worker).await.is_err() {
            self.worker.abort();
            // The task is gone only after this; until then it may still count.
            let _cancelled = (&mut self.worker).await;
            self.shared.error(format!("not sent within {} s", limit.as_secs_f32()));
        }
        let left = locked(&self.shared.queue).drain(..).len() as u64;
        let in_flight = self.shared.in_flight.swap(0, Ordering::Relaxed);
        self.shared.failed.fetch_add(left + in_flight, Ordering::Relaxed);
        self.shared.stats()
    }
}

impl Shared {
    fn stats(&self) -> ExportStats {
        ExportStats {
            sent: self.sent.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
            last_error: locked(&self.last_error).clone(),
        }
    }

    fn error(&self, error: String) {
        *locked(&self.last_error) = Some(error);
    }

    fn closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
}

struct Worker {
    shared: Arc<Shared>,
    export: Export,
    /// The endpoint did not answer when last asked.
    away: bool,
}

impl Worker {
    async fn run(mut self) {
        if let Err(error) = self.export(None).await {
            self.gone(&error);
        }
        while let Some(batch) = self.next_batch().await {
            let count = batch.spans.len() as u64;
            self.shared.in_flight.store(count, Ordering::Relaxed);
            let counter =
                if self.deliver(batch).await { &self.shared.sent } else { &self.shared.failed };
            counter.fetch_add(count, Ordering::Relaxed);
            self.shared.in_flight.store(0, Ordering::Relaxed);
        }
    }

    /// The next batch: full, or as old as it may get, or the rest when closing; none at the end.
    async fn next_batch(&self) -> Option<Batch> {
        let limits = &self.shared.limits;
        let deadline = Instant::now() + limits.delay;
        loop {
            let closing = self.shared.closing();
            {
                let mut queue = locked(&self.shared.queue);
                let due = closing || Instant::now() >= deadline;
                if queue.len() >= limits.batch || (due && !queue.is_empty()) {
                    return take(&mut queue, limits.batch);
                }
            }
            if closing {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // With an empty queue the deadline passes unused: look again after a whole delay.
            let wait = if left.is_zero() { limits.delay } else { left };
            let _woken = timeout(wait, self.shared.wake.notified()).await;
        }
    }

    /// Sends a batch, again and again while the endpoint does not answer. Whether it was accepted.
    ///
    /// A failure alone does not tell a refused batch from an absent endpoint; an empty request
    /// does. The batch is given up when the endpoint answers that but not the batch, when it was
    /// held too long, or when closing.
    async fn deliver(&mut self, batch: Batch) -> bool {
        if self.away && self.shared.closing() && self.export(None).await.is_err() {
            return false;
        }
        let held_since = Instant::now();
        let mut backoff = MIN_BACKOFF;
        let mut answers = false;
        loop {
            let Err(error) = self.export(Some(batch.clone())).await else {
                self.back();
                return true;
            };
            if answers {
                let count = batch.spans.len();
                tracing::warn!("{} refused {count} spans: {error}", self.shared.endpoint);
                self.shared.error(error);
                return false;
            }
            match self.export(None).await {
                Ok(()) => {
                    self.back();
                    answers = true;
                }
                Err(error) => {
                    self.gone(&error);
                    if self.shared.closing() || held_since.elapsed() > MAX_HOLD {
                        return false;
                    }
                    self.pause(backoff).await;
                    backoff = (backoff * 2).min(MAX_BACKOFF);
                }
            }
        }
    }

    async fn export(&self, batch: Option<Batch>) -> Result<(), String> {
        let limit = self.shared.limits.export;
        match timeout(limit, (self.export)(batch)).await {
            Ok(result) => result,
            Err(_elapsed) => Err(format!("no answer within {} s", limit.as_secs_f32())),
        }
    }

    /// Waits, but not beyond the moment of closing.
    async fn pause(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.shared.closing() && Instant::now() < end {
            tokio::select! {
                () = sleep(end.saturating_duration_since(Instant::now())) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    fn gone(&mut self, error: &str) {
        if !self.away {
            let Shared { endpoint, limits, .. } = &*self.shared;
            tracing::warn!(
                "cannot export to {endpoint}: {error}; trying again while up to {} spans wait",
                limits.queue
            );
        }
        self.away = true;
        self.shared.error(error.to_owned());
    }

    fn back(&mut self) {
        if self.away {
            tracing::info!("exporting to {} works again", self.shared.endpoint);
        }
        self.away = false;
    }
}

/// The oldest span and, up to `limit`, what else waits of the same process; the others keep their
/// places.
fn take(queue: &mut VecDeque<Outgoing>, limit: usize) -> Option<Batch> {
    let resource = Arc::clone(&queue.front()?.resource);
    let (mut spans, mut others) = (Vec::new(), VecDeque::new());
    while spans.len() < limit
        && let Some(next) = queue.pop_front()
    {
        if Arc::ptr_eq(&next.resource, &resource) {
            spans.push(next.span);
        } else {
            others.push_back(next);
        }
    }
    others.append(queue);
    *queue = others;
    Some(Batch { resource, spans })
}

/// Nothing is left half-done under these locks: a panic elsewhere does not spoil what they guard.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
