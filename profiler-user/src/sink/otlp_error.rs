//! Why an export cannot work as asked.

use std::io;

use thiserror::Error;

/// The export cannot work as asked.
#[derive(Debug, Error)]
pub enum OtlpConfigError {
    /// No scheme.
    #[error("{from}: `{url}` has no scheme; write `http://{url}` (or https://)")]
    NoScheme {
        /// The flag or variable.
        from: &'static str,
        /// What it says.
        url: String,
    },
    /// Neither http nor https.
    #[error("{from}: `{url}`: scheme `{scheme}` is not known; use http:// or https://")]
    Scheme {
        /// The flag or variable.
        from: &'static str,
        /// What it says.
        url: String,
        /// The scheme.
        scheme: String,
    },
    /// Not a URL.
    #[error("{from}: `{url}` is not a URL ({reason}); write for example http://127.0.0.1:4317")]
    Url {
        /// The flag or variable.
        from: &'static str,
        /// What it says.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A port on which Jaeger does not take OTLP.
    #[error("{from}: `{url}`: {port} is Jaeger's {what}: use 4317 (gRPC) or 4318 (HTTP)")]
    JaegerPort {
        /// The flag or variable.
        from: &'static str,
        /// What it says.
        url: String,
        /// The port.
        port: u16,
        /// What listens there.
        what: &'static str,
    },
    /// Name and password in the URL.
    #[error(
        "{from}: a URL with a user name is not supported; set \
         OTEL_EXPORTER_OTLP_HEADERS=authorization=Basic%20… instead"
    )]
    UserInfo {
        /// The flag or variable.
        from: &'static str,
    },
    /// A variable has a value that cannot be used.
    #[error("{variable}=`{value}`: {fix}")]
    Variable {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
        /// What to write.
        fix: String,
    },
    /// `OTEL_EXPORTER_OTLP_HEADERS` cannot be read; the value may be a secret and is not repeated.
    #[error(
        "{variable}: header {number} is not name=value with a percent-encoded value; \
         write for example `authorization=Bearer%20TOKEN,x-team=db`"
    )]
    Headers {
        /// The variable.
        variable: String,
        /// Which header, from 1.
        number: usize,
    },
    /// A certificate or key cannot be read.
    #[error("{variable}: cannot read `{path}`: {source}")]
    File {
        /// The variable.
        variable: String,
        /// The file.
        path: String,
        /// Why not.
        source: io::Error,
    },
    /// A certificate or key is not PEM.
    #[error("{variable}: `{path}` is not PEM; a file with `-----BEGIN …-----` lines is needed")]
    NotPem {
        /// The variable.
        variable: String,
        /// The file.
        path: String,
    },
    /// Half of an identity.
    #[error("{present} is set but {missing} is not; TLS with a client certificate needs both")]
    HalfIdentity {
        /// The variable that is set.
        present: String,
        /// The one that is not.
        missing: &'static str,
    },
    /// Declarative configuration.
    #[error(
        "OTEL_CONFIG_FILE is not supported; unset it, or give the endpoint by --otlp URL or \
         OTEL_EXPORTER_OTLP_ENDPOINT"
    )]
    ConfigFile,
}
