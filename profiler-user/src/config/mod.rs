//! What the user asks for: symbol maps as typed, then validated.

mod error;
mod key;
mod load;
mod map;
mod nearest;
mod parse;
mod raw;
#[cfg(test)]
mod tests;
mod words;

pub use error::{Diagnostic, MapError};
pub use load::{BuiltIn, built_in, find_built_in, load_map, merge, schema};
pub use map::{
    EndDecl, HandoffDecl, KeyExpr, MapOrigin, MatchDecl, Select, Selector, SpanDecl, SymbolMap,
};
pub use parse::parse_map;
