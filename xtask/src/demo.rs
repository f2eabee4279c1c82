//! `demo`: a real vector database under load, traced, with nothing to prepare.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::args::{Args, Usage};
use crate::child::{Guarded, TICK};
use crate::cli::Context;
use crate::json::Json;
use crate::milvus::Milvus;
use crate::qprof::Attached;
use crate::toolchain::Toolchain;
use crate::venv::MilvusVenv;
use crate::{build, host, say, setup, sys};

const COLLECTION: &str = "demo";
/// Four chunks of at most 32,768 rows, hence four `brute_force` spans in each search.
const ROWS: u32 = 100_000;
const CLIENTS: usize = 4;
const FILE: &str = "demo.otlp.jsonl";
const DEFAULT_SECONDS: u64 = 10;
const MAX_SECONDS: u64 = 600;

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let jaeger: Option<String> = args.value("--jaeger")?;
    let seconds = args.value("--seconds")?.unwrap_or(DEFAULT_SECONDS);
    let file = PathBuf::from(args.value("-o")?.unwrap_or_else(|| FILE.to_owned()));
    args.finish()?;
    if !(1..=MAX_SECONDS).contains(&seconds) {
        return Err(anyhow!(Usage(format!("--seconds must be 1 to {MAX_SECONDS}"))));
    }
    host::require_root("attaching to a process", "cargo xtask demo")?;
    host::ensure(&context.cache, &[host::Need::Compilers])?;

    let (qprof, venv) = std::thread::scope(|scope| {
        let venv = scope.spawn(|| MilvusVenv::ensure(&context.cache));
        let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
        let qprof = build::release(context, &toolchain)?;
        anyhow::Ok((qprof, setup::joined(venv)?))
    })?;

    say::step("demo", "starting Milvus Lite");
    let mut milvus = Milvus::start(&venv, &context.root)?;
    say::step("demo", &format!("filling a collection with {ROWS} vectors"));
    milvus.fill(COLLECTION, ROWS)?;

    let attached = attach(&qprof, &milvus, &file, jaeger.as_deref())?;
    say::step("demo", &format!("{CLIENTS} clients search for {seconds} s"));
    let searches = load(&milvus, Duration::from_secs(seconds), attached)?;
    milvus.check_alive()?;
    drop(milvus);

    say::out(&format!("\n{searches} searches answered; nothing is left running."));
    say::out(&where_to_look(&file, jaeger.as_deref()));
    Ok(ExitCode::SUCCESS)
}

fn attach(qprof: &Path, milvus: &Milvus, file: &Path, jaeger: Option<&str>) -> Result<Attached> {
    let file = file.to_str().context("the path of -o is not UTF-8")?;
    let mut words = vec!["-m", "milvus-lite", "--output", "summary", "-o", file];
    // Clients without a pause ask more of a small server than any is asked in production.
    words.extend(["--budget", "10%"]);
    words.extend(jaeger.iter().flat_map(|url| ["--otlp", url]));
    say::step("demo", &format!("qprof run -p {} {}", milvus.pid(), words.join(" ")));
    Attached::start(qprof, milvus.pid(), &words, true)
}

/// Lets the clients search and then detaches; how many searches were answered.
fn load(milvus: &Milvus, time: Duration, mut attached: Attached) -> Result<f64> {
    let seconds = time.as_secs().to_string();
    let words = ["load", COLLECTION, "--seconds", &seconds, "--threads", "1"];
    let mut clients = (0..CLIENTS)
        .map(|_| Guarded::start("a client", milvus.client(&words).stdout(Stdio::piped())))
        .collect::<Result<Vec<_>>>()?;
    // Python and its packages take seconds to load on a busy machine.
    let limit = time + Duration::from_secs(60);
    let started = std::time::Instant::now();
    let mut answered = 0.0;
    for client in &mut clients {
        while client.poll()?.is_none() {
            if sys::stop_requested() {
                // Ctrl-C: what was traced until now is still worth its summary.
                attached.finish()?;
                bail!("stopped on request");
            }
            if let Some(status) = attached.poll()? {
                bail!("qprof ended during the load ({status})");
            }
            if started.elapsed() > limit {
                bail!("a client still runs after {}", say::seconds(limit));
            }
            std::thread::sleep(TICK);
        }
        answered += answers(client)?;
    }
    attached.finish()?;
    Ok(answered)
}

/// How many searches of a client that ended were answered.
fn answers(client: &mut Guarded) -> Result<f64> {
    let mut text = String::new();
    client.take_stdout().context("a client has no output")?.read_to_string(&mut text)?;
    let report = Json::parse(&text).context("a client did not finish its report")?;
    if report.number("errors")? > 0.0 {
        bail!("a client's searches failed: {:?}", report.list("error_texts"));
    }
    report.number("ok")
}

fn where_to_look(file: &Path, jaeger: Option<&str>) -> String {
    let file = file.display();
    match jaeger {
        Some(url) => format!(
            "The traces are in the Jaeger behind {url}: open its page (port 16686 by default),\n\
             service \"milvus\". They are also in {file}."
        ),
        None => format!(
            "The traces are in {file}. To look at them, open any Jaeger page and drop the file\n\
             into Search > Upload. No Jaeger? One line starts one on http://127.0.0.1:16686:\n  \
             docker run --rm -p 127.0.0.1:16686:16686 -p 127.0.0.1:4317:4317 \
             jaegertracing/all-in-one:1.76.0\n\
             With one running: cargo xtask demo --jaeger http://127.0.0.1:4317"
        ),
    }
}
