//! Settings from a file, maps from folders, which map fits a process, and what a container lacks.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{self, can_probe, not_applicable, repository, scratch};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::milvus_lite::MilvusLite;
use profiler_tests::process::{Finished, Process, run};
use profiler_tests::qprof::{Run, check_code, read_summary};
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::tree::from_otlp;
use serde_json::Value;

/// A folder for one test: its configuration, its maps, its home.
struct Place(PathBuf);

impl Place {
    fn new() -> Result<Self> {
        let place = Self(scratch("config")?);
        fs::create_dir_all(place.maps())?;
        Ok(place)
    }

    /// Where `qprof` looks for the user's maps.
    fn maps(&self) -> PathBuf {
        self.0.join("home/qprof/maps")
    }

    fn write(&self, file: &str, text: &str) -> Result<String> {
        let path = self.0.join(file);
        fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    }

    fn write_map(&self, file: &str, text: &str) -> Result<()> {
        Ok(fs::write(self.maps().join(file), text)?)
    }

    /// `program` with the environment of this place and of nobody else.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if name.starts_with("OTEL_") || name.starts_with("KUBERNETES_") {
                command.env_remove(&*name);
            }
        }
        command.env("XDG_CONFIG_HOME", self.0.join("home"));
        command
    }

    fn qprof(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = self.command(environment::qprof()?);
        command.args(arguments);
        run("qprof", command, PATIENCE)
    }
}

fn server() -> Result<(Fixture, u16)> {
    let server = Fixture::start(&build("server.cc", &["-O2"])?, &["2"])?;
    let port = server
        .stdout()
        .lines()
        .find_map(|line| line.strip_prefix("listening ")?.parse().ok())
        .context("the server names no port")?;
    Ok((server, port))
}

fn ask(port: u16, count: usize) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    for _ in 0..count {
        stream.write_all(b"find word 2\n")?;
        let answer = answers.next().context("the server hung up")??;
        ensure!(answer.starts_with("found "), "{answer}");
    }
    Ok(())
}

/// The map of `server.cc`, that recognises it.
fn server_map(name: &str) -> Result<String> {
    let text = fs::read_to_string(repository().join("tests/fixtures/server.toml"))?;
    let text = text.replace("name = \"kv-server\"", &format!("name = \"{name}\""));
    Ok(format!("{text}\n[match]\nobject = \"*/server-*\"\nfunctions = [\"kv::Server::handle\"]\n"))
}

fn check_says(finished: &Finished, code: i32, words: &[&str]) -> Result<()> {
    check_code(finished, code)?;
    for word in words {
        let (out, err) = (&finished.stdout, &finished.stderr);
        ensure!(out.contains(word) || err.contains(word), "no {word:?} in {out}\n{err}");
    }
    Ok(())
}

#[test]
fn wrong_configurations_are_refused_with_their_place() -> Result<()> {
    let place = Place::new()?;
    for (text, words) in [
        ("[otlp]\nendpiont = 'x'\n", &["qprof.toml:2:1", "did you mean `endpoint`?"][..]),
        ("grace = 10\n", &["qprof.toml:1:9", "expected a string", "30s"]),
        ("[target]\npid = 1\nexe = '*/x'\n", &["qprof.toml:3:7", "two ways"]),
        ("[otlp]\nbatch_size = 9\nqueue_size = 5\n", &["qprof.toml:2:14", "queue of 5"]),
        ("budget = '2'\n", &["`2` is no budget", "2%", "off"]),
        ("[target]\npid = 1\nchildren = true\nfoo = 1", &["unknown field `foo`"]),
        ("", &["no process is named", "--pid"]),
        ("[target]\npid = 1\nmaps = 'x'", &["unknown field `maps`"]),
        ("this is no TOML", &["qprof.toml:1:"]),
    ] {
        let config = place.write("qprof.toml", text)?;
        for verb in ["run", "check"] {
            let finished = place.qprof(&[verb, "--config", &config])?;
            check_says(&finished, 2, words).with_context(|| format!("{verb}: {text}"))?;
        }
    }
    let folder = place.0.to_string_lossy().into_owned();
    for (path, words) in [(&*folder, "not a regular file"), ("/no/such.toml", "No such file")] {
        let finished = place.qprof(&["run", "--config", path])?;
        check_says(&finished, 2, &["cannot read the configuration", path, words])?;
    }
    let config = place.write("qprof.toml", "maps_dir = 'nowhere'\n")?;
    check_says(&place.qprof(&["maps", "--config", &config])?, 2, &["nowhere", "maps_dir"])?;
    let config = place.write("qprof.toml", "[otlp]\nheaders = 'authorization=Bearer t0ken'\n")?;
    let finished = place.qprof(&["run", "--config", &config])?;
    check_says(&finished, 2, &["expected a table of headers"])?;
    ensure!(!finished.stderr.contains("t0ken"), "a secret is shown: {}", finished.stderr);
    Ok(())
}

#[test]
fn the_example_and_its_schema_agree_with_the_program() -> Result<()> {
    let place = Place::new()?;
    let finished = place.qprof(&["generate", "schema", "config"])?;
    check_code(&finished, 0)?;
    let kept = fs::read_to_string(repository().join("docs/config.schema.json"))?;
    ensure!(finished.stdout == kept, "docs/config.schema.json is not what qprof generates");
    let plain = place.qprof(&["generate", "schema"])?.stdout;
    ensure!(plain == place.qprof(&["generate", "schema", "map"])?.stdout, "the default is the map");
    Ok(())
}

/// Takes OTLP over HTTP and hands over the head of each request.
fn collector() -> Result<(u16, Receiver<String>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let (heads, received) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let heads = heads.clone();
            thread::spawn(move || -> Result<()> {
                let mut reader = BufReader::new(stream.try_clone()?);
                loop {
                    let mut head = String::new();
                    while !head.ends_with("\r\n\r\n") {
                        if reader.read_line(&mut head)? == 0 {
                            return Ok(());
                        }
                    }
                    let head = head.to_ascii_lowercase();
                    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                    let length = length.context("no length")?.trim().parse()?;
                    reader.by_ref().take(length).read_to_end(&mut Vec::new())?;
                    (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
                    heads.send(head)?;
                }
            });
        }
    });
    Ok((port, received))
}

/// All from the file: the process, the map, where to and how; nothing on the command line.
#[test]
fn a_run_takes_everything_from_its_file() -> Result<()> {
    const REQUESTS: usize = 200;
    if !can_probe()? {
        return Ok(());
    }
    let (server, port) = server()?;
    let place = Place::new()?;
    place.write("own.toml", &server_map("own")?)?;
    let (collector, heads) = collector()?;
    let config = place.write(
        "qprof.toml",
        &format!(
            "maps = 'own.toml'\nservice = 'from-file'\nring = '1MiB'\ngrace = '5s'\n\
             [target]\npid = {}\n\
             [otlp]\nendpoint = 'http://127.0.0.1:{collector}'\nprotocol = 'http/protobuf'\n\
             headers = {{ x-team = 'search' }}\ncompression = 'gzip'\nbatch_size = 16\n\
             [output]\nprint = 'none'\nfile = 'traces.jsonl'\nsummary_json = 'summary.json'\n\
             record = 'run.qprof'\nsample = 0.5\n",
            server.pid()
        ),
    )?;
    let mut command = place.command(environment::qprof()?);
    command.args(["run", "--config", &config]);
    let mut qprof = Process::spawn("qprof", command)?;
    until(PATIENCE, "qprof to attach", || {
        ensure!(qprof.alive(), "it ended: {}", qprof.stderr());
        Ok(qprof.stderr().contains("attached: ").then_some(()))
    })?;
    ask(port, REQUESTS)?;
    let finished = qprof.interrupt(PATIENCE)?;
    check_code(&finished, 0)?;
    ensure!(finished.stdout.is_empty(), "print = none, and it prints {}", finished.stdout);
    ensure!(place.0.join("run.qprof").is_file(), "nothing is recorded");

    let summary = read_summary(&place.0.join("summary.json"))?;
    ensure!(summary.number(&["traces"])? == REQUESTS as u64, "{}", summary.0);
    let traces = from_otlp(&fs::read_to_string(place.0.join("traces.jsonl"))?)?;
    ensure!(!traces.is_empty() && traces.len() < REQUESTS, "{} of {REQUESTS}", traces.len());
    for trace in &traces {
        let root = trace.root()?;
        ensure!(root.service == "from-file", "{}", root.service);
        let low = u64::from_str_radix(&root.trace[16..], 16)?;
        ensure!(low >> 1 < 1 << 62, "trace {} is not of the sampled half", root.trace);
    }
    let heads: Vec<_> = heads.try_iter().collect();
    // The first asks whether anybody is there.
    ensure!(heads.len() > 2, "batches of 16, and {} requests", heads.len());
    for head in &heads {
        ensure!(head.starts_with("post /v1/traces "), "{head}");
        ensure!(head.contains("x-team: search"), "{head}");
    }
    ensure!(heads.iter().any(|head| head.contains("content-encoding: gzip")), "{heads:?}");
    Ok(())
}

#[test]
fn flags_come_before_environment_before_file() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let (server, port) = server()?;
    let place = Place::new()?;
    let own = place.write("own.toml", &server_map("own")?)?;
    let config = place.write(
        "qprof.toml",
        "maps = 'milvus-lite'\nservice = 'from-file'\n[target]\npid = 1\n\
         [output]\nprint = 'none'\nsample = 0\n",
    )?;
    for (environment, expected) in [(None, "from-file"), (Some("from-env"), "from-env")] {
        let run = Run::on(server.pid())?.map(&own).output("json");
        let mut run = run.arg("--config").arg(&config).arg("--sample").arg("1");
        if let Some(name) = environment {
            run = run.env("OTEL_SERVICE_NAME", name);
        }
        let run = run.start()?;
        ask(port, 3)?;
        let done = run.stop()?;
        done.check_ok()?;
        let traces = from_otlp(&done.finished.stdout)?;
        ensure!(traces.len() == 3, "{} traces", traces.len());
        ensure!(traces[0].root()?.service == expected, "{}", traces[0].root()?.service);
    }
    Ok(())
}

#[test]
fn nothing_that_is_asked_for_is_passed_over() -> Result<()> {
    let place = Place::new()?;
    for output in ["sample = 2", "print = 'xml'", "slow = '50'"] {
        let config = place.write("qprof.toml", &format!("[output]\n{output}\n"))?;
        check_says(&place.qprof(&["run", "-p", "1", "--config", &config])?, 2, &["qprof.toml:2:"])?;
    }
    let config = place.write("qprof.toml", "[target]\nexe = '*/no-such-server'\n")?;
    check_says(&place.qprof(&["run", "--config", &config])?, 4, &["*/no-such-server"])?;
    let config = place.write("qprof.toml", "[target]\npid = [1, 2]\n")?;
    check_says(&place.qprof(&["check", "--config", &config])?, 2, &["several", "--pid"])?;
    check_says(&place.qprof(&["run", "-p", "1", "--sample", "2"])?, 2, &["from 0 to 1"])
}

fn json(finished: &Finished) -> Result<Vec<Value>> {
    check_code(finished, 0)?;
    serde_json::from_str(&finished.stdout).context("not a list of maps")
}

fn named<'v>(maps: &'v [Value], name: &str) -> Result<&'v Value> {
    maps.iter().find(|map| map["name"] == name).with_context(|| format!("no map {name}"))
}

#[test]
fn maps_in_folders_are_found_by_name() -> Result<()> {
    let place = Place::new()?;
    place.write_map("mine.toml", &server_map("mine")?)?;
    place.write_map("over.toml", &server_map("milvus-lite")?)?;
    place.write_map("broken.toml", &server_map("broken")?.replace("root", "rot"))?;
    fs::create_dir(place.0.join("more"))?;
    fs::write(place.0.join("more/deep.toml"), server_map("deep")?)?;
    let config = place.write("qprof.toml", "maps_dir = 'more'\n")?;

    let listed = place.qprof(&["maps"])?;
    let path = place.maps().join("mine.toml");
    check_says(&listed, 0, &["mine", &path.to_string_lossy(), "instead of the one built in"])?;
    ensure!(listed.stderr.contains("broken.toml:"), "{}", listed.stderr);
    let maps = json(&place.qprof(&["maps", "--config", &config, "--json"])?)?;
    ensure!(named(&maps, "mine")?["origin"] == path.to_string_lossy().as_ref());
    ensure!(named(&maps, "milvus-lite")?["overrides"] == "built in");
    ensure!(named(&maps, "deep")?["origin"].to_string().contains("more/deep.toml"));
    ensure!(place.qprof(&["maps", "mine"])?.stdout == server_map("mine")?);
    check_says(&place.qprof(&["maps", "broken"])?, 2, &["broken.toml:", "unknown field `rot`"])?;
    check_says(&place.qprof(&["maps", "mien"])?, 2, &["did you mean `mine`?"])?;
    check_says(&place.qprof(&["maps", "deep"])?, 2, &["no symbol map is called `deep`"])
}

/// The documented place, in a mount namespace of its own that ends with the command.
#[test]
fn maps_below_etc_are_found() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let place = Place::new()?;
    let map = place.write("site.toml", &server_map("site")?)?;
    let mut command = place.command("unshare");
    command.args(["--mount", "sh", "-ec"]).arg(
        "mount -t tmpfs none /etc; mkdir -p /etc/qprof/maps; cp \"$1\" /etc/qprof/maps; \
         exec \"$0\" maps --json",
    );
    command.arg(environment::qprof()?).arg(map);
    let maps = json(&run("qprof", command, PATIENCE)?)?;
    ensure!(named(&maps, "site")?["origin"] == "/etc/qprof/maps/site.toml", "{maps:?}");
    Ok(())
}

#[test]
fn the_map_that_fits_is_found_and_explained() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let (server, _) = server()?;
    let pid = server.pid().to_string();
    let place = Place::new()?;
    let missing = server_map("missing")?.replace("kv::Server::handle\"]", "kv::Server::hendle\"]");
    place.write_map("missing.toml", &missing)?;
    let unmatched = server_map("unmatched")?;
    let unmatched = unmatched.split("[match]").next().context("no [match]")?;
    place.write_map("unmatched.toml", unmatched)?;
    let nothing = place.qprof(&["check", "-p", &pid])?;
    check_says(&nothing, 4, &["no symbol map fits", "missing", "qprof maps -p"])?;

    place.write_map("mine.toml", &server_map("mine")?)?;
    place.write_map("broken.toml", "version = 1\n")?;
    let fitting = place.qprof(&["maps", "-p", &pid])?;
    check_says(
        &fitting,
        0,
        &[
            "fits  mine (",
            "1 of 1 functions found",
            "version unknown",
            "no    missing (",
            "missing `kv::Server::hendle`",
            "kv::Server::handle",
            "it has no [match]: name it with -m unmatched",
            "no path of",
            "takes mine",
        ],
    )?;
    let maps = json(&place.qprof(&["maps", "-p", &pid, "--json"])?)?;
    ensure!(named(&maps, "mine")?["fits"] == true);
    let missing = named(&maps, "missing")?;
    ensure!(missing["fits"] == false, "{missing}");
    ensure!(missing["objects"][0]["functions"][0]["found"] == false, "{missing}");
    ensure!(named(&maps, "milvus-lite")?["objects"] == Value::Array(Vec::new()));

    let found = place.qprof(&["check", "-p", &pid])?;
    check_says(&found, 0, &["map     mine (", "kv::Server::handle", "broken.toml"])?;
    place.write_map("second.toml", &server_map("second")?)?;
    check_says(&place.qprof(&["check", "-p", &pid])?, 4, &["several symbol maps fit", "second"])?;
    check_says(&place.qprof(&["check", "-p", &pid, "-m", "second"])?, 0, &["map     second ("])?;
    check_says(&place.qprof(&["maps", "-p", "4294967295"])?, 4, &["no process"])
}

#[test]
fn a_build_that_was_checked_tells_its_version() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let server = MilvusLite::start()?;
    let pid = server.pid().to_string();
    let place = Place::new()?;
    let words =
        ["fits  milvus-lite (built in)", "2 of 2 functions", "version 2.5.1", "checked with"];
    check_says(&place.qprof(&["maps", "-p", &pid])?, 0, &words)?;
    let over = place.qprof(&["maps", "milvus-lite"])?.stdout.replace("builds =", "# builds =");
    place.write_map("over.toml", &over)?;
    let own = place.qprof(&["check", "-p", &pid])?;
    check_says(&own, 0, &["is that of ", "over.toml, not the one built in"])?;
    let fitting = place.qprof(&["maps", "-p", &pid])?;
    check_says(&fitting, 0, &["version unknown: the map names no builds", ">=2.5, <2.6"])
}

/// What doctor says where `line` (of a shell, `$0` being qprof) puts it.
fn doctor(line: &str, unshare: &[&str]) -> Result<(Value, String)> {
    let place = Place::new()?;
    let mut both = Vec::new();
    for json in ["--json", ""] {
        let mut command = place.command("unshare");
        command.args(unshare).args(["sh", "-ec", &format!("{line} \"$0\" doctor {json}")]);
        command.arg(environment::qprof()?).arg(build("without_bpf.c", &[])?);
        both.push(run("doctor", command, PATIENCE)?);
    }
    let ready: Value = serde_json::from_str(&both[0].stdout)
        .with_context(|| format!("{} {}", both[0].stdout, both[0].stderr))?;
    let code = if ready["ready"] == true { 0 } else { 3 };
    both.iter().try_for_each(|finished| check_code(finished, code))?;
    Ok((ready, both[1].stdout.clone()))
}

/// One of the forms of a remedy: which depends on what this machine itself is.
fn check_remedy(text: &str, forms: &[&str]) -> Result<()> {
    ensure!(forms.iter().any(|form| text.contains(form)), "none of {forms:?} in {text}");
    Ok(())
}

#[test]
fn doctor_knows_a_pid_namespace_of_its_own() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let (json, text) = doctor("exec", &["--pid", "--fork", "--mount-proc"])?;
    ensure!(json["ready"] == false && json["kernel"]["initial_pid_namespace"] == false, "{json}");
    check_remedy(&text, &["--pid=host", "hostPID: true"])?;
    check_remedy(&text, &["run --rm --pid=host --cap-add=BPF", "  hostPID: true"])
}

#[test]
fn doctor_knows_a_seccomp_filter() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let (json, text) = doctor("exec \"$1\"", &["--mount"])?;
    ensure!(json["ready"] == false && json["confinement"]["seccomp_filter"] == true, "{json}");
    ensure!(text.contains("bpf() is refused"), "{text}");
    check_remedy(&text, &["--security-opt seccomp=unconfined", "seccompProfile"])?;
    ensure!(!text.contains("6.6 or newer"), "the kernel is blamed: {text}");
    Ok(())
}

#[test]
fn doctor_knows_missing_types_of_the_kernel() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").is_file() {
        return not_applicable("this kernel describes no types (/sys/kernel/btf/vmlinux)");
    }
    let hide = "mount -t tmpfs none /sys/kernel/btf; exec";
    let (json, text) = doctor(hide, &["--mount"])?;
    ensure!(json["kernel"]["btf"] == false, "{json}");
    // The claim of the note is proven by the self-test.
    ensure!(json["ready"] == true && json["self_test"]["result"] == "passed", "{json}");
    check_remedy(&text, &["-v /sys/kernel/btf:/sys/kernel/btf:ro", "hostPath /sys/kernel/btf"])?;
    ensure!(Path::new("/sys/kernel/btf/vmlinux").exists(), "the mount was not private");
    Ok(())
}

#[test]
fn doctor_knows_missing_capabilities_and_proc() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let drop = "exec setpriv --bounding-set=-bpf,-perfmon,-sys_admin";
    let (json, text) = doctor(drop, &["--mount"])?;
    ensure!(json["ready"] == false, "{json}");
    check_remedy(&text, &["--cap-add=BPF --cap-add=PERFMON", "[BPF, PERFMON]"])?;
    let (_, text) = doctor("umount -l /proc; exec", &["--mount"])?;
    check_remedy(&text, &["mount -t proc proc /proc"])
}
