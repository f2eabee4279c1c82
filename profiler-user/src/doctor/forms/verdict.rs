//! What came of trying a form, and what follows from it.

use serde::{Deserialize, Serialize};

use super::snippet::Position;
use crate::plan::{FormKind, KernelForms};

/// What a probe does to a form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing: it leaves behind what it does without, and every run was a hit.
    Works,
    /// The kernel does not take one there.
    Refused,
    /// It leaves something else behind.
    Wrong {
        /// What differs.
        what: String,
    },
    /// The child died of it.
    Kills {
        /// By which signal.
        how: String,
    },
    /// Not every run was one hit.
    Miscounted {
        /// How often the probe was hit.
        hits: u64,
        /// How often the instruction was run.
        runs: u64,
    },
    /// The processor or the kernel lacks what it takes to try.
    NotApplicable {
        /// What is lacking.
        why: String,
    },
    /// It could not be tried.
    Unknown {
        /// What went wrong.
        why: String,
    },
}

impl Verdict {
    /// Whether it speaks against using the form.
    #[must_use]
    pub const fn is_against(&self) -> bool {
        match self {
            Self::Works | Self::NotApplicable { .. } | Self::Unknown { .. } => false,
            Self::Refused | Self::Wrong { .. } | Self::Kills { .. } | Self::Miscounted { .. } => {
                true
            }
        }
    }

    /// In a few words.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            Self::Works => "works".to_owned(),
            Self::Refused => "refused by the kernel".to_owned(),
            Self::Wrong { what } => format!("WRONG: changes {what}"),
            Self::Kills { how } => format!("KILLS: {how}"),
            Self::Miscounted { hits, runs } => format!("WRONG: {hits} hits of {runs} runs"),
            Self::NotApplicable { why } => format!("not applicable: {why}"),
            Self::Unknown { why } => format!("not tried: {why}"),
        }
    }
}

/// A form that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormResult {
    /// A stable name.
    pub form: String,
    /// What it is.
    pub name: String,
    /// Where in its function.
    pub position: Position,
    /// Of which group of the allow-list it is; none: it is never used, whatever comes of it.
    pub kind: Option<FormKind>,
    /// What came of it.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Whether plans use it on this kernel.
    pub used: bool,
}

/// What follows from the results for plans.
pub(in crate::doctor) fn kernel_forms(results: &[FormResult]) -> KernelForms {
    let against = results.iter().filter(|result| result.verdict.is_against());
    against.filter_map(|result| result.kind).fold(KernelForms::default(), KernelForms::without)
}

/// Says of each result whether its form is used: a group is as good as the worst of its forms.
pub(super) fn set_used(results: &mut [FormResult]) {
    let forms = kernel_forms(results);
    for result in results {
        result.used = result.kind.is_some_and(|kind| forms.allows(kind));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(kind: Option<FormKind>, verdict: Verdict) -> FormResult {
        let (form, name) = ("f".to_owned(), "f".to_owned());
        FormResult { form, name, position: Position::First, kind, verdict, used: false }
    }

    fn bad() -> [Verdict; 4] {
        [
            Verdict::Refused,
            Verdict::Wrong { what: "rsp".to_owned() },
            Verdict::Kills { how: "SIGSEGV".to_owned() },
            Verdict::Miscounted { hits: 1, runs: 2 },
        ]
    }

    #[test]
    fn one_bad_form_takes_its_group_away() {
        for verdict in bad() {
            let mut results = [
                result(Some(FormKind::Push), Verdict::Works),
                result(Some(FormKind::Push), verdict),
                result(Some(FormKind::Jmp), Verdict::Works),
            ];
            let forms = kernel_forms(&results);
            assert_eq!(forms.denied().collect::<Vec<_>>(), [FormKind::Push]);
            set_used(&mut results);
            assert_eq!(results.map(|result| result.used), [false, false, true]);
        }
    }

    #[test]
    fn what_is_never_used_takes_nothing_away_and_is_not_let_in() {
        for verdict in bad().into_iter().chain([Verdict::Works]) {
            let mut results = [result(None, verdict)];
            assert_eq!(kernel_forms(&results), KernelForms::default());
            set_used(&mut results);
            assert!(!results[0].used);
        }
    }

    #[test]
    fn what_could_not_be_tried_is_as_without_a_test() {
        let why = || "?".to_owned();
        let results = [
            result(Some(FormKind::Call), Verdict::NotApplicable { why: why() }),
            result(Some(FormKind::Push), Verdict::Unknown { why: why() }),
        ];
        assert_eq!(kernel_forms(&results), KernelForms::default());
    }
}
