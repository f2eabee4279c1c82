use super::*;
use crate::analysis::testing::{span, trace};
use crate::model::{Evidence, ExitKind, Folded, Goid, ProbeId, ProbeRule, Tid, Watches};
use crate::sink::ResourceFacts;

fn rules() -> Rules {
    Rules {
        spans: vec![SpanRule {
            name: "search_request".into(),
            stage: Some("search".into()),
            root: true,
            system: "milvus".into(),
            operation: Some("search".into()),
        }],
        probes: vec![ProbeRule {
            function: "milvus::local::MilvusServiceImpl::Search".into(),
            object: "milvus".into(),
            span: Some(0),
            watches: Watches::Calls,
            source: None,
        }],
        ..Rules::default()
    }
}

fn query() -> Trace {
    let mut root = span(0x10, 0, "search_request", 1_000, 2_001_000);
    root.probe = Some(ProbeId(0));
    root.stage = Some("search".into());
    root.self_time = 88_250;
    let mut segment = span(0x11, 0x10, "search_segment", 2_000, 1_900_000);
    segment.evidence = Evidence::Handoff("plan".into());
    segment.tid = Tid(4713);
    segment.exit = ExitKind::Inferred;
    segment.lost = 2;
    segment.shared = 3;
    segment.links = vec![(TraceId(7), SpanId(8))];
    segment.calls = 5;
    segment.folded = Some(Folded { sum: 10_000, min: 500, max: 4_000 });
    trace(vec![root, segment])
}

fn encoded(trace: &Trace) -> Vec<SpanData> {
    let (rules, mut threads) = (rules(), ThreadNames::default());
    threads.insert(Tid(4713), "MILVUS_FUTURE_C".into());
    let context = Context { rules: &rules, clock: ClockOffset(1_000_000), threads: &threads };
    encode(trace, &context).map(|(_, span)| span).collect()
}

fn attributes_of(span: &SpanData) -> Vec<String> {
    span.attributes.iter().map(|pair| format!("{}={}", pair.key, pair.value)).collect()
}

#[test]
fn a_root_and_a_span_with_everything() {
    let spans = encoded(&query());
    assert_eq!(
        attributes_of(&spans[0]),
        [
            "db.system.name=milvus",
            "db.operation.name=search",
            "code.function.name=milvus::local::MilvusServiceImpl::Search",
            "thread.id=1",
            "qprof.stage=search",
            "qprof.parent.evidence=none",
            "qprof.exit=ret",
            "qprof.self_time_us=88.25",
        ]
    );
    assert_eq!(
        attributes_of(&spans[1]),
        [
            "thread.id=4713",
            "thread.name=MILVUS_FUTURE_C",
            "qprof.parent.evidence=handoff:plan",
            "qprof.exit=inferred",
            "qprof.self_time_us=0",
            "qprof.lost_before=2",
            "qprof.calls=5",
            "qprof.calls_sum_us=10",
            "qprof.calls_min_us=0.5",
            "qprof.calls_max_us=4",
            "qprof.shared=3",
        ]
    );
    assert_eq!(
        [&spans[0].span_kind, &spans[1].span_kind],
        [&SpanKind::Server, &SpanKind::Internal]
    );
    assert_eq!(spans[0].parent_span_id, OtelSpanId::INVALID);
    assert_eq!(spans[1].parent_span_id, spans[0].span_context.span_id());
    assert_eq!(spans[0].start_time, UNIX_EPOCH + Duration::from_micros(1001));
    assert_eq!(spans[1].links.links[0].span_context.trace_id(), OtelTraceId::from(7));
}

#[test]
fn a_call_of_a_goroutine_says_which() {
    let mut spans = query().spans;
    spans[1].lane = Lane::Goroutine(Pid(1), Goid(17));
    spans[1].evidence = Evidence::Spawn;
    let spans = encoded(&trace(spans));
    let expected = [
        "go.goroutine.id=17",
        "thread.id=4713",
        "thread.name=MILVUS_FUTURE_C",
        "qprof.parent.evidence=spawn",
    ];
    assert_eq!(attributes_of(&spans[1])[..4], expected);
}

#[test]
fn an_orphan_is_internal_and_an_incomplete_trace_says_so() {
    let mut spans = query().spans;
    spans[0].root = false;
    let spans = encoded(&Trace { end: TraceEnd::Incomplete, ..trace(spans) });
    assert_eq!(spans[0].span_kind, SpanKind::Internal);
    assert!(attributes_of(&spans[0]).contains(&"qprof.incomplete=true".to_owned()));
    assert!(!attributes_of(&spans[0]).iter().any(|pair| pair.starts_with("db.")));
    assert!(!attributes_of(&spans[1]).contains(&"qprof.incomplete=true".to_owned()));
}

#[test]
fn the_request_as_json() {
    let facts = ResourceFacts { service_name: "milvus".to_owned(), ..ResourceFacts::default() };
    let resource = Arc::new(Resource::build(&facts, None, |_| None).unwrap());
    let outgoing = encoded(&query())
        .into_iter()
        .map(|span| Outgoing { resource: Arc::clone(&resource), span })
        .collect();
    let json = serde_json::to_value(request(outgoing)).unwrap();
    let group = &json["resourceSpans"][0];
    assert_eq!(group["schemaUrl"], SCHEMA_URL);
    assert_eq!(group["resource"]["attributes"][0]["key"], "service.name");
    assert_eq!(group["resource"]["attributes"][0]["value"]["stringValue"], "milvus");
    let scope = &group["scopeSpans"][0];
    assert_eq!(
        (&scope["scope"]["name"], &scope["scope"]["version"]),
        (&"qprof".into(), &VERSION.into())
    );
    assert_eq!(scope["schemaUrl"], SCHEMA_URL);
    let (root, segment) = (&scope["spans"][0], &scope["spans"][1]);
    assert_eq!(root["traceId"], "00000000000000000000000000000abc");
    assert_eq!((&root["spanId"], &root["parentSpanId"]), (&"0000000000000010".into(), &"".into()));
    assert_eq!((&root["kind"], &segment["kind"]), (&2.into(), &1.into()));
    assert_eq!(root["startTimeUnixNano"], "1001000");
    assert_eq!(root["endTimeUnixNano"], "3001000");
    assert_eq!(root["status"]["code"], 0);
    assert_eq!(segment["parentSpanId"], "0000000000000010");
    assert_eq!(segment["links"][0]["spanId"], "0000000000000008");
    assert_eq!(segment["attributes"][0]["value"]["intValue"], "4713");
    assert_eq!(segment["attributes"][4]["value"]["doubleValue"], 0.0);
    // What reads OTLP JSON in Go does not take null for a value.
    assert!(!json.to_string().contains("null"), "{json}");
}
