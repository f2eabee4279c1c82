//! A function as the planner sees it.

use std::fmt;
use std::sync::Arc;

use crate::model::{FileOffset, VirtAddr};
use crate::target::ObjectId;

/// A contiguous piece of a function's machine code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodePart {
    /// Where it begins, as the ELF file names it.
    pub address: VirtAddr,
    /// Where it begins in the file.
    pub offset: FileOffset,
    /// Its bytes.
    pub bytes: Arc<[u8]>,
}

/// What made a function's code, as far as that decides how it can be followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Language {
    /// C, C++, Rust and the like: its frames stay where they are on the stack of a thread.
    #[default]
    Native,
    /// Go, by its own toolchain.
    Go,
    /// Go, by gccgo.
    GccGo,
    /// Go, by `TinyGo`.
    TinyGo,
}

/// One copy of a function: its code, and the cold part the compiler split off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The object it lives in.
    pub object: ObjectId,
    /// Demangled name with parameter list, clone suffixes (`.isra.0`, `.part.1`) removed.
    pub name: Arc<str>,
    /// The same without the parameter list.
    pub base_name: Arc<str>,
    /// The name in the symbol table, with its suffix.
    pub linkage: Arc<str>,
    /// What made its code.
    pub language: Language,
    /// The code.
    pub code: CodePart,
    /// The parts split off (`NAME.cold`), if any.
    pub cold: Vec<CodePart>,
    /// Code of others that reaches over its start: by their symbols, or by `.eh_frame`. Empty where
    /// nobody asked ([`SymbolSet::containing`](super::SymbolSet::containing) does not).
    pub around: Vec<CodePart>,
}

impl Function {
    /// Whether the byte at an address belongs to its code or to one of its cold parts.
    #[must_use]
    pub fn contains(&self, address: VirtAddr) -> bool {
        std::iter::once(&self.code).chain(&self.cold).any(|part| {
            let into = address.0.checked_sub(part.address.0);
            into.is_some_and(|into| into < part.bytes.len() as u64)
        })
    }
}

/// What a selector found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Every function that matches, every copy of it, by object and address.
    pub functions: Vec<Function>,
    /// If there is none: why.
    pub nothing: Option<Nothing>,
}

/// Why a selector found nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// No object matches `object = …`; the objects there are.
    NoObject(Vec<String>),
    /// The objects searched are stripped and no name in them is near: each with what it has left.
    Stripped(Vec<String>),
    /// No name matches; up to five nearest names, nearest first.
    NoName(Vec<String>),
    /// No name matches, and which ones are near was not looked for: too many others are missing.
    NotCompared,
    /// The names that match have no code here: inlined away or imported only.
    NoCode(Vec<String>),
    /// The address lies in no function or no executable segment.
    NoAddress(VirtAddr),
    /// No name matches, and functions of Go programs have none that can be read: each with the
    /// reason.
    NoGo(Vec<String>),
}

impl fmt::Display for Nothing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoObject(objects) => {
                write!(f, "no such object is mapped; there are {}", objects.join(", "))
            }
            Self::Stripped(objects) => write!(
                f,
                "the symbols were stripped ({}); install its debug symbols, or name the function \
                 by `address = 0x…`",
                objects.join("; ")
            ),
            Self::NotCompared => {
                write!(f, "no name matches; too many are missing to look for what is near each")
            }
            Self::NoName(near) if near.is_empty() => {
                write!(f, "no name is like it; it may be inlined everywhere, or spelt otherwise")
            }
            Self::NoName(near) => write!(f, "the nearest names are {}", near.join(", ")),
            Self::NoCode(names) => write!(
                f,
                "{} has no code here: it is imported only, or chosen when the program is loaded",
                names.join(", ")
            ),
            Self::NoGo(reasons) => {
                write!(f, "its Go functions are not known: {}", reasons.join("; "))
            }
            Self::NoAddress(address) => {
                write!(f, "{address} lies in no function of which the bounds are known")
            }
        }
    }
}
