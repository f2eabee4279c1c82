//! Clients that ask at the same time.

use std::sync::Barrier;
use std::thread::{self, ScopedJoinHandle};

use anyhow::{Result, bail};

/// Has every client ask on a thread of its own, all let go together; `ask` is told which client it is
/// by its place. The answers, by client.
///
/// # Errors
/// The first that a client met.
pub fn at_once<C: Send, A: Send>(
    clients: &mut [C],
    ask: impl Fn(&mut C, u32) -> Result<A> + Sync,
) -> Result<Vec<A>> {
    let together = Barrier::new(clients.len());
    thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .zip(0..)
            .map(|(client, place)| {
                let (ask, together) = (&ask, &together);
                scope.spawn(move || {
                    together.wait();
                    ask(client, place)
                })
            })
            .collect();
        let joined = threads.into_iter().map(ScopedJoinHandle::join);
        joined.map(|answer| answer.unwrap_or_else(|_| bail!("a client panicked"))).collect()
    })
}
