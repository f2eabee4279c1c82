//! Whether this machine can do it: the kernel is asked, not guessed, and a child is traced.

mod cache;
mod forms;
mod measured;
mod process;
mod remedies;
mod self_test;
mod text;

use std::fmt::Write as _;

use serde::Serialize;

pub use forms::{
    Calibration, EventCost, FormResult, Position, TrapCost, Verdict, child as form_child,
};
pub use measured::{Knowledge, Measured, known_kernel, tried_kernel};
pub use process::{GoDiagnosis, ProcessDiagnosis, ProcessError, diagnose_process};
pub use self_test::{SelfTest, child, self_test};

use remedies::{Remedies, bpf_refused, remedies, word};

use crate::attach::{KernelFeatures, kernel_features};
use crate::target::{Confinement, ContainerRuntime, confinement};

/// What `doctor` found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Qprof's version.
    pub version: &'static str,
    /// What the kernel says it can do.
    pub kernel: KernelFeatures,
    /// What keeps this process from parts of the system.
    pub confinement: Confinement,
    /// What became of tracing a child of our own; none if the kernel rules it out.
    pub self_test: Option<SelfTest>,
    /// Which instructions this kernel handles under a probe, and what hits cost; none if the
    /// self-test did not pass.
    pub probes: Option<Knowledge>,
    /// Whether `run` can work here.
    pub ready: bool,
    /// What is missing, and what to do about it; empty when ready.
    pub remedies: Vec<String>,
    /// What is missing and stops nothing, and what to do about it.
    pub advice: Vec<String>,
    /// In a container that lacks something: how to start one that lacks nothing, line by line.
    pub container: Vec<String>,
}

/// Examines this machine. `again`: measure what is known from earlier too.
#[must_use]
pub fn diagnose(again: bool) -> Diagnosis {
    let kernel = kernel_features();
    let confinement = confinement();
    let found = remedies(&kernel, &confinement, bpf_refused().as_ref());
    let Remedies { needed: mut remedies, advice, container } = found;
    let self_test = remedies.is_empty().then(self_test);
    if let Some(SelfTest::Failed { why }) = &self_test {
        remedies.push(format!("the self-test failed: {why}"));
    }
    let version = env!("CARGO_PKG_VERSION");
    let ready = remedies.is_empty();
    let probes = ready.then(|| measured::knowledge(again));
    Diagnosis {
        version,
        kernel,
        confinement,
        self_test,
        probes,
        ready,
        remedies,
        advice,
        container,
    }
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
        for (name, value) in rows(&self.kernel, &self.confinement) {
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
        if let Some(probes) = &self.probes {
            text::probes(&mut text, probes);
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
        if !self.container.is_empty() {
            text.push_str("a container that lacks nothing:\n");
            for line in &self.container {
                let _: Result<(), _> = writeln!(text, "    {line}");
            }
        }
        for advice in &self.advice {
            let _: Result<(), _> = writeln!(text, "note: {advice}");
        }
        text
    }
}

fn rows(kernel: &KernelFeatures, own: &Confinement) -> Vec<(&'static str, String)> {
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
        ("container", own.container.map_or("no", ContainerRuntime::name).to_owned()),
        ("seccomp filter", yes(own.seccomp_filter)),
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
