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

/// The first and the last of a row of pieces that a client's n-th query is about: a number of them that
/// differs from that of its neighbours, and from those of the other clients at about that time.
#[must_use]
pub const fn range_of(client: u32, n: u32, pieces: u32) -> (u32, u32) {
    let first = (client + 3 * n) % pieces;
    let last = first + (client * 5 + n * n) % (pieces - first);
    (first, last)
}

/// How many pieces that are, for so many queries of each of so many clients: the lists in order.
#[must_use]
pub fn counts_of_ranges(clients: u32, queries: u32, pieces: u32) -> Vec<Vec<usize>> {
    let count = |client, n| {
        let (first, last) = range_of(client, n, pieces);
        (last - first + 1) as usize
    };
    let of = |client| (0..queries).map(|n| count(client, n)).collect();
    let mut counts: Vec<Vec<usize>> = (0..clients).map(of).collect();
    counts.sort();
    counts
}
