use std::time::Duration;

use super::*;
use crate::analysis::testing::{span, trace};
use crate::model::{Evidence, MonoNs, Span, Tid};
use crate::sink::ExportStats;
use crate::ui::{Cost, ProbeHits, write_json};

fn probe(function: &str, span: Option<&str>, hits: u64) -> ProbeHits {
    let (function, object) = (function.into(), "milvus".into());
    ProbeHits { function, object, span: span.map(Into::into), hits }
}

fn staged(span: Span, stage: &str, self_time: u64) -> Span {
    let micros = |time: MonoNs| MonoNs(time.0 * 1000);
    Span {
        stage: Some(stage.into()),
        self_time: self_time * 1000,
        start: micros(span.start),
        end: micros(span.end),
        ..span
    }
}

fn report() -> RunReport {
    let mut report = RunReport {
        target: "milvus (pid 4711)".to_owned(),
        map: "milvus-lite".to_owned(),
        attach: Some(Duration::from_millis(310)),
        observed: Duration::from_secs(30),
        stitch: vec![("late events".to_owned(), 0), ("unknown exits".to_owned(), 2)],
        kernel: vec![("ring full".to_owned(), 0)],
        landings: vec![("learned".to_owned(), 41), ("refused: behind no call".to_owned(), 1)],
        otlp: Some(ExportReport {
            to: "http://127.0.0.1:4317".to_owned(),
            stats: ExportStats { sent: 2999, failed: 0, dropped: 1, last_error: None },
        }),
        cost: Some(Cost { hits: 12_000, agent_share: 0.0042, ..Cost::default() }),
        probes: vec![
            probe("milvus::Search", Some("search_request"), 1000),
            probe("milvus::Delete", Some("delete_request"), 0),
        ],
        ..RunReport::default()
    };
    for extra in 0..1000 {
        let mut spans = vec![
            staged(span(1, 0, "search_request", 0, 2000 + extra), "search", 190),
            staged(span(2, 1, "create_plan", 10, 200), "plan", 190),
            staged(span(3, 1, "search_segment", 210, 1900), "segment", 1690),
        ];
        spans[2].evidence = Evidence::Handoff("plan".into());
        spans[2].tid = Tid(4713);
        report.summary.add(&trace(spans));
    }
    report
}

fn text(report: &RunReport) -> String {
    let mut text = String::new();
    write_summary(&mut text, report, TreeStyle::default()).unwrap();
    text
}

#[test]
fn a_whole_run() {
    let text = text(&report());
    let (head, rest) = text.split_once("\nslowest").unwrap();
    let expected = "\
milvus (pid 4711) · map milvus-lite · 30.0 s observed · attached in 0.31 s
1,000 traces (33.3/s) · 3,000 spans · 0 lost · 0 orphans

traces             count       p50       p95       p99       max
search_request     1,000   2.50 ms   2.94 ms   2.99 ms   3.00 ms

stages      spans       p50       p95       p99     share    self
segment     1,000   1.69 ms   1.69 ms   1.69 ms     67.6%   67.6%  ██████▊
plan        1,000    190 µs    190 µs    190 µs      7.6%    7.6%  ▊
search      1,000   2.50 ms   2.94 ms   2.99 ms      100%    7.6%  ▊
";
    assert_eq!(head, expected);
    assert_eq!(rest.matches("search_request  ").count(), 3);
    let (_, facts) = rest.split_once("\nevidence    ").unwrap();
    let expected = "\
handoff:plan 1,000 · stack 1,000
exits       ret 3,000
stitch      unknown exits 2
landings    learned 41 · refused: behind no call 1
exported    2,999 spans to http://127.0.0.1:4317 · 1 dropped (queue full)
cost        12,000 probe hits · qprof itself 0.4% of one core

never called
  delete_request  milvus::Delete in milvus
  → these functions may serve other requests than those that came
";
    assert_eq!(facts, expected);
}

#[test]
fn nothing_fired() {
    let probes = vec![probe("a::b", Some("search_request"), 0), probe("a::c", None, 0)];
    let text = text(&RunReport { probes, ..RunReport::default() });
    let (_, silent) = text.split_once("nothing fired").unwrap();
    let expected = "\
: none of 2 functions was called
  search_request  a::b in milvus
  (hand-off)      a::c in milvus
  → send the server a query while qprof is attached, or observe longer: --duration 60s
  → if it answers queries, another process may do it: pgrep -a NAME, then -p that pid
  → see which functions this process has: qprof symbols PID PATTERN
  → see what the map found in it: qprof check -p PID -m MAP
";
    assert_eq!(silent, expected);
}

#[test]
fn functions_but_no_root() {
    let probes = vec![probe("a::b", Some("search_request"), 0), probe("a::c", None, 9)];
    let text = text(&RunReport { probes, orphans: 9, ..RunReport::default() });
    assert!(text.contains("0 traces · 0 spans · 0 lost · 9 orphans\n"), "{text}");
    assert!(text.contains("orphans = \"keep\""), "{text}");
}

#[test]
fn many_silent_probes_are_a_number() {
    let probe = |index| probe(&format!("f{index}"), Some("s"), u64::from(index == 0));
    let text = text(&RunReport { probes: (0..100).map(probe).collect(), ..RunReport::default() });
    assert!(text.contains("f12 in") && !text.contains("f13 in"), "{text}");
    assert!(text.contains("… and 87 more"), "{text}");
}

#[test]
fn gauges() {
    assert_eq!(
        (gauge(0.0), gauge(0.5), gauge(9.0)),
        (String::new(), "█████".into(), "█".repeat(10))
    );
    assert_eq!(gauge(0.0126), "▏");
}

#[test]
fn the_same_as_json() {
    let mut bytes = Vec::new();
    write_json(&mut bytes, &report()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(json["traces"], 1000);
    assert_eq!(json["spans"], 3000);
    assert_eq!((&json["lost"], &json["orphans"]), (&0.into(), &0.into()));
    let root = &json["roots"]["search_request"];
    assert_eq!((&root["count"], &root["max_us"]), (&1000.into(), &2999.0.into()));
    let p50 = root["p50_us"].as_f64().unwrap();
    assert!((p50 - 2499.0).abs() < 25.0, "{p50}");
    assert_eq!(json["stages"]["plan"]["count"], 1000);
    assert_eq!(json["evidence"]["handoff:plan"], 1000);
    assert_eq!(json["exits"]["ret"], 3000);
    assert_eq!(json["kernel"]["ring full"], 0);
    assert_eq!(json["export"]["sent"], 2999);
    assert_eq!(json["export"]["dropped"], 1);
    assert_eq!(json["silent"], serde_json::json!(["milvus::Delete"]));
    assert_eq!(json["cost"]["hits"], 12_000);
}
