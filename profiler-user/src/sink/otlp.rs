//! Export over OTLP. The only file that knows the exporter crate.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    Compression, Protocol as WireProtocol, RetryPolicy, SpanExporter, WithExportConfig,
    WithHttpConfig, WithTonicConfig,
};
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::SpanExporter as _;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::SCHEMA_URL;
use super::batch::{Batch, Batcher, Export, ExportStats};
use super::encode::Outgoing;
use super::otlp_config::{OtlpConfig, Protocol};
use super::resource::Resource;

/// How long the endpoint has to answer an empty request.
const PROBE_TIMEOUT: Duration = Duration::from_secs(3);

/// The exporter cannot be made from its configuration.
#[derive(Debug, Error)]
pub enum OtlpStartError {
    /// A certificate or key is not what it should be.
    #[error(
        "TLS for {endpoint}: {reason}; check the files named by OTEL_EXPORTER_OTLP_CERTIFICATE, \
         _CLIENT_CERTIFICATE and _CLIENT_KEY (PEM)"
    )]
    Tls {
        /// The endpoint.
        endpoint: String,
        /// What the TLS library says.
        reason: String,
    },
    /// Something else.
    #[error("cannot export to {endpoint}: {reason}")]
    Exporter {
        /// The endpoint.
        endpoint: String,
        /// What the exporter says.
        reason: String,
    },
}

/// Sends traces to an OTLP endpoint, in batches, in the background.
#[derive(Debug)]
pub struct OtlpSink {
    batcher: Batcher,
}

impl OtlpSink {
    /// Starts the export on `handle`.
    ///
    /// An endpoint that does not answer is no error: it is told at once by a warning, and tried
    /// again.
    ///
    /// # Errors
    ///
    /// If certificates cannot be used.
    pub fn start(config: OtlpConfig, handle: &Handle) -> Result<Self, OtlpStartError> {
        // The gRPC channel wants to know its runtime when it is made.
        let _runtime = handle.enter();
        let batches = Arc::new(Client::new(&config, false)?);
        let probes = Arc::new(Client::new(&config, true)?);
        let export: Export = Box::new(move |batch: Option<Batch>| {
            let client = Arc::clone(if batch.is_some() { &batches } else { &probes });
            Box::pin(async move { client.export(batch).await })
        });
        Ok(Self { batcher: Batcher::start(config.endpoint, config.limits, export, handle) })
    }

    /// Takes the spans of one trace. Never blocks; a trace that does not fit is dropped, counted.
    pub fn send(&self, spans: Vec<Outgoing>) {
        self.batcher.send(spans);
    }

    /// What became of the spans so far.
    #[must_use]
    pub fn stats(&self) -> ExportStats {
        self.batcher.stats()
    }

    /// Sends what is waiting, for `limit` at most; what is left then counts as failed.
    pub async fn shutdown(self, limit: Duration) -> ExportStats {
        self.batcher.shutdown(limit).await
    }
}

struct Client {
    exporter: Mutex<Exporter>,
    /// For HTTP: the client below the exporter, and where it goes.
    http: Option<(reqwest::Client, String)>,
}

struct Exporter {
    exporter: SpanExporter,
    /// The resource it was told last.
    resource: Option<Arc<Resource>>,
}

impl Exporter {
    async fn export(&mut self, batch: Option<Batch>) -> OTelSdkResult {
        let Some(Batch { resource, spans }) = batch else {
            return self.exporter.export(Vec::new()).await;
        };
        if !self.resource.as_ref().is_some_and(|known| Arc::ptr_eq(known, &resource)) {
            let told = opentelemetry_sdk::Resource::builder_empty()
                .with_schema_url(resource.attributes().iter().cloned(), SCHEMA_URL)
                .build();
            self.exporter.set_resource(&told);
            self.resource = Some(resource);
        }
        self.exporter.export(spans).await
    }
}

impl Client {
    /// One for probing neither retries nor waits long.
    fn new(config: &OtlpConfig, probe: bool) -> Result<Self, OtlpStartError> {
        let timeout = if probe { config.timeout.min(PROBE_TIMEOUT) } else { config.timeout };
        let retry = if probe { RetryPolicy::disabled() } else { RetryPolicy::recommended() };
        let (exporter, http) = match config.protocol {
            Protocol::Grpc => (grpc(config, timeout, retry)?, None),
            Protocol::HttpProtobuf => {
                let client = http_client(config, timeout)?;
                let exporter = http(config, client.clone(), timeout, retry)?;
                (exporter, Some((client, config.endpoint.clone())))
            }
        };
        let exporter = Mutex::new(Exporter { exporter, resource: None });
        Ok(Self { exporter, http })
    }

    async fn export(&self, batch: Option<Batch>) -> Result<(), String> {
        let Err(error) = self.exporter.lock().await.export(batch).await else { return Ok(()) };
        let text = readable(error);
        // The exporter keeps the cause of a network error to itself; the client below does not.
        if let Some((client, url)) = self.http.as_ref().filter(|_| text.contains("network error"))
            && let Err(error) = client.head(url).send().await
        {
            return Err(with_causes(&error.without_url()));
        }
        Err(text)
    }
}

fn grpc(
    config: &OtlpConfig,
    timeout: Duration,
    retry: RetryPolicy,
) -> Result<SpanExporter, OtlpStartError> {
    let mut builder = SpanExporter::builder()
        .with_tonic()
        .with_protocol(WireProtocol::Grpc)
        .with_endpoint(&config.endpoint)
        .with_timeout(timeout)
        .with_retry_policy(retry)
        .with_metadata(MetadataMap::from_headers(headers(config)));
    if config.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    if config.endpoint.starts_with("https:") {
        let mut tls = match &config.ca {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some((certificate, key)) = &config.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        builder = builder.with_tls_config(tls);
    }
    builder.build().map_err(|error| start_error(config, &error))
}

fn http(
    config: &OtlpConfig,
    client: reqwest::Client,
    timeout: Duration,
    retry: RetryPolicy,
) -> Result<SpanExporter, OtlpStartError> {
    let mut builder = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(WireProtocol::HttpBinary)
        .with_endpoint(&config.endpoint)
        .with_timeout(timeout)
        .with_retry_policy(retry);
    if config.gzip {
        builder = builder.with_compression(Compression::Gzip);
    }
    builder.build().map_err(|error| start_error(config, &error))
}

/// Made here and not by the exporter, which would not know our certificates.
fn http_client(config: &OtlpConfig, timeout: Duration) -> Result<reqwest::Client, OtlpStartError> {
    let tls_error = |error: reqwest::Error| OtlpStartError::Tls {
        endpoint: config.endpoint.clone(),
        reason: with_causes(&error),
    };
    let mut client = reqwest::Client::builder().timeout(timeout).default_headers(headers(config));
    if let Some(pem) = &config.ca {
        let authorities = reqwest::Certificate::from_pem_bundle(pem).map_err(tls_error)?;
        client = client.tls_certs_only(authorities);
    }
    if let Some((certificate, key)) = &config.identity {
        let pem = [certificate.as_slice(), key.as_slice()].join(&b'\n');
        client = client.identity(reqwest::Identity::from_pem(&pem).map_err(tls_error)?);
    }
    client.build().map_err(tls_error)
}

fn headers(config: &OtlpConfig) -> HeaderMap {
    let header = |(name, value): &(String, String)| {
        Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
    };
    config.headers.iter().filter_map(header).collect()
}

fn start_error(config: &OtlpConfig, error: &dyn std::error::Error) -> OtlpStartError {
    let (endpoint, reason) = (config.endpoint.clone(), with_causes(error));
    if reason.contains("tls_config") {
        OtlpStartError::Tls { endpoint, reason }
    } else {
        OtlpStartError::Exporter { endpoint, reason }
    }
}

/// An error and its causes; a cause that only repeats the one before is left out.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// The exporter's words, without the names of its own parts in front.
fn readable(error: OTelSdkError) -> String {
    let OTelSdkError::InternalFailure(text) = error else { return error.to_string() };
    let text = text
        .trim_start_matches("TonicTracesClient export failed with ")
        .trim_start_matches("HTTP export failed with ")
        .trim_start_matches("HTTP export failed: ");
    without_echo(text)
}

/// `a: b: b: c` → `a: b: c`: causes often repeat each other, in one part or in two.
fn without_echo(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split(": ") {
        parts.push(part);
        for width in 1..=2 {
            let tail = parts.len().saturating_sub(width);
            if tail >= width && parts[tail - width..tail] == parts[tail..] {
                parts.truncate(tail);
            }
        }
    }
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        assert_eq!(without_echo("a: b: b: c"), "a: b: c");
        assert_eq!(without_echo("x: a: b: a: b"), "x: a: b");
        assert_eq!(without_echo("a: b: a"), "a: b: a");
        assert_eq!(without_echo(""), "");
    }
}
