use std::sync::{Arc, LazyLock, Mutex};

use super::*;
use crate::analysis::testing::{span, trace};
use crate::model::{ClockOffset, Rules, ThreadNames};
use crate::sink::{Context, Resource, ResourceFacts, encode};

fn spans() -> Vec<Outgoing> {
    static RESOURCE: LazyLock<Arc<Resource>> = LazyLock::new(|| {
        Arc::new(Resource::build(&ResourceFacts::default(), None, |_| None).unwrap())
    });
    let (rules, threads) = (Rules::default(), ThreadNames::default());
    let context = Context { rules: &rules, clock: ClockOffset(0), threads: &threads };
    let trace = trace(vec![span(1, 0, "a", 1, 9), span(2, 1, "b", 2, 3)]);
    let spans = encode(&trace, &context);
    spans.map(|(_, span)| Outgoing { resource: Arc::clone(&RESOURCE), span }).collect()
}

/// Takes `room` bytes, then fails like a full disk; more room can be made.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (content, room) = &mut *self.0.lock().unwrap();
        let count = bytes.len().min(room.saturating_sub(content.len()));
        content.extend_from_slice(&bytes[..count]);
        if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.jsonl");
    let mut sink = FileSink::create(&path, 4).unwrap();
    for _ in 0..5 {
        sink.send(spans());
    }
    assert_eq!(sink.stats().sent, 8);
    assert_eq!(sink.finish(), ExportStats { sent: 10, ..ExportStats::default() });
    let text = std::fs::read_to_string(path).unwrap();
    let counts: Vec<usize> = text
        .lines()
        .map(|line| {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            json["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array().unwrap().len()
        })
        .collect();
    assert_eq!(counts, [4, 4, 2]);
}

#[test]
fn a_file_that_cannot_be_made() {
    let Err(error) = FileSink::create(Path::new("/no/such/dir/x"), 1) else {
        panic!("a file in a directory that does not exist");
    };
    assert!(error.to_string().starts_with("cannot write `/no/such/dir/x` ("), "{error}");
}

#[test]
fn a_full_disk_is_counted_and_later_lines_are_whole() {
    let disk = Disk::default();
    disk.0.lock().unwrap().1 = 100;
    let mut sink = FileSink::new(Box::new(disk.clone()), "disk".to_owned(), 1);
    sink.send(spans());
    sink.send(spans());
    assert_eq!((sink.stats().sent, sink.stats().failed), (0, 4));
    disk.0.lock().unwrap().1 = usize::MAX;
    sink.send(spans());
    assert!(!sink.closed());
    let stats = sink.finish();
    assert_eq!((stats.sent, stats.failed), (2, 4));
    assert!(stats.last_error.is_some());
    let text = String::from_utf8(disk.0.lock().unwrap().0.clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(serde_json::from_str::<serde_json::Value>(lines[1]).is_ok());
}
