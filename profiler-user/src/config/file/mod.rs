//! The configuration file: what `qprof run --config FILE` may say, as typed and then checked.

mod parse;
mod raw;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::error::Diagnostic;
use crate::units::Budget;

pub use parse::{load_settings, parse_settings};

/// A configuration file, checked. What it leaves open is `None` or empty: flags and environment come
/// before it, defaults after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Whom to profile.
    pub target: TargetSettings,
    /// Names or paths of symbol maps; empty: the one that fits.
    pub maps: Vec<String>,
    /// Folders with symbol maps, searched before the usual ones.
    pub map_dirs: Vec<PathBuf>,
    /// `service.name`.
    pub service: Option<String>,
    /// Size of the kernel's ring buffer, bytes.
    pub ring: Option<u32>,
    /// How many functions one pattern of a map may match.
    pub max_functions: Option<usize>,
    /// How long a trace may wait for its last span.
    pub grace: Option<Duration>,
    /// How long to run.
    pub duration: Option<Duration>,
    /// What the probes may cost.
    pub budget: Option<Budget>,
    /// Export over OTLP; none: the file does not ask for it.
    pub otlp: Option<OtlpSettings>,
    /// What else comes out.
    pub output: OutputSettings,
}

/// `[target]`: which processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetSettings {
    /// Their process ids.
    pub pids: Vec<u32>,
    /// Glob on the path of the executable.
    pub exe: Option<String>,
    /// Whether processes they fork are profiled too.
    pub children: Option<bool>,
    /// Whether to attach again when the target has been restarted.
    pub follow: Option<bool>,
}

/// `[otlp]`: where traces go, and how.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct OtlpSettings {
    /// The endpoint; none: the usual one on this machine.
    pub endpoint: Option<String>,
    /// How OTLP is carried.
    pub protocol: Option<Protocol>,
    /// Headers of every request. None: the file names none.
    pub headers: Option<Vec<(String, String)>>,
    /// Whether requests are compressed by gzip.
    pub gzip: Option<bool>,
    /// Spans in a request, at most.
    pub batch_size: Option<usize>,
    /// How long a span waits for company.
    pub batch_delay: Option<Duration>,
    /// Spans waiting, at most.
    pub queue_size: Option<usize>,
    /// How long one batch may take, retries included.
    pub timeout: Option<Duration>,
    /// How long one request may take.
    pub request_timeout: Option<Duration>,
}

impl fmt::Debug for OtlpSettings {
    // Header values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |headers: &Vec<(String, String)>| {
            headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        f.debug_struct("OtlpSettings")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &self.headers.as_ref().map(names))
            .field("gzip", &self.gzip)
            .field("batch_size", &self.batch_size)
            .field("batch_delay", &self.batch_delay)
            .field("queue_size", &self.queue_size)
            .field("timeout", &self.timeout)
            .field("request_timeout", &self.request_timeout)
            .finish()
    }
}

/// `[output]`: what comes out besides OTLP, and of which traces.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutputSettings {
    /// What is printed on stdout.
    pub print: Option<Print>,
    /// A file of OTLP JSON lines.
    pub file: Option<PathBuf>,
    /// A file for the final summary as JSON.
    pub summary_json: Option<PathBuf>,
    /// A file for the raw events.
    pub record: Option<PathBuf>,
    /// Keep only traces whose root takes at least this long.
    pub slow: Option<Duration>,
    /// Fold spans shorter than this.
    pub min_span: Option<Duration>,
    /// The share of traces to keep, from 0 to 1.
    pub sample: Option<f64>,
}

/// How OTLP is carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC, usually on port 4317.
    Grpc,
    /// Protobuf over HTTP, usually on port 4318.
    HttpProtobuf,
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "grpc" => Ok(Self::Grpc),
            "http/protobuf" => Ok(Self::HttpProtobuf),
            _ => Err("use grpc or http/protobuf".to_owned()),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        })
    }
}

/// What is printed on stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Print {
    /// The summary at the end.
    Summary,
    /// Every kept trace as a tree, and the summary at the end.
    Tree,
    /// Every kept trace as OTLP JSON.
    Json,
    /// Nothing.
    Nothing,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The text breaks a rule of the format.
    #[error("{0}")]
    Invalid(Box<Diagnostic>),
    /// The file could not be read.
    #[error("cannot read the configuration {}; name another with --config FILE", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// Neither a flag nor the file says which process.
    #[error(
        "no process is named: add --pid PID to the command, or `pid = …` below [target] in the \
         configuration"
    )]
    NoTarget,
    /// The file names several processes where one is to be looked at.
    #[error("the configuration names several processes: say which one with --pid")]
    SeveralTargets,
}

/// The JSON Schema of the configuration file, for editors.
#[must_use]
pub fn settings_schema() -> serde_json::Value {
    schemars::schema_for!(raw::RawSettings).to_value()
}
