//! What a newcomer and CI run: builds, tests, demonstrates and measures Qprof, and installs what
//! that needs. `cargo xtask help` lists the commands.

mod args;
mod bench;
mod build;
mod cache;
mod child;
mod ci;
mod cli;
mod command;
mod debian;
mod demo;
mod ebpf;
mod go_facts;
mod host;
mod jaeger;
mod json;
mod linker;
mod lint;
mod milvus;
mod milvus_server;
mod package;
mod qprof;
mod say;
mod setup;
mod sys;
mod tally;
mod test;
mod toolchain;
mod venv;

use std::process::ExitCode;

fn main() -> ExitCode {
    say::start_clock();
    if let Err(error) = sys::catch_stop_signals() {
        say::error(&error);
        return ExitCode::FAILURE;
    }
    match cli::run(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(error) => {
            say::error(&error);
            cli::exit_code(&error)
        }
    }
}
