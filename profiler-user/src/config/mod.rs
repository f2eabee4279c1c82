//! What the user asks for: symbol maps and the configuration file, as typed and then validated.

mod error;
mod file;
mod key;
mod library;
mod load;
mod map;
mod nearest;
mod parse;
mod raw;
#[cfg(test)]
mod tests;
mod versions;
mod words;

pub use error::{Diagnostic, MapError};
pub use file::{
    OtlpSettings, OutputSettings, Print, Protocol, Settings, SettingsError, TargetSettings,
    load_settings, parse_settings, settings_schema,
};
pub use library::{Broken, Known, Library, load_map, usual_folders};
pub use load::{BuiltIn, built_in, merge, schema};
pub use map::{
    Build, EndDecl, HandoffDecl, KeyExpr, MapOrigin, MatchDecl, Select, Selector, SpanDecl,
    SymbolMap,
};
pub use parse::parse_map;

pub(crate) use nearest::nearest;
