//! A target that lies about its calls (`fixtures/hostile.c`): it must not be harmed, and nothing
//! that is said of its honest calls may be wrong.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, soak};
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::symbol_map;
use profiler_tests::tree::from_otlp;

/// Its functions. All are roots, since any may be called by code that nobody knows.
const FUNCTIONS: [&str; 7] =
    ["honest", "honest_inner", "victim", "lie_elsewhere", "hop", "lie_pivot", "lie_leaves"];

#[test]
fn a_program_that_lies_about_its_calls() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let binary = build("hostile.c", &["-O1"])?;
    let map = symbol_map::file(&symbol_map::of(&FUNCTIONS, &[], ""))?;
    let mut fixture = Fixture::start(&binary, &[&soak(300).to_string()])?;
    let run = Run::on(fixture.pid())?.map(map).output("json").start()?;
    let worked = fixture.work();
    let said = fixture.stdout();
    worked.with_context(|| said.clone())?;
    let done = run.stop()?;
    done.check_ok()?;
    ensure!(said.contains("\n0 differences"), "probed, it is another program: {said}");
    ensure!(fixture.finish()?.code == Some(0));
    ensure!(done.summary.number(&["lost"])? == 0, "{}", done.summary.0);

    let traces = from_otlp(&done.finished.stdout)?;
    let mut spans: BTreeMap<&str, usize> = BTreeMap::new();
    for trace in &traces {
        for span in &trace.spans {
            *spans.entry(&span.name).or_default() += 1;
            if let Some(parent) = trace.parent(span)? {
                let nested = match span.name.as_str() {
                    "honest_inner" => parent.name == "honest",
                    // One that has left without a word may be taken for what the next is under.
                    _ => parent.name.starts_with("lie_") || parent.name == "hop",
                };
                ensure!(nested, "{} hangs under {}", span.name, parent.name);
            }
        }
        for span in trace.named("honest") {
            ensure!(span.parent.is_none(), "an honest call hangs under {:?}", span.parent);
            let inner: Vec<_> = trace.children(span).collect();
            ensure!(inner.len() == 1 && inner[0].name == "honest_inner", "{}", trace.outline());
            for call in [span, inner[0]] {
                ensure!(call.returned()?, "{} ended as {}", call.name, call.exit()?);
            }
        }
    }
    for name in FUNCTIONS {
        let told = said.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        let told: usize = told.context(name)?.parse()?;
        let seen = spans.get(name).copied().unwrap_or_default();
        ensure!(seen == told, "{told} calls of {name} became {seen} spans");
    }
    Ok(())
}
