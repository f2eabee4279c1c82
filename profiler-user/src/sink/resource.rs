//! What a trace says about where it comes from: the `resource` of OpenTelemetry.
//!
//! Names: semantic conventions 1.44.0, `service.*`, `process.*`, `host.*`, `container.*`,
//! `telemetry.*`.

use opentelemetry::{KeyValue, Value};
use thiserror::Error;

use super::VERSION;

/// What is known of the target and its machine; an absent fact is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceFacts {
    /// The service's name where neither flag nor environment gives one: the symbol map's or the
    /// executable's name.
    pub service_name: String,
    /// `process.pid`.
    pub pid: Option<u32>,
    /// `process.executable.name`.
    pub executable_name: Option<String>,
    /// `process.executable.path`, as the target sees it.
    pub executable_path: Option<String>,
    /// `process.command_line`.
    pub command_line: Option<String>,
    /// `process.executable.build_id.gnu`, hexadecimal.
    pub build_id: Option<String>,
    /// `process.owner`: the user's name, or id where it has none.
    pub owner: Option<String>,
    /// `process.creation.time`, ISO 8601.
    pub creation_time: Option<String>,
    /// `host.name`.
    pub host_name: Option<String>,
    /// `host.arch`: `amd64`, `arm64`.
    pub host_arch: Option<String>,
    /// `container.id`.
    pub container_id: Option<String>,
}

/// The environment describes the resource in a way that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ResourceError {
    /// An item of `OTEL_RESOURCE_ATTRIBUTES` is not `key=value`.
    #[error(
        "OTEL_RESOURCE_ATTRIBUTES: `{0}` is not key=value; write key1=value1,key2=value2, \
         with `,` and `=` in values as %2C and %3D"
    )]
    NotAPair(String),
    /// A value's percent-encoding is broken.
    #[error("OTEL_RESOURCE_ATTRIBUTES: `{0}` is not percent-encoded UTF-8; write `%` as %25")]
    Encoding(String),
}

/// The attributes all spans of a process share, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resource {
    attributes: Vec<KeyValue>,
}

impl Resource {
    /// Puts facts, environment and flag together.
    ///
    /// The service's name: `service` (the flag), `OTEL_SERVICE_NAME`, `service.name` of
    /// `OTEL_RESOURCE_ATTRIBUTES`, the facts; in this order. Everything else that
    /// `OTEL_RESOURCE_ATTRIBUTES` names wins over what was found out, except `telemetry.*`, which
    /// says who measured.
    ///
    /// # Errors
    ///
    /// If `OTEL_RESOURCE_ATTRIBUTES` cannot be read.
    pub fn build(
        facts: &ResourceFacts,
        service: Option<&str>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ResourceError> {
        let mut this = Self { attributes: Vec::new() };
        this.set("service.name", facts.service_name.clone());
        this.set_if("process.executable.name", facts.executable_name.as_ref());
        this.set_if("process.executable.path", facts.executable_path.as_ref());
        this.set_if("process.executable.build_id.gnu", facts.build_id.as_ref());
        if let Some(pid) = facts.pid {
            this.set("process.pid", i64::from(pid));
        }
        this.set_if("process.command_line", facts.command_line.as_ref());
        this.set_if("process.creation.time", facts.creation_time.as_ref());
        this.set_if("process.owner", facts.owner.as_ref());
        this.set_if("host.name", facts.host_name.as_ref());
        this.set_if("host.arch", facts.host_arch.as_ref());
        this.set_if("container.id", facts.container_id.as_ref());

        let given = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        if let Some(list) = given("OTEL_RESOURCE_ATTRIBUTES") {
            for (key, value) in parse_attributes(&list)? {
                this.set(key, value);
            }
        }
        if let Some(name) = service.map(str::to_owned).or_else(|| given("OTEL_SERVICE_NAME")) {
            this.set("service.name", name);
        }

        // Not the OpenTelemetry SDK: only its data types and exporter are used, and
        // `opentelemetry` is reserved for it (semconv, telemetry.sdk.name).
        this.set("telemetry.sdk.name", "qprof");
        this.set("telemetry.sdk.language", "rust");
        this.set("telemetry.sdk.version", VERSION);
        this.set("telemetry.distro.name", "qprof");
        this.set("telemetry.distro.version", VERSION);
        Ok(this)
    }

    /// The attributes.
    #[must_use]
    pub fn attributes(&self) -> &[KeyValue] {
        &self.attributes
    }

    /// The service's name.
    #[must_use]
    pub fn service_name(&self) -> String {
        let found = self.attributes.iter().find(|pair| pair.key.as_str() == "service.name");
        found.map(|pair| pair.value.as_str().into_owned()).unwrap_or_default()
    }

    /// Sets `key` where it stands, or at the end.
    fn set(&mut self, key: impl Into<opentelemetry::Key>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.attributes.iter_mut().find(|pair| pair.key == key) {
            Some(pair) => pair.value = value,
            None => self.attributes.push(KeyValue::new(key, value)),
        }
    }

    fn set_if(&mut self, key: &'static str, value: Option<&String>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.set(key, value.clone());
        }
    }
}

/// `key=value,key=value` with percent-encoded values (the W3C Baggage form, OpenTelemetry
/// specification, "Specifying resource information via an environment variable").
fn parse_attributes(list: &str) -> Result<Vec<(String, String)>, ResourceError> {
    let items = list.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            let (key, value) =
                item.split_once('=').ok_or_else(|| ResourceError::NotAPair(item.to_owned()))?;
            let key = key.trim();
            if key.is_empty() {
                return Err(ResourceError::NotAPair(item.to_owned()));
            }
            let value = percent_decode(value.trim())
                .ok_or_else(|| ResourceError::Encoding(item.to_owned()))?;
            Ok((key.to_owned(), value))
        })
        .collect()
}

/// Decodes `%41`; nothing if an escape is broken or the result is not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            decoded.push(u8::try_from(digit()? * 16 + digit()?).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ResourceFacts {
        ResourceFacts {
            service_name: "milvus".to_owned(),
            pid: Some(4711),
            executable_name: Some("milvus".to_owned()),
            host_arch: Some("amd64".to_owned()),
            ..ResourceFacts::default()
        }
    }

    fn build(
        service: Option<&str>,
        env: &[(&str, &str)],
    ) -> Result<Vec<(String, String)>, ResourceError> {
        let lookup = |name: &str| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        let resource = Resource::build(&facts(), service, lookup)?;
        let pair = |pair: &KeyValue| (pair.key.to_string(), pair.value.to_string());
        Ok(resource.attributes().iter().map(pair).collect())
    }

    #[test]
    fn facts_alone() {
        let attributes = build(None, &[]).unwrap();
        let expected = [
            ("service.name", "milvus"),
            ("process.executable.name", "milvus"),
            ("process.pid", "4711"),
            ("host.arch", "amd64"),
            ("telemetry.sdk.name", "qprof"),
            ("telemetry.sdk.language", "rust"),
            ("telemetry.sdk.version", VERSION),
            ("telemetry.distro.name", "qprof"),
            ("telemetry.distro.version", VERSION),
        ];
        let expected = expected.map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(attributes, expected);
    }

    #[test]
    fn service_name_flag_over_environment_over_facts() {
        let name = |service, env: &[(&str, &str)]| build(service, env).unwrap()[0].1.clone();
        let list = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=from-list");
        let own = ("OTEL_SERVICE_NAME", "from-own");
        assert_eq!(name(None, &[]), "milvus");
        assert_eq!(name(None, &[list]), "from-list");
        assert_eq!(name(None, &[list, own]), "from-own");
        assert_eq!(name(Some("from-flag"), &[list, own]), "from-flag");
        assert_eq!(name(None, &[("OTEL_SERVICE_NAME", "")]), "milvus");
    }

    #[test]
    fn attributes_of_the_environment() {
        let list = "deployment.environment.name=prod, team=a%2Cb ,,host.arch=arm64,\
                    telemetry.sdk.name=other,empty=";
        let attributes = build(None, &[("OTEL_RESOURCE_ATTRIBUTES", list)]).unwrap();
        let value = |key: &str| {
            attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
        };
        assert_eq!(value("deployment.environment.name"), Some("prod"));
        assert_eq!(value("team"), Some("a,b"));
        assert_eq!(value("host.arch"), Some("arm64"));
        assert_eq!(value("telemetry.sdk.name"), Some("qprof"));
        assert_eq!(value("empty"), Some(""));
    }

    #[test]
    fn unreadable_attributes_of_the_environment() {
        let error = |list| build(None, &[("OTEL_RESOURCE_ATTRIBUTES", list)]).unwrap_err();
        assert_eq!(error("a=b,novalue"), ResourceError::NotAPair("novalue".to_owned()));
        assert_eq!(error("=b"), ResourceError::NotAPair("=b".to_owned()));
        assert_eq!(error("a=%4"), ResourceError::Encoding("a=%4".to_owned()));
        assert_eq!(error("a=%zz"), ResourceError::Encoding("a=%zz".to_owned()));
        assert_eq!(error("a=%ff"), ResourceError::Encoding("a=%ff".to_owned()));
    }
}
