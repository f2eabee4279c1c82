//! A real Jaeger of the test's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::environment::{cache, free_port};
use crate::http;
use crate::process::Process;
use crate::timeout::{PATIENCE, until};
use crate::tree::{Trace, from_jaeger};

/// Jaeger, all in one process, with its traces in memory.
///
/// It listens on loopback only: every port it has is given, since what is not would be open to
/// the network.
#[derive(Debug)]
pub struct Jaeger {
    process: Process,
    query: String,
    grpc: u16,
    http: u16,
}

impl Jaeger {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// When it is not installed, or does not come up.
    pub fn start() -> Result<Self> {
        Self::start_program(&Self::program()?)
    }

    /// Where it is installed.
    ///
    /// # Errors
    /// When it is not.
    pub fn program() -> Result<PathBuf> {
        let binary = cache().join("bin/jaeger");
        ensure!(binary.is_file(), "no Jaeger at {}: run `cargo xtask test`", binary.display());
        Ok(binary)
    }

    /// Starts the one in a file, and waits until it answers.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_program(binary: &Path) -> Result<Self> {
        let mut command = Command::new(binary);
        // Otherwise it traces itself, to whatever listens on the default OTLP port.
        command.env("OTEL_TRACES_SAMPLER", "always_off");
        command.arg("--memory.max-traces=100000");
        let mut ports = Vec::new();
        for flag in [
            "query.http-server",
            "collector.otlp.grpc",
            "collector.otlp.http",
            "query.grpc-server",
            "collector.http-server",
            "collector.grpc-server",
            "admin.http",
        ] {
            let port = free_port()?;
            command.arg(format!("--{flag}.host-port=127.0.0.1:{port}"));
            ports.push(port);
        }
        let mut process = Process::spawn("jaeger", command)?;
        let query = format!("127.0.0.1:{}", ports[0]);
        until(PATIENCE, "Jaeger to answer", || {
            ensure!(process.alive(), "Jaeger ended: {}", process.stderr());
            Ok(http::get(&query, "/api/services").ok())
        })?;
        let jaeger = Self { process, query, grpc: ports[1], http: ports[2] };
        jaeger.check_loopback()?;
        Ok(jaeger)
    }

    /// Where it takes OTLP over gRPC.
    #[must_use]
    pub fn grpc(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// Where it takes OTLP over HTTP.
    #[must_use]
    pub fn http(&self) -> String {
        format!("http://127.0.0.1:{}", self.http)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The names of the services it knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn services(&self) -> Result<Vec<String>> {
        let answer: serde_json::Value =
            serde_json::from_str(&http::get(&self.query, "/api/services")?)?;
        let names = answer["data"].as_array().into_iter().flatten();
        Ok(names.filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }

    /// All traces of a service.
    ///
    /// # Errors
    /// When it does not answer, or not as its API is documented.
    pub fn traces(&self, service: &str) -> Result<Vec<Trace>> {
        // Without `start` and `end` it answers with the last hour or two.
        let path =
            format!("/api/traces?service={service}&limit=100000&start=1&end=9000000000000000");
        from_jaeger(&http::get(&self.query, &path)?)
    }

    /// The traces of a service, once there are `count` of them.
    ///
    /// What was exported is indexed a moment later; more than `count` is answered as well.
    ///
    /// # Errors
    /// When there are fewer after a while.
    pub fn traces_once(&self, service: &str, count: usize) -> Result<Vec<Trace>> {
        let mut seen = 0;
        until(PATIENCE, &format!("{count} traces of {service}"), || {
            let traces = self.traces(service)?;
            seen = traces.len();
            Ok((seen >= count).then_some(traces))
        })
        .with_context(|| format!("Jaeger has {seen} traces of {service}"))
    }

    /// What Jaeger's page makes of a line of OTLP JSON that is dropped on it.
    ///
    /// # Errors
    /// When Jaeger refuses it.
    pub fn upload(&self, line: &str) -> Result<Vec<Trace>> {
        from_jaeger(&http::post_json(&self.query, "/api/transform", line)?)
    }

    /// A port nobody gave would be open to the network.
    fn check_loopback(&self) -> Result<()> {
        let listeners = Command::new("ss").args(["-H", "-lntup"]).output().context("running ss")?;
        let listeners = String::from_utf8_lossy(&listeners.stdout).into_owned();
        let mine = format!("pid={},", self.pid());
        for line in listeners.lines().filter(|line| line.contains(&mine)) {
            ensure!(line.contains("127.0.0.1:"), "Jaeger listens beyond loopback: {line}");
        }
        Ok(())
    }
}
