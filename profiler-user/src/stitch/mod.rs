//! From events to trees: events in, traces out. No I/O, no clock, no `unsafe`.
//!
//! Events come in ring order, which is causal: whoever gives work is read before whoever takes it,
//! though their timestamps, taken on different processors, may be a little out of order.
//!
//! # Ends
//!
//! - An enter at an address proves that every call of this stack below it is gone: it was unwound
//!   without a `ret`, and ends now as `inferred`: an upper bound, but never beyond the end of what is
//!   above it in the tree. For work that was handed over this is a choice: whoever gave it has, as a
//!   rule, waited for it, and the next event of an idle worker may be an hour away.
//! - The same address and return address with another function is a tail call: one `ret` ends both.
//!   The same function again is another call.
//! - A `ret` ends the calls whose return slot it is; younger ones are `inferred`. After a loss it
//!   may be another call's, and ends them as `inferred` too.
//! - A witness is called where an exception lands: what is not above it on the stack is gone, and
//!   ends now as `unwound`.
//! - A jump (`longjmp`) says below which address calls are gone; they end now as `unwound`.
//! - The end of a thread or process ends its calls as `unwound`.
//!
//! # Parents
//!
//! The first that holds: a hand-off's giver, unless it is running below on this very stack, which
//! knows more exactly; the innermost open call of this stack; for the first call on another stack,
//! unless it is a root, the innermost call of the thread's own stack; for a lane's outermost call,
//! the open call whose context is nearest; for a goroutine's first call, the one in which it was
//! made; none. A call that has such evidence and makes no span passes it on to its callees.
//!
//! **Go and C.** While a thread runs functions in C for a goroutine, its lane and the goroutine's hold
//! one stack of calls: of their innermost calls the one that began later is the inner one.
//!
//! **Stack regions.** An address far from all stacks of a lane begins another one and closes
//! nothing (coroutines, signal stacks). Open calls of one coroutine may have called another or be
//! suspended, and addresses do not tell which; that the thread is inside the innermost call of its
//! own stack holds in either case.
//!
//! **Keys** live until they are taken as often as they may or their giver's trace ends. Given again
//! meanwhile, for another span or for nothing known, they prove nothing: the words mean something
//! else now, and which of the two a taker serves cannot be told.
//!
//! # Folded calls
//!
//! Of calls that the kernel side adds up comes how many there were since it last told, and in which
//! call: by its slot and the number of its event. They become one span of it for each function, which
//! grows as more are told. If that call is not open they are dropped, and counted as orphans.
//!
//! # Loss
//!
//! Each lane numbers its events. A gap means, from the event before it to the one after it:
//!
//! - on this lane, any open call may be gone and any stack may hold calls we know nothing of: open
//!   calls are marked and are nobody's parent any more, and other stacks have no known callers;
//! - on any lane, every live key may have been taken by someone unseen, its words used again, and
//!   given for something else by the lost event: all keys end, and what was taken within the gap is
//!   cut out of its trace, with all below it;
//! - on a lane that a parent rests on which is not its child's own: what was believed of it within
//!   the gap is cut out likewise.
//!
//! What cannot be seen: a loss on a lane that gets no event through before the trace is sent.
//!
//! The code: `lane` keeps the open calls of each lane, `handoff` the live keys, `contexts` the open
//! calls by context, `spawns` the goroutines that wait for their first call, `trace` the open traces,
//! `tainted` the gaps; `stitcher` and `goroutines` decide what ends, `parentage` whose child a call is.
#![forbid(unsafe_code)]

mod build;
mod contexts;
mod ends;
mod fold;
mod frames;
mod goroutines;
mod handoff;
mod ids;
mod lane;
mod lanes;
mod limits;
mod names;
mod parentage;
mod spawns;
mod stitcher;
mod tainted;
mod trace;
mod traces;

#[cfg(test)]
mod generator;
#[cfg(test)]
mod go_properties;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use ids::IdSource;
pub use limits::{Limits, StitchStats};
pub use stitcher::Stitcher;
