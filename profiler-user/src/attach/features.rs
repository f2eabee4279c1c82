//! What this kernel and this process can do: asked, not guessed from a version.

use std::fs;
use std::path::Path;

use aya::maps::MapType;
use aya::sys::{self, UProbeMultiFeature};
use caps::{CapSet, Capability};
use serde::Serialize;

use super::AttachError;

/// An answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// It would not say; why.
    Unknown(String),
}

impl Answer {
    /// Whether it is a clear yes.
    #[must_use]
    pub const fn is_yes(&self) -> bool {
        matches!(self, Self::Yes)
    }

    fn of(asked: Result<bool, impl std::error::Error>) -> Self {
        match asked {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(chain(&error)),
        }
    }
}

/// An error and what caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

/// What the kernel offers and what this process may use of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KernelFeatures {
    /// The kernel's release (`uname -r`).
    pub release: String,
    /// `bpf()` can be called at all.
    pub bpf_syscall: Answer,
    /// Links of many uprobes (6.6): without them nothing can be attached.
    pub uprobe_multi: Answer,
    /// Whether such a link's own process filter is right (6.10). If not, the filter is ours alone.
    pub uprobe_multi_pid_filter: Answer,
    /// The BPF ring buffer (5.8).
    pub ring_buffer: Answer,
    /// The kernel describes its types (`/sys/kernel/btf/vmlinux`).
    pub btf: bool,
    /// Capabilities that we use and this process lacks, by name.
    pub missing_capabilities: Vec<&'static str>,
    /// The lockdown mode: `none`, `integrity`, `confidentiality`; none where the kernel has none.
    pub lockdown: Option<String>,
    /// Whether we see the process ids the kernel side sees; not so in a container with its own.
    pub initial_pid_namespace: bool,
}

impl KernelFeatures {
    /// Whether `attach` can work here.
    #[must_use]
    pub fn can_attach(&self) -> bool {
        self.uprobe_multi.is_yes() && self.ring_buffer.is_yes() && self.initial_pid_namespace
    }

    /// The command that gives the program the capabilities it lacks; none if it has all.
    #[must_use]
    pub fn setcap_line(&self) -> Option<String> {
        (!self.missing_capabilities.is_empty()).then(setcap_line)
    }
}

/// Asks the kernel. Loads two tiny programs and a map, attaches nothing.
#[must_use]
pub fn kernel_features() -> KernelFeatures {
    KernelFeatures {
        release: release(),
        bpf_syscall: Answer::of(sys::is_map_supported(MapType::Array)),
        uprobe_multi: Answer::of(sys::is_uprobe_multi_supported(UProbeMultiFeature::LinkCreation)),
        uprobe_multi_pid_filter: Answer::of(sys::is_uprobe_multi_supported(
            UProbeMultiFeature::ProcessScopedPidFilter,
        )),
        ring_buffer: Answer::of(sys::is_map_supported(MapType::RingBuf)),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        missing_capabilities: missing_capabilities(),
        lockdown: lockdown(),
        initial_pid_namespace: in_initial_pid_namespace(),
    }
}

/// The kernel's release.
#[must_use]
pub fn release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| String::from("(unknown)"), |release| release.trim().to_owned())
}

/// Each capability we use, and whether `CAP_SYS_ADMIN` stands for it (`kernel_capable` helpers in
/// the kernel's `include/linux/capability.h`: `bpf_capable`, `perfmon_capable`,
/// `checkpoint_restore_ns_capable`).
const NEEDED: [(Capability, &str, bool); 5] = [
    (Capability::CAP_BPF, "CAP_BPF", true),
    (Capability::CAP_PERFMON, "CAP_PERFMON", true),
    (Capability::CAP_SYS_PTRACE, "CAP_SYS_PTRACE", false),
    (Capability::CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH", false),
    (Capability::CAP_CHECKPOINT_RESTORE, "CAP_CHECKPOINT_RESTORE", true),
];

/// The capabilities we use that this thread lacks, by name.
pub(super) fn missing_capabilities() -> Vec<&'static str> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    let admin = has(Capability::CAP_SYS_ADMIN);
    NEEDED
        .into_iter()
        .filter(|&(capability, _, implied)| !(has(capability) || admin && implied))
        .map(|(_, name, _)| name)
        .collect()
}

/// Whether this process may load and attach at all: asked first, so that whoever lacks a right
/// learns of it before anything is read.
///
/// # Errors
///
/// [`AttachError::Permission`], with all that is missing.
pub fn check_rights() -> Result<(), AttachError> {
    let missing = missing_capabilities();
    if missing.iter().any(|name| matches!(*name, "CAP_BPF" | "CAP_PERFMON")) {
        let setcap = setcap_line();
        return Err(AttachError::Permission { what: "attach to a process", missing, setcap });
    }
    Ok(())
}

/// The command that gives this program what it needs, for good.
pub(super) fn setcap_line() -> String {
    let names: Vec<_> = NEEDED.iter().map(|(_, name, _)| name.to_ascii_lowercase()).collect();
    let program = std::env::current_exe()
        .map_or_else(|_| String::from("$(command -v qprof)"), |path| path.display().to_string());
    format!("sudo setcap {}+ep {program}", names.join(","))
}

/// The lockdown mode in force, the one in brackets: `none [integrity] confidentiality`.
pub(super) fn lockdown() -> Option<String> {
    let modes = fs::read_to_string("/sys/kernel/security/lockdown").ok()?;
    bracketed(&modes).map(ToOwned::to_owned)
}

fn bracketed(modes: &str) -> Option<&str> {
    modes.split_once('[')?.1.split_once(']').map(|(mode, _)| mode)
}

/// Whether process ids here are those of the kernel side. The initial namespace's inode is fixed
/// (`PROC_PID_INIT_INO` in the kernel's `include/linux/proc_ns.h`).
pub(super) fn in_initial_pid_namespace() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    const PROC_PID_INIT_INO: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").map_or(true, |namespace| namespace.ino() == PROC_PID_INIT_INO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_in_brackets_is_the_one_in_force() {
        assert_eq!(bracketed("none [integrity] confidentiality\n"), Some("integrity"));
        assert_eq!(bracketed("[none] integrity confidentiality\n"), Some("none"));
        assert_eq!(bracketed(""), None);
        assert_eq!(bracketed("[none"), None);
    }

    #[test]
    fn asking_works_without_rights_and_names_what_is_missing() {
        let features = kernel_features();
        assert_ne!(features.release, "");
        let missing = &features.missing_capabilities;
        assert_eq!(features.setcap_line().is_some(), !missing.is_empty());
        if missing.contains(&"CAP_BPF") {
            assert!(!features.can_attach());
        }
        assert!(serde_json::to_string(&features).unwrap().contains("uprobe_multi"));
    }

    #[test]
    fn the_command_names_every_capability_once() {
        let line = setcap_line();
        for name in ["cap_bpf", "cap_perfmon", "cap_sys_ptrace", "cap_checkpoint_restore"] {
            assert_eq!(line.matches(name).count(), 1, "{line}");
        }
    }
}
