//! Return values as keys: the register that has them is another's by the next instruction.

use anyhow::{Result, ensure};
use profiler_tests::environment::can_probe;
use profiler_tests::fixture::build;
use profiler_tests::symbol_map;
use profiler_tests::twice::twice;

#[test]
fn a_returned_key_that_is_overwritten_at_once() -> Result<()> {
    const ROUNDS: usize = 500;
    if !can_probe()? {
        return Ok(());
    }
    let handoff = "\n[[handoff]]\nname = \"job\"\ngive = { function = \"make\", key = \"ret\" }\n\
                   take = { function = \"run_job\", key = \"arg(1)\" }\n";
    let map = symbol_map::of(&["root"], &["make", "run_job"], handoff);
    let twice = twice(&build("keys.c", &["-O2"])?, &[&ROUNDS.to_string()], &map)?;
    twice.check()?;
    ensure!(twice.traces.len() == ROUNDS, "{} traces", twice.traces.len());
    for trace in &twice.traces {
        ensure!(trace.spans.len() == 3, "{}", trace.outline());
        for span in trace.named("run_job") {
            ensure!(span.evidence()? == "handoff:job", "{}", span.evidence()?);
        }
    }
    Ok(())
}
