//! `ci`: everything that must hold, in one run with one closing line.

use std::process::ExitCode;

use anyhow::Result;

use crate::args::Args;
use crate::cli::Context;
use crate::test::{self, Choice, Report};
use crate::toolchain::Toolchain;
use crate::{ebpf, host, lint, setup, sys};

pub(crate) fn run(context: &Context, args: Args) -> Result<ExitCode> {
    args.finish()?;
    host::require_root("the second half of the tests", "cargo xtask ci")?;
    host::ensure(&context.cache, &[host::Need::Compilers])?;
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let mut report = Report::default();
    let outcome = std::thread::scope(|scope| {
        // The slowest set-up starts first and goes on beside the lints.
        let servers = scope.spawn(|| setup::servers(context));
        for failed in lint::all(context, &toolchain, false) {
            report.failed_checks.push(format!("lint: {failed}"));
        }
        sys::check_stop()?;
        if let Err(error) = ebpf::check(context, &toolchain) {
            report.failed_checks.push(format!("build-ebpf --check: {error:#}"));
        }
        sys::check_stop()?;
        setup::joined(servers)?;
        test::run_phases(context, &toolchain, &Choice::default(), &mut report)
    });
    if let Err(error) = outcome {
        report.failed_checks.push(format!("{error:#}"));
    }
    report.close()
}
