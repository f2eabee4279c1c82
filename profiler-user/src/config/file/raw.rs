//! A configuration file as typed: the shape of the TOML, before any rule is checked.
//!
//! The doc comments of the fields are the descriptions in the JSON Schema.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, IntoDeserializer as _, MapAccess, SeqAccess, Visitor};

use super::super::raw::At;

/// The configuration of `qprof run`. What a flag or the environment says comes before what is said
/// here; relative paths begin at the folder of this file.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "qprof configuration")]
pub(super) struct RawSettings {
    /// Symbol maps, one or a list: names (`qprof maps`) or paths. Default: the one that fits the
    /// process.
    pub(super) maps: Option<At<OneOrMany<String>>>,
    /// Folders with symbol maps of your own, one or a list; searched before the usual ones.
    pub(super) maps_dir: Option<At<OneOrMany<String>>>,
    /// `service.name` of the traces. Default: the map's system.
    pub(super) service: Option<At<String>>,
    /// Size of the kernel's ring buffer: a power of two, at least 4KiB. Default 8MiB.
    pub(super) ring: Option<At<String>>,
    /// How many functions one pattern of a map may match. Default 256.
    #[schemars(range(min = 1))]
    pub(super) max_functions: Option<At<i64>>,
    /// How long a trace may wait for its last span. Default 10s.
    pub(super) grace: Option<At<String>>,
    /// Stop after this long. Default: at Ctrl-C, or when the target ends.
    pub(super) duration: Option<At<String>>,
    /// What the probes may cost, as a share of the CPU time the target may use: "2%", or "off".
    /// Default 2%.
    pub(super) budget: Option<At<String>>,
    /// Which processes.
    #[serde(default)]
    pub(super) target: RawTarget,
    /// Export over OTLP. The table alone, even empty, asks for it.
    pub(super) otlp: Option<RawOtlp>,
    /// What else comes out, and of which traces.
    #[serde(default)]
    pub(super) output: RawOutput,
}

/// Which processes are profiled. `pid` or `exe`, not both.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    /// The process id, or a list of them.
    pub(super) pid: Option<At<OneOrMany<i64>>>,
    /// Glob on the path of the executable: `*/milvus`.
    pub(super) exe: Option<At<String>>,
    /// Whether processes that the target forks are profiled too. Default false.
    pub(super) children: Option<bool>,
    /// Whether to attach again when the target has been restarted. Default false.
    pub(super) follow: Option<At<bool>>,
}

/// Where traces go, and how.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOtlp {
    /// The endpoint: `http://127.0.0.1:4317` (gRPC) or `http://127.0.0.1:4318` (HTTP). Default: that
    /// of the protocol on localhost.
    pub(super) endpoint: Option<At<String>>,
    /// How OTLP is carried. Default: by the port, else grpc.
    pub(super) protocol: Option<RawProtocol>,
    /// Headers (gRPC: metadata) of every request, as name = "value".
    pub(super) headers: Option<RawHeaders>,
    /// How requests are compressed. Default none.
    pub(super) compression: Option<RawCompression>,
    /// Spans in a request, at most. Default 512.
    #[schemars(range(min = 1))]
    pub(super) batch_size: Option<At<i64>>,
    /// How long a span waits for company. Default 5s.
    pub(super) batch_delay: Option<At<String>>,
    /// Spans waiting to be sent, at most; a trace that does not fit is dropped, and counted. Default
    /// 16384.
    #[schemars(range(min = 1))]
    pub(super) queue_size: Option<At<i64>>,
    /// How long one batch may take, retries included. Default 30s.
    pub(super) timeout: Option<At<String>>,
    /// How long one request may take. Default 10s.
    pub(super) request_timeout: Option<At<String>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) enum RawProtocol {
    /// gRPC, usually on port 4317.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP, usually on port 4318.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawCompression {
    /// By gzip.
    Gzip,
    /// Not at all.
    None,
}

/// What comes out besides OTLP, and of which traces.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutput {
    /// What is printed on stdout. Default summary.
    pub(super) print: Option<RawPrint>,
    /// Write traces to this file as OTLP JSON, a line a batch.
    pub(super) file: Option<At<String>>,
    /// Write the final summary to this file as JSON.
    pub(super) summary_json: Option<At<String>>,
    /// Keep the raw events in this file, for `qprof replay`.
    pub(super) record: Option<At<String>>,
    /// Keep only traces whose root takes at least this long. The summary still counts all.
    pub(super) slow: Option<At<String>>,
    /// Fold spans shorter than this into a count, except on the critical path.
    pub(super) min_span: Option<At<String>>,
    /// Keep this share of the traces, from 0 to 1. The summary still counts all.
    #[schemars(range(min = 0, max = 1))]
    pub(super) sample: Option<At<f64>>,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawPrint {
    /// A summary at the end.
    Summary,
    /// Every kept trace as a tree, and the summary at the end.
    Tree,
    /// Every kept trace as OTLP JSON, a line a batch; no summary.
    Json,
    /// Nothing.
    None,
}

/// One value or a list of them.
#[derive(Debug)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<At<T>>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrManyVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("one value or a list of them")
            }

            fn visit_i64<E: de::Error>(self, one: i64) -> Result<OneOrMany<T>, E> {
                T::deserialize(one.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<OneOrMany<T>, E> {
                T::deserialize(one.into_deserializer()).map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = seq.next_element()? {
                    many.push(one);
                }
                Ok(OneOrMany::Many(many))
            }
        }

        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = T::json_schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": one, "minItems": 1 }] })
    }
}

/// Headers by name. Their values are secrets: no message of the reader may repeat one.
#[derive(Debug)]
pub(super) struct RawHeaders(pub(super) BTreeMap<String, At<String>>);

impl<'de> Deserialize<'de> for RawHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HeadersVisitor;

        impl<'de> Visitor<'de> for HeadersVisitor {
            type Value = RawHeaders;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of headers: { name = \"value\" }")
            }

            fn visit_str<E: de::Error>(self, _: &str) -> Result<RawHeaders, E> {
                Err(E::custom("a text, expected a table of headers: { name = \"value\" }"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeaders, A::Error> {
                let mut headers = BTreeMap::new();
                while let Some((name, value)) = map.next_entry()? {
                    headers.insert(name, value);
                }
                Ok(RawHeaders(headers))
            }
        }

        deserializer.deserialize_any(HeadersVisitor)
    }
}

impl JsonSchema for RawHeaders {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawHeaders".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}
