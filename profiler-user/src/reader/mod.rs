//! From the ring to events: the records the kernel side writes, drained and decoded.
//!
//! [`Ring`] hands out raw records, so that a recording can keep them as they came; [`decode`] makes
//! events of them. The kernel's records and a recording's go through the same decoder.

mod decode;
mod ring;

pub use decode::{DecodeError, decode, encode};
pub use ring::Ring;
