//! The child: runs what it is told to until its input ends. It may be corrupted or killed by what
//! it is told; that is what it is for.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Write};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};

use super::blob::{Blob, Pair};
use super::harness::{Harness, NotRun};

/// What the child is told: five numbers of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Run a case so often. The answer: [`RAN`] and two snapshots, of the first run and of the first
    /// that differs from it, or else the last; or [`NOT_RUN`] and an errno.
    Run { form: u32, case: u32, times: u32, shadow: bool },
    /// Call those of the timed snippets once around, each without and with its probe, on so many
    /// threads at once. The answer: [`RAN`], a number, and as many differences, nanoseconds a call:
    /// of each snippet, thread by thread.
    Time { from: u32, to: u32, threads: u32 },
    /// Call a snippet so often on each of so many threads. The answer: [`RAN`].
    Call { start: u32, threads: u32, times: u32 },
}

pub(super) const RAN: u64 = 1;
pub(super) const NOT_RUN: u64 = 2;
pub(super) const READY: u64 = 3;

const REQUEST: usize = 20;
/// The processor time after which a child that does nothing else than run snippets must have lost
/// its way, seconds.
const MOST_CPU: u64 = 5;
/// How long one turn of calls is to take: so short that it is seldom interrupted.
const TURN: Duration = Duration::from_micros(40);
/// Turns are of so many calls at least and at most.
const CALLS: [u32; 2] = [4, 32];

impl Request {
    pub(super) fn encode(self) -> [u8; REQUEST] {
        let numbers = match self {
            Self::Run { form, case, times, shadow } => [1, form, case, times, u32::from(shadow)],
            Self::Time { from, to, threads } => [2, from, to, threads, 0],
            Self::Call { start, threads, times } => [3, start, threads, times, 0],
        };
        let mut bytes = [0; REQUEST];
        for (place, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *place = number.to_le_bytes();
        }
        bytes
    }

    fn decode(bytes: &[u8; REQUEST]) -> Option<Self> {
        let mut numbers = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes));
        let mut next = || numbers.next().unwrap_or(0);
        let (kind, a, b, c, d) = (next(), next(), next(), next(), next());
        match kind {
            1 => Some(Self::Run { form: a, case: b, times: c, shadow: d != 0 }),
            2 => Some(Self::Time { from: a, to: b, threads: c }),
            3 => Some(Self::Call { start: a, threads: b, times: c }),
            _ => None,
        }
    }
}

/// The child of the self-test of forms. `file`: the open file of the snippets.
///
/// # Errors
/// Its pipes are closed, or the snippets cannot be mapped.
pub fn child(file: i32) -> anyhow::Result<()> {
    // If it dies it does so on purpose: no core, and no crash reporter.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = Rlimit { current: Some(MOST_CPU), maximum: Some(MOST_CPU + 1) };
    rustix::process::setrlimit(Resource::Cpu, limit)?;
    let blob = Blob::new();
    let harness = Harness::new(File::open(format!("/proc/self/fd/{file}"))?, blob.bytes.len())?;
    let (mut input, mut output) = (io::stdin().lock(), io::stdout().lock());
    answer(&mut output, READY, [])?;
    let mut request = [0; REQUEST];
    loop {
        match input.read_exact(&mut request) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        }
        let request = Request::decode(&request)
            .ok_or_else(|| anyhow::anyhow!("told something unknown: {request:?}"))?;
        serve(&harness, &blob, request, &mut output)?;
    }
}

fn serve(
    harness: &Harness,
    blob: &Blob,
    request: Request,
    output: &mut impl Write,
) -> io::Result<()> {
    match request {
        Request::Run { form, case, times, shadow } => {
            let place = blob.cases.get(form as usize).and_then(|cases| cases.get(case as usize));
            let form = blob.forms.get(form as usize);
            let flags = form.and_then(|form| form.cases.get(case as usize)).map_or(2, |c| c.flags);
            let run = || {
                let start = place.map_or(u32::MAX, |place| place.start);
                harness.run(start, flags, shadow).map_err(|why| match why {
                    NotRun::NoShadowStack(error) => error.raw_os_error().unwrap_or(0),
                    NotRun::OutOfFile => 0,
                })
            };
            let ran = run().and_then(|first| {
                let mut last = first.clone();
                for _ in 1..times {
                    let now = run()?;
                    // One that differs is kept; the rest is run to be counted.
                    if last == first {
                        last = now;
                    }
                }
                Ok((first, last))
            });
            match ran {
                Ok((first, last)) => answer(output, RAN, first.0.into_iter().chain(last.0)),
                Err(errno) => answer(output, NOT_RUN, [u64::from(errno.unsigned_abs())]),
            }
        }
        Request::Time { from, to, threads } => {
            let pairs = blob.timed().take(to as usize).skip(from as usize);
            let differences = time(harness, &pairs.collect::<Vec<_>>(), threads);
            let count = differences.len() as u64;
            let bits = differences.into_iter().map(f64::to_bits);
            answer(output, RAN, std::iter::once(count).chain(bits))
        }
        Request::Call { start, threads, times } => {
            if let Some(function) = harness.function(start) {
                at_once(threads, || (0..times).for_each(|_| function()));
            }
            answer(output, RAN, [])
        }
    }
}

fn answer(
    output: &mut impl Write,
    kind: u64,
    words: impl IntoIterator<Item = u64>,
) -> io::Result<()> {
    let mut bytes = kind.to_le_bytes().to_vec();
    bytes.extend(words.into_iter().flat_map(u64::to_le_bytes));
    output.write_all(&bytes)?;
    output.flush()
}

/// A turn of calls of each, without and with its probe.
fn time(harness: &Harness, pairs: &[Pair], threads: u32) -> Vec<f64> {
    let per_thread = at_once(threads, || {
        pairs.iter().map(|pair| difference(harness, pair).unwrap_or(0.0)).collect::<Vec<f64>>()
    });
    per_thread.into_iter().flatten().collect()
}

fn difference(harness: &Harness, pair: &Pair) -> Option<f64> {
    let (plain, probed) =
        (harness.function(pair.plain.start)?, harness.function(pair.probed.start)?);
    // The first hits are dearer: the page is copied, an optimised probe is placed.
    turn(&plain, 1);
    turn(&probed, 1);
    let [fewest, most] = CALLS;
    let each = turn(&probed, 1).as_nanos().max(1);
    let calls = u32::try_from(TURN.as_nanos() / each).unwrap_or(most).clamp(fewest, most);
    let (without, with) = (turn(&plain, calls), turn(&probed, calls));
    Some((with.as_nanos() as f64 - without.as_nanos() as f64) / f64::from(calls))
}

fn turn(function: &impl Fn(), calls: u32) -> Duration {
    let begun = Instant::now();
    for _ in 0..calls {
        black_box(function)();
    }
    begun.elapsed()
}

/// The same on several threads that begin together.
fn at_once<T: Send>(threads: u32, each: impl Fn() -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(threads as usize);
    let one = || {
        barrier.wait();
        each()
    };
    thread::scope(|scope| {
        let started: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        started.into_iter().filter_map(|thread| thread.join().ok()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gives_back_what_was_asked() {
        for request in [
            Request::Run { form: 3, case: 7, times: 16, shadow: true },
            Request::Time { from: 3, to: 24, threads: 2 },
            Request::Call { start: 4096, threads: 2, times: 9 },
        ] {
            assert_eq!(Request::decode(&request.encode()), Some(request));
        }
        assert_eq!(Request::decode(&[9; REQUEST]), None);
    }
}
