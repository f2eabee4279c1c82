use super::*;

type Vars<'a> = &'a [(&'a str, &'a str)];

fn resolve(
    endpoint: Option<&str>,
    protocol: Option<Protocol>,
    vars: Vars<'_>,
) -> Result<Option<OtlpConfig>, OtlpConfigError> {
    let flags = OtlpFlags { endpoint: endpoint.map(str::to_owned), protocol, file: None };
    OtlpConfig::resolve(&flags, |name| {
        vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    })
}

fn ok(endpoint: Option<&str>, vars: Vars<'_>) -> OtlpConfig {
    resolve(endpoint, None, vars).unwrap().unwrap()
}

fn error(endpoint: Option<&str>, vars: Vars<'_>) -> String {
    resolve(endpoint, None, vars).unwrap_err().to_string()
}

#[test]
fn nothing_asked_for() {
    assert_eq!(resolve(None, None, &[]).unwrap(), None);
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:4317");
    for off in [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(resolve(None, None, &[endpoint, off]).unwrap(), None);
        assert!(resolve(Some("http://h:4317"), None, &[off]).unwrap().is_some());
    }
}

#[test]
fn defaults() {
    let config = ok(Some("http://127.0.0.1:4317"), &[]);
    assert_eq!(config.endpoint, "http://127.0.0.1:4317");
    assert_eq!((config.protocol, config.gzip), (Protocol::Grpc, false));
    assert_eq!((config.timeout, config.limits), (Duration::from_secs(10), BatchLimits::default()));
    assert_eq!((config.headers, config.notes), (Vec::new(), Vec::<String>::new()));
    let config = ok(None, &[("OTEL_TRACES_EXPORTER", "otlp")]);
    assert_eq!(config.endpoint, "http://localhost:4317");
    let config = resolve(None, Some(Protocol::HttpProtobuf), &[]).unwrap().unwrap();
    assert_eq!(config.endpoint, "http://localhost:4318/v1/traces");
}

#[test]
fn flag_over_traces_over_general() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4317");
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
    assert_eq!(ok(None, &[general]).endpoint, "http://general:4317");
    assert_eq!(ok(None, &[general, traces]).endpoint, "http://traces:4317");
    assert_eq!(ok(Some("http://flag:4317"), &[general, traces]).endpoint, "http://flag:4317");
    let empty = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", " ");
    assert_eq!(ok(None, &[general, empty]).endpoint, "http://general:4317");
}

#[test]
fn the_path_of_http() {
    let http = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let flag = |url| ok(Some(url), &[http]).endpoint;
    assert_eq!(flag("http://h:4318"), "http://h:4318/v1/traces");
    assert_eq!(flag("http://h:4318/"), "http://h:4318/v1/traces");
    assert_eq!(flag("http://h:4318/otlp/"), "http://h:4318/otlp/v1/traces");
    assert_eq!(flag("http://h:4318/v1/traces"), "http://h:4318/v1/traces");
    assert_eq!(flag("https://h/x?key=1"), "https://h/x/v1/traces?key=1");
    assert_eq!(flag("http://[::1]:4318"), "http://[::1]:4318/v1/traces");
    // The variable for traces is the whole URL.
    let traces = |url| ok(None, &[http, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)]).endpoint;
    assert_eq!(traces("http://h:4318/own"), "http://h:4318/own");
}

#[test]
fn the_protocol() {
    let config = ok(Some("http://h:4318"), &[]);
    assert_eq!(config.protocol, Protocol::HttpProtobuf);
    assert!(config.notes[0].contains("because the port is 4318"), "{:?}", config.notes);
    assert_eq!(ok(Some("https://h/v1/traces"), &[]).protocol, Protocol::HttpProtobuf);

    let config = resolve(Some("http://h:4318/x"), Some(Protocol::Grpc), &[]).unwrap().unwrap();
    assert_eq!((config.protocol, &*config.endpoint), (Protocol::Grpc, "http://h:4318"));
    assert!(config.notes.iter().any(|note| note.contains("takes no path")), "{:?}", config.notes);
    assert!(config.notes.iter().any(|note| note.contains("mostly speaks HTTP")));

    let general = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "HTTP/protobuf");
    assert_eq!(ok(Some("http://h:4318"), &[general]).protocol, Protocol::Grpc);
    assert_eq!(ok(Some("http://h:4317"), &[general, traces]).protocol, Protocol::HttpProtobuf);
    assert_eq!(
        error(Some("http://h:1"), &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]),
        "OTEL_EXPORTER_OTLP_PROTOCOL=`http/json`: use grpc or http/protobuf"
    );
}

#[test]
fn urls_that_cannot_work() {
    let cases = [
        ("localhost:4317", "write `http://localhost:4317`"),
        ("127.0.0.1:4317", "write `http://127.0.0.1:4317`"),
        ("ftp://h:4317", "scheme `ftp` is not known; use http:// or https://"),
        ("http://:4317", "not a URL (empty host)"),
        ("http://h:99999", "not a URL (invalid port number)"),
        ("http://user:secret@h:4317", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("http://h:14268/api/traces", "14268 is Jaeger's old port: use 4317 (gRPC) or 4318 (HTTP)"),
        ("http://h:14250", "14250 is Jaeger's old port"),
        ("http://h:6831", "6831 is Jaeger's old port: use 4317 (gRPC) or 4318 (HTTP)"),
        ("http://h:6832", "6832 is Jaeger's old port"),
        ("http://h:16686/search", "16686 is Jaeger's port for queries"),
        ("", "no scheme"),
    ];
    for (url, part) in cases {
        let error = error(Some(url), &[]);
        assert!(error.starts_with("--otlp: ") && error.contains(part), "{url}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let from_variable = error(None, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h:14268")]);
    assert!(from_variable.starts_with("OTEL_EXPORTER_OTLP_ENDPOINT: "), "{from_variable}");
    assert!(error(None, &[("OTEL_CONFIG_FILE", "otel.yaml")]).contains("not supported"));
}

#[test]
fn a_scheme_may_be_left_to_insecure() {
    let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "h:4317");
    let insecure = |value| ("OTEL_EXPORTER_OTLP_INSECURE", value);
    assert_eq!(ok(None, &[endpoint, insecure("true")]).endpoint, "http://h:4317");
    assert_eq!(ok(None, &[endpoint, insecure("false")]).endpoint, "https://h:4317");
    assert!(error(None, &[endpoint]).contains("has no scheme"));
    assert!(error(Some("h:4317"), &[insecure("true")]).contains("has no scheme"));
}

#[test]
fn headers_are_decoded_and_secret() {
    let vars = [("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20t0ken, x-team = db ,")];
    let config = ok(Some("http://h:4317"), &vars);
    let expected = [("authorization", "Bearer t0ken"), ("x-team", "db")];
    assert_eq!(config.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert!(!format!("{config:?}").contains("t0ken"));
    for bad in ["a=b,t0ken", "a=b,c d=t0ken", "a=b,c=t0ken%0a", "a=b,c=t0ken%"] {
        let error = error(Some("http://h:4317"), &[("OTEL_EXPORTER_OTLP_HEADERS", bad)]);
        assert!(error.contains("header 2 is not name=value"), "{error}");
        assert!(!error.contains("t0ken"), "{error}");
    }
}

#[test]
fn numbers_and_compression() {
    let config = ok(
        Some("http://h:4317"),
        &[
            ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
            ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "gzip"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "100"),
            ("OTEL_BSP_SCHEDULE_DELAY", "200"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "1000"),
            ("OTEL_BSP_EXPORT_TIMEOUT", "3000"),
        ],
    );
    assert_eq!((config.gzip, config.timeout), (true, Duration::from_millis(2500)));
    let expected = BatchLimits {
        batch: 100,
        delay: Duration::from_millis(200),
        queue: 1000,
        export: Duration::from_secs(3),
    };
    assert_eq!(config.limits, expected);
    for (variable, value) in [
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-1"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "20000"),
    ] {
        let error = error(Some("http://h:4317"), &[(variable, value)]);
        assert!(error.starts_with(&format!("{variable}=`{value}`: ")), "{error}");
    }
}

fn ca(path: &str) -> [(&str, &str); 1] {
    [("OTEL_EXPORTER_OTLP_CERTIFICATE", path)]
}

#[test]
fn certificates_are_read_early() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (pem, other) = (path("a.pem"), path("b.pem"));
    fs::write(&pem, "-----BEGIN CERTIFICATE-----\n").unwrap();
    fs::write(&other, "not pem\n").unwrap();
    assert!(ok(Some("https://h:4317"), &ca(&pem)).ca.is_some());
    assert!(ok(Some("http://h:4317"), &ca(&pem)).notes[0].contains("not https"));
    assert!(error(Some("https://h:4317"), &ca(&other)).contains("is not PEM"));
    assert!(error(Some("https://h:4317"), &ca("/no/such.pem")).contains("cannot read"));

    let certificate = ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", &*pem);
    let key = ("OTEL_EXPORTER_OTLP_CLIENT_KEY", &*pem);
    assert!(ok(Some("https://h:4317"), &[certificate, key]).identity.is_some());
    for half in [certificate, key] {
        assert!(error(Some("https://h:4317"), &[half]).contains("needs both"));
    }
}

#[test]
fn the_file_comes_after_the_environment() {
    let file = OtlpSettings {
        endpoint: Some("http://file:4318".to_owned()),
        protocol: Some(Protocol::Grpc),
        headers: Some(vec![("x-from".to_owned(), "file".to_owned())]),
        gzip: Some(true),
        batch_size: Some(7),
        batch_delay: Some(Duration::from_secs(1)),
        queue_size: Some(70),
        timeout: Some(Duration::from_secs(2)),
        request_timeout: Some(Duration::from_secs(3)),
    };
    let resolve = |file: &OtlpSettings, vars: Vars<'_>| {
        let flags = OtlpFlags { file: Some(file.clone()), ..OtlpFlags::default() };
        OtlpConfig::resolve(&flags, |name| {
            vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    };
    let config = resolve(&file, &[]).unwrap().unwrap();
    assert_eq!((&*config.endpoint, config.protocol), ("http://file:4318", Protocol::Grpc));
    assert_eq!(config.headers, [("x-from".to_owned(), "file".to_owned())]);
    assert_eq!((config.gzip, config.timeout), (true, Duration::from_secs(3)));
    let expected = BatchLimits {
        batch: 7,
        delay: Duration::from_secs(1),
        queue: 70,
        export: Duration::from_secs(2),
    };
    assert_eq!(config.limits, expected);

    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://env:4318"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-from=env"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "4000"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "5000"),
    ];
    let config = resolve(&file, &env).unwrap().unwrap();
    assert_eq!(config.endpoint, "http://env:4318/v1/traces");
    assert_eq!(config.headers, [("x-from".to_owned(), "env".to_owned())]);
    assert_eq!((config.gzip, config.timeout), (false, Duration::from_secs(4)));
    assert_eq!((config.limits.batch, config.limits.queue), (8, 70));
    assert_eq!(config.limits.export, Duration::from_secs(5));

    assert_eq!(resolve(&file, &[("OTEL_TRACES_EXPORTER", "none")]).unwrap(), None);
    let bare = OtlpSettings { endpoint: None, ..file.clone() };
    let config = resolve(&bare, &[]).unwrap().unwrap();
    assert_eq!(config.endpoint, "http://localhost:4317");
    let wrong = OtlpSettings { endpoint: Some("h:4317".to_owned()), ..file.clone() };
    let error = resolve(&wrong, &[("OTEL_EXPORTER_OTLP_INSECURE", "true")]).unwrap_err();
    assert!(error.to_string().starts_with("[otlp] endpoint: `h:4317` has no scheme"), "{error}");
    let error = resolve(&file, &[("OTEL_BSP_MAX_QUEUE_SIZE", "5")]).unwrap_err().to_string();
    assert!(error.starts_with("[otlp] batch_size=`7`: "), "{error}");
}
