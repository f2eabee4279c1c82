//! What `doctor` finds out about one process: which Go built it, and whether we know that Go.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use serde::Serialize;
use thiserror::Error;

use crate::model::Pid;
use crate::target::go::{
    GoError, GoFacts, GoProgram, GoProgramError, RuntimeCheck, TlsSlot, check_runtime, facts_of,
};
use crate::target::{Target, TargetError};

/// What `doctor -p` found.
#[derive(Debug, Serialize)]
pub struct ProcessDiagnosis {
    /// The process.
    pub pid: Pid,
    /// Its program, as the process sees it.
    pub program: PathBuf,
    /// What there is to know of a Go program; none if it is none.
    pub go: Option<GoDiagnosis>,
    /// Why it is taken for no Go program.
    pub not_go: Option<String>,
}

/// What is known of a Go program.
#[derive(Debug, Serialize)]
pub struct GoDiagnosis {
    /// The version that built it, as it stands there.
    pub version: String,
    /// Where a thread keeps the address of its g.
    pub g: Option<TlsSlot>,
    /// Why that is not known.
    pub g_unknown: Option<&'static str>,
    /// The facts of its version.
    pub facts: Option<GoFacts>,
    /// Where they come from, or why there are none.
    pub facts_from: String,
    /// Whether they hold for the process.
    pub self_test: RuntimeCheck,
}

/// Why nothing can be said of a process.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// It is not there, or may not be read.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// `--go-offsets-from` is for Go programs.
    #[error("--go-offsets-from is of no use here")]
    NotGo(#[source] GoProgramError),
    /// What `--go-offsets-from` names does not tell them, or the process cannot be read.
    #[error(transparent)]
    Go(#[from] GoError),
}

/// Looks at a process; nothing in it is changed. The facts come from the table of known versions,
/// or from the debug information of `offsets_from`.
///
/// # Errors
/// [`ProcessError`] if there is no such process, or `offsets_from` does not tell the facts.
pub fn diagnose_process(
    pid: Pid,
    offsets_from: Option<&Path>,
) -> Result<ProcessDiagnosis, ProcessError> {
    let target = Target::open(pid)?;
    let Some(exe) = target.object(crate::target::ObjectId(0)) else {
        return Err(TargetError::Exited(pid).into());
    };
    let program = match GoProgram::read(&exe.open_path) {
        Ok(program) => program,
        Err(error) if offsets_from.is_some() => return Err(ProcessError::NotGo(error)),
        Err(error) => {
            return Ok(ProcessDiagnosis {
                pid,
                program: exe.path.clone(),
                go: None,
                not_go: Some(error.to_string()),
            });
        }
    };
    let go = diagnose_go(pid, program, offsets_from)?;
    Ok(ProcessDiagnosis { pid, program: exe.path.clone(), go: Some(go), not_go: None })
}

fn diagnose_go(
    pid: Pid,
    program: GoProgram,
    offsets_from: Option<&Path>,
) -> Result<GoDiagnosis, ProcessError> {
    let (facts, facts_from) = match facts_of(pid, &program.version, offsets_from) {
        Ok((facts, from)) => (Some(facts), from),
        Err(GoError::Unknown { source, .. }) => (None, source.to_string()),
        Err(error) => return Err(error.into()),
    };
    let self_test = match &facts {
        Some(facts) => check_runtime(pid, &program, facts)?,
        None => RuntimeCheck::NotChecked { why: "nothing to compare with".to_owned() },
    };
    Ok(GoDiagnosis {
        version: program.version,
        g: program.tls.ok(),
        g_unknown: program.tls.err(),
        facts,
        facts_from,
        self_test,
    })
}

impl ProcessDiagnosis {
    /// Whether nothing stands in the way: it is no Go program, or one that we know.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.go.as_ref().is_none_or(|go| {
            let failed = matches!(go.self_test, RuntimeCheck::Failed { .. });
            go.facts.is_some() && go.g.is_some() && !failed
        })
    }

    /// The report for a person.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _: Result<(), _> = writeln!(text, "{name:<18} {value}");
        };
        row("process", &format!("{} {}", self.pid, self.program.display()));
        if let Some(why) = &self.not_go {
            row("go", &format!("no: {why}"));
        }
        if let Some(go) = &self.go {
            row("go", &go.version);
            row("  g", &go.where_g_is());
            let known = if go.facts.is_some() { "" } else { "UNKNOWN: " };
            row("  facts", &format!("{known}{}", go.facts_from));
            row("  self-test", &go.self_test_words());
        }
        text
    }
}

impl GoDiagnosis {
    fn where_g_is(&self) -> String {
        match (self.g, self.g_unknown) {
            (Some(slot), _) => {
                format!("at fs{:+}, {}", slot.offset, slot.known_by.words())
            }
            (None, why) => format!("NOT KNOWN: {}", why.unwrap_or_default()),
        }
    }

    fn self_test_words(&self) -> String {
        match &self.self_test {
            RuntimeCheck::Passed { compared } => {
                format!("passed, by reading its memory: {}", compared.join("; "))
            }
            RuntimeCheck::Failed { why } => format!("FAILED: {why}"),
            RuntimeCheck::NotChecked { why } => format!("not run: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_go_program_is_usable_and_says_so() {
        let ours = diagnose_process(Pid(std::process::id()), None).unwrap();
        assert!(ours.usable() && ours.go.is_none());
        assert!(ours.to_text().contains("no Go build information"), "{}", ours.to_text());
        let error = diagnose_process(Pid(std::process::id()), Some(Path::new("/dev/null")));
        assert!(matches!(error, Err(ProcessError::NotGo(_))), "{error:?}");
    }

    #[test]
    fn what_is_missing_is_said_in_each_row() {
        let go = GoDiagnosis {
            version: "go1.99".to_owned(),
            g: None,
            g_unknown: Some("no symbols"),
            facts: None,
            facts_from: GoFacts::of("go1.99").unwrap_err().to_string(),
            self_test: RuntimeCheck::NotChecked { why: "nothing to compare with".to_owned() },
        };
        let process =
            ProcessDiagnosis { pid: Pid(7), program: "/srv/go".into(), go: Some(go), not_go: None };
        assert!(!process.usable());
        let text = process.to_text();
        for part in
            ["7 /srv/go", "go1.99\n", "NOT KNOWN: no symbols", "UNKNOWN: nothing", "not run"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
