//! Whether this machine can do it: the kernel is asked, not guessed, and a child is traced.

mod self_test;

use std::fmt::Write as _;

use serde::Serialize;

pub use self_test::{SelfTest, child, self_test};

use crate::attach::{Answer, KernelFeatures, kernel_features};

/// What `doctor` found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Qprof's version.
    pub version: &'static str,
    /// What the kernel says it can do.
    pub kernel: KernelFeatures,
    /// What became of tracing a child of our own; none if the kernel rules it out.
    pub self_test: Option<SelfTest>,
    /// Whether `run` can work here.
    pub ready: bool,
    /// What is missing, and what to do about it; empty when ready.
    pub remedies: Vec<String>,
}

/// Examines this machine.
#[must_use]
pub fn diagnose() -> Diagnosis {
    let kernel = kernel_features();
    let mut remedies = remedies(&kernel);
    let self_test = remedies.is_empty().then(self_test);
    if let Some(SelfTest::Failed { why }) = &self_test {
        remedies.push(format!("the self-test failed: {why}"));
    }
    let version = env!("CARGO_PKG_VERSION");
    Diagnosis { version, ready: remedies.is_empty(), kernel, self_test, remedies }
}

impl Diagnosis {
    /// The report for a person.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            // Writing to a String cannot fail.
            let _: Result<(), _> = writeln!(text, "{name:<18} {value}");
        };
        row("qprof", self.version);
        for (name, value) in rows(&self.kernel) {
            row(name, &value);
        }
        match &self.self_test {
            Some(SelfTest::Passed { calls, attached_ms }) => row(
                "self-test",
                &format!(
                    "passed: {calls} calls of a child traced exactly, attached in {attached_ms:.0} ms"
                ),
            ),
            Some(SelfTest::Failed { why }) => row("self-test", &format!("FAILED: {why}")),
            None => row("self-test", "not run"),
        }
        text.push('\n');
        if self.ready {
            text.push_str("ready: `qprof run` works here\n");
        } else {
            text.push_str("not ready:\n");
            for remedy in &self.remedies {
                let _: Result<(), _> = writeln!(text, "  - {remedy}");
            }
        }
        text
    }
}

/// What keeps us from attaching, and what to do about it.
fn remedies(kernel: &KernelFeatures) -> Vec<String> {
    let mut remedies = Vec::new();
    if !kernel.missing_capabilities.is_empty() {
        let how = kernel.setcap_line().unwrap_or_default();
        remedies.push(format!(
            "missing capabilities: {}. Run as root, or give them to the program: {how}",
            kernel.missing_capabilities.join(", ")
        ));
    }
    if kernel.lockdown.as_deref() == Some("confidentiality") {
        remedies.push(
            "the kernel is locked down (confidentiality): BPF may not read memory; boot with \
             lockdown=integrity or none"
                .to_owned(),
        );
    }
    if !kernel.initial_pid_namespace {
        remedies.push(
            "this is a pid namespace of its own: start the container with --pid=host".to_owned(),
        );
    }
    // Without the capabilities the kernel answers nothing else.
    if remedies.is_empty() {
        if !kernel.uprobe_multi.is_yes() {
            remedies.push(format!(
                "kernel {} has no uprobe_multi links ({}): 6.6 or newer is needed",
                kernel.release,
                word(&kernel.uprobe_multi)
            ));
        }
        if !kernel.ring_buffer.is_yes() {
            remedies.push(format!("no BPF ring buffer ({})", word(&kernel.ring_buffer)));
        }
    }
    remedies
}

fn rows(kernel: &KernelFeatures) -> Vec<(&'static str, String)> {
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let missing = &kernel.missing_capabilities;
    vec![
        ("kernel", kernel.release.clone()),
        ("bpf system call", word(&kernel.bpf_syscall)),
        ("uprobe_multi", word(&kernel.uprobe_multi)),
        ("its pid filter", word(&kernel.uprobe_multi_pid_filter)),
        ("ring buffer", word(&kernel.ring_buffer)),
        ("kernel BTF", yes(kernel.btf)),
        ("lockdown", kernel.lockdown.clone().unwrap_or_else(|| "none".to_owned())),
        ("host pids", yes(kernel.initial_pid_namespace)),
        (
            "capabilities",
            if missing.is_empty() {
                "all there".to_owned()
            } else {
                format!("missing: {}", missing.join(", "))
            },
        ),
    ]
}

fn word(answer: &Answer) -> String {
    match answer {
        Answer::Yes => "yes".to_owned(),
        Answer::No => "no".to_owned(),
        Answer::Unknown(why) => format!("unknown ({why})"),
    }
}
