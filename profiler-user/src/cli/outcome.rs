//! Exit codes, and which error gets which.

use std::error::Error;
use std::io;
use std::process::ExitCode;

use super::check::UnknownName;
use crate::agent::{
    AimError, CommandError, DiscoverError, Ended, LiveError, OutputError, PrepareError,
};
use crate::attach::AttachError;
use crate::config::{MapError, SettingsError};
use crate::doctor::ProcessError;
use crate::plan::PlanError;
use crate::symbols::SymbolError;
use crate::target::TargetError;
use crate::target::go::{DwarfError, GoError};

/// How a run of the program ended; the exit code scripts see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All went well.
    Ok = 0,
    /// Something failed that is none of the below.
    Failed = 1,
    /// The command line, a symbol map or a setting is wrong.
    Usage = 2,
    /// Permission is missing, or the kernel cannot do it.
    Kernel = 3,
    /// The target is not there, or has not the functions.
    Target = 4,
    /// Traces could not be exported.
    Export = 5,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

impl Outcome {
    /// The outcome of a run that came to its end.
    pub(super) const fn of_run(ended: Ended) -> Self {
        if ended.unsent > 0 { Self::Export } else { Self::Ok }
    }

    /// The outcome an error stands for: that of the first cause we know.
    pub(super) fn of_error(error: &anyhow::Error) -> Self {
        error.chain().find_map(Self::of_cause).unwrap_or(Self::Failed)
    }

    const fn of_go(error: &GoError) -> Self {
        match error {
            GoError::Target(error) => Self::of_target(error),
            GoError::OtherVersion { .. } => Self::Usage,
            _ => Self::Target,
        }
    }

    const fn of_target(error: &TargetError) -> Self {
        match error {
            TargetError::NotPermitted { .. } => Self::Kernel,
            _ => Self::Target,
        }
    }

    fn of_cause(cause: &(dyn Error + 'static)) -> Option<Self> {
        if let Some(error) = cause.downcast_ref::<PrepareError>() {
            return Some(match error {
                PrepareError::Map(_) => Self::Usage,
                PrepareError::Target(error) => Self::of_target(error),
                PrepareError::Go(error) => Self::of_go(error),
                PrepareError::Symbols(_)
                | PrepareError::Plan(_)
                | PrepareError::NoMapFits { .. }
                | PrepareError::SeveralMapsFit { .. } => Self::Target,
            });
        }
        if let Some(error) = cause.downcast_ref::<CommandError>() {
            return match error {
                CommandError::Start { .. } | CommandError::Slow { .. } => Some(Self::Failed),
                CommandError::Entry { .. } | CommandError::Symbols(_) => Some(Self::Target),
                CommandError::Target(error) => Some(Self::of_target(error)),
                CommandError::Prepare(error) => Self::of_cause(error),
                CommandError::Live(error) => Self::of_cause(error),
            };
        }
        if cause.is::<AimError>() {
            return Some(Self::Target);
        }
        if let Some(error) = cause.downcast_ref::<ProcessError>() {
            return Some(match error {
                ProcessError::Target(error) => Self::of_target(error),
                ProcessError::Go(error) => Self::of_go(error),
                ProcessError::NotGo(_) => Self::Target,
            });
        }
        if cause.is::<DwarfError>() {
            return Some(Self::Target);
        }
        if cause.is::<UnknownName>() {
            return Some(Self::Usage);
        }
        let attach = match cause.downcast_ref() {
            Some(LiveError::Attach(error)) => Some(error),
            Some(LiveError::Target(error)) => return Some(Self::of_target(error)),
            _ => cause.downcast_ref::<AttachError>(),
        };
        if let Some(error) = attach {
            return Some(if error.is_permission_or_kernel() {
                Self::Kernel
            } else if error.is_target() {
                Self::Target
            } else {
                Self::Usage
            });
        }
        if let Some(error) = cause.downcast_ref::<OutputError>() {
            return Some(match error {
                OutputError::Config(_) | OutputError::Resource(_) => Self::Usage,
                OutputError::Start(_) => Self::Export,
                OutputError::File(_) | OutputError::Stdout(_) | OutputError::SummaryFile { .. } => {
                    Self::Failed
                }
            });
        }
        if cause.is::<MapError>() || cause.is::<SettingsError>() {
            return Some(Self::Usage);
        }
        if let Some(error) = cause.downcast_ref() {
            return Some(Self::of_target(error));
        }
        if let Some(error) = cause.downcast_ref() {
            return Some(match error {
                DiscoverError::NotAccepted { .. } => Self::Failed,
                DiscoverError::NoCandidates { .. }
                | DiscoverError::NothingCalled { .. }
                | DiscoverError::NoRoot { .. } => Self::Target,
            });
        }
        if cause.is::<SymbolError>() || cause.is::<PlanError>() {
            return Some(Self::Target);
        }
        // `qprof maps | head` is not a failure.
        cause
            .downcast_ref::<io::Error>()
            .filter(|error| error.kind() == io::ErrorKind::BrokenPipe)
            .map(|_| Self::Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Pid;

    #[test]
    fn a_target_that_is_gone_is_4_whoever_notices() {
        let gone = || TargetError::NoSuchProcess(Pid(7));
        let noticed: [anyhow::Error; 5] = [
            gone().into(),
            PrepareError::Target(gone()).into(),
            LiveError::Target(gone()).into(),
            LiveError::Attach(AttachError::TargetGone { pid: Pid(7) }).into(),
            CommandError::Live(LiveError::Target(gone())).into(),
        ];
        for error in noticed {
            assert_eq!(Outcome::of_error(&error), Outcome::Target, "{error:?}");
        }
    }
}
