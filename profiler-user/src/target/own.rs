//! Where this very process runs: what a container keeps from it.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What runs a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerRuntime {
    /// A pod of Kubernetes.
    Kubernetes,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// Another one.
    Other,
}

impl ContainerRuntime {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kubernetes => "Kubernetes",
            Self::Docker => "Docker",
            Self::Podman => "Podman",
            Self::Other => "yes",
        }
    }
}

/// What keeps this process from parts of the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// The container this is, as far as it can be told.
    pub container: Option<ContainerRuntime>,
    /// Whether a seccomp filter decides over our system calls (`Seccomp: 2`).
    pub seccomp_filter: bool,
    /// The `AppArmor` profile that is enforced on us.
    pub apparmor: Option<String>,
    /// Whether `/proc` shows processes.
    pub proc: bool,
}

/// Looks at this process.
#[must_use]
pub fn confinement() -> Confinement {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let label = [text("/proc/self/attr/apparmor/current"), text("/proc/self/attr/current")];
    Confinement {
        container: container(
            std::env::var_os("KUBERNETES_SERVICE_HOST").is_some(),
            |path| Path::new(path).exists(),
            &text("/proc/self/cgroup"),
        ),
        seccomp_filter: seccomp_filter(&text("/proc/self/status")),
        apparmor: label.iter().find_map(|label| enforced(label)),
        proc: Path::new("/proc/self/stat").exists(),
    }
}

/// The files that Docker and Podman leave in every container; else the names of cgroups.
fn container(
    kubernetes: bool,
    exists: impl Fn(&str) -> bool,
    cgroups: &str,
) -> Option<ContainerRuntime> {
    if kubernetes || cgroups.contains("kubepods") {
        Some(ContainerRuntime::Kubernetes)
    } else if exists("/run/.containerenv") || cgroups.contains("/libpod-") {
        Some(ContainerRuntime::Podman)
    } else if exists("/.dockerenv") || cgroups.contains("/docker") {
        Some(ContainerRuntime::Docker)
    } else if cgroups.contains("/lxc") || cgroups.contains("containerd") {
        Some(ContainerRuntime::Other)
    } else {
        None
    }
}

fn seccomp_filter(status: &str) -> bool {
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    mode.is_some_and(|mode| mode.trim() == "2")
}

/// `docker-default (enforce)`; other security modules write their labels into the same file.
fn enforced(label: &str) -> Option<String> {
    label.trim_end_matches(['\0', '\n']).strip_suffix(" (enforce)").map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_what_they_leave() {
        let none = |_: &str| false;
        let only = |wanted: &'static str| move |path: &str| path == wanted;
        assert_eq!(container(false, none, "0::/user.slice/session-1.scope"), None);
        for (found, expected) in [
            (container(false, only("/.dockerenv"), ""), ContainerRuntime::Docker),
            (container(false, none, "0::/docker/1"), ContainerRuntime::Docker),
            (container(false, only("/run/.containerenv"), ""), ContainerRuntime::Podman),
            (container(true, only("/.dockerenv"), ""), ContainerRuntime::Kubernetes),
            (container(false, none, "0::/kubepods.slice/x"), ContainerRuntime::Kubernetes),
            (container(false, none, "1:cpu:/lxc/a"), ContainerRuntime::Other),
        ] {
            assert_eq!(found, Some(expected));
        }
    }

    #[test]
    fn the_filter_and_the_profile() {
        assert!(seccomp_filter("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!seccomp_filter("Seccomp:\t0\nSeccomp_filters:\t2\n"));
        assert_eq!(enforced("docker-default (enforce)\n").as_deref(), Some("docker-default"));
        assert_eq!(enforced("unconfined\n"), None);
        assert_eq!(enforced("system_u:system_r:x:s0\0"), None);
    }

    #[test]
    fn we_have_a_proc() {
        assert!(confinement().proc);
    }
}
