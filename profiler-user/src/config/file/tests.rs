//! Configurations that are read, and those that are refused with the place and the fix.

use std::fs;
use std::path::Path;

use super::*;

const FILE: &str = "/etc/qprof/qprof.toml";

fn parse(text: &str) -> Result<Settings, SettingsError> {
    parse_settings(text, Path::new(FILE))
}

/// Asserts that `text` is refused where `place` stands in it, with all of `says`.
#[track_caller]
fn assert_refused(text: &str, place: &str, says: &[&str]) {
    let Err(SettingsError::Invalid(diagnostic)) = parse(text) else { panic!("taken: {text}") };
    let offset = text.find(place).expect("the place is in the text");
    let line = text[..offset].matches('\n').count() + 1;
    let column = offset - text[..offset].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let message = diagnostic.to_string();
    assert!(message.contains(&format!("--> {FILE}:{line}:{column}\n")), "{message}");
    for part in says {
        assert!(message.contains(part), "no `{part}` in\n{message}");
    }
}

#[test]
fn the_example_is_read() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/qprof.toml");
    let settings = load_settings(&example).unwrap();
    assert_eq!(settings.target.pids, [4711]);
    assert_eq!(settings.maps, ["milvus-lite"]);
    assert!(settings.map_dirs[0].ends_with("docs/maps"), "{:?}", settings.map_dirs);
    assert_eq!(settings.service.as_deref(), Some("search-production"));
    assert_eq!((settings.ring, settings.max_functions), (Some(8 << 20), Some(256)));
    assert_eq!((settings.grace, settings.duration), (Some(Duration::from_secs(10)), None));
    let otlp = settings.otlp.unwrap();
    assert_eq!(otlp.endpoint.as_deref(), Some("http://127.0.0.1:4317"));
    assert_eq!((otlp.protocol, otlp.gzip), (Some(Protocol::Grpc), Some(false)));
    assert_eq!(otlp.headers, Some(vec![("x-team".to_owned(), "search".to_owned())]));
    assert_eq!((otlp.batch_size, otlp.queue_size), (Some(512), Some(16_384)));
    assert_eq!(otlp.timeout, Some(Duration::from_secs(30)));
    let output = settings.output;
    assert_eq!((output.print, output.sample), (Some(Print::Summary), Some(0.1)));
    assert_eq!(output.slow, Some(Duration::from_millis(50)));
    assert_eq!(output.file, None);
}

#[test]
fn an_empty_file_leaves_all_open() {
    assert_eq!(parse("").unwrap(), Settings::default());
    assert_eq!(parse("[otlp]").unwrap().otlp, Some(OtlpSettings::default()));
}

#[test]
fn paths_begin_at_the_file() {
    let settings = parse(
        "maps = ['own.toml', '../x/y.toml', '/z.toml', 'duckdb']\nmaps_dir = ['maps', '/opt/maps']\n\
         [output]\nfile = 'traces.jsonl'\nrecord = '/tmp/r'\nsummary_json = 's.json'",
    )
    .unwrap();
    assert_eq!(
        settings.maps,
        ["/etc/qprof/own.toml", "/etc/qprof/../x/y.toml", "/z.toml", "duckdb"]
    );
    assert_eq!(settings.map_dirs, [Path::new("/etc/qprof/maps"), Path::new("/opt/maps")]);
    assert_eq!(settings.output.file.as_deref(), Some(Path::new("/etc/qprof/traces.jsonl")));
    assert_eq!(settings.output.record.as_deref(), Some(Path::new("/tmp/r")));
    assert_eq!(parse("maps = 'duckdb'").unwrap().maps, ["duckdb"]);
    let beside = parse_settings("maps = ['own.toml']", Path::new("qprof.toml")).unwrap();
    assert_eq!(beside.maps, ["./own.toml"]);
}

#[test]
fn the_target() {
    let target = |text: &str| parse(&format!("[target]\n{text}")).unwrap().target;
    assert_eq!(target("pid = [1, 2]").pids, [1, 2]);
    let by_name = target("exe = '*/milvus'\nchildren = true\nfollow = true");
    assert_eq!(by_name.exe.as_deref(), Some("*/milvus"));
    assert_eq!((by_name.children, by_name.follow), (Some(true), Some(true)));
    assert!(!target("pid = 1\nfollow = false").follow.unwrap());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    assert_refused(
        "servce = 'x'",
        "servce",
        &["unknown field `servce`", "did you mean `service`?"],
    );
    assert_refused("[otlp]\nendpiont = 'x'", "endpiont", &["did you mean `endpoint`?"]);
    assert_refused("[outputs]\n", "outputs", &["did you mean `output`?"]);
    assert_refused("[output]\nprint = 'tre'", "'tre'", &["did you mean `tree`?"]);
    assert_refused("[otlp]\nprotocol = 'http'", "'http'", &["http/protobuf"]);
    assert_refused("budget = '2'", "'2'", &["is no budget", "2%"]);
    assert_refused("[budget]\nshare = 2", "[budget]", &["expected a string"]);
}

#[test]
fn wrong_types_and_values_are_refused() {
    for (text, place, says) in [
        ("grace = 10", "10", "in quotes, a time or a size with its unit"),
        ("grace = '10'", "'10'", "no unit"),
        ("ring = '8MB'", "'8MB'", "use KiB, MiB or GiB"),
        ("max_functions = '256'", "'256'", "without quotes"),
        ("max_functions = 0", "0", "at least 1"),
        ("maps = 5", "5", "expected a string"),
        ("maps_dir = []", "[]", "the list is empty"),
        ("maps_dir = [1]", "1]", "expected a string"),
        ("service = ''", "''", "is empty"),
        ("target = 5", "5", "expected a table: `[target]`"),
        ("[target]\npid = 0", "0", "no process id"),
        ("[target]\npid = [1, -2]", "-2", "no process id"),
        ("[target]\npid = 'x'", "'x'", "without quotes"),
        ("[target]\nexe = '*'", "'*'", "matches everything"),
        ("[otlp]\ntimeout = '30'", "'30'", "write 30ms or 30s"),
        ("[otlp]\nbatch_size = 0", "0", "at least 1"),
        ("[output]\nsample = 1.5", "1.5", "from 0 to 1"),
        ("[output]\nsample = '10%'", "'10%'", "without quotes: 0.1"),
        ("[output]\nfile = ''", "''", "no path"),
        ("service = x", "x", ""),
    ] {
        assert_refused(text, place, &[says]);
    }
}

#[test]
fn contradictions_are_refused() {
    assert_refused("[target]\npid = 1\nexe = '*/x'", "'*/x'", &["two ways"]);
    assert_refused("[target]\npid = 1\nfollow = true", "true", &["name it by `exe`"]);
    assert_refused(
        "[otlp]\nqueue_size = 100\nbatch_size = 512",
        "512",
        &["a batch of 512 cannot come out of a queue of 100"],
    );
}

#[test]
fn header_values_are_never_shown() {
    for text in [
        "[otlp]\nheaders = 'authorization=Bearer t0ken'",
        "[otlp]\nheaders = { authorization = \"t0ken\\nx\" }",
        "[otlp]\nheaders = { 'a b' = 't0ken' }",
        "[otlp.headers]\nauthorization = 't0ken'\n'c d' = 't0ken'",
        "[otlp.headers]\nauthorization = 't0ken' x",
        "[otlp]\nheaders = {\n  authorization = 't0ken', 'c d' = 't0ken'\n}",
        "[otlp]\nheaders = { authorization = 't0ken",
        "[otlp]\nheaders = ['t0ken']",
    ] {
        let error = parse(text).unwrap_err().to_string();
        assert!(!error.contains("t0ken") && error.contains(FILE), "{text}\n{error}");
    }
    let settings = parse("[otlp]\nheaders = { Authorization = 't0ken' }").unwrap();
    assert!(!format!("{settings:?}").contains("t0ken"), "{settings:?}");
    let headers = settings.otlp.unwrap().headers.unwrap();
    assert_eq!(headers, [("authorization".to_owned(), "t0ken".to_owned())]);
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let directory = tempfile::tempdir().unwrap();
    for path in [directory.path(), &directory.path().join("none.toml"), Path::new("/dev/zero")] {
        let error = load_settings(path).unwrap_err();
        let shown = path.display().to_string();
        assert!(error.to_string().contains(&shown), "{error}");
    }
    let path = directory.path().join("latin1.toml");
    fs::write(&path, b"service = '\xe4'").unwrap();
    assert!(matches!(load_settings(&path), Err(SettingsError::Unreadable { .. })));
}

#[test]
fn the_schema_knows_every_key_of_the_example() {
    let schema = settings_schema();
    let example = include_str!("../../../../docs/qprof.toml");
    let example: toml::Table = toml::from_str(example).unwrap();
    let known = schema.to_string();
    for (key, value) in &example {
        assert!(known.contains(&format!("\"{key}\":")), "{key}");
        for inner in value.as_table().into_iter().flat_map(|table| table.keys()) {
            assert!(known.contains(&format!("\"{inner}\":")), "{key}.{inner}");
        }
    }
}
