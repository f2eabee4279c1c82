//! A symbol map as typed: the shape of the TOML, before any rule is checked.
//!
//! The doc comments of the fields are the descriptions in the JSON Schema.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use toml::Spanned;

/// A value and where it stands in the text.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    pub(super) fn get(&self) -> &T {
        self.0.get_ref()
    }

    pub(super) fn span(&self) -> Range<usize> {
        self.0.span()
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// Read before everything else: a newer map may have fields this version does not know.
#[derive(Debug, Deserialize)]
pub(super) struct RawVersion {
    pub(super) version: Option<At<i64>>,
}

/// A qprof symbol map: which functions of a program become spans, and how work is handed over.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "qprof symbol map")]
pub(super) struct RawMap {
    /// Version of this format: 1.
    #[schemars(schema_with = "version_schema")]
    #[expect(dead_code, reason = "checked by itself, before the rest is read")]
    version: i64,
    /// Name of the map, as `-m` takes it: letters, digits, `.`, `_` and `-`.
    pub(super) name: At<String>,
    /// One line that says what the map is for.
    pub(super) description: Option<At<String>>,
    /// The system that is profiled, in lower case; becomes `db.system.name`.
    pub(super) system: At<String>,
    /// What becomes of a call that is no root and for which no parent is proven.
    #[serde(default)]
    pub(super) orphans: RawOrphans,
    /// How a running program is recognised.
    #[serde(rename = "match")]
    pub(super) matching: Option<RawMatch>,
    /// Functions that become spans. Where two match one function, the earlier holds.
    #[serde(default, rename = "span")]
    pub(super) spans: Vec<At<RawSpan>>,
    /// Where work passes from one thread to another.
    #[serde(default, rename = "handoff")]
    pub(super) handoffs: Vec<At<RawHandoff>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawOrphans {
    /// It is dropped, and counted.
    #[default]
    Drop,
    /// It becomes a trace of its own.
    Keep,
}

/// How a running program is recognised; all conditions must hold.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMatch {
    /// Glob on the path of the executable or of any mapped object.
    pub(super) object: At<String>,
    /// Functions that object must have, written as `function` of a span.
    #[serde(default)]
    pub(super) functions: Vec<At<String>>,
    /// Which versions of the program the map is for: comparisons with commas between, all of which
    /// hold: ">=2.5, <2.6". Shown by `qprof maps`; a program of another version is not refused.
    #[schemars(regex(
        pattern = r"^\s*(>=|<=|>|<|=)\s*[0-9]+(\.[0-9]+)*(\s*,\s*(>=|<=|>|<|=)\s*[0-9]+(\.[0-9]+)*)*\s*$"
    ))]
    pub(super) versions: Option<At<String>>,
    /// Builds the map was checked with: the build id of the object (`file` shows it) and its version.
    #[serde(default)]
    pub(super) builds: BTreeMap<String, At<String>>,
}

/// A function, or several, whose calls become spans. Exactly one of `function`, `linkage` and
/// `address` says which.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSpan {
    /// Name of the span. Several declarations may share one.
    pub(super) name: At<String>,
    /// Glob on the demangled name, with or without the parameter list.
    pub(super) function: Option<At<String>>,
    /// The exact name in the symbol table (`_ZN…`, `_R…`).
    pub(super) linkage: Option<At<String>>,
    /// Address as the ELF file names it, before any load bias.
    #[schemars(range(min = 0))]
    pub(super) address: Option<At<i64>>,
    /// Glob on the file name of the object that holds the function. Default: the executable, then
    /// every other mapped object.
    pub(super) object: Option<At<String>>,
    /// Whether the call starts a trace when it has no parent.
    #[serde(default)]
    pub(super) root: bool,
    /// What kind of work it is: parse, plan, queue, search, segment, index, merge, io, or a word of
    /// your own.
    #[schemars(regex(pattern = r"^[a-z][a-z0-9_]*$"))]
    pub(super) stage: Option<At<String>>,
    /// Whether the run refuses to start when the function is not found.
    #[serde(default)]
    pub(super) required: bool,
    /// `db.operation.name` of the trace; only where `root = true`.
    pub(super) operation: Option<At<String>>,
    /// Whether calls are recorded only while their thread is in a trace: a root, or a call that takes
    /// work that was handed over, is open below them. Others cost little.
    pub(super) only_in_trace: Option<At<bool>>,
    /// Whether calls are added up instead of being recorded one by one: those of a function within the
    /// same call become one span with their number, and the sum, minimum and maximum of their times.
    pub(super) fold: Option<At<bool>>,
    /// Of Go functions: where their context.Context is: `arg(N)` is its first word, `*(arg(N)+OFF)` a place
    /// in what that points at. Default: as the program's types tell.
    pub(super) context: Option<At<String>>,
}

/// Work that changes hands: a call that gives and a call that takes show the same key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHandoff {
    /// Name of the hand-off, unique in the map; a span's parent evidence reads `handoff:NAME`.
    pub(super) name: At<String>,
    /// The call that gives: the span open there becomes the parent.
    pub(super) give: At<RawEnd>,
    /// The call that takes: it becomes the child.
    pub(super) take: At<RawEnd>,
    /// The call that ends a key. With it a key outlives its giver: the trace waits for it.
    pub(super) until: Option<At<RawEnd>>,
    /// How often one given key may be taken: a number from 1, or "any". Default 1.
    pub(super) takes: Option<At<RawTakes>>,
    /// Where the key is unique.
    #[serde(default)]
    pub(super) scope: RawScope,
    /// If set, the time between give and take becomes a span of this name and stage `queue`.
    pub(super) span: Option<At<String>>,
}

/// One side of a hand-off. Exactly one of `function`, `linkage` and `address` says which calls.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEnd {
    /// Glob on the demangled name, with or without the parameter list.
    pub(super) function: Option<At<String>>,
    /// The exact name in the symbol table.
    pub(super) linkage: Option<At<String>>,
    /// Address as the ELF file names it, before any load bias.
    #[schemars(range(min = 0))]
    pub(super) address: Option<At<i64>>,
    /// Glob on the file name of the object that holds the function.
    pub(super) object: Option<At<String>>,
    /// What both sides see: `arg(N)`, `ret`, `*(arg(N)+OFF)`, `*(ret+OFF)`, or a list of these.
    pub(super) key: At<RawKey>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub(super) enum RawScope {
    /// Within one process.
    #[default]
    Process,
    /// In all processes of the target.
    Target,
}

/// `takes`: a number or a word.
#[derive(Clone, Debug)]
pub(super) enum RawTakes {
    Times(i64),
    Word(String),
}

impl<'de> Deserialize<'de> for RawTakes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TakesVisitor;

        impl Visitor<'_> for TakesVisitor {
            type Value = RawTakes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 1, or \"any\"")
            }

            fn visit_i64<E: de::Error>(self, times: i64) -> Result<RawTakes, E> {
                Ok(RawTakes::Times(times))
            }

            fn visit_str<E: de::Error>(self, word: &str) -> Result<RawTakes, E> {
                Ok(RawTakes::Word(word.to_owned()))
            }
        }

        deserializer.deserialize_any(TakesVisitor)
    }
}

impl JsonSchema for RawTakes {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawTakes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "integer", "minimum": 1, "maximum": u32::MAX },
                { "const": "any" },
            ]
        })
    }
}

/// `key`: one expression or a list of them.
#[derive(Clone, Debug)]
pub(super) enum RawKey {
    One(String),
    Many(Vec<At<String>>),
}

impl<'de> Deserialize<'de> for RawKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;

        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = RawKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key expression such as \"arg(1)\", or a list of them")
            }

            fn visit_str<E: de::Error>(self, one: &str) -> Result<RawKey, E> {
                Ok(RawKey::One(one.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<RawKey, A::Error> {
                let mut many = Vec::new();
                while let Some(one) = seq.next_element()? {
                    many.push(one);
                }
                Ok(RawKey::Many(many))
            }
        }

        deserializer.deserialize_any(KeyVisitor)
    }
}

impl JsonSchema for RawKey {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "RawKey".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let word = json_schema!({
            "type": "string",
            "pattern": r"^\s*(arg\s*\(\s*[1-6]\s*\)|ret|\*\s*\(\s*(arg\s*\(\s*[1-6]\s*\)|ret)\s*([+-]\s*(0[xX][0-9a-fA-F]+|[0-9]+)\s*)?\))\s*$"
        });
        json_schema!({
            "anyOf": [
                word,
                { "type": "array", "items": word, "minItems": 1, "maxItems": profiler_common::MAX_WORDS },
            ]
        })
    }
}

fn version_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "const": super::parse::VERSION })
}
