//! Why attaching failed, and what to do.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::programs::ProgramError;
use thiserror::Error as ThisError;

use super::features::{self, chain};
use crate::model::Pid;

/// Why nothing is attached.
#[derive(Debug, ThisError)]
pub enum AttachError {
    /// The ring buffer cannot have this size.
    #[error(
        "a ring buffer of {bytes} bytes is not possible: it must be a power of two from 4096 to \
         1073741824"
    )]
    RingSize {
        /// The size asked for.
        bytes: u32,
    },
    /// This process lacks capabilities.
    #[error(
        "not permitted to {what}: missing {}; run as root, or give them to the program once with: \
         {setcap}", .missing.join(", ")
    )]
    Permission {
        /// What was tried.
        what: &'static str,
        /// The capabilities it lacks.
        missing: Vec<&'static str>,
        /// The command that gives them.
        setcap: String,
    },
    /// It has the capabilities, and still may not.
    #[error(
        "not permitted to {what}, although no capability is missing: a security module, a seccomp \
         filter (container?) or kernel lockdown ({lockdown}) forbids it"
    )]
    Forbidden {
        /// What was tried.
        what: &'static str,
        /// The lockdown mode.
        lockdown: String,
    },
    /// Process ids here are not those of the kernel side.
    #[error(
        "this process runs in a pid namespace of its own, where process ids differ from the \
         kernel's: run on the host, or in a container that shares its pid namespace (--pid=host)"
    )]
    PidNamespace,
    /// The kernel cannot link many uprobes.
    #[error("kernel {release} has no uprobe_multi links: Linux 6.6 or newer is needed")]
    KernelTooOld {
        /// Its release.
        release: String,
    },
    /// The kernel does not describe its types.
    #[error(
        "cannot follow child processes: {file}: {why}; it takes a kernel with \
         CONFIG_DEBUG_INFO_BTF, and in a container /sys/kernel/btf mounted from the host"
    )]
    NoBtf {
        /// The file it describes them in.
        file: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The kernel would not load a program.
    #[error("kernel {release} refused the BPF program `{program}`: {source}\n{log}")]
    Refused {
        /// The program.
        program: &'static str,
        /// The kernel's release.
        release: String,
        /// The end of the verifier's log.
        log: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The target ended.
    #[error("process {pid} ended while it was being attached to")]
    TargetGone {
        /// The target.
        pid: Pid,
    },
    /// An object that is to be probed cannot be opened.
    #[error(
        "cannot open {} through {}: it may have been unmapped; attach again, or see whether \
         CAP_SYS_PTRACE and CAP_CHECKPOINT_RESTORE are there", .path.display(), .open_path.display()
    )]
    Object {
        /// Its path as the target sees it.
        path: PathBuf,
        /// The path we tried.
        open_path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The kernel refused so many sites of an object that something else must be wrong.
    #[error(
        "the kernel refused {count} probe sites in {}, the last with: {source}; nothing is attached",
        .path.display()
    )]
    TooManyRefused {
        /// The object's path as the target sees it.
        path: PathBuf,
        /// How many it refused before we gave up.
        count: usize,
        /// Its answer to the last.
        source: io::Error,
    },
    /// The plan has no site, or all were refused.
    #[error("there is nothing to attach: {0}")]
    Nothing(&'static str),
    /// Anything else that should work and did not.
    #[error("cannot {what}: {source}")]
    Bpf {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: Box<dyn Error + Send + Sync>,
    },
}

impl AttachError {
    /// Whether rights or the kernel are in the way (exit code 3).
    #[must_use]
    pub const fn is_permission_or_kernel(&self) -> bool {
        matches!(
            self,
            Self::Permission { .. }
                | Self::Forbidden { .. }
                | Self::PidNamespace
                | Self::KernelTooOld { .. }
                | Self::NoBtf { .. }
                | Self::Refused { .. }
        )
    }

    /// Whether the target or what is mapped into it is the cause (exit code 4).
    #[must_use]
    pub const fn is_target(&self) -> bool {
        matches!(
            self,
            Self::TargetGone { .. }
                | Self::Object { .. }
                | Self::TooManyRefused { .. }
                | Self::Nothing(_)
        )
    }

    /// Not permitted: which capabilities are missing, or what else it can be.
    pub(super) fn not_permitted(what: &'static str) -> Self {
        let missing = features::missing_capabilities();
        if missing.is_empty() {
            let lockdown = features::lockdown().unwrap_or_else(|| String::from("none"));
            return Self::Forbidden { what, lockdown };
        }
        Self::Permission { what, missing, setcap: features::setcap_line() }
    }

    /// A failed operation on BPF objects.
    pub(super) fn bpf(what: &'static str, source: impl Error + Send + Sync + 'static) -> Self {
        match errno(&source) {
            Some(libc::EPERM | libc::EACCES) => Self::not_permitted(what),
            _ => Self::Bpf { what, source: chain(&source).into() },
        }
    }

    /// Loading the object failed.
    pub(super) fn load(source: EbpfError) -> Self {
        Self::bpf("load the BPF object", source)
    }

    /// Loading one program of it failed.
    pub(super) fn program(program: &'static str, source: ProgramError) -> Self {
        match source {
            ProgramError::LoadError { io_error, .. }
                if io_error.raw_os_error() == Some(libc::EPERM) =>
            {
                Self::not_permitted("load a BPF program")
            }
            ProgramError::LoadError { io_error, verifier_log } => Self::Refused {
                program,
                release: features::release(),
                log: excerpt(&verifier_log.to_string()),
                source: io_error,
            },
            other => Self::bpf("load a BPF program", other),
        }
    }
}

/// The error number at the bottom of a chain of errors.
pub(super) fn errno(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(number) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(number);
        }
        next = error.source();
    }
    None
}

/// The end of a verifier log, where the reason stands.
fn excerpt(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<_> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_at_the_end_of_the_verifiers_log() {
        let lines: Vec<_> = (0..100).map(|line| format!("line {line}\n")).collect();
        let log = lines.join("\n");
        let excerpt = excerpt(&log);
        assert!(excerpt.starts_with("line 88\n") && excerpt.ends_with("line 99"), "{excerpt}");
        assert_eq!(super::excerpt(""), "");
    }

    #[test]
    fn a_missing_right_says_which_and_how_to_give_it() {
        let error = AttachError::Permission {
            what: "load a BPF program",
            missing: vec!["CAP_BPF", "CAP_PERFMON"],
            setcap: String::from("sudo setcap cap_bpf+ep qprof"),
        };
        assert_eq!(
            error.to_string(),
            "not permitted to load a BPF program: missing CAP_BPF, CAP_PERFMON; run as root, or \
             give them to the program once with: sudo setcap cap_bpf+ep qprof"
        );
        assert!(error.is_permission_or_kernel() && !error.is_target());
    }

    #[test]
    fn the_errno_is_found_below_other_errors() {
        let error = EbpfError::FileError {
            path: PathBuf::from("x"),
            error: io::Error::from_raw_os_error(libc::EPERM),
        };
        assert_eq!(errno(&error), Some(libc::EPERM));
        assert_eq!(errno(&io::Error::other("no number")), None);
    }
}
