//! What the planner says of the code of real compilers, against what objdump and the unwind tables
//! say of it. Nothing is attached; no root is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{repository, scratch};
use profiler_tests::planned::{Compared, compare, functions};
use profiler_tests::process::tail;
use profiler_tests::witness::{Frames, Witness};

/// How a compiler is told to compile: alone at each level, and these besides.
const LEVELS: [&str; 5] = ["-O0", "-O1", "-O2", "-O3", "-Os"];
const WAYS: [&[&str]; 11] = [
    &["-O0", "-fcf-protection=full"],
    &["-O2", "-fcf-protection=full"],
    &["-O0", "-fpatchable-function-entry=5"],
    &["-O2", "-fpatchable-function-entry=5"],
    &["-O0", "-fomit-frame-pointer"],
    &["-O2", "-fomit-frame-pointer", "-mno-red-zone"],
    &["-O2", "-fno-omit-frame-pointer"],
    &["-O3", "-flto"],
    &["-O2", "-fPIC", "-fno-plt"],
    &["-O3", "-march=haswell"],
    &["-O2", "-fstack-protector-all", "-fstack-clash-protection"],
];

fn source(name: &str) -> PathBuf {
    repository().join("tests/fixtures/shapes").join(name)
}

/// Compiles, and compares every function of what comes of it.
fn compiled(compiler: &[&str], flags: &[&str], source: &Path) -> Result<Compared> {
    let program = scratch("shapes")?.join("shapes");
    let (first, more) = compiler.split_first().context("no compiler")?;
    let mut command = Command::new(first);
    command.args(more).args(flags).arg(source).arg("-o").arg(&program);
    let output = command.output().with_context(|| format!("running {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", tail(&said));
    let witness = Witness::of(&program, &[], Frames::of(&program)?)?;
    let compared = compare(&program, &functions(&program)?, &witness)?;
    let tally = &compared.tally;
    ensure!(tally.wrong_sites == 0, "{compiler:?} {flags:?}: {compared:#?}");
    // Behind a call that does not return may stand what belongs elsewhere, and clang's tables are
    // late where it moved the epilogue's `add rsp`.
    ensure!(tally.wrong_stacks * 500 <= tally.stacks, "{compiler:?} {flags:?}: {compared:#?}");
    Ok(compared)
}

/// Both languages, all ways.
fn by(c: &str, cc: &str) -> Result<Compared> {
    let mut all = Compared::default();
    let levels = LEVELS.iter().map(std::slice::from_ref);
    for flags in levels.chain(WAYS) {
        for (compiler, name) in [(c, "shapes.c"), (cc, "shapes.cc")] {
            all.add(compiled(&[compiler], flags, &source(name))?);
        }
    }
    Ok(all)
}

/// That there was something to compare.
fn check_amount(all: &Compared, calls: usize) -> Result<()> {
    let tally = &all.tally;
    ensure!(all.calls() > calls && all.enters > calls / 10, "too little: {all:#?}");
    ensure!(tally.sites > calls && tally.stacks > calls / 2, "too little: {all:#?}");
    ensure!(all.cheap * 10 > all.calls() * 7, "few cheap landings: {all:#?}");
    ensure!(all.with_value * 10 > all.calls() * 3, "few keep the value: {all:#?}");
    ensure!(all.chains > 0 && all.dear > 0, "one kind is missing: {all:#?}");
    ensure!(tally.wrong_stacks * 2000 <= tally.stacks, "the stack is misjudged: {all:#?}");
    Ok(())
}

#[test]
fn gcc() -> Result<()> {
    let mut all = by("gcc", "g++")?;
    // Nops also before the entry; absolute addresses.
    for flags in [&["-O2", "-fpatchable-function-entry=7,2"], &["-no-pie", "-fno-pic"]] {
        all.add(compiled(&["gcc"], flags, &source("shapes.c"))?);
    }
    check_amount(&all, 5000)
}

#[test]
fn clang() -> Result<()> {
    check_amount(&by("clang", "clang++")?, 5000)
}

#[test]
fn rustc() -> Result<()> {
    let mut all = Compared::default();
    let level = |level| ["-C", level];
    for flags in [
        &level("opt-level=0")[..],
        &level("opt-level=1"),
        &level("opt-level=2"),
        &level("opt-level=3"),
        &level("opt-level=s"),
        &["-C", "opt-level=3", "-C", "lto=fat"],
        &["-C", "opt-level=3", "-C", "panic=abort"],
        &["-C", "opt-level=2", "-C", "force-frame-pointers=yes"],
        &["-C", "opt-level=3", "-C", "target-cpu=haswell"],
        &["-C", "opt-level=3", "-C", "relocation-model=static"],
    ] {
        all.add(compiled(&["rustc", "--edition=2024"], flags, &source("shapes.rs"))?);
    }
    check_amount(&all, 5000)
}
