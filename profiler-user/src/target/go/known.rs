//! What the kernel side must know of a Go program, found out and tried before anything is attached.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use profiler_common::GoRuntime;
use thiserror::Error;

use super::{
    DwarfError, GoFacts, GoProgram, GoProgramError, GoVersion, KnownGo, RuntimeCheck, UnknownGo,
    check_runtime,
};
use crate::model::Pid;
use crate::target::{TargetError, process};

/// Why the goroutines of a process cannot be followed.
#[derive(Debug, Error)]
pub enum GoError {
    /// Its program is none of Go's, or does not say by which Go it was built.
    #[error("the goroutines of process {pid} cannot be followed")]
    Program {
        /// The process.
        pid: Pid,
        /// What is wrong with it.
        source: GoProgramError,
    },
    /// Nothing is known of the version that built it.
    #[error("the goroutines of process {pid} cannot be followed")]
    Unknown {
        /// The process.
        pid: Pid,
        /// Which version, and which are known.
        source: UnknownGo,
    },
    /// What `--go-offsets-from` names does not tell them.
    #[error("--go-offsets-from")]
    Offsets(#[from] DwarfError),
    /// It is of another version.
    #[error(
        "--go-offsets-from: {} was built by {found} and the target by {wanted}: take a program \
         built by {wanted}",
        file.display()
    )]
    OtherVersion {
        /// The file given.
        file: PathBuf,
        /// Its version.
        found: String,
        /// The target's.
        wanted: String,
    },
    /// It is a library, and the program that loaded it is none of Go's.
    #[error(
        "the goroutines of process {pid} cannot be followed: its functions in Go are those of a \
         library (-buildmode=c-shared) in a program that is not Go's, and where the threads of that \
         keep their g the library does not tell: leave its functions in Go out of the map"
    )]
    Library {
        /// The process.
        pid: Pid,
    },
    /// Where a thread keeps its g is not known.
    #[error(
        "the goroutines of process {pid} cannot be followed: where its threads keep their g is not \
         known, {why}"
    )]
    NoSlot {
        /// The process.
        pid: Pid,
        /// Why not.
        why: &'static str,
    },
    /// Its memory is not as the facts have it.
    #[error(
        "the goroutines of process {pid} cannot be followed: {version} is known, but the process's \
         memory is not as that version has it: {why}. If a patched Go built it, pass \
         --go-offsets-from FILE: any program built by the same Go with its debug information"
    )]
    Wrong {
        /// The process.
        pid: Pid,
        /// The version it says.
        version: String,
        /// What is not.
        why: String,
    },
    /// The process cannot be read.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// The facts of the version that built a program, and where they come from: the table of known
/// versions, or the debug information of `offsets_from`.
///
/// # Errors
/// [`GoError`] if the version is not known, or `offsets_from` does not tell.
pub fn facts_of(
    pid: Pid,
    version: &str,
    offsets_from: Option<&Path>,
) -> Result<(GoFacts, String), GoError> {
    let Some(file) = offsets_from else {
        let known = KnownGo::of(version).map_err(|source| GoError::Unknown { pid, source })?;
        return Ok((known.facts.clone(), known_from(version, known)));
    };
    let found = GoProgram::read(file).map_err(DwarfError::from)?.version;
    if found != version {
        let (file, wanted) = (file.into(), version.to_owned());
        return Err(GoError::OtherVersion { file, found, wanted });
    }
    Ok((GoFacts::from_dwarf(file)?, format!("read from {}", file.display())))
}

/// Where the facts of a version come from.
fn known_from(version: &str, known: &KnownGo) -> String {
    let releases: Vec<String> =
        known.read_from.iter().map(|release| format!("go{release}")).collect();
    let mut words = format!("known, as {} have them", releases.join(" and "));
    let experiments = version.parse().map_or_else(|_| Vec::new(), |go: GoVersion| go.experiments);
    if !experiments.is_empty() {
        let _: Result<(), _> =
            write!(words, " (built without the experiments {})", experiments.join(", "));
    }
    words
}

/// What the kernel side must know of the Go program that a process runs, held against its memory; and how
/// far from where its file says `object`, which has functions in Go, was loaded, bytes: none if it is a
/// plugin, of which the program does not tell.
///
/// # Errors
/// [`GoError`] if it cannot be known, or is not so.
pub fn go_runtime(
    pid: Pid,
    object: &Path,
    offsets_from: Option<&Path>,
) -> Result<(GoRuntime, Option<u64>), GoError> {
    let executable = process::file(pid, "exe");
    let loaded = are_two(object, &executable);
    let program = GoProgram::read(if loaded { &executable } else { object });
    let program = program.map_err(|source| match source {
        GoProgramError::NotGo { .. } if loaded => GoError::Library { pid },
        source => GoError::Program { pid, source },
    })?;
    let (facts, _) = facts_of(pid, &program.version, offsets_from)?;
    let slot = match &program.tls {
        Ok(slot) => slot.offset,
        Err(why) => return Err(GoError::NoSlot { pid, why }),
    };
    let wrong = |why| GoError::Wrong { pid, version: program.version.clone(), why };
    if (facts.g.stack_lo, facts.g.stack_hi) != (0, 8) {
        return Err(wrong("a g does not begin with the bounds of its stack".to_owned()));
    }
    if let RuntimeCheck::Failed { why } = check_runtime(pid, &program, &facts)? {
        return Err(wrong(why));
    }
    // From the version on in which the panic has a place to go on at, it has the stack pointer too.
    let (g_recovery, panic_sp) = match facts.panic.retpc {
        Some(_) => (facts.g.panic, facts.panic.sp),
        None => (facts.g.sigcode0, GoRuntime::NONE),
    };
    let moved = if loaded { None } else { Some(moved(pid, &program).unwrap_or(0)) };
    let runtime = GoRuntime {
        tls: slot,
        g_m: facts.g.m,
        g_goid: facts.g.goid,
        m_curg: facts.m.curg,
        g_recovery,
        panic_sp,
    };
    Ok((runtime, moved))
}

/// Whether two paths are of two files, as far as can be told.
fn are_two(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    matches!((identity(one), identity(other)), (Some(one), Some(other)) if one != other)
}

/// How far from where its file says a process's program was loaded, bytes; none if the process does not
/// tell.
#[must_use]
pub fn moved(pid: Pid, program: &GoProgram) -> Option<u64> {
    Some(process::aux_value(pid, libc::AT_ENTRY)?.wrapping_sub(program.entry))
}
