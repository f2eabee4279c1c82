use std::sync::atomic::AtomicUsize;

use super::*;
use crate::analysis::testing::{span, trace};
use crate::model::{ClockOffset, Rules, ThreadNames};
use crate::sink::{Context, ResourceFacts, encode};

/// What the fake endpoint does, and what it was sent.
#[derive(Default)]
struct Endpoint {
    /// Fails as if not there.
    away: AtomicBool,
    /// Takes empty requests only.
    refuses: AtomicBool,
    /// Does not answer batches.
    hangs: AtomicBool,
    probes: AtomicUsize,
    batches: Mutex<Vec<usize>>,
}

impl Endpoint {
    fn export(self: &Arc<Self>) -> Export {
        let this = Arc::clone(self);
        Box::new(move |batch| {
            let this = Arc::clone(&this);
            Box::pin(async move {
                if this.away.load(Ordering::Relaxed) {
                    return Err("nobody there".to_owned());
                }
                let Some(batch) = batch else {
                    this.probes.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                };
                if this.hangs.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                if this.refuses.load(Ordering::Relaxed) {
                    return Err("no thanks".to_owned());
                }
                locked(&this.batches).push(batch.spans.len());
                Ok(())
            })
        })
    }

    fn start(self: &Arc<Self>, limits: BatchLimits) -> Batcher {
        Batcher::start("http://h:4317".to_owned(), limits, self.export(), &Handle::current())
    }
}

fn limits() -> BatchLimits {
    BatchLimits {
        batch: 10,
        delay: Duration::from_millis(20),
        queue: 100,
        export: Duration::from_secs(10),
    }
}

fn spans(count: u64) -> Vec<Outgoing> {
    of(&ONE, count)
}

fn resource() -> Arc<Resource> {
    Arc::new(Resource::build(&ResourceFacts::default(), None, |_| None).unwrap())
}

static ONE: std::sync::LazyLock<Arc<Resource>> = std::sync::LazyLock::new(resource);

fn of(resource: &Arc<Resource>, count: u64) -> Vec<Outgoing> {
    let (rules, threads) = (Rules::default(), ThreadNames::default());
    let context = Context { rules: &rules, clock: ClockOffset(0), threads: &threads };
    let trace = trace((1..=count).map(|id| span(id, 0, "s", 0, 1)).collect());
    let spans = encode(&trace, &context);
    spans.map(|(_, span)| Outgoing { resource: Arc::clone(resource), span }).collect()
}

#[test]
fn a_batch_is_of_one_process_and_the_others_keep_their_order() {
    let (a, b) = (resource(), resource());
    let mut queue: VecDeque<Outgoing> =
        [of(&a, 2), of(&b, 3), of(&a, 2)].into_iter().flatten().collect();
    let mut taken = Vec::new();
    while let Some(batch) = take(&mut queue, 3) {
        taken.push((Arc::ptr_eq(&batch.resource, &a), batch.spans.len()));
    }
    assert_eq!(taken, [(true, 3), (false, 3), (true, 1)]);
}

async fn until(condition: impl Fn() -> bool) {
    let mut rounds = 0;
    while !condition() {
        sleep(Duration::from_millis(5)).await;
        rounds += 1;
        assert!(rounds < 2000, "waited in vain");
    }
}

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn batches_are_full_or_old() {
    let endpoint = Arc::new(Endpoint::default());
    let batcher = endpoint.start(limits());
    batcher.send(spans(3));
    until(|| batcher.stats().sent == 3).await;
    batcher.send(spans(25));
    until(|| batcher.stats().sent == 28).await;
    assert_eq!(*locked(&endpoint.batches), [3, 10, 10, 5]);
    let slow = BatchLimits { delay: Duration::from_secs(3600), ..limits() };
    let batcher = endpoint.start(slow);
    batcher.send(spans(12));
    until(|| batcher.stats().sent == 10).await;
    let stats = batcher.shutdown(LONG).await;
    assert_eq!(stats, ExportStats { sent: 12, ..ExportStats::default() });
}

#[tokio::test]
async fn a_full_queue_drops_whole_traces() {
    let endpoint = Arc::new(Endpoint::default());
    endpoint.away.store(true, Ordering::Relaxed);
    let batcher = endpoint.start(limits());
    // The worker has taken its batch and waits with it.
    batcher.send(spans(10));
    until(|| batcher.shared.in_flight.load(Ordering::Relaxed) == 10).await;
    batcher.send(spans(95));
    batcher.send(spans(6));
    batcher.send(spans(5));
    assert_eq!(batcher.stats().dropped, 6);
    endpoint.away.store(false, Ordering::Relaxed);
    let stats = batcher.shutdown(LONG).await;
    assert_eq!((stats.sent, stats.failed, stats.dropped), (110, 0, 6));
    assert_eq!(stats.last_error.as_deref(), Some("nobody there"));
}

#[tokio::test]
async fn an_endpoint_that_comes_back_gets_everything() {
    let endpoint = Arc::new(Endpoint::default());
    endpoint.away.store(true, Ordering::Relaxed);
    let batcher = endpoint.start(limits());
    batcher.send(spans(30));
    until(|| batcher.shared.in_flight.load(Ordering::Relaxed) == 10).await;
    endpoint.away.store(false, Ordering::Relaxed);
    until(|| batcher.stats().sent == 30).await;
    assert_eq!(batcher.shutdown(LONG).await.failed, 0);
}

#[tokio::test]
async fn a_refused_batch_does_not_stop_the_next() {
    let endpoint = Arc::new(Endpoint::default());
    endpoint.refuses.store(true, Ordering::Relaxed);
    let batcher = endpoint.start(limits());
    batcher.send(spans(10));
    until(|| batcher.stats().failed == 10).await;
    endpoint.refuses.store(false, Ordering::Relaxed);
    batcher.send(spans(7));
    let stats = batcher.shutdown(LONG).await;
    assert_eq!((stats.sent, stats.failed), (7, 10));
    assert_eq!(stats.last_error.as_deref(), Some("no thanks"));
    // At the start, and for the refused batch.
    assert_eq!(endpoint.probes.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn shutdown_with_nobody_there_is_quick_and_counts() {
    let endpoint = Arc::new(Endpoint::default());
    endpoint.away.store(true, Ordering::Relaxed);
    let batcher = endpoint.start(limits());
    batcher.send(spans(55));
    let start = Instant::now();
    let stats = batcher.shutdown(LONG).await;
    assert_eq!((stats.sent, stats.failed, stats.dropped), (0, 55, 0));
    assert!(start.elapsed() < LONG);
}

#[tokio::test]
async fn shutdown_does_not_wait_longer_than_its_limit() {
    let endpoint = Arc::new(Endpoint::default());
    endpoint.hangs.store(true, Ordering::Relaxed);
    let batcher = endpoint.start(limits());
    batcher.send(spans(25));
    let stats = batcher.shutdown(Duration::from_millis(50)).await;
    assert_eq!((stats.sent, stats.failed, stats.dropped), (0, 25, 0));
    assert_eq!(stats.last_error.as_deref(), Some("not sent within 0.05 s"));
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up() {
    let endpoint = Arc::new(Endpoint::default());
    endpoint.hangs.store(true, Ordering::Relaxed);
    let batcher = endpoint.start(BatchLimits { export: Duration::from_millis(20), ..limits() });
    batcher.send(spans(10));
    until(|| batcher.stats().failed == 10).await;
    assert_eq!(batcher.stats().last_error.as_deref(), Some("no answer within 0.02 s"));
}
