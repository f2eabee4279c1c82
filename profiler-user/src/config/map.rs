//! A validated symbol map: the only form the rest of the program sees.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::model::{Moment, OrphanPolicy, Scope, Takes, VirtAddr};
use crate::target::BuildId;

/// Where a map was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOrigin {
    /// Compiled into the binary.
    BuiltIn,
    /// A file of the user's.
    File(PathBuf),
}

impl fmt::Display for MapOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A validated symbol map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SymbolMap {
    /// Its name: what `-m` takes.
    pub name: String,
    /// Where it was read from.
    pub origin: MapOrigin,
    /// `db.system.name`.
    pub system: String,
    /// One line for `qprof maps`.
    pub description: String,
    /// What becomes of spans without a parent.
    pub orphans: OrphanPolicy,
    /// How the target is recognised; none: only by `-m`.
    pub matching: Option<MatchDecl>,
    /// The spans, in order; earlier wins where two match one function.
    pub spans: Vec<SpanDecl>,
    /// The hand-offs, in order.
    pub handoffs: Vec<HandoffDecl>,
}

/// `[match]`: all must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchDecl {
    /// Glob on the path of a mapped object.
    pub object: String,
    /// Functions that object must have (same syntax as `function`).
    pub functions: Vec<String>,
    /// Which versions of the program the map is for: text, shown as it is.
    pub versions: Option<String>,
    /// Builds it was checked with.
    pub builds: Vec<Build>,
}

/// A build of the program that a map was checked with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The build id of the object.
    pub id: BuildId,
    /// Its version.
    pub version: String,
}

/// How functions are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Select {
    /// Glob on the demangled name, with or without its parameter list.
    Function(String),
    /// The exact name in the ELF symbol table.
    Linkage(String),
    /// An address as the ELF file names it.
    Address(VirtAddr),
}

/// Which functions, in which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// How they are chosen.
    pub select: Select,
    /// File name (or glob on it) of the object; none: the executable, then any mapped object.
    pub object: Option<String>,
}

/// One `[[span]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanDecl {
    /// The span's name.
    pub name: Arc<str>,
    /// Its functions.
    pub selector: Selector,
    /// Whether it starts a trace.
    pub root: bool,
    /// Its stage.
    pub stage: Option<Arc<str>>,
    /// `db.system.name` (roots): that of the map it comes from.
    pub system: Arc<str>,
    /// `db.operation.name` (roots).
    pub operation: Option<Arc<str>>,
    /// Whether the run stops before attaching if the function is not there.
    pub required: bool,
    /// Whether calls outside of traces are not even recorded.
    pub only_in_trace: bool,
    /// Whether calls are added up instead of being recorded one by one.
    pub fold: bool,
    /// Of Go functions: where their `context.Context` is, an argument or in what it points at.
    pub context: Option<KeyExpr>,
    /// Line in the map, for messages; from 1.
    pub line: usize,
}

/// One word of a hand-off key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyExpr {
    /// `arg(N)`: an integer or pointer argument, from 1; a hidden result pointer counts.
    Arg(u8),
    /// `*(arg(N)+OFF)`.
    ArgWord(u8, i32),
    /// `ret`.
    Ret,
    /// `*(ret+OFF)`.
    RetWord(i32),
}

/// One side of a hand-off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndDecl {
    /// The functions on this side.
    pub selector: Selector,
    /// The words of the key; the same number on both sides.
    pub key: Vec<KeyExpr>,
    /// When in the call. `Exit` keys are made of `ret` only, `Enter` keys of arguments only.
    pub moment: Moment,
}

/// One `[[handoff]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandoffDecl {
    /// Its name.
    pub name: Arc<str>,
    /// Who gives.
    pub give: EndDecl,
    /// Who takes.
    pub take: EndDecl,
    /// Who ends a key; none: the end of its giver's trace does.
    pub until: Option<EndDecl>,
    /// How often a given key may be taken.
    pub takes: Takes,
    /// Where the key is unique.
    pub scope: Scope,
    /// Name of the span for the wait between the two.
    pub span: Option<Arc<str>>,
    /// Line in the map, for messages; from 1.
    pub line: usize,
}
