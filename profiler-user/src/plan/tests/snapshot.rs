//! Functions of real compilers, and what is chosen for them, as one text: `landings.txt`. To write it
//! anew after a change that is meant, run this test with `QPROF_BLESS=1`, and read the difference.
//! The functions are those of `tests/fixtures/shapes`; `go.txt` has the same of functions of Go's runtime
//! and of some with large frames, by several releases of Go.

use std::fmt::Write as _;

use super::*;
use crate::plan::{KernelForms, LandingSite, Return, ReturnNeeds, Returns};

const TEXT: &str = include_str!("landings.txt");
const GO: &str = include_str!("go.txt");

/// What is chosen for a function, a line each.
fn chosen(function: &Function) -> String {
    let mut text = String::new();
    match analysed(function) {
        Ok(analysis) => {
            let (address, slot, cost) = enter(&analysis);
            let site = analysis.enters.best(Needs::default()).unwrap();
            let restarts = if site.restarts { " restarts" } else { "" };
            writeln!(text, "enter {address:#x} slot {slot} {cost:?}{restarts}").unwrap();
            let rets: Vec<_> = rets(&analysis).iter().map(|ret| format!("{ret:#x}")).collect();
            writeln!(text, "ret {}", rets.join(" ")).unwrap();
        }
        Err(refused) => writeln!(text, "refused: {refused}").unwrap(),
    }
    let returns = Returns::of(function, KernelForms::default()).unwrap();
    for address in returns.addresses() {
        let plan = returns.at(address, ReturnNeeds::Nothing);
        let first = match &plan.first {
            Return::Landing(site) => landing(site),
            Return::Caller(up) => format!("caller {up:?}"),
            Return::None(why) => format!("none: {why}"),
        };
        writeln!(text, "after {address} {first}").unwrap();
        match returns.at(address, ReturnNeeds::Value).first {
            Return::Landing(site) if plan.first == Return::Landing(site.clone()) => {}
            Return::Landing(site) => writeln!(text, "  value {}", landing(&site)).unwrap(),
            Return::Caller(_) => panic!("a chain for a value"),
            Return::None(why) => writeln!(text, "  value none: {why}").unwrap(),
        }
    }
    text
}

fn landing(site: &LandingSite) -> String {
    let LandingSite { address, slot_offset, cost, instruction, .. } = site;
    format!("{address} slot {slot_offset} {cost:?} `{instruction}`")
}

/// What is chosen for every function of a text, and that it is what the text says.
fn check(file: &str, known: &str, language: Language) -> usize {
    let mut expected = Vec::new();
    let mut calls = 0;
    for block in known.trim_end().split("\n\n") {
        let mut lines = block.lines();
        let head = lines.next().unwrap();
        let code: Vec<&str> = lines.take_while(|line| !line.contains(' ')).collect();
        let (name, rest) = head.strip_prefix("== ").unwrap().split_once(", ").unwrap();
        let (_, address) = rest.rsplit_once(", at 0x").unwrap();
        let address = u64::from_str_radix(address, 16).unwrap();
        let chosen = chosen(&Function { language, ..hex(name, address, &code.concat()) });
        calls += chosen.lines().filter(|line| line.starts_with("after")).count();
        expected.push(format!("{head}\n{}\n{chosen}", code.join("\n")));
    }
    let expected = expected.join("\n");
    if std::env::var_os("QPROF_BLESS").is_some() {
        let file = format!("{}/src/plan/tests/{file}", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(file, &expected).unwrap();
    }
    assert!(expected == known, "chosen now:\n{expected}");
    calls
}

#[test]
fn what_is_chosen_for_real_functions() {
    let calls = check("landings.txt", TEXT, Language::Native);
    assert!(calls > 60, "only {calls} calls");
}

#[test]
fn what_is_chosen_for_functions_of_go() {
    let calls = check("go.txt", GO, Language::Go);
    assert!(calls > 60, "only {calls} calls");
}
