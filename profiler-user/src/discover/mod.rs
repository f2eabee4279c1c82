//! From what was seen of candidate functions to a first symbol map.
//!
//! ```text
//! names → candidates → (watched in rounds, by `agent`) → Calls → shape · hops → Proposal → text
//! ```
//!
//! Pure: no I/O, no clock, no `unsafe`; events come in, a map's text goes out. What watches the
//! target is `agent::discover`; how much of it may be spent is decided here, by [`Budget`].
#![forbid(unsafe_code)]

mod budget;
mod calls;
mod hops;
mod names;
mod proposal;
mod shape;
mod stages;
mod text;

#[cfg(test)]
mod testing;

pub use budget::{Budget, Rates, thin};
pub use calls::{Call, CallId, Calls, Exchange, FunctionId, Slot, Watched};
pub use hops::{Hop, hops};
pub use names::{NameScore, could_be_stage, is_interpreter, is_runtime, score, socket_use};
pub use names::{SocketUse, class_of, stage_of};
pub use proposal::{Fact, Proposal, ProposedHandoff, ProposedSpan, propose};
pub use shape::{Shape, Stats, elsewhere, shape};
pub use text::{Chosen, Header, write};
