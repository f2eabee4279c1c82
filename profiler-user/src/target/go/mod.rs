//! What must be known of a Go program to follow its goroutines: which Go built it, where the
//! runtime keeps what it knows of a goroutine in that version, and where g is.
//!
//! Functions and types of Go programs are not known here: that is the business of `symbols`.

mod code;
mod dwarf;
mod facts;
mod known;
mod live;
mod program;
mod version;

pub use dwarf::DwarfError;
pub use facts::{GFacts, GoFacts, KnownGo, MFacts, PanicFacts, UnknownGo};
pub use known::{GoError, facts_of, go_runtime, moved};
pub use live::{RuntimeCheck, check as check_runtime};
pub use program::{GoProgram, GoProgramError, SlotSource, TlsSlot};
pub use version::{GoVersion, NotAGoVersion};
