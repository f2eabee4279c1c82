//! Hand-off keys as capture programs: each word once, however many keys use it.

use profiler_common::{Capture, CaptureProgram, Cookie, Source};

use super::enter::Needs;
use crate::config::{EndDecl, KeyExpr};
use crate::model::{Moment, WordIndex};
use crate::symbols::Language;

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

/// The words that make one side's key, by what made the function: C, C++ and Rust pass arguments in
/// other registers than Go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Keys {
    native: Result<Vec<Capture>, String>,
    go: Result<Vec<Capture>, String>,
}

impl Keys {
    /// The words of a key.
    ///
    /// # Errors
    ///
    /// What is wrong with a word, whatever function it is asked of: an argument that is in no register,
    /// or one asked for when it is not there.
    pub(super) fn of(end: &EndDecl) -> Result<Self, String> {
        let captures = |language| {
            let captures = end.key.iter().map(|word| capture_of(*word, end.moment, language));
            captures.collect::<Result<Vec<_>, _>>()
        };
        let keys = Self { native: captures(Language::Native), go: captures(Language::Go) };
        match (&keys.native, &keys.go) {
            (Err(_), Err(what)) => Err(what.clone()),
            _ => Ok(keys),
        }
    }

    /// The same on functions of a language.
    ///
    /// # Errors
    ///
    /// The argument that is in no register there.
    pub(super) fn on(&self, language: Language) -> Result<&[Capture], &str> {
        let captures = if is_go(language) { &self.go } else { &self.native };
        captures.as_deref().map_err(String::as_str)
    }
}

/// Whether a function follows Go's conventions.
pub(super) fn is_go(language: Language) -> bool {
    language == Language::Go
}

fn capture_of(word: KeyExpr, moment: Moment, language: Language) -> Result<Capture, String> {
    let argument = |number: u8| {
        match moment {
        Moment::Enter if is_go(language) => Source::go_word(number).ok_or_else(|| {
            format!(
                "arg({number}) is not in a register of a Go function, which has the words 1–9 of its \
                 arguments in rax, rbx, rcx, rdi, rsi, r8, r9, r10, r11, its receiver first"
            )
        }),
        Moment::Enter => Source::arg(number).ok_or_else(|| {
            format!(
                "arg({number}) is not in a register of a C, C++ or Rust function, which has its \
                 arguments 1–6 in rdi, rsi, rdx, rcx, r8, r9"
            )
        }),
        Moment::Exit => Err(format!("arg({number}) is gone when the call returns")),
    }
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
