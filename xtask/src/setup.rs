//! `setup`: what the other commands install when they need it, all at once or by name.

use std::process::ExitCode;
use std::thread::ScopedJoinHandle;

use anyhow::{Result, anyhow};

use crate::args::{Args, Usage};
use crate::cli::Context;
use crate::debian::{INFLUXDB, PROMETHEUS};
use crate::host::{self, Need};
use crate::toolchain::Toolchain;
use crate::venv::{ENGINES, MilvusVenv, SQLITE};
use crate::{jaeger, linker, milvus_server, say};

const PARTS: [&str; 9] = [
    "host",
    "rust",
    "bpf-linker",
    "milvus-lite",
    "engines",
    "go",
    "go-servers",
    "milvus-server",
    "jaeger",
];

/// What the tests that start real servers need.
pub(crate) const TEST_NEEDS: [Need; 7] = [
    Need::Compilers,
    Need::Clang,
    Need::Musl,
    Need::Network,
    Need::Binutils,
    Need::Venv,
    Need::Bpftrace,
];

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let parts = args.plain();
    args.finish()?;
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        let known = PARTS.join(", ");
        return Err(anyhow!(Usage(format!("`{part}` is no part; there are {known}"))));
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|word| word == part);
    let Context { root, cache } = context;
    if wanted("host") {
        host::ensure(cache, &TEST_NEEDS)?;
    }
    if wanted("rust") || wanted("bpf-linker") {
        let toolchain = Toolchain::ensure(cache, root)?;
        if wanted("bpf-linker") {
            linker::ensure(cache, &toolchain)?;
        }
    }
    if wanted("milvus-lite") {
        MilvusVenv::ensure(cache)?;
    }
    if wanted("engines") {
        ENGINES.ensure(cache)?;
        SQLITE.ensure(cache)?;
    }
    if wanted("go") {
        jaeger::ensure_go(cache)?;
    }
    if wanted("go-servers") {
        PROMETHEUS.ensure(cache)?;
        INFLUXDB.ensure(cache)?;
    }
    if wanted("milvus-server") {
        milvus_server::ensure(cache)?;
    }
    if wanted("jaeger") {
        jaeger::ensure(cache)?;
    }
    say::step("setup", "complete");
    Ok(ExitCode::SUCCESS)
}

/// What the root tests need beside a compiler: servers, and programs of the system.
///
/// # Errors
/// What the first step that fails reports.
pub(crate) fn servers(context: &Context) -> Result<()> {
    host::ensure(&context.cache, &TEST_NEEDS)?;
    MilvusVenv::ensure(&context.cache)?;
    ENGINES.ensure(&context.cache)?;
    SQLITE.ensure(&context.cache)?;
    jaeger::ensure_go(&context.cache)?;
    PROMETHEUS.ensure(&context.cache)?;
    INFLUXDB.ensure(&context.cache)?;
    jaeger::ensure(&context.cache)?;
    Ok(())
}

/// Waits for set-up that ran beside other work.
///
/// # Errors
/// What the set-up reports.
pub(crate) fn joined<T>(handle: ScopedJoinHandle<'_, Result<T>>) -> Result<T> {
    match handle.join() {
        Ok(result) => result,
        Err(_) => Err(anyhow!("the set-up thread panicked")),
    }
}
