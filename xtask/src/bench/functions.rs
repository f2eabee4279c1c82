//! Which functions of a server a query calls, found by counting: probes on all functions that
//! begin with `push`, for a few queries.
//!
//! `push` alone, because the kernel emulates it: harmless under a probe, cheap, and the same
//! instruction for every tracer.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::tracer::{Build, probe};
use crate::command::stdout_of;
use crate::json::Json;

/// Calls a query at most: beyond are helpers that nobody would draw as a span.
const MOST_CALLS: u64 = 16;
/// Queries for which calls are counted.
const QUERIES: u32 = 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Stage,
    Engine,
    Called,
    Idle,
}

/// A function of an object.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) linkage: String,
    name: String,
    offset: u64,
    size: u64,
}

/// Functions of one server in the order a map would name them: stages, what else of the engine a
/// query calls, what else a query calls at all, and what it does not call.
#[derive(Debug)]
pub(super) struct Functions {
    pub(super) object: PathBuf,
    all: Vec<Function>,
}

impl Functions {
    /// Finds those of process `pid`. The stages are those of the built-in map `map`; the engine is
    /// what is named `namespace…`; `ask` has the server answer so many queries.
    ///
    /// # Errors
    /// When qprof or the counting probe fails, or nothing is called.
    pub(super) fn find(
        build: &Build,
        counter: &Path,
        pid: u32,
        map: &str,
        namespace: &str,
        ask: impl FnOnce(u32) -> Result<()>,
    ) -> Result<Self> {
        let (object, stages) = stages(build, pid, map)?;
        let candidates = candidates(build, &object)?;
        let sites: Vec<_> =
            candidates.iter().map(|function| (object.as_path(), function.offset)).collect();
        let counting = probe(counter, "count", pid, &sites)?;
        ask(QUERIES)?;
        let mut ranked = Vec::new();
        for (function, count) in candidates.into_iter().zip(counting.end()?) {
            let count: u64 = count.parse().context("a count of the probe is no number")?;
            let calls = count / u64::from(QUERIES);
            let body = function.offset..function.offset + function.size;
            let rank = match calls {
                1..=MOST_CALLS if stages.iter().any(|at| body.contains(at)) => Rank::Stage,
                1..=MOST_CALLS if function.name.starts_with(namespace) => Rank::Engine,
                1..=MOST_CALLS => Rank::Called,
                0 => Rank::Idle,
                _ => continue,
            };
            // What is called seldom first, then in the order of the object.
            ranked.push(((rank, calls, function.offset), function));
        }
        ranked.sort_by_key(|(key, _)| *key);
        if ranked.first().is_none_or(|((rank, ..), _)| *rank == Rank::Idle) {
            bail!("a query calls none of the functions of {}", object.display());
        }
        Ok(Self { object, all: ranked.into_iter().map(|(_, function)| function).collect() })
    }

    /// A map of the first `count` of them, all of them spans and roots.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn write_map(&self, count: usize, file: &Path) -> Result<()> {
        let mut text =
            "version = 1\nname = \"bench\"\nsystem = \"bench\"\norphans = \"keep\"\n".to_owned();
        for (number, function) in self.first(count).iter().enumerate() {
            let _ = write!(
                text,
                "\n[[span]]\nname = \"function_{number}\"\nlinkage = \"{}\"\nroot = true\n",
                function.linkage
            );
        }
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The first `count`, or all when there are fewer.
    pub(super) fn first(&self, count: usize) -> &[Function] {
        self.all.get(..count).unwrap_or(&self.all)
    }
}

/// The object of a built-in map, and the file offsets of its enter sites.
fn stages(build: &Build, pid: u32, map: &str) -> Result<(PathBuf, Vec<u64>)> {
    let plan = stdout_of(Command::new(&build.program).args([
        "check",
        "--json",
        "-m",
        map,
        "-p",
        &pid.to_string(),
    ]))?;
    let plan = Json::parse(&plan)?;
    let mut object = None;
    let mut offsets = Vec::new();
    for probe in plan.list("probes").iter().filter(|probe| probe.text("span").is_some()) {
        object = object.or(probe.text("path"));
        for site in probe.list("sites").iter().filter(|site| site.text("role") == Some("enter")) {
            offsets.push(whole(site, "offset")?);
        }
    }
    Ok((object.context("`qprof check` planned no function")?.into(), offsets))
}

/// The functions of `object` that a map can name and that begin with `push`.
fn candidates(build: &Build, object: &Path) -> Result<Vec<Function>> {
    let listing = stdout_of(
        Command::new(&build.program)
            .arg("symbols")
            .arg(object)
            .args(["*", "--json", "--limit", "1000000"]),
    )?;
    let Json::List(functions) = Json::parse(&listing)? else {
        bail!("`qprof symbols` printed no list");
    };
    let code = fs::read(object).with_context(|| format!("cannot read {}", object.display()))?;
    let mut seen = BTreeSet::new();
    Ok(functions
        .iter()
        .filter_map(function)
        .filter(|function| {
            // A clone such as `x.part.0` is no name that a map can give.
            !function.linkage.contains('.')
                && usize::try_from(function.offset)
                    .ok()
                    .and_then(|at| code.get(at..))
                    .is_some_and(begins_with_push)
                && seen.insert(function.offset)
        })
        .collect())
}

fn function(symbol: &Json) -> Option<Function> {
    let offset = u64::from_str_radix(symbol.text("offset")?.strip_prefix("0x")?, 16).ok()?;
    let number = |key| whole(symbol, key).ok();
    (number("copies")? == 1).then_some(())?;
    let text = |key| symbol.text(key).map(str::to_owned);
    Some(Function { linkage: text("linkage")?, name: text("name")?, offset, size: number("size")? })
}

#[expect(clippy::cast_sign_loss, reason = "sizes and file offsets, exact below 2^53")]
fn whole(json: &Json, key: &str) -> Result<u64> {
    json.number(key).map(|number| number as u64)
}

/// `push` of one of the sixteen registers, without any prefix but the one that needs it.
fn begins_with_push(code: &[u8]) -> bool {
    matches!(code, [0x50..=0x57, ..] | [0x41, 0x50..=0x57, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_push_is_push() {
        assert!(begins_with_push(&[0x55, 0x48]) && begins_with_push(&[0x41, 0x57]));
        assert!(!begins_with_push(&[0x48, 0x55]) && !begins_with_push(&[0xc5, 0x50]));
        assert!(!begins_with_push(&[0x41]) && !begins_with_push(&[]));
    }

    #[test]
    fn a_symbol_that_shares_its_name_is_left_out() {
        let symbol = |copies: u32| {
            let text = format!(
                "{{\"linkage\": \"_Zf\", \"name\": \"f\", \"offset\": \"0x10\", \"size\": 64, \"copies\": {copies}}}"
            );
            function(&Json::parse(&text).unwrap()).map(|function| function.offset)
        };
        assert_eq!(symbol(1), Some(0x10));
        assert_eq!(symbol(2), None);
    }
}
