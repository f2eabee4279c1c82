//! tantivy inside Python: a search is one tree, with a span for each segment.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::qprof::Run;
use profiler_tests::served::{functions_named, functions_seen, whole_traces};
use profiler_tests::tantivy::Tantivy;

/// Indexes of 1, 4 and 7 segments, as their commits made them and as the searcher counts them.
#[test]
fn one_span_a_segment() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut engine = Tantivy::start(&[("one", 1), ("four", 4), ("seven", 7)])?;
    let run = Run::on(engine.pid())?.map("tantivy").output("json").start()?;
    let mut expected = Vec::new();
    for (index, segments) in [("seven", 7), ("one", 1), ("four", 4), ("one", 1), ("seven", 7)] {
        for (how, root) in [("search", "search"), ("lenient", "search"), ("aggregate", "aggregate")]
        {
            let answer = engine.ask(index, 5, "hello", how)?;
            ensure!(answer.errors.is_empty(), "{:?}", answer.errors);
            ensure!(answer.segments == segments as u64, "{index} has {} segments", answer.segments);
            expected.extend(std::iter::repeat_n((root, segments), 5));
        }
    }
    let traces = whole_traces(&run.stop()?)?;
    ensure!(engine.alive(), "the target is gone");
    let searches: Vec<(&str, usize)> = traces
        .iter()
        .filter_map(|trace| trace.spans.first().map(|root| (trace, root.name.as_str())))
        .filter(|(_, root)| *root != "parse_query")
        .map(|(trace, root)| (root, trace.count("search_segment")))
        .collect();
    ensure!(searches == expected, "{searches:?}\ninstead of\n{expected:?}");
    for trace in &traces {
        let root = trace.root()?;
        ensure!(root.tag("db.system.name")? == "tantivy", "the system is not named");
        if root.name == "parse_query" {
            ensure!(trace.spans.len() == 1, "{}", trace.outline());
            continue;
        }
        ensure!(trace.count("merge_fruits") == 1, "{}", trace.outline());
        let below: Vec<&str> = trace.children(root).map(|span| span.name.as_str()).collect();
        let (last, segments) = below.split_last().unwrap_or((&"", &[]));
        ensure!(
            *last == "merge_fruits" && segments.iter().all(|name| *name == "search_segment"),
            "first every segment, then the merge: {}",
            trace.outline()
        );
    }
    // One parse a query, and one more where it is lenient.
    let parses = traces.iter().filter(|trace| trace.count("parse_query") > 0).count();
    ensure!(parses == 5 * (5 + 10 + 5), "{parses} queries were parsed");
    Ok(())
}

/// A query that is refused is parsed, and nothing is searched.
#[test]
fn a_refused_query_is_a_parse_alone() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut engine = Tantivy::start(&[("four", 4)])?;
    let run = Run::on(engine.pid())?.map("tantivy").output("json").start()?;
    let refused = engine.ask("four", 3, "hello AND (", "search")?;
    ensure!(refused.errors.len() == 3, "{refused:?}");
    let found = engine.ask("four", 1, "hello", "search")?;
    ensure!(found.hits == 800, "{found:?}");
    let traces = whole_traces(&run.stop()?)?;
    let roots: Vec<&str> =
        traces.iter().filter_map(|trace| trace.spans.first()).map(|r| r.name.as_str()).collect();
    ensure!(
        roots == ["parse_query", "parse_query", "parse_query", "parse_query", "search"],
        "{roots:?}"
    );
    Ok(())
}

/// Nothing in the map is a name without a function, nor a function that is never called.
#[test]
fn every_function_of_the_map_is_there_and_fires() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut engine = Tantivy::start(&[("four", 4)])?;
    let named = functions_named(engine.pid(), "tantivy")?;
    // Without `-m`: the map is found by what is mapped.
    let run = Run::on(engine.pid())?.output("json").start()?;
    for how in ["search", "lenient", "aggregate"] {
        engine.ask("four", 1, "hello", how)?;
    }
    let traces = whole_traces(&run.stop()?)?;
    let seen = functions_seen(&traces);
    // A span does not say for what a generic function was made: the two searches differ by name.
    let generic = "tantivy::core::searcher::Searcher::search_with_statistics_provider";
    let named: BTreeSet<String> = named
        .into_iter()
        .map(|name| if name.starts_with(generic) { generic.to_owned() } else { name })
        .collect();
    for root in ["search", "aggregate"] {
        ensure!(traces.iter().any(|trace| trace.count(root) == 1), "no {root}");
    }
    ensure!(named == seen, "named {named:?}\nseen {seen:?}");
    Ok(())
}
