//! The commands, in one table: what `help` prints is what runs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, anyhow};

use crate::args::{Args, Usage};
use crate::cache::Cache;
use crate::host::NeedsRoot;
use crate::{bench, build, ci, demo, ebpf, go_facts, lint, package, say, setup, test};

/// What every command starts from.
pub(crate) struct Context {
    /// The checkout.
    pub(crate) root: PathBuf,
    /// Where installed tools are kept between runs.
    pub(crate) cache: Cache,
}

struct Verb {
    name: &'static str,
    usage: &'static str,
    does: &'static str,
    run: fn(&Context, Args) -> Result<ExitCode>,
}

const VERBS: &[Verb] = &[
    Verb {
        name: "demo",
        usage: "[--jaeger URL] [--seconds N] [-o FILE]",
        does: "Trace a real vector database under load; needs root",
        run: demo::run,
    },
    Verb { name: "build", usage: "", does: "Build target/release/qprof", run: build::run },
    Verb {
        name: "build-ebpf",
        usage: "[--check]",
        does: "Build the kernel side into the object the repository holds; --check only compares",
        run: ebpf::run_command,
    },
    Verb {
        name: "test",
        usage: "[--pure|--root-only|--safety] [--full] [-- FILTER...]",
        does: "Run all tests, or those without (with) root, or the safety suite; --full takes the \
               long soaks too",
        run: test::run,
    },
    Verb {
        name: "lint",
        usage: "[--fix]",
        does: "Format, clippy, rustdoc, generated files; --fix rewrites what it can",
        run: lint::run,
    },
    Verb {
        name: "go-facts",
        usage: "[--all|--newest N] [--check]",
        does: "Ask all Go toolchains, or those of the newest minor versions, for what qprof must \
               know of each; --check only compares",
        run: go_facts::run,
    },
    Verb {
        name: "ci",
        usage: "",
        does: "lint, build-ebpf --check and test, with one closing line",
        run: ci::run,
    },
    Verb {
        name: "bench",
        usage: "[exits|go|servers|flood|attach|stall|loss|stitch...] [--runs N] [--no-docs]",
        does: "Measure against rivals; all benches rewrite the tables of docs/benchmarks.md and \
               docs/cost.svg; needs root",
        run: bench::run,
    },
    Verb {
        name: "package",
        usage: "",
        does: "Make the release archive in target/package",
        run: package::run,
    },
    Verb {
        name: "setup",
        usage: "[rust|bpf-linker|milvus-lite|engines|go|go-servers|milvus-server|jaeger|host]...",
        does: "Only install what the other commands need",
        run: setup::run,
    },
];

/// Runs the command that `words` name.
///
/// # Errors
/// What the command reports; [`Usage`] for a command or flag that does not exist.
pub(crate) fn run(words: Vec<String>) -> Result<ExitCode> {
    let mut words = words.into_iter();
    let name = words.next().unwrap_or_else(|| "help".to_owned());
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        say::out(&help());
        return Ok(ExitCode::SUCCESS);
    }
    let verb = VERBS.iter().find(|verb| verb.name == name).ok_or_else(|| {
        anyhow!(Usage(format!("no command `{name}`: `cargo xtask help` lists them")))
    })?;
    let args = Args::new(words.collect());
    if args.asks_for_help() {
        say::out(&format!("cargo xtask {} {}\n\n  {}.", verb.name, verb.usage, verb.does));
        return Ok(ExitCode::SUCCESS);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("the xtask package has no parent directory")?
        .to_owned();
    (verb.run)(&Context { root, cache: Cache::open()? }, args)
}

/// 2 for a wrong command line, 3 for missing rights (as `qprof` itself), 1 for all else.
pub(crate) fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Usage>() {
        ExitCode::from(2)
    } else if error.is::<NeedsRoot>() {
        ExitCode::from(3)
    } else {
        ExitCode::FAILURE
    }
}

fn help() -> String {
    let mut text = "cargo xtask COMMAND\n".to_owned();
    for verb in VERBS {
        let Verb { name, usage, does, run: _ } = verb;
        let head = format!("{name} {usage}");
        let _ = write!(text, "\n  {}\n      {does}.", head.trim_end());
    }
    text.push_str(
        "\n\nWhat is missing is installed first: compiler, linker, Python packages, Jaeger into\n\
         ${XDG_CACHE_HOME:-~/.cache}/qprof, system packages by apt (as root).",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_in_the_help() {
        let help = help();
        for verb in VERBS {
            assert!(help.contains(&format!("\n  {}", verb.name)), "{}", verb.name);
        }
    }

    #[test]
    fn an_unknown_command_is_a_usage_error() {
        let error = run(vec!["biuld".to_owned()]).unwrap_err();
        assert!(error.is::<Usage>());
        assert_eq!(exit_code(&error), ExitCode::from(2));
    }
}
