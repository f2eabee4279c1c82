//! A server nobody has written a line of code for, and a symbol map of five minutes
//! (`fixtures/server.toml`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use profiler_tests::environment::{can_probe, repository};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::tree::from_otlp;

const CLIENTS: usize = 4;
const REQUESTS: usize = 50;

/// One client: requests of one to four shards, and every fifth no request at all.
fn talk(port: u16) -> Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = BufReader::new(stream.try_clone()?).lines();
    for turn in 0..REQUESTS {
        let (line, expected) = if turn % 5 == 4 {
            ("nonsense\n".to_owned(), "error ")
        } else {
            (format!("find word {}\n", 1 + turn % 4), "found ")
        };
        stream.write_all(line.as_bytes())?;
        let answer = answers.next().context("the server hung up")??;
        ensure!(answer.starts_with(expected), "{line:?} was answered {answer:?}");
    }
    Ok(())
}

#[test]
fn a_map_of_five_minutes_shows_every_request() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let mut server = Fixture::start(&build("server.cc", &["-O2"])?, &["3"])?;
    let port = server
        .stdout()
        .lines()
        .find_map(|line| line.strip_prefix("listening ")?.parse().ok())
        .context("the server names no port")?;
    let run = Run::on(server.pid())?
        .map(repository().join("tests/fixtures/server.toml"))
        .output("json")
        .start()?;
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(move || talk(port))).collect();
    for client in clients {
        client.join().map_err(|_gone| anyhow!("a client panicked"))??;
    }
    let done = run.stop()?;
    done.check_ok()?;
    done.summary.check_nothing_lost()?;
    ensure!(server.alive(), "the server is gone");

    let traces = from_otlp(&done.finished.stdout)?;
    ensure!(traces.len() == CLIENTS * REQUESTS, "{} traces", traces.len());
    let mut by_shards = [0; 5];
    for trace in &traces {
        trace.check()?;
        let root = trace.root()?;
        ensure!(root.name == "request" && root.tag("db.operation.name")? == "find");
        ensure!(root.tag("code.function.name")?.contains("kv::Server::handle"));
        ensure!(trace.count("parse") == 1, "{}", trace.outline());
        let shards = trace.count("shard");
        by_shards[shards] += 1;
        ensure!(trace.count("waiting") == shards, "{}", trace.outline());
        ensure!(trace.count("scan") == shards, "{}", trace.outline());
        ensure!(trace.count("merge") == usize::from(shards > 0), "{}", trace.outline());
        for shard in trace.named("shard") {
            ensure!(shard.evidence()? == "handoff:task", "{}", shard.evidence()?);
            ensure!(shard.thread()? != root.thread()?, "a shard on the thread of the request");
            ensure!(trace.children(shard).all(|scan| scan.name == "scan"), "{}", trace.outline());
        }
        for parse in trace.named("parse") {
            // A request that is none leaves its parser by an exception.
            ensure!(
                (parse.ended()? == "returned") == (shards > 0),
                "parse ended as {}",
                parse.exit()?
            );
        }
    }
    ensure!(by_shards[0] == CLIENTS * REQUESTS / 5, "{by_shards:?}");
    ensure!(by_shards[1..].iter().all(|count| *count > 0), "{by_shards:?}");
    Ok(())
}
