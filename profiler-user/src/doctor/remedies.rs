//! What keeps us from attaching, and the exact words that change it.

use std::io;

use crate::attach::{Answer, KernelFeatures};
use crate::target::{Confinement, ContainerRuntime};

/// The capabilities that tracing takes, as container runtimes name them.
const CAPABILITIES: [&str; 5] =
    ["BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "CHECKPOINT_RESTORE"];

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Remedies {
    /// Without these nothing can be attached.
    pub(super) needed: Vec<String>,
    /// What is missing and was not needed.
    pub(super) advice: Vec<String>,
    /// The container with all that it takes, in the words of its runtime: whole lines.
    pub(super) container: Vec<String>,
}

/// Asks the kernel whether `bpf()` is let through to it: creates a map of no type, which it refuses
/// as invalid. Any other error is of whoever stands before it.
pub(super) fn bpf_refused() -> Option<io::Error> {
    const BPF_MAP_CREATE: libc::c_long = 0;
    // SAFETY: with a size of 0 the kernel reads nothing from the null pointer (bpf(2)).
    let made = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, std::ptr::null::<libc::c_void>(), 0)
    };
    let error = io::Error::last_os_error();
    (made < 0 && error.raw_os_error() != Some(libc::EINVAL)).then_some(error)
}

/// What is missing here, and what to do about it.
pub(super) fn remedies(
    kernel: &KernelFeatures,
    own: &Confinement,
    bpf_refused: Option<&io::Error>,
) -> Remedies {
    let mut needed = Vec::new();
    if !own.proc {
        needed.push("/proc is not mounted: mount -t proc proc /proc".to_owned());
    }
    if !kernel.initial_pid_namespace {
        needed.push(format!(
            "this is a pid namespace of its own, and the kernel side sees the host's process ids: {}",
            words(
                own.container,
                "start the container with --pid=host",
                "`hostPID: true` below `spec:` of the pod",
                "run qprof in the host's namespace, outside of `unshare --pid`"
            )
        ));
    }
    if !kernel.missing_capabilities.is_empty() {
        needed.push(missing_capabilities(kernel, own));
    }
    if let Some(error) = bpf_refused
        && own.seccomp_filter
    {
        needed.push(format!(
            "a seccomp filter is active and the system call bpf() is refused ({error}): {}",
            words(
                own.container,
                "start the container with --security-opt seccomp=unconfined, or with a profile \
                 that allows bpf",
                "`seccompProfile: { type: Unconfined }` below `securityContext:` of the container, \
                 or a profile that allows bpf",
                "start qprof without the filter; for a service of systemd: \
                 SystemCallFilter=bpf besides what it allows"
            )
        ));
    }
    if kernel.lockdown.as_deref() == Some("confidentiality") {
        needed.push(
            "the kernel is locked down (confidentiality): BPF may not read memory; boot with \
             lockdown=integrity or none"
                .to_owned(),
        );
    }
    // Where something stands before the kernel, its answers say nothing of itself.
    if needed.is_empty() {
        needed.extend(kernel_lacks(kernel));
    }
    let container =
        if needed.is_empty() || (own.container.is_none() && kernel.initial_pid_namespace) {
            Vec::new()
        } else {
            container(own)
        };
    Remedies { needed, advice: advice(kernel, own), container }
}

fn missing_capabilities(kernel: &KernelFeatures, own: &Confinement) -> String {
    let missing = kernel.missing_capabilities.join(", ");
    let added = kernel.missing_capabilities.iter().filter_map(|name| name.strip_prefix("CAP_"));
    let flags: Vec<_> = added.clone().map(|name| format!("--cap-add={name}")).collect();
    let names: Vec<_> = added.collect();
    format!(
        "missing capabilities: {missing}. {}",
        words(
            own.container,
            &format!("Start the container with {}, and qprof as root in it", flags.join(" ")),
            &format!(
                "`capabilities: {{ add: [{}] }}` below `securityContext:` of the container",
                names.join(", ")
            ),
            &format!(
                "Run as root, or give them to the program: {}",
                kernel.setcap_line().unwrap_or_default()
            )
        )
    )
}

fn kernel_lacks(kernel: &KernelFeatures) -> Vec<String> {
    let mut lacks = Vec::new();
    if !kernel.uprobe_multi.is_yes() {
        lacks.push(format!(
            "kernel {} has no uprobe_multi links ({}): 6.6 or newer is needed",
            kernel.release,
            word(&kernel.uprobe_multi)
        ));
    }
    if !kernel.ring_buffer.is_yes() {
        lacks.push(format!("no BPF ring buffer ({})", word(&kernel.ring_buffer)));
    }
    lacks
}

/// What is missing and stops nothing today.
fn advice(kernel: &KernelFeatures, own: &Confinement) -> Vec<String> {
    let mut advice = Vec::new();
    if !kernel.btf {
        advice.push(format!(
            "the kernel's types (/sys/kernel/btf/vmlinux) are missing; this version does not need \
             them. To have them: {}",
            words(
                own.container,
                "start the container with -v /sys/kernel/btf:/sys/kernel/btf:ro",
                "mount the hostPath /sys/kernel/btf read-only at /sys/kernel/btf",
                "mount -t sysfs sysfs /sys, or a kernel built with CONFIG_DEBUG_INFO_BTF=y"
            )
        ));
    }
    if let Some(profile) = &own.apparmor {
        advice.push(format!(
            "the AppArmor profile {profile} is enforced: it may hide other processes from qprof. If \
             `run` may not read one: {}",
            words(
                own.container,
                "start the container with --security-opt apparmor=unconfined",
                "`appArmorProfile: { type: Unconfined }` below `securityContext:` of the container",
                "start qprof without the profile"
            )
        ));
    }
    advice
}

/// The words for where we are; for a container of an unknown kind, those of both kinds.
fn words(container: Option<ContainerRuntime>, docker: &str, pod: &str, bare: &str) -> String {
    match container {
        Some(ContainerRuntime::Docker | ContainerRuntime::Podman) => docker.to_owned(),
        Some(ContainerRuntime::Kubernetes) => pod.to_owned(),
        Some(ContainerRuntime::Other) => format!("{docker} (Kubernetes: {pod})"),
        None => format!("{bare} (in a container: {docker}; Kubernetes: {pod})"),
    }
}

/// The whole container.
fn container(own: &Confinement) -> Vec<String> {
    let mut lines = Vec::new();
    let docker = own.container != Some(ContainerRuntime::Kubernetes);
    let pod = !matches!(own.container, Some(ContainerRuntime::Docker | ContainerRuntime::Podman));
    if docker {
        let program =
            if own.container == Some(ContainerRuntime::Podman) { "podman" } else { "docker" };
        let added: Vec<_> = CAPABILITIES.iter().map(|name| format!("--cap-add={name}")).collect();
        let apparmor =
            if own.apparmor.is_some() { " --security-opt apparmor=unconfined" } else { "" };
        lines.push(format!(
            "{program} run --rm --pid=host {} --security-opt seccomp=unconfined{apparmor} \
             -v /sys/kernel/btf:/sys/kernel/btf:ro IMAGE qprof run -p PID",
            added.join(" ")
        ));
    }
    if pod {
        let yaml = format!(
            "spec:
  hostPID: true
  containers:
  - name: qprof
    image: IMAGE
    securityContext:
      capabilities: {{ add: [{}] }}
      seccompProfile: {{ type: Unconfined }}
    volumeMounts:
    - {{ name: btf, mountPath: /sys/kernel/btf, readOnly: true }}
  volumes:
  - {{ name: btf, hostPath: {{ path: /sys/kernel/btf }} }}",
            CAPABILITIES.join(", ")
        );
        lines.extend(yaml.lines().map(str::to_owned));
    }
    lines
}

pub(super) fn word(answer: &Answer) -> String {
    match answer {
        Answer::Yes => "yes".to_owned(),
        Answer::No => "no".to_owned(),
        Answer::Unknown(why) => format!("unknown ({why})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel() -> KernelFeatures {
        KernelFeatures {
            release: "6.12.0".to_owned(),
            bpf_syscall: Answer::Yes,
            uprobe_multi: Answer::Yes,
            uprobe_multi_pid_filter: Answer::Yes,
            ring_buffer: Answer::Yes,
            btf: true,
            missing_capabilities: Vec::new(),
            lockdown: None,
            initial_pid_namespace: true,
        }
    }

    fn within(container: Option<ContainerRuntime>) -> Confinement {
        Confinement { container, seccomp_filter: false, apparmor: None, proc: true }
    }

    #[test]
    fn nothing_is_missing_on_a_good_host_or_in_a_good_container() {
        for container in [None, Some(ContainerRuntime::Docker)] {
            assert_eq!(remedies(&kernel(), &within(container), None), Remedies::default());
        }
    }

    #[test]
    fn a_container_is_told_in_the_words_of_its_runtime() {
        let blind = KernelFeatures {
            initial_pid_namespace: false,
            btf: false,
            missing_capabilities: vec!["CAP_BPF", "CAP_SYS_PTRACE"],
            ..kernel()
        };
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let of = |container, apparmor: Option<&str>| {
            let own = Confinement {
                seccomp_filter: true,
                apparmor: apparmor.map(str::to_owned),
                ..within(Some(container))
            };
            let Remedies { needed, advice, container } = remedies(&blind, &own, Some(&refused));
            [needed, advice, container].concat().join("\n")
        };
        let docker = of(ContainerRuntime::Docker, Some("docker-default"));
        for words in [
            "--pid=host",
            "--cap-add=BPF --cap-add=SYS_PTRACE",
            "--security-opt seccomp=unconfined",
            "--security-opt apparmor=unconfined",
            "-v /sys/kernel/btf:/sys/kernel/btf:ro",
            "docker run --rm --pid=host --cap-add=BPF --cap-add=PERFMON",
        ] {
            assert!(docker.contains(words), "no {words} in\n{docker}");
        }
        assert!(!docker.contains("hostPID") && !docker.contains("setcap"), "{docker}");
        assert!(of(ContainerRuntime::Podman, None).contains("podman run"));
        let pod = of(ContainerRuntime::Kubernetes, None);
        for words in [
            "hostPID: true",
            "capabilities: { add: [BPF, SYS_PTRACE] }",
            "seccompProfile: { type: Unconfined }",
            "hostPath: { path: /sys/kernel/btf }",
        ] {
            assert!(pod.contains(words), "no {words} in\n{pod}");
        }
        assert!(!pod.contains("--pid=host") && !pod.contains("docker run"), "{pod}");
    }

    #[test]
    fn the_kernel_is_not_blamed_for_what_stands_before_it() {
        let unknown = Answer::Unknown("operation not permitted".to_owned());
        let kernel =
            KernelFeatures { uprobe_multi: unknown.clone(), ring_buffer: unknown, ..kernel() };
        let own = Confinement { seccomp_filter: true, ..within(None) };
        let refused = io::Error::from_raw_os_error(libc::EPERM);
        let found = remedies(&kernel, &own, Some(&refused)).needed;
        assert!(found.len() == 1 && found[0].contains("seccomp"), "{found:?}");
        assert_eq!(remedies(&kernel, &within(None), None).needed.len(), 2);
    }

    #[test]
    fn the_container_has_every_capability_that_is_asked_for() {
        let kernel = KernelFeatures { missing_capabilities: vec!["CAP_BPF"], ..kernel() };
        let line = kernel.setcap_line().unwrap();
        assert_eq!(line.matches("cap_").count(), CAPABILITIES.len(), "{line}");
        for name in CAPABILITIES {
            assert!(line.contains(&format!("cap_{}", name.to_ascii_lowercase())), "{line}");
        }
    }
}
