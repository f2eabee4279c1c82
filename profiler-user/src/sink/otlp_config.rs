//! Where and how to export over OTLP: flag > environment > file > default, refused early where it
//! cannot work.
//!
//! The variables are those of the OpenTelemetry specification ("OpenTelemetry Protocol Exporter",
//! "Environment Variable Specification"); the form for traces wins over the general one.

use std::fmt;
use std::fs;
use std::str::FromStr;
use std::time::Duration;

use reqwest::Url;

use super::otlp_error::OtlpConfigError;
use super::resource::percent_decode;
use crate::config::OtlpSettings;

pub use crate::config::Protocol;

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const TRACES_PATH: &str = "v1/traces";

/// What the command line says about export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtlpFlags {
    /// `--otlp URL`.
    pub endpoint: Option<String>,
    /// `--protocol`.
    pub protocol: Option<Protocol>,
    /// `[otlp]` of the configuration file, which the environment comes before.
    pub file: Option<OtlpSettings>,
}

/// The bounds of batching and queueing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Spans in a request, at most (`OTEL_BSP_MAX_EXPORT_BATCH_SIZE`).
    pub batch: usize,
    /// How long a span waits for company (`OTEL_BSP_SCHEDULE_DELAY`).
    pub delay: Duration,
    /// Spans waiting, at most; a trace that does not fit is dropped, and counted
    /// (`OTEL_BSP_MAX_QUEUE_SIZE`).
    pub queue: usize,
    /// How long one batch may take, retries included (`OTEL_BSP_EXPORT_TIMEOUT`).
    pub export: Duration,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            batch: 512,
            delay: Duration::from_secs(5),
            queue: 16_384,
            export: Duration::from_secs(30),
        }
    }
}

/// Where and how to export.
#[derive(Clone, PartialEq, Eq)]
pub struct OtlpConfig {
    /// The endpoint, as it is dialled: with `/v1/traces` for HTTP.
    pub endpoint: String,
    /// What carries it.
    pub protocol: Protocol,
    /// Headers (gRPC: metadata) of every request.
    pub headers: Vec<(String, String)>,
    /// Whether requests are compressed by gzip.
    pub gzip: bool,
    /// How long one request may take.
    pub timeout: Duration,
    /// PEM of the authorities to trust instead of the system's.
    pub ca: Option<Vec<u8>>,
    /// PEM of our certificate, and of its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Bounds.
    pub limits: BatchLimits,
    /// What was decided for the user and should be told, one line each.
    pub notes: Vec<String>,
}

impl fmt::Debug for OtlpConfig {
    // Header values and keys are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtlpConfig")
            .field("endpoint", &self.endpoint)
            .field("protocol", &self.protocol)
            .field("headers", &self.headers.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("gzip", &self.gzip)
            .field("timeout", &self.timeout)
            .field("own_ca", &self.ca.is_some())
            .field("own_identity", &self.identity.is_some())
            .field("limits", &self.limits)
            .field("notes", &self.notes)
            .finish()
    }
}

/// Where the endpoint comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Flag,
    Traces,
    General,
    File,
    Default,
}

impl Source {
    const fn name(self) -> &'static str {
        match self {
            Self::Flag => "--otlp",
            Self::Traces => TRACES_ENDPOINT,
            Self::General | Self::Default => ENDPOINT,
            Self::File => "[otlp] endpoint",
        }
    }
}

impl OtlpConfig {
    /// Puts flags, environment and file together. Nothing: no export is wanted.
    ///
    /// # Errors
    ///
    /// If what is wanted cannot work: see [`OtlpConfigError`].
    pub fn resolve(
        flags: &OtlpFlags,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, OtlpConfigError> {
        let env = Env(&env);
        let Some((source, given)) = endpoint(flags, &env)? else { return Ok(None) };
        let mut notes = Vec::new();
        let file = flags.file.clone().unwrap_or_default();

        let explicit = match flags.protocol {
            Some(protocol) => Some(protocol),
            None => env.parse("PROTOCOL", str::parse)?.or(file.protocol),
        };
        let given = with_scheme(given, source, explicit, &env)?;
        let mut url = parse(source, &given)?;
        let protocol = explicit.unwrap_or_else(|| guess_protocol(&url, &mut notes));
        match protocol {
            // The variable for traces names the whole URL; the others, where OTLP begins.
            Protocol::HttpProtobuf if source != Source::Traces => append_traces_path(&mut url),
            Protocol::HttpProtobuf => {}
            Protocol::Grpc => {
                if url.path() != "/" || url.query().is_some() {
                    notes
                        .push(format!("OTLP over gRPC takes no path: `{}` is ignored", url.path()));
                }
                url.set_path("");
                url.set_query(None);
            }
        }
        match (protocol, url.port()) {
            (Protocol::Grpc, Some(4318)) => {
                notes.push("port 4318 mostly speaks HTTP, not gRPC".to_owned());
            }
            (Protocol::HttpProtobuf, Some(4317)) => {
                notes.push("port 4317 mostly speaks gRPC, not HTTP".to_owned());
            }
            _ => {}
        }
        if url.port().is_none() && url.scheme() == "http" {
            notes.push(format!("`{given}` names no port: 80 is used; OTLP mostly is 4317 or 4318"));
        }

        let (ca, identity) = certificates(&env)?;
        if url.scheme() == "http" && (ca.is_some() || identity.is_some()) {
            notes.push(format!("`{given}` is not https: the certificates are not used"));
        }
        let millis = |text: &str| {
            let parsed = text.parse().ok().filter(|millis: &u64| *millis > 0);
            parsed.map(Duration::from_millis).ok_or("write milliseconds, at least 1")
        };
        Ok(Some(Self {
            endpoint: url.as_str().trim_end_matches('/').to_owned(),
            protocol,
            headers: headers(&env)?.or(file.headers.clone()).unwrap_or_default(),
            gzip: env
                .parse("COMPRESSION", |text| match text.to_ascii_lowercase().as_str() {
                    "gzip" => Ok(true),
                    "none" => Ok(false),
                    _ => Err("use gzip or none"),
                })?
                .or(file.gzip)
                .unwrap_or(false),
            timeout: env
                .parse("TIMEOUT", millis)?
                .or(file.request_timeout)
                .unwrap_or(Duration::from_secs(10)),
            ca,
            identity,
            limits: batch_limits(&env, &file, millis)?,
            notes,
        }))
    }
}

struct Env<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Env<'_> {
    /// A variable; an empty one is as if unset (OpenTelemetry specification).
    fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// A variable of the exporter, the form for traces first.
    fn exporter(&self, name: &str) -> Option<(String, String)> {
        let names =
            [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
        names.into_iter().find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn parse<T, E: ToString>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, OtlpConfigError> {
        self.exporter(name).map(|(variable, value)| checked(variable, value, parse)).transpose()
    }

    fn parse_own<T, E: ToString>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Option<T>, OtlpConfigError> {
        self.get(name).map(|value| checked(name.to_owned(), value, parse)).transpose()
    }
}

fn checked<T, E: ToString>(
    variable: String,
    value: String,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<T, OtlpConfigError> {
    parse(&value).map_err(|fix| OtlpConfigError::Variable { variable, value, fix: fix.to_string() })
}

/// The endpoint as given, if export is wanted at all.
fn endpoint(flags: &OtlpFlags, env: &Env<'_>) -> Result<Option<(Source, String)>, OtlpConfigError> {
    if let Some(url) = &flags.endpoint {
        return Ok(Some((Source::Flag, url.trim().to_owned())));
    }
    if env.get("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if env.get("OTEL_CONFIG_FILE").is_some() {
        return Err(OtlpConfigError::ConfigFile);
    }
    let exporters = env.get("OTEL_TRACES_EXPORTER");
    let names = |wanted| {
        let list = exporters.as_deref().unwrap_or_default();
        list.split(',').any(|name: &str| name.trim().eq_ignore_ascii_case(wanted))
    };
    if names("none") {
        return Ok(None);
    }
    let file = flags.file.as_ref();
    Ok(if let Some(url) = env.get(TRACES_ENDPOINT) {
        Some((Source::Traces, url))
    } else if let Some(url) = env.get(ENDPOINT) {
        Some((Source::General, url))
    } else if let Some(url) = file.and_then(|file| file.endpoint.clone()) {
        Some((Source::File, url))
    } else if names("otlp") || flags.protocol.is_some() || file.is_some() {
        let protocol = flags.protocol.or(file.and_then(|file| file.protocol));
        let port = if protocol == Some(Protocol::HttpProtobuf) { 4318 } else { 4317 };
        Some((Source::Default, format!("http://localhost:{port}")))
    } else {
        None
    })
}

/// Adds the scheme where the environment is allowed to leave it out: for gRPC, if
/// `OTEL_EXPORTER_OTLP_INSECURE` says which it is.
fn with_scheme(
    url: String,
    source: Source,
    protocol: Option<Protocol>,
    env: &Env<'_>,
) -> Result<String, OtlpConfigError> {
    if url.contains("://") {
        return Ok(url);
    }
    let insecure = env.exporter("INSECURE").map(|(_, value)| value);
    match insecure {
        Some(value)
            if matches!(source, Source::Traces | Source::General | Source::Default)
                && protocol != Some(Protocol::HttpProtobuf) =>
        {
            let scheme = if value.eq_ignore_ascii_case("true") { "http" } else { "https" };
            Ok(format!("{scheme}://{url}"))
        }
        _ => Err(OtlpConfigError::NoScheme { from: source.name(), url }),
    }
}

fn parse(source: Source, given: &str) -> Result<Url, OtlpConfigError> {
    let from = source.name();
    let invalid = |reason: String| OtlpConfigError::Url { from, url: given.to_owned(), reason };
    let scheme = given.split("://").next().unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        let (url, scheme) = (given.to_owned(), scheme.to_owned());
        return Err(OtlpConfigError::Scheme { from, url, scheme });
    }
    let url = Url::parse(given).map_err(|error| invalid(error.to_string()))?;
    if url.host_str().is_none_or(str::is_empty) {
        return Err(invalid("no host".to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(OtlpConfigError::UserInfo { from });
    }
    let what = match url.port() {
        Some(14250 | 14268 | 6831 | 6832) => "old port",
        Some(16685 | 16686) => "port for queries",
        Some(14269) => "port for its own health",
        _ => return Ok(url),
    };
    let port = url.port().unwrap_or_default();
    Err(OtlpConfigError::JaegerPort { from, url: given.to_owned(), port, what })
}

fn guess_protocol(url: &Url, notes: &mut Vec<String>) -> Protocol {
    let http = if url.port() == Some(4318) {
        "the port is 4318"
    } else if url.path().trim_end_matches('/').ends_with(TRACES_PATH) {
        "the URL ends in /v1/traces"
    } else {
        return Protocol::Grpc;
    };
    notes.push(format!("exporting by http/protobuf, because {http} (--protocol grpc to change)"));
    Protocol::HttpProtobuf
}

fn append_traces_path(url: &mut Url) {
    let path = url.path().trim_end_matches('/');
    if !path.ends_with(&format!("/{TRACES_PATH}")) {
        url.set_path(&format!("{path}/{TRACES_PATH}"));
    }
}

/// The headers of the environment; none: it names none.
fn headers(env: &Env<'_>) -> Result<Option<Vec<(String, String)>>, OtlpConfigError> {
    let Some((variable, list)) = env.exporter("HEADERS") else { return Ok(None) };
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .enumerate()
        .map(|(index, item)| {
            let header = item.split_once('=').and_then(|(name, value)| {
                let (name, value) = (name.trim(), percent_decode(value.trim())?);
                let legal = reqwest::header::HeaderName::from_str(name).is_ok()
                    && reqwest::header::HeaderValue::from_str(&value).is_ok();
                legal.then(|| (name.to_ascii_lowercase(), value))
            });
            let number = index + 1;
            header.ok_or_else(|| OtlpConfigError::Headers { variable: variable.clone(), number })
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

type Pem = Vec<u8>;
/// Authorities; our certificate and its key.
type Certificates = (Option<Pem>, Option<(Pem, Pem)>);

fn certificates(env: &Env<'_>) -> Result<Certificates, OtlpConfigError> {
    let read = |found: Option<(String, String)>| {
        found
            .map(|(variable, path)| match fs::read(&path) {
                // An authority file without certificates would be taken, and trust nobody.
                Ok(pem) if !pem.windows(10).any(|window| window == b"-----BEGIN") => {
                    Err(OtlpConfigError::NotPem { variable, path })
                }
                Ok(pem) => Ok((variable, pem)),
                Err(source) => Err(OtlpConfigError::File { variable, path, source }),
            })
            .transpose()
    };
    let ca = read(env.exporter("CERTIFICATE"))?.map(|(_, pem)| pem);
    let certificate = read(env.exporter("CLIENT_CERTIFICATE"))?;
    let key = read(env.exporter("CLIENT_KEY"))?;
    let identity = match (certificate, key) {
        (Some((_, certificate)), Some((_, key))) => Some((certificate, key)),
        (None, None) => None,
        (Some((present, _)), None) => {
            let missing = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
            return Err(OtlpConfigError::HalfIdentity { present, missing });
        }
        (None, Some((present, _))) => {
            let missing = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
            return Err(OtlpConfigError::HalfIdentity { present, missing });
        }
    };
    Ok((ca, identity))
}

fn batch_limits(
    env: &Env<'_>,
    file: &OtlpSettings,
    millis: impl Fn(&str) -> Result<Duration, &'static str>,
) -> Result<BatchLimits, OtlpConfigError> {
    const BATCH: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
    let count = |text: &str| {
        text.parse().ok().filter(|count: &usize| *count > 0).ok_or("write a number, at least 1")
    };
    let default = BatchLimits::default();
    let from_env = env.parse_own(BATCH, count)?;
    let queue = env.parse_own("OTEL_BSP_MAX_QUEUE_SIZE", count)?;
    let delay = env.parse_own("OTEL_BSP_SCHEDULE_DELAY", &millis)?;
    let export = env.parse_own("OTEL_BSP_EXPORT_TIMEOUT", &millis)?;
    let limits = BatchLimits {
        queue: queue.or(file.queue_size).unwrap_or(default.queue),
        batch: from_env.or(file.batch_size).unwrap_or(default.batch),
        delay: delay.or(file.batch_delay).unwrap_or(default.delay),
        export: export.or(file.timeout).unwrap_or(default.export),
    };
    if limits.batch > limits.queue {
        let in_file = from_env.is_none() && file.batch_size.is_some();
        return Err(OtlpConfigError::Variable {
            variable: if in_file { "[otlp] batch_size" } else { BATCH }.to_owned(),
            value: limits.batch.to_string(),
            fix: format!(
                "a batch cannot be larger than the queue ({}); lower it, or raise \
                 OTEL_BSP_MAX_QUEUE_SIZE (in the configuration: queue_size)",
                limits.queue
            ),
        });
    }
    Ok(limits)
}

#[cfg(test)]
mod tests;
