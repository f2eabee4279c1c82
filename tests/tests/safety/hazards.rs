//! The table of hazards in `docs/safety.md` names tests that there are, and all of this suite.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::repository;

/// `file::test` or `directory::file::test`, each in backticks, in rows of tables.
fn named() -> Result<Vec<String>> {
    let text = fs::read_to_string(repository().join("docs/safety.md"))?;
    let section = text.split("## What proves it").nth(1).context("no table of tests")?;
    let rows = section.lines().take_while(|line| !line.starts_with("## "));
    let names = rows.filter(|line| line.starts_with('|')).flat_map(|row| row.split('`'));
    Ok(names.filter(|name| name.contains("::")).map(str::to_owned).collect())
}

fn source(module: &[&str]) -> PathBuf {
    let mut path = repository().join("tests/tests");
    path.extend(module);
    path.with_extension("rs")
}

/// The names of the tests in a source file.
fn tests(path: &Path) -> Result<BTreeSet<String>> {
    let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    let behind = text.split("#[test]\n").skip(1);
    let names = behind.filter_map(|code| code.split_once("fn ")?.1.split_once('('));
    Ok(names.map(|(name, _)| name.to_owned()).collect())
}

#[test]
fn every_hazard_names_a_test_that_there_is() -> Result<()> {
    let named = named()?;
    ensure!(named.len() > 40, "only {} tests are named", named.len());
    for name in &named {
        let parts: Vec<&str> = name.split("::").collect();
        let (test, module) = parts.split_last().context("no name")?;
        ensure!(tests(&source(module))?.contains(*test), "there is no test {name}");
    }
    let once: BTreeSet<&String> = named.iter().collect();
    ensure!(once.len() == named.len(), "a test is named for two hazards");
    Ok(())
}

#[test]
fn every_test_of_this_suite_is_named() -> Result<()> {
    let named: BTreeSet<String> = named()?.into_iter().collect();
    for entry in fs::read_dir(repository().join("tests/tests/safety"))? {
        let path = entry?.path();
        let file = path.file_stem().context("a file without a name")?.to_string_lossy();
        for test in tests(&path)? {
            let name = format!("safety::{file}::{test}");
            ensure!(file == "hazards" || named.contains(&name), "{name} is for no hazard");
        }
    }
    Ok(())
}
