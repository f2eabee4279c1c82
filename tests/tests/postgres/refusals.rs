//! An ERROR leaves by `longjmp`: what it left ends, and what comes after is right.

use anyhow::{Result, ensure};
use profiler_tests::environment::{alone, can_probe};
use profiler_tests::postgres::Postgres;
use profiler_tests::qprof::Run;
use profiler_tests::tree::{Span, Trace};

use crate::{FAILED, GOOD, GOOD_TREE, IN_BLOCK, UTILITY, outlines, whole};

/// A statement, how the server refuses it, and what is seen.
type Refused<'a> = (&'a str, &'a str, &'a [&'a str]);

/// By the simple protocol.
const REFUSED: &[Refused<'_>] = &[
    ("select 1 / 0", "22012", &["simple_query(parse,analyze,rewrite,plan)", "abort"]),
    ("select * from missing", "42P01", &["simple_query(parse,analyze)", "abort"]),
    ("selec", "42601", &["simple_query(parse)", "abort"]),
    ("select 1 / (id - 70000) from numbers", "22012", &[FAILED, "abort"]),
];

/// By the extended protocol, with a parameter.
const REFUSED_STEPS: &[Refused<'_>] = &[
    (
        "select * from missing where id = %s",
        "42P01",
        &["parse", "analyze", "abort", "finish_command"],
    ),
    ("selec %s", "42601", &["parse", "abort", "finish_command"]),
    (
        "select 1 / (id - %s) from numbers",
        "22012",
        &[
            "parse",
            "analyze(rewrite)",
            "bind(plan)",
            "portal_start",
            "portal_run(executor_run)",
            "abort",
            "finish_command",
        ],
    ),
];

/// A PL/pgSQL block that catches an error of its first statement, and then goes on.
const CATCHING: &str = "do $$ begin \
    begin perform 1 / (id - 70000) from numbers; exception when division_by_zero then null; end; \
    perform count(*) from numbers; \
    end $$";
const CAUGHT: &str = "simple_query(parse,analyze,portal_start,portal_run(utility(\
    analyze,rewrite,bind(plan),executor_run,abort_block,\
    analyze,rewrite,bind(plan),executor_run)),commit)";

/// What a failed call left open ended before the server began to clean up, and all else returned.
fn check_ends(traces: &[Trace]) -> Result<()> {
    for (number, trace) in traces.iter().enumerate() {
        let next = traces.get(number + 1);
        let failed = next.is_some_and(|next| next.outline().starts_with("abort"));
        let left: Vec<&Span> = trace
            .spans
            .iter()
            .filter(|span| span.ended().is_ok_and(|end| end != "returned"))
            .collect();
        for span in &left {
            ensure!(span.exit()? == "unwound", "{} ended as {}", span.name, span.exit()?);
        }
        if let Some(abort) = next.filter(|_| failed) {
            let root = trace.root()?;
            ensure!(left.iter().any(|span| span.id == root.id), "{} returned", trace.outline());
            ensure!(root.end <= abort.root()?.start, "{} ended too late", trace.outline());
        } else if trace.count("abort_block") == 1 && trace.count("utility") == 1 {
            let names: Vec<&str> = left.iter().map(|span| span.name.as_str()).collect();
            ensure!(names == ["executor_run"], "left by the caught error: {names:?}");
        } else {
            ensure!(left.is_empty(), "{} did not return", trace.outline());
        }
    }
    Ok(())
}

/// An ERROR leaves by `longjmp`: its trace ends then and there, and the next ones are right.
#[test]
fn errors_leave_later_trees_right() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let _alone = alone();
    let mut server = Postgres::start()?;
    let mut session = server.session()?;
    let run = Run::on(session.pid())?.map("postgres").output("json").start()?;
    let mut expected = Vec::new();

    for (statement, state, trees) in REFUSED {
        let answer = session.simple(statement)?;
        ensure!(answer.state()? == *state, "{statement}: {:?}", answer.0);
        session.simple(GOOD)?.rows()?;
        expected.extend_from_slice(trees);
        expected.push(GOOD_TREE);
    }
    for (statement, state, trees) in REFUSED_STEPS {
        let answer = session.extended(statement, &[70_000])?;
        ensure!(answer.state()? == *state, "{statement}: {:?}", answer.0);
        session.simple(GOOD)?.rows()?;
        expected.extend_from_slice(trees);
        expected.push(GOOD_TREE);
    }

    session.simple("set statement_timeout = '2s'")?.rows()?;
    ensure!(session.simple("select pg_sleep(600)")?.state()? == "57014");
    session.simple("set statement_timeout = 0")?.rows()?;
    expected.extend([UTILITY, FAILED, "abort", UTILITY]);
    ensure!(session.cancelled("select pg_sleep(600)")?.state()? == "57014");
    session.simple(GOOD)?.rows()?;
    expected.extend([FAILED, "abort", GOOD_TREE]);

    session.simple(CATCHING)?.rows()?;
    session.simple(GOOD)?.rows()?;
    expected.extend([CAUGHT, GOOD_TREE]);

    for statement in ["begin", "savepoint here"] {
        session.simple(statement)?.rows()?;
    }
    ensure!(session.simple("select 1 / 0")?.state()? == "22012");
    for statement in ["rollback to here", "commit"] {
        session.simple(statement)?.rows()?;
    }
    session.simple(GOOD)?.rows()?;
    expected.extend([IN_BLOCK, IN_BLOCK, "simple_query(parse,analyze,rewrite,plan)"]);
    expected.extend(["abort(abort_block)", IN_BLOCK, UTILITY, GOOD_TREE]);

    let done = run.stop()?;
    let traces = whole(&done)?;
    server.check_unharmed()?;
    let seen = outlines(&traces);
    ensure!(seen == expected, "seen: {seen:#?}\nexpected: {expected:#?}");
    check_ends(&traces)
}
