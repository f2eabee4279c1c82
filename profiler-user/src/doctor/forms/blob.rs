//! All snippets in one file that parent and child agree on. Pure.

use super::snippet::{Case, Form, forms, timed, timed_call, timed_event};
use crate::model::FileOffset;
use crate::plan::{EventWords, FormKind};

/// Snippets begin on multiples of this.
const ALIGN: usize = 64;
const PAGE: usize = 4096;

/// A snippet in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where it begins.
    pub(super) start: u32,
    /// Where its probed instruction stands.
    pub(super) site: FileOffset,
}

/// A snippet twice, only one of which is ever probed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) plain: Place,
    pub(super) probed: Place,
}

/// A snippet that calls a function, twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallPair {
    /// Its sites are where the call comes back.
    pub(super) pair: Pair,
    /// Where the called function begins, in the one that is probed.
    pub(super) enter: FileOffset,
}

/// The file, and what is where in it.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) bytes: Vec<u8>,
    pub(super) forms: Vec<Form>,
    /// By form: its cases.
    pub(super) cases: Vec<Vec<Place>>,
    /// To be timed: each group of the allow-list.
    pub(super) traps: Vec<(FormKind, Pair)>,
    /// To be timed: an event with so many words.
    pub(super) events: Vec<(EventWords, Pair)>,
    /// To be timed: where calls come back that nobody asked about.
    pub(super) landing: Pair,
    /// To be timed: a call, its begin and where it comes back.
    pub(super) call: CallPair,
    /// For the link that filters by process.
    pub(super) filtered: Place,
}

impl Blob {
    pub(super) fn new() -> Self {
        let mut bytes = Vec::new();
        let forms = forms();
        let cases = forms
            .iter()
            .map(|form| form.cases.iter().map(|case| add(&mut bytes, case)).collect())
            .collect();
        let mut pair =
            |case: &Case| Pair { plain: add(&mut bytes, case), probed: add(&mut bytes, case) };
        let timed = timed();
        let traps: Vec<_> = timed.iter().map(|(kind, case)| (*kind, pair(case))).collect();
        let event = timed_event();
        let events = EventWords::ALL.into_iter().map(|words| (words, pair(&event))).collect();
        let landing = pair(&event);
        let (case, callee) = timed_call();
        let call = pair(&case);
        let enter = FileOffset(u64::from(call.probed.start) + callee as u64);
        let call = CallPair { pair: call, enter };
        let filtered = pair(&event).probed;
        bytes.resize(bytes.len().next_multiple_of(PAGE), 0xcc);
        Self { bytes, forms, cases, traps, events, landing, call, filtered }
    }

    /// Everything that is timed, in one order: traps, events, the landing, the call.
    pub(super) fn timed(&self) -> impl Iterator<Item = Pair> {
        let traps = self.traps.iter().map(|(_, pair)| *pair);
        let events = self.events.iter().map(|(_, pair)| *pair);
        traps.chain(events).chain([self.landing, self.call.pair])
    }
}

fn add(bytes: &mut Vec<u8>, case: &Case) -> Place {
    // `int3` between them: whoever runs off an end is noticed.
    bytes.resize(bytes.len().next_multiple_of(ALIGN), 0xcc);
    let start = bytes.len();
    bytes.extend(case.code());
    Place { start: start as u32, site: FileOffset((start + case.site()) as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_snippet_has_a_place_of_its_own() {
        let blob = Blob::new();
        let mut sites: Vec<u64> = blob.cases.iter().flatten().map(|place| place.site.0).collect();
        sites.extend(blob.timed().flat_map(|pair| [pair.plain.site.0, pair.probed.site.0]));
        sites.extend([blob.filtered.site.0, blob.call.enter.0]);
        let count = sites.len();
        sites.sort_unstable();
        sites.dedup();
        assert_eq!(sites.len(), count);
        assert!(sites.iter().all(|site| (*site as usize) < blob.bytes.len()));
        assert_eq!(blob.bytes.len() % PAGE, 0);
        for (form, places) in blob.forms.iter().zip(&blob.cases) {
            for (case, place) in form.cases.iter().zip(places) {
                let at = place.site.0 as usize;
                assert_eq!(&blob.bytes[at..at + case.insn().len()], case.insn(), "{}", form.id);
            }
        }
    }
}
