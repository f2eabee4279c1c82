//! Hand-off keys as capture programs: each word once, however many keys use it.

use profiler_common::{Capture, CaptureProgram, Cookie, Source};

use super::enter::Needs;
use crate::config::{EndDecl, KeyExpr};
use crate::model::{Moment, WordIndex};

/// The words one side of a probe captures, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    captures: Vec<Capture>,
}

impl Words {
    /// Adds a word, if it is new.
    ///
    /// There may be more than one event holds; [`Words::program`] refuses them.
    pub(super) fn add(&mut self, capture: Capture) {
        if !self.captures.contains(&capture) {
            self.captures.push(capture);
        }
    }

    /// The position of a word that is there.
    pub(super) fn position(&self, capture: Capture) -> Option<WordIndex> {
        let index = self.captures.iter().position(|have| *have == capture)?;
        WordIndex::try_from(index).ok()
    }

    /// What must be intact where they are captured.
    pub(super) fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for capture in &self.captures {
            needs.add(*capture);
        }
        needs
    }

    /// Adds all words of another list.
    pub(super) fn extend(&mut self, other: &Self) {
        for capture in &other.captures {
            self.add(*capture);
        }
    }

    /// The cookie flag of a site that captures them.
    pub(super) fn flag(&self) -> u16 {
        if self.captures.is_empty() { 0 } else { Cookie::HAS_CAPTURE }
    }

    /// How many words there are.
    pub(super) fn len(&self) -> usize {
        self.captures.len()
    }

    /// The program that captures them; none if they are more than [`profiler_common::MAX_WORDS`].
    pub(super) fn program(&self) -> Option<CaptureProgram> {
        let mut program = CaptureProgram::default();
        program.captures.get_mut(..self.captures.len())?.copy_from_slice(&self.captures);
        program.len = u8::try_from(self.captures.len()).ok()?;
        Some(program)
    }
}

/// The words that make one side's key.
///
/// # Errors
///
/// What is wrong with a word: an argument that is in no register, or one asked for when it is not
/// there.
pub(super) fn captures_of(end: &EndDecl) -> Result<Vec<Capture>, String> {
    end.key.iter().map(|word| capture_of(*word, end.moment)).collect()
}

fn capture_of(word: KeyExpr, moment: Moment) -> Result<Capture, String> {
    let argument = |number: u8| match moment {
        Moment::Enter => {
            Source::arg(number).ok_or_else(|| format!("arg({number}) is not in a register"))
        }
        Moment::Exit => Err(format!("arg({number}) is gone when the call returns")),
    };
    let result = match moment {
        Moment::Exit => Ok(Source::RET),
        Moment::Enter => Err("`ret` is not there yet when the call begins".to_owned()),
    };
    match word {
        KeyExpr::Arg(number) => Ok(Capture::register(argument(number)?)),
        KeyExpr::ArgWord(number, offset) => Ok(Capture::word_at(argument(number)?, offset)),
        KeyExpr::Ret => Ok(Capture::register(result?)),
        KeyExpr::RetWord(offset) => Ok(Capture::word_at(result?, offset)),
    }
}
