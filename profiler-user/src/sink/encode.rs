//! Traces as OpenTelemetry spans: the one conversion. `docs/architecture.md` lists the attributes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Link, SpanContext, SpanId as OtelSpanId, SpanKind, Status, TraceFlags, TraceId as OtelTraceId,
    TraceState,
};
use opentelemetry::{Array, InstrumentationScope, KeyValue, Value};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1 as proto;
use opentelemetry_proto::tonic::resource::v1::Resource as ProtoResource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::resource::Resource;
use super::{SCHEMA_URL, VERSION};
use crate::model::{
    ClockOffset, Lane, MonoNs, Pid, Rules, Span, SpanId, SpanRule, ThreadNames, Trace, TraceEnd,
    TraceId,
};

/// A span on its way out.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The process it ran in.
    pub resource: Arc<Resource>,
    /// The span.
    pub span: SpanData,
}

/// What the conversion must know besides the trace.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Which probe is which function and span.
    pub rules: &'a Rules,
    /// From the kernel's clock to wall time.
    pub clock: ClockOffset,
    /// The names of the target's threads.
    pub threads: &'a ThreadNames,
}

/// The spans of a trace, in its order, with the process each ran in.
pub fn encode<'a>(
    trace: &'a Trace,
    context: &'a Context<'_>,
) -> impl Iterator<Item = (Pid, SpanData)> + 'a {
    let scope = InstrumentationScope::builder("qprof")
        .with_version(VERSION)
        .with_schema_url(SCHEMA_URL)
        .build();
    let encode = move |span: &Span| SpanData {
        span_context: span_context(trace.id, span.id),
        parent_span_id: span.parent.map_or(OtelSpanId::INVALID, span_id),
        parent_span_is_remote: false,
        // Jaeger's Monitor tab counts SERVER spans only: one a query.
        span_kind: if is_top(span) && span.root { SpanKind::Server } else { SpanKind::Internal },
        name: span.name.to_string().into(),
        start_time: wall(context.clock, span.start),
        end_time: wall(context.clock, span.end),
        attributes: attributes(trace, span, context),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: links(span),
        status: Status::Unset,
        instrumentation_scope: scope.clone(),
    };
    trace.spans.iter().map(move |span| (span.lane.pid(), encode(span)))
}

/// The OTLP request for some spans, resource attributes in their order; for files.
#[must_use]
pub fn request(spans: Vec<Outgoing>) -> ExportTraceServiceRequest {
    let mut groups: Vec<(Arc<Resource>, Vec<SpanData>)> = Vec::new();
    for Outgoing { resource, span } in spans {
        match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &resource)) {
            Some((_, spans)) => spans.push(span),
            None => groups.push((resource, vec![span])),
        }
    }
    let resource_spans = groups.into_iter().map(|(resource, spans)| of_resource(&resource, spans));
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

fn of_resource(resource: &Resource, spans: Vec<SpanData>) -> ResourceSpans {
    let scope = spans.first().map(|span| (&span.instrumentation_scope, None).into());
    let attribute = |pair: &KeyValue| proto::KeyValue {
        key: pair.key.to_string(),
        value: Some(pair.value.clone().into()),
        ..proto::KeyValue::default()
    };
    ResourceSpans {
        resource: Some(ProtoResource {
            attributes: resource.attributes().iter().map(attribute).collect(),
            ..ProtoResource::default()
        }),
        scope_spans: vec![ScopeSpans {
            scope,
            spans: spans.into_iter().map(Into::into).collect(),
            schema_url: SCHEMA_URL.to_owned(),
        }],
        schema_url: SCHEMA_URL.to_owned(),
    }
}

fn is_top(span: &Span) -> bool {
    span.parent.is_none()
}

fn span_context(trace: TraceId, span: SpanId) -> SpanContext {
    let trace = OtelTraceId::from(trace.0);
    SpanContext::new(trace, span_id(span), TraceFlags::SAMPLED, false, TraceState::NONE)
}

fn span_id(id: SpanId) -> OtelSpanId {
    OtelSpanId::from(id.0)
}

fn wall(clock: ClockOffset, time: MonoNs) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(clock.wall(time).0)
}

fn links(span: &Span) -> SpanLinks {
    let mut links = SpanLinks::default();
    links
        .links
        .extend(span.links.iter().map(|(trace, id)| Link::with_context(span_context(*trace, *id))));
    links
}

fn attributes(trace: &Trace, span: &Span, context: &Context<'_>) -> Vec<KeyValue> {
    let probe = span.probe.and_then(|probe| context.rules.probes.get(usize::from(probe.0)));
    let mut list = Attributes(Vec::with_capacity(16));
    if span.root {
        let rule = probe.and_then(|probe| context.rules.spans.get(usize::from(probe.span?)));
        if let Some(SpanRule { system, operation, .. }) = rule {
            if !system.is_empty() {
                list.add("db.system.name", Arc::clone(system));
            }
            if let Some(operation) = operation {
                list.add("db.operation.name", Arc::clone(operation));
            }
        }
    }
    if let Some(probe) = probe {
        list.add("code.function.name", Arc::clone(&probe.function));
        if let Some(source) = &probe.source {
            list.add("code.file.path", Arc::clone(&source.file));
            if let Some(line) = source.line {
                list.add("code.line.number", i64::from(line));
            }
        }
    }
    if let Lane::Goroutine(_, goroutine) = span.lane {
        list.add("go.goroutine.id", int(goroutine.0));
    }
    list.add("thread.id", i64::from(span.tid.0));
    if let Some(name) = context.threads.get(&span.tid) {
        list.add("thread.name", Arc::clone(name));
    }
    if let Some(stage) = &span.stage {
        list.add("qprof.stage", Arc::clone(stage));
    }
    list.add("qprof.parent.evidence", span.evidence.to_string());
    list.add("qprof.exit", span.exit.as_str());
    list.add("qprof.self_time_us", micros(span.self_time));
    if is_top(span) && trace.end == TraceEnd::Incomplete {
        list.add("qprof.incomplete", true);
    }
    if is_top(span) && !trace.detached.is_empty() {
        let names = trace.detached.iter().map(|name| name.to_string().into()).collect();
        list.add("qprof.detached", Value::Array(Array::String(names)));
    }
    if span.lost > 0 {
        list.add("qprof.lost_before", int(span.lost));
    }
    if span.folded.is_some() || span.calls != 1 {
        list.add("qprof.calls", int(span.calls));
    }
    if let Some(folded) = span.folded {
        list.add("qprof.calls_sum_us", micros(folded.sum));
        list.add("qprof.calls_min_us", micros(folded.min));
        list.add("qprof.calls_max_us", micros(folded.max));
    }
    if span.shared > 1 {
        list.add("qprof.shared", i64::from(span.shared));
    }
    list.0
}

struct Attributes(Vec<KeyValue>);

impl Attributes {
    fn add(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push(KeyValue::new(key, value));
    }
}

/// Microseconds with the nanoseconds behind the point: a span may be shorter than one.
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
