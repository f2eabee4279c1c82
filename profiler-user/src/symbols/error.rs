//! Why symbols could not be found.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;

use super::Nothing;

/// Why a search for functions failed. Cloned because a file that is broken once is broken for
/// every search.
#[derive(Clone, Debug, Error)]
pub enum SymbolError {
    /// The file could not be opened or read.
    #[error("cannot read {}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The file is not an ELF file we can use, is cut short, or contradicts itself.
    #[error("{}: {reason}", file.display())]
    Broken {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// More functions match than may be probed.
    #[error(
        "`{pattern}` matches {count} functions, more than the limit of {limit} (such as {}): make \
         the pattern narrower, or raise the limit with --max-functions (`symbols`: --limit)",
        examples.join(", ")
    )]
    TooMany {
        /// The pattern.
        pattern: String,
        /// How many functions match.
        count: usize,
        /// The limit.
        limit: usize,
        /// A few of the names.
        examples: Vec<String>,
    },
    /// No function matches.
    #[error("no function matches `{pattern}`: {nothing}")]
    NotFound {
        /// The pattern.
        pattern: String,
        /// Why not.
        nothing: Nothing,
    },
}

impl SymbolError {
    /// Whether the file is not there any more: that of a process that has ended, for one.
    pub(super) fn is_gone(&self) -> bool {
        let Self::Io { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
    }
}
