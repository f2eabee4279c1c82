//! From the text of a symbol map to a validated one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use profiler_common::MAX_WORDS;

use super::error::{Diagnostic, MapError, Source};
use super::key::parse_key;
use super::map::{Build, EndDecl, HandoffDecl, KeyExpr, MapOrigin, MatchDecl, SpanDecl, SymbolMap};
use super::nearest::nearest;
use super::raw::{
    At, RawEnd, RawHandoff, RawKey, RawMap, RawMatch, RawOrphans, RawScope, RawSpan, RawTakes,
    RawVersion,
};
use super::versions::{Version, Versions};
use super::words::RawSelector;
use crate::model::{Moment, OrphanPolicy, Scope, Takes};
use crate::target::BuildId;

/// The version of the format this program reads.
pub(super) const VERSION: i64 = 1;

/// Reads and checks the text of a symbol map.
///
/// # Errors
///
/// [`MapError::Invalid`] names the place of the first thing that is wrong and the fix.
pub fn parse_map(text: &str, origin: MapOrigin) -> Result<SymbolMap, MapError> {
    let source = Source::new(text, &origin);
    source.check_version()?;
    let raw: RawMap = toml::from_str(text).map_err(|error| source.toml_error(&error))?;
    source.map(raw, origin)
}

impl Source<'_> {
    /// First of all, so that a map of a later version is not blamed for fields of that version.
    fn check_version(&self) -> Result<(), MapError> {
        let RawVersion { version } =
            toml::from_str(self.text).map_err(|error| self.toml_error(&error))?;
        match version {
            Some(version) if *version.get() == VERSION => Ok(()),
            Some(version) => Err(self.error(
                version.span(),
                format!("symbol maps of version {} are not known here", version.get()),
                format!("this qprof reads `version = {VERSION}`"),
            )),
            None => Err(self.error(
                0..0,
                "the symbol map does not say its version",
                format!("begin it with `version = {VERSION}`"),
            )),
        }
    }

    /// Wrong syntax, types, or field names: found by the TOML reader, put in our words.
    fn toml_error(&self, error: &toml::de::Error) -> MapError {
        let message = error.message();
        let span = error.span().unwrap_or(0..0);
        if let Some(diagnostic) = self.unknown(error) {
            return MapError::Invalid(Box::new(diagnostic));
        }
        let help = if let Some(field) = message.strip_prefix("missing field ") {
            match field {
                "`give`" | "`take`" | "`until`" => format!(
                    "a hand-off has two sides: add {} = {{ function = \"…\", key = \"…\" }}",
                    field.trim_matches('`')
                ),
                _ => format!("add {} = …", field.trim_matches('`')),
            }
        } else if message.starts_with("invalid type: map, expected a sequence") {
            "declarations that may come several times stand in double brackets: `[[span]]`, \
             `[[handoff]]`"
                .to_owned()
        } else {
            String::new()
        };
        // The reader's messages may run over several lines; ours is one.
        self.error(span, message.lines().next().unwrap_or("this is no TOML"), help)
    }

    /// What is wrong if it is a name that is not known here, with the nearest that is.
    pub(super) fn unknown(&self, error: &toml::de::Error) -> Option<Diagnostic> {
        let (kind, given, valid) = unknown(error.message())?;
        let list = valid.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let near = nearest(given, valid, 1)
            .first()
            .map_or_else(String::new, |near| format!("did you mean `{near}`? "));
        Some(self.diagnostic(
            error.span().unwrap_or(0..0),
            format!("unknown {kind} `{given}`"),
            format!("{near}the {kind}s here are {list}"),
        ))
    }

    fn map(&self, raw: RawMap, origin: MapOrigin) -> Result<SymbolMap, MapError> {
        let RawMap { name, description, system, orphans, matching, spans, handoffs, .. } = raw;
        if spans.is_empty() {
            return Err(self.error(
                name.span(),
                "the symbol map declares no spans",
                "add a `[[span]]` for each function that is to be seen, the one that begins a \
                 request with `root = true`",
            ));
        }
        if let RawOrphans::Drop = orphans
            && let Some(first) = spans.first()
            && !spans.iter().any(|span| span.get().root)
        {
            return Err(self.error(
                first.get().name.span(),
                "no span is a root, so that every span would be dropped",
                "add `root = true` to the span that begins a request, or `orphans = \"keep\"` to \
                 the map",
            ));
        }
        let system =
            self.word(&system, "a system", "_.-", "write it in lower case: `milvus`, `my_engine`")?;
        let map = SymbolMap {
            name: self.map_name(&name)?,
            origin,
            description: match description {
                Some(line) => self.line_of_text(&line, "the description")?,
                None => String::new(),
            },
            orphans: match orphans {
                RawOrphans::Drop => OrphanPolicy::Drop,
                RawOrphans::Keep => OrphanPolicy::Keep,
            },
            matching: matching.map(|matching| self.matching(&matching)).transpose()?,
            spans: self.spans(&spans, &Arc::from(system.as_str()))?,
            handoffs: self.handoffs(&handoffs)?,
            system,
        };
        Ok(map)
    }

    fn matching(&self, raw: &RawMatch) -> Result<MatchDecl, MapError> {
        let RawMatch { object, functions, versions, builds } = raw;
        let range = versions.as_ref().map(|versions| self.versions(versions)).transpose()?;
        Ok(MatchDecl {
            versions: versions.as_ref().map(|versions| versions.get().trim().to_owned()),
            builds: builds
                .iter()
                .map(|(id, version)| self.build(id, version, range.as_ref()))
                .collect::<Result<_, _>>()?,
            object: self.glob(object)?,
            functions: functions
                .iter()
                .map(|function| self.function_glob(function))
                .collect::<Result<_, _>>()?,
        })
    }

    fn versions(&self, at: &At<String>) -> Result<Versions, MapError> {
        Versions::parse(at.get()).ok_or_else(|| {
            self.error(
                at.span(),
                format!("`{}` is no range of versions", at.get()),
                "write comparisons with commas between, all of which hold: \">=2.5, <2.6\"",
            )
        })
    }

    fn build(
        &self,
        id: &str,
        version: &At<String>,
        range: Option<&Versions>,
    ) -> Result<Build, MapError> {
        let Some(id) = build_id(id) else {
            return Err(self.error(
                version.span(),
                format!("`{id}` is no build id"),
                "write the hexadecimal digits that `file` or `readelf -n` shows",
            ));
        };
        let Some(parsed) = Version::parse(version.get()) else {
            return Err(self.error(
                version.span(),
                format!("`{}` is no version", version.get()),
                "write numbers with dots between: \"2.5.1\"",
            ));
        };
        if range.is_some_and(|range| !range.hold(&parsed)) {
            return Err(self.error(
                version.span(),
                format!("version {} is outside of `versions`", version.get()),
                "a build that the map was checked with is one it is for: widen `versions`",
            ));
        }
        Ok(Build { id, version: version.get().clone() })
    }

    fn spans(&self, raw: &[At<RawSpan>], system: &Arc<str>) -> Result<Vec<SpanDecl>, MapError> {
        // The planner and recordings number spans with 16 bits.
        if let Some(beyond) = raw.get(usize::from(u16::MAX)) {
            return Err(self.error(
                beyond.span(),
                format!("a symbol map holds at most {} spans", u16::MAX),
                "one `[[span]]` with a glob stands for many functions",
            ));
        }
        let mut lines = HashMap::new();
        let mut spans = Vec::with_capacity(raw.len());
        for at in raw {
            let span = self.span(at, system)?;
            match lines.entry(span.selector.clone()) {
                Entry::Vacant(free) => {
                    free.insert(span.line);
                }
                Entry::Occupied(first) => {
                    return Err(self.error(
                        at.span(),
                        format!("these functions are a span already, on line {}", first.get()),
                        "one function makes one span: remove one of the two",
                    ));
                }
            }
            spans.push(span);
        }
        Ok(spans)
    }

    fn span(&self, at: &At<RawSpan>, system: &Arc<str>) -> Result<SpanDecl, MapError> {
        let RawSpan {
            name,
            function,
            linkage,
            address,
            object,
            root,
            stage,
            required,
            operation,
            only_in_trace,
            fold,
            context,
        } = at.get();
        if let Some(operation) = operation
            && !root
        {
            return Err(self.error(
                operation.span(),
                "`operation` is the name of a whole request, and this span is no root",
                "add `root = true` if it begins a request, otherwise remove `operation`",
            ));
        }
        let of_roots = [("only_in_trace", only_in_trace), ("fold", fold)];
        for (key, value) in of_roots {
            if let Some(value) = value
                && *root
                && *value.get()
            {
                return Err(self.error(
                    value.span(),
                    format!("`{key}` is for calls within a trace, and this span is a root"),
                    format!("remove `{key}`, or `root = true` if it begins no request"),
                ));
            }
        }
        let is = |value: &Option<At<bool>>| value.as_ref().is_some_and(|value| *value.get());
        Ok(SpanDecl {
            name: self.line_of_text(name, "the name of a span")?.into(),
            selector: self.selector(&RawSelector {
                function: function.as_ref(),
                linkage: linkage.as_ref(),
                address: address.as_ref(),
                object: object.as_ref(),
                whole: at.span(),
            })?,
            root: *root,
            stage: stage.as_ref().map(|stage| self.stage(stage)).transpose()?,
            system: Arc::clone(system),
            operation: operation
                .as_ref()
                .map(|operation| self.line_of_text(operation, "an operation").map(Arc::from))
                .transpose()?,
            required: *required,
            only_in_trace: is(only_in_trace),
            fold: is(fold),
            context: context.as_ref().map(|context| self.context(context)).transpose()?,
            line: self.line(at.span().start),
        })
    }

    fn context(&self, text: &At<String>) -> Result<KeyExpr, MapError> {
        let word = parse_key(text.get()).map_err(|error| {
            self.error(self.inside(&text.span(), text.get(), &error.at), error.problem, error.help)
        })?;
        match word {
            KeyExpr::Arg(_) | KeyExpr::ArgWord(..) => Ok(word),
            KeyExpr::Ret | KeyExpr::RetWord(_) => Err(self.error(
                text.span(),
                "a call has its context when it begins, and nothing is returned yet",
                "write `arg(N)` or `*(arg(N)+OFFSET)`",
            )),
        }
    }

    fn handoffs(&self, raw: &[At<RawHandoff>]) -> Result<Vec<HandoffDecl>, MapError> {
        let mut lines = HashMap::new();
        let mut handoffs = Vec::with_capacity(raw.len());
        for at in raw {
            let handoff = self.handoff(at)?;
            match lines.entry(handoff.name.clone()) {
                Entry::Vacant(free) => {
                    free.insert(handoff.line);
                }
                Entry::Occupied(first) => {
                    return Err(self.error(
                        at.get().name.span(),
                        format!(
                            "a hand-off `{}` is declared already, on line {}",
                            handoff.name,
                            first.get()
                        ),
                        "rename one: a span's parent evidence reads `handoff:NAME`",
                    ));
                }
            }
            handoffs.push(handoff);
        }
        Ok(handoffs)
    }

    fn handoff(&self, at: &At<RawHandoff>) -> Result<HandoffDecl, MapError> {
        let RawHandoff { name, give, take, until, takes, scope, span } = at.get();
        let decl = HandoffDecl {
            name: self.line_of_text(name, "the name of a hand-off")?.into(),
            give: self.end(give)?,
            take: self.end(take)?,
            until: until.as_ref().map(|until| self.end(until)).transpose()?,
            takes: takes.as_ref().map_or(Ok(Takes::Times(1)), |takes| self.takes(takes))?,
            scope: match scope {
                RawScope::Process => Scope::Process,
                RawScope::Target => Scope::Target,
            },
            span: span
                .as_ref()
                .map(|span| self.line_of_text(span, "the name of a span").map(Arc::from))
                .transpose()?,
            line: self.line(at.span().start),
        };
        let sides = [("the taker's", take, &decl.take)].into_iter().chain(
            until.as_ref().zip(decl.until.as_ref()).map(|(at, end)| ("that of `until`", at, end)),
        );
        for (whose, at, end) in sides {
            if decl.give.key.len() != end.key.len() {
                return Err(self.error(
                    at.get().key.span(),
                    format!(
                        "the giver's key has {}, {whose} {}",
                        words(decl.give.key.len()),
                        words(end.key.len())
                    ),
                    "all sides must show the same words in the same order",
                ));
            }
        }
        if decl.take.moment == Moment::Exit {
            return Err(self.error(
                take.get().key.span(),
                "a call cannot take by what it returns: it has ended by then",
                "take in the function that is handed the work, by the argument (`arg(N)`) it comes in",
            ));
        }
        Ok(decl)
    }

    fn takes(&self, takes: &At<RawTakes>) -> Result<Takes, MapError> {
        match takes.get() {
            RawTakes::Word(any) if any == "any" => return Ok(Takes::Any),
            RawTakes::Times(times @ 1..) => {
                if let Ok(times) = u32::try_from(*times) {
                    return Ok(Takes::Times(times));
                }
            }
            RawTakes::Word(_) | RawTakes::Times(_) => {}
        }
        Err(self.error(
            takes.span(),
            "`takes` says how often one given key may be taken",
            format!("write a number from 1 to {}, or \"any\"", u32::MAX),
        ))
    }

    fn end(&self, at: &At<RawEnd>) -> Result<EndDecl, MapError> {
        let RawEnd { function, linkage, address, object, key } = at.get();
        let selector = self.selector(&RawSelector {
            function: function.as_ref(),
            linkage: linkage.as_ref(),
            address: address.as_ref(),
            object: object.as_ref(),
            whole: at.span(),
        })?;
        let (key, moment) = self.key(key)?;
        Ok(EndDecl { selector, key, moment })
    }

    fn key(&self, at: &At<RawKey>) -> Result<(Vec<KeyExpr>, Moment), MapError> {
        let typed: Vec<(&str, Range<usize>)> = match at.get() {
            RawKey::One(one) => vec![(one, at.span())],
            RawKey::Many(many) => many.iter().map(|one| (one.get().as_str(), one.span())).collect(),
        };
        if typed.is_empty() || typed.len() > MAX_WORDS {
            return Err(self.error(
                at.span(),
                format!("this key has {}", words(typed.len())),
                format!("a key has 1 to {MAX_WORDS}"),
            ));
        }
        let mut key = Vec::with_capacity(typed.len());
        let mut moment = None;
        for (text, span) in typed {
            let word = parse_key(text).map_err(|error| {
                self.error(self.inside(&span, text, &error.at), error.problem, error.help)
            })?;
            let when = match word {
                KeyExpr::Arg(_) | KeyExpr::ArgWord(..) => Moment::Enter,
                KeyExpr::Ret | KeyExpr::RetWord(_) => Moment::Exit,
            };
            if *moment.get_or_insert(when) != when {
                return Err(self.error(
                    span,
                    "this key mixes arguments with the return value",
                    "when a call returns its argument registers hold something else: a key is made \
                     of `arg` only (seen at the call) or of `ret` only (seen at the return)",
                ));
            }
            key.push(word);
        }
        Ok((key, moment.unwrap_or(Moment::Enter)))
    }
}

/// Takes "unknown field `x`, expected one of `a`, `b`" apart: kind, what was given, what is valid.
/// This is `serde`'s wording; should it change, the message is shown as it is.
pub(super) fn unknown(message: &str) -> Option<(&'static str, &str, Vec<&str>)> {
    let (kind, rest) = [("field", "unknown field `"), ("value", "unknown variant `")]
        .into_iter()
        .find_map(|(kind, prefix)| Some((kind, message.strip_prefix(prefix)?)))?;
    let (given, expected) = rest.split_once("`, expected ")?;
    let valid = expected.split('`').skip(1).step_by(2).collect();
    Some((kind, given, valid))
}

/// Reads hexadecimal digits, two a byte, of 8 to 64 bytes.
fn build_id(digits: &str) -> Option<BuildId> {
    let pairs = digits.as_bytes().chunks(2);
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| {
            let pair = str::from_utf8(pair).ok().filter(|pair| pair.len() == 2)?;
            u8::from_str_radix(pair, 16).ok().filter(|_| !pair.starts_with('+'))
        })
        .collect();
    bytes.filter(|bytes| (8..=64).contains(&bytes.len())).map(BuildId)
}

fn words(count: usize) -> String {
    if count == 1 { "1 word".to_owned() } else { format!("{count} words") }
}
