//! Traces as a reader sees them, from Jaeger's API or from OTLP JSON lines.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

/// Jaeger keeps microseconds: both ends of a span may have lost up to one.
const SLACK_NS: u64 = 2_000;

/// A span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Trace id, as hex.
    pub trace: String,
    /// Span id, as hex.
    pub id: String,
    /// Its parent's id.
    pub parent: Option<String>,
    /// Its name.
    pub name: String,
    /// `server`, `internal`, …
    pub kind: String,
    /// Nanoseconds of Unix time.
    pub start: u64,
    /// Nanoseconds of Unix time.
    pub end: u64,
    /// Its attributes, as text.
    pub tags: BTreeMap<String, String>,
    /// `service.name` of its resource.
    pub service: String,
    /// `process.pid` of its resource; none from Jaeger.
    pub process: Option<u32>,
}

impl Span {
    /// An attribute.
    ///
    /// # Errors
    /// When the span does not carry it.
    pub fn tag(&self, key: &str) -> Result<&str> {
        self.tags
            .get(key)
            .map(String::as_str)
            .ok_or_else(|| anyhow!("span {} has no attribute {key}: {:?}", self.name, self.tags))
    }

    /// The thread it began on.
    ///
    /// # Errors
    /// When the span does not say.
    pub fn thread(&self) -> Result<u32> {
        Ok(self.tag("thread.id")?.parse()?)
    }

    /// The goroutine it is of.
    ///
    /// # Errors
    /// When the span does not say.
    pub fn goroutine(&self) -> Result<u64> {
        Ok(self.tag("go.goroutine.id")?.parse()?)
    }

    /// Why it has its parent.
    ///
    /// # Errors
    /// When the span does not say.
    pub fn evidence(&self) -> Result<&str> {
        self.tag("qprof.parent.evidence")
    }

    /// How its end is known.
    ///
    /// # Errors
    /// When the span does not say.
    pub fn exit(&self) -> Result<&str> {
        self.tag("qprof.exit")
    }

    /// The same, with one word, `returned`, wherever its return was seen.
    ///
    /// # Errors
    /// When the span does not say.
    pub fn ended(&self) -> Result<&str> {
        Ok(if self.returned()? { "returned" } else { self.exit()? })
    }

    /// Whether its return was seen, however: at the `ret` or where the call came back to.
    ///
    /// # Errors
    /// As [`Span::exit`].
    pub fn returned(&self) -> Result<bool> {
        Ok(["ret", "landing"].contains(&self.exit()?))
    }
}

/// All spans of one trace id, by start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its id, as hex.
    pub id: String,
    /// Its spans, by start; of two that start together the longer one first.
    pub spans: Vec<Span>,
}

impl Trace {
    /// The one span without a parent.
    ///
    /// # Errors
    /// When there is none, or more than one.
    pub fn root(&self) -> Result<&Span> {
        let mut tops = self.spans.iter().filter(|span| span.parent.is_none());
        let root = tops.next().ok_or_else(|| anyhow!("trace {} has no root", self.id))?;
        ensure!(tops.next().is_none(), "trace {} has two roots: {}", self.id, self.outline());
        Ok(root)
    }

    /// The spans of that name, by start.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |span| span.name == name)
    }

    /// How many spans have that name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.named(name).count()
    }

    /// The spans under `span`, by start.
    pub fn children<'a>(&'a self, span: &'a Span) -> impl Iterator<Item = &'a Span> {
        self.spans.iter().filter(move |child| child.parent.as_deref() == Some(&span.id))
    }

    /// The span above `span`.
    ///
    /// # Errors
    /// When it names a parent that is not in the trace.
    pub fn parent(&self, span: &Span) -> Result<Option<&Span>> {
        let Some(id) = &span.parent else { return Ok(None) };
        self.spans
            .iter()
            .find(|other| other.id == *id)
            .map(Some)
            .ok_or_else(|| anyhow!("the parent of {} is not in trace {}", span.name, self.id))
    }

    /// The tree as names: `root(child,child(grandchild))`, siblings by start.
    #[must_use]
    pub fn outline(&self) -> String {
        let tops = self.spans.iter().filter(|span| span.parent.is_none());
        tops.map(|span| self.outline_of(span)).collect::<Vec<_>>().join(" ")
    }

    fn outline_of(&self, span: &Span) -> String {
        let below: Vec<String> = self.children(span).map(|child| self.outline_of(child)).collect();
        if below.is_empty() {
            span.name.clone()
        } else {
            format!("{}({})", span.name, below.join(","))
        }
    }

    /// What holds of every whole trace whose root waits for all that is done for it: that of
    /// [`Trace::check_parents`], and that nothing reaches out of the root's time.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check(&self) -> Result<()> {
        let root = self.root()?;
        for span in &self.spans {
            ensure!(
                span.end <= root.end + SLACK_NS,
                "{} reaches out of its root {}",
                span.name,
                root.name
            );
        }
        self.check_parents()
    }

    /// What holds of every whole trace: one root, of kind `server`, without a parent and without
    /// evidence for one; everything else `internal`, under a parent in the trace, with evidence,
    /// within its parent's time where the stack proves it and never before the root.
    ///
    /// # Errors
    /// What does not hold.
    pub fn check_parents(&self) -> Result<()> {
        let root = self.root()?;
        ensure!(root.kind == "server", "root {} is of kind {}", root.name, root.kind);
        for span in &self.spans {
            ensure!(span.start <= span.end, "{} ends before it starts", span.name);
            ensure!(
                span.start + SLACK_NS >= root.start,
                "{} begins before its root {}",
                span.name,
                root.name
            );
            let Some(parent) = self.parent(span)? else { continue };
            ensure!(span.kind == "internal", "{} is of kind {}", span.name, span.kind);
            let evidence = span.evidence()?;
            ensure!(evidence != "none", "{} hangs under {} for no reason", span.name, parent.name);
            if evidence == "stack" {
                ensure!(
                    span.start + SLACK_NS >= parent.start && span.end <= parent.end + SLACK_NS,
                    "{} reaches out of its caller {}",
                    span.name,
                    parent.name
                );
            }
        }
        Ok(())
    }
}

/// The traces in Jaeger's answer to `/api/traces` or `/api/transform`.
///
/// # Errors
/// When it is not of that form.
pub fn from_jaeger(answer: &str) -> Result<Vec<Trace>> {
    let answer: Value = serde_json::from_str(answer)?;
    if let Some(errors) = answer["errors"].as_array().filter(|errors| !errors.is_empty()) {
        bail!("Jaeger answers with errors: {errors:?}");
    }
    let mut spans = Vec::new();
    for trace in answer["data"].as_array().into_iter().flatten() {
        for span in trace["spans"].as_array().into_iter().flatten() {
            let process = text(&span["processID"])?;
            spans.push(
                jaeger_span(span, text(&trace["processes"][process]["serviceName"])?)
                    .with_context(|| format!("in span {span}"))?,
            );
        }
    }
    Ok(traces(spans))
}

fn jaeger_span(span: &Value, service: &str) -> Result<Span> {
    let mut tags = BTreeMap::new();
    for tag in span["tags"].as_array().into_iter().flatten() {
        tags.insert(text(&tag["key"])?.to_owned(), plain(&tag["value"]));
    }
    let parent = span["references"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|reference| reference["refType"] == "CHILD_OF")
        .map(|reference| text(&reference["spanID"]).map(str::to_owned))
        .transpose()?;
    let start = number(&span["startTime"])? * 1_000;
    Ok(Span {
        trace: text(&span["traceID"])?.to_owned(),
        id: text(&span["spanID"])?.to_owned(),
        parent,
        name: text(&span["operationName"])?.to_owned(),
        kind: tags.get("span.kind").cloned().unwrap_or_default(),
        start,
        end: start + number(&span["duration"])? * 1_000,
        tags,
        service: service.to_owned(),
        process: None,
    })
}

/// The traces in OTLP JSON, one `ExportTraceServiceRequest` a line.
///
/// # Errors
/// When a line is not of that form.
pub fn from_otlp(lines: &str) -> Result<Vec<Trace>> {
    let mut spans = Vec::new();
    for line in lines.lines().filter(|line| !line.is_empty()) {
        let request: Value =
            serde_json::from_str(line).with_context(|| format!("not JSON: {line}"))?;
        let resources = request["resourceSpans"]
            .as_array()
            .ok_or_else(|| anyhow!("a line without resourceSpans: {line}"))?;
        for resource in resources {
            let about = attributes(&resource["resource"]["attributes"])?;
            let service = about.get("service.name").map_or("", String::as_str);
            let process = about.get("process.pid").and_then(|pid| pid.parse().ok());
            for scope in resource["scopeSpans"].as_array().into_iter().flatten() {
                for span in scope["spans"].as_array().into_iter().flatten() {
                    let span =
                        otlp_span(span, service, process).with_context(|| format!("in {span}"))?;
                    spans.push(span);
                }
            }
        }
    }
    Ok(traces(spans))
}

fn otlp_span(span: &Value, service: &str, process: Option<u32>) -> Result<Span> {
    let parent = span["parentSpanId"].as_str().filter(|id| !id.is_empty());
    let kind = match span["kind"].as_u64() {
        Some(1) => "internal",
        Some(2) => "server",
        _ => "other",
    };
    let (trace, id) = (text(&span["traceId"])?, text(&span["spanId"])?);
    ensure!(trace.len() == 32 && id.len() == 16, "ids are not hex of 16 and 8 bytes");
    Ok(Span {
        trace: trace.to_owned(),
        id: id.to_owned(),
        parent: parent.map(str::to_owned),
        name: text(&span["name"])?.to_owned(),
        kind: kind.to_owned(),
        start: number(&span["startTimeUnixNano"])?,
        end: number(&span["endTimeUnixNano"])?,
        tags: attributes(&span["attributes"])?,
        service: service.to_owned(),
        process,
    })
}

fn attributes(list: &Value) -> Result<BTreeMap<String, String>> {
    let mut tags = BTreeMap::new();
    for pair in list.as_array().into_iter().flatten() {
        // One field, named after its type: {"intValue": "12"}.
        let value = pair["value"].as_object().and_then(|value| value.values().next());
        tags.insert(text(&pair["key"])?.to_owned(), value.map(plain).unwrap_or_default());
    }
    Ok(tags)
}

/// Spans of any order as traces, by start of their first span.
fn traces(spans: Vec<Span>) -> Vec<Trace> {
    let mut by_id: BTreeMap<String, Vec<Span>> = BTreeMap::new();
    for span in spans {
        by_id.entry(span.trace.clone()).or_default().push(span);
    }
    let mut traces: Vec<Trace> = by_id
        .into_iter()
        .map(|(id, mut spans)| {
            spans.sort_by_key(|span| (span.start, u64::MAX - span.end));
            Trace { id, spans }
        })
        .collect();
    traces.sort_by_key(|trace| trace.spans.first().map_or(0, |span| span.start));
    traces
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().ok_or_else(|| anyhow!("expected text, found {value}"))
}

/// A number; OTLP JSON writes those of 64 bits as text.
fn number(value: &Value) -> Result<u64> {
    match value {
        Value::String(text) => Ok(text.parse()?),
        other => other.as_u64().ok_or_else(|| anyhow!("expected a number, found {other}")),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"db"}}]},"scopeSpans":[{"spans":[
        {"traceId":"00112233445566778899aabbccddeeff","spanId":"0000000000000002","parentSpanId":"0000000000000001","name":"inner","kind":1,"startTimeUnixNano":"20","endTimeUnixNano":"30","attributes":[{"key":"qprof.parent.evidence","value":{"stringValue":"stack"}}]},
        {"traceId":"00112233445566778899aabbccddeeff","spanId":"0000000000000001","name":"root","kind":2,"startTimeUnixNano":"10","endTimeUnixNano":"40","attributes":[{"key":"thread.id","value":{"intValue":"7"}}]}]}]}]}"#;

    #[test]
    fn a_line_of_otlp_is_a_tree() {
        let traces = from_otlp(&LINE.replace('\n', "")).expect("OTLP JSON");
        assert_eq!(traces.len(), 1);
        let trace = &traces[0];
        trace.check().expect("whole");
        assert_eq!(trace.outline(), "root(inner)");
        assert_eq!(trace.root().expect("root").thread().expect("thread"), 7);
        assert_eq!(trace.spans[0].service, "db");
    }

    #[test]
    fn a_parent_without_a_reason_is_no_whole_trace() {
        let line = LINE.replace('\n', "").replace(r#""stack""#, r#""none""#);
        let traces = from_otlp(&line).expect("OTLP JSON");
        assert!(traces[0].check().is_err());
    }
}
