//! The `qprof` program: parse, run, say what went wrong, exit with the code that says which kind.

use std::process::ExitCode;

use clap::Parser as _;
use qprof::cli::{self, Cli};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap and successes to the user.
            let code = if error.use_stderr() { cli::Outcome::Usage } else { cli::Outcome::Ok };
            drop(error.print());
            return code.into();
        }
    };
    cli::start_logging(&cli);
    cli::run(cli)
}
