//! Where functions stand in their sources, as far as the debug information tells.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolizer};

use crate::model::{SourceLine, VirtAddr};

/// Larger objects are not asked: reading their debug information would take longer than attaching.
const MAX_BYTES: u64 = 256 << 20;

/// The file and line at which each function begins; none where that is not known.
pub(super) fn lines(object: &Path, functions: &[VirtAddr]) -> Vec<Option<SourceLine>> {
    let unknown = || vec![None; functions.len()];
    if functions.is_empty() || !fs::metadata(object).is_ok_and(|file| file.len() <= MAX_BYTES) {
        return unknown();
    }
    let symbolizer =
        Symbolizer::builder().enable_inlined_fns(false).enable_demangling(false).build();
    let addresses: Vec<u64> = functions.iter().map(|address| address.0).collect();
    let found = symbolizer.symbolize(&Source::Elf(Elf::new(object)), Input::VirtOffset(&addresses));
    let Ok(found) = found else { return unknown() };
    found
        .iter()
        .map(|symbolized| {
            let code = symbolized.as_sym()?.code_info.as_ref()?;
            let file = Arc::from(code.to_path().to_string_lossy());
            Some(SourceLine { file, line: code.line })
        })
        .collect()
}
