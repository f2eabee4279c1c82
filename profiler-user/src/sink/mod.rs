//! What goes out: traces become OpenTelemetry spans, and leave over OTLP or into a file.
//!
//! [`encode`] is the one conversion; every format starts from its result, so that a span looks the
//! same in Jaeger and in a file. Only `otlp` speaks the network, only `file` writes files.

mod batch;
mod encode;
mod file;
mod otlp;
mod otlp_config;
mod otlp_error;
mod resource;

pub use batch::ExportStats;
pub use encode::{Context, Outgoing, encode, request};
pub use file::{FileSink, FileSinkError};
pub use otlp::{OtlpSink, OtlpStartError};
pub use otlp_config::{BatchLimits, OtlpConfig, OtlpFlags, Protocol};
pub use otlp_error::OtlpConfigError;
pub use resource::{Resource, ResourceError, ResourceFacts};

/// The version that goes out as scope and distribution version.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The semantic conventions whose names we use.
pub(crate) const SCHEMA_URL: &str = "https://opentelemetry.io/schemas/1.44.0";
