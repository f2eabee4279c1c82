//! Raw events to and from a file: what `run --record` keeps and `replay` reads.
//!
//! ```text
//! "QPROFREC" · format version u32 · header length u32 · header (JSON) · chunks · end chunk
//! chunk: kind u8 · length u32 · bytes
//! ```
//!
//! Numbers are little-endian. Events are kept as the kernel wrote them and are decoded by
//! [`crate::reader::decode`], as live ones are. A file without its end chunk was cut short: what
//! is there is delivered, and then that is said.

mod format;
mod reader;
mod writer;

pub use format::{Chunk, Header, RecordingError};
pub use reader::Reader;
pub use writer::Writer;
