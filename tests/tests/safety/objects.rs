//! Objects of every make: what they are linked for, what their symbols say and do not say.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use object::{Object as _, ObjectSymbol as _};
use profiler_tests::environment::{can_probe, scratch, soak};
use profiler_tests::family::copy;
use profiler_tests::fixture::{Fixture, build};
use profiler_tests::qprof::Run;
use profiler_tests::restored::until_restored;
use profiler_tests::symbol_map;
use profiler_tests::timeout::{PATIENCE, until};
use profiler_tests::truth::{Leave, Truth};
use profiler_tests::twice::{Twice, twice};

/// As people and distributions build.
const BUILDS: &[&[&str]] = &[
    &["-O2", "-static-pie"],
    &["-O2", "-static", "-no-pie"],
    &["-O2", "-no-pie"],
    &["-O2", "-Wl,-z,now", "-fcf-protection=full"],
    &["-O2", "-fno-plt", "-Wl,-z,relro", "-Wl,-z,separate-code"],
    &["-O2", "-fpatchable-function-entry=5"],
    &["-O2", "-pg", "-mfentry", "-mnop-mcount", "-fno-pie", "-no-pie"],
    &["-O3", "-fomit-frame-pointer", "-flto", "-march=native"],
    &["-Os", "-fno-omit-frame-pointer", "-fstack-protector-all"],
    &["-Og", "-fstack-clash-protection", "-mno-red-zone"],
];

/// The tree is right and each end is known, whatever the build.
#[test]
fn every_kind_of_build() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for flags in BUILDS {
        let binary = build("leaps.c", flags)?;
        let told = scratch("truth")?.join("calls");
        let map = symbol_map::of(&["root"], &["one", "two", "three", "calm"], "");
        let twice = twice(&binary, &["plain", "50", &told.to_string_lossy()], &map)
            .with_context(|| format!("{flags:?}"))?;
        twice.check().with_context(|| format!("{flags:?}"))?;
        Truth::read(&told)?
            .compare(&twice.traces, Leave::default())
            .with_context(|| format!("{flags:?}"))?;
        for span in twice.traces.iter().flat_map(|trace| &trace.spans) {
            let exact = span.returned()? || span.exit()? == "unwound";
            ensure!(exact, "{flags:?}: {} ended as {}", span.name, span.exit()?);
        }
    }
    Ok(())
}

fn count(twice: &Twice, name: &str) -> usize {
    twice.traces.iter().map(|trace| trace.count(name)).sum()
}

/// The symbol names who picks: that is called once, before anybody watches.
#[test]
fn a_function_that_the_loader_picks() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for flags in [&["-O2"][..], &["-O2", "-Wl,-z,now"], &["-O2", "-static-pie"]] {
        let binary = build("picked.c", flags)?;
        let map = symbol_map::of(&["root"], &["picked_fast", "picked_slow"], "")
            + "\n[[span]]\nname = \"picked\"\nfunction = \"picked\"\n";
        let twice = twice(&binary, &["100"], &map)?;
        twice.check().with_context(|| format!("{flags:?}"))?;
        for (name, calls) in [("root", 100), ("picked_fast", 100), ("picked_slow", 100)] {
            ensure!(count(&twice, name) == calls, "{flags:?}: {} {name}", count(&twice, name));
        }
        ensure!(count(&twice, "picked") == 0, "who picks was taken for what is picked");
    }
    Ok(())
}

/// Without a name left, by address.
#[test]
fn a_stripped_program() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let names = ["root", "one", "two", "three", "calm"];
    for flags in [&["-O2"][..], &["-O2", "-static-pie"]] {
        let whole = build("leaps.c", flags)?;
        let stripped = copy(&whole, "stripped")?;
        let status = Command::new("strip").arg("-s").arg(&stripped).status()?;
        ensure!(status.success());
        let bytes = fs::read(&whole)?;
        let file = object::File::parse(&*bytes)?;
        let addresses: BTreeMap<&str, u64> = file
            .symbols()
            .filter_map(|symbol| Some((symbol.name().ok()?, symbol.address())))
            .collect();
        let mut map = symbol_map::of(&names[..1], &names[1..], "");
        for name in names {
            let address = addresses.get(name).with_context(|| format!("no {name}"))?;
            map = map.replace(
                &format!("function = \"{name}\""),
                &format!("address = \"{address:#x}\"\nobject = \"stripped\""),
            );
        }
        let map = map.replace("address = \"", "address = ").replace("\"\nobject", "\nobject");
        let told = scratch("truth")?.join("calls");
        let twice = twice(&stripped, &["plain", "50", &told.to_string_lossy()], &map)
            .with_context(|| format!("{flags:?}"))?;
        twice.check()?;
        Truth::read(&told)?.compare(&twice.traces, Leave::default())?;
    }
    Ok(())
}

/// Each lying symbol alone and all of them together: what is refused is refused, and the program
/// goes on as it would.
#[test]
fn symbols_that_lie() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let binary = build("liars.c", &["-O1"])?;
    let names = [
        "holder",
        "in_constant",
        "too_short",
        "too_long",
        "without_size",
        "two_names",
        "other_name",
        "inside",
        "shifted",
        "late",
    ];
    let mut harmed = Vec::new();
    for chosen in names.iter().map(std::slice::from_ref).chain([&names[..]]) {
        let map = symbol_map::of(chosen, &[], "").replace("required = true", "required = false");
        let mut target = Fixture::start(&binary, &["2000"])?;
        let (mut qprof, _) =
            Run::on(target.pid())?.map(symbol_map::file(&map)?).output("none").spawn()?;
        // Refused, or attached.
        until(PATIENCE, "qprof to attach or to refuse", || {
            let attached = qprof.stderr().contains("attached");
            Ok((attached || !qprof.alive()).then_some(()))
        })?;
        let worked = target.work();
        let said = target.stdout();
        if worked.is_err() || !said.contains("\n0 wrong") {
            harmed.push(format!("{chosen:?}: {said} {worked:?}"));
        }
        let finished =
            if qprof.alive() { qprof.interrupt(PATIENCE)? } else { qprof.wait(PATIENCE)? };
        ensure!(!finished.stderr.contains("panicked"), "{}", finished.stderr);
        ensure!([Some(0), Some(4)].contains(&finished.code), "{chosen:?}: {finished:?}");
        if target.alive() {
            until_restored(target.pid())?;
        }
    }
    ensure!(harmed.is_empty(), "harmed: {harmed:#?}");
    Ok(())
}

/// Two libraries take turns at one address while others work: what is known of an address in the
/// one is not true of the other.
#[test]
fn libraries_that_take_turns_at_an_address() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let binary = build("flicker.c", &["-O2", "-ldl"])?;
    let kinds = ["-DKIND=1", "-DKIND=2"];
    let libraries = kinds.map(|kind| {
        let built = build("turns.c", &["-O2", "-shared", "-fPIC", kind])?;
        copy(&built, "turns.so")
    });
    let [one, two] = libraries;
    let (one, two) = (one?, two?);
    let map = symbol_map::of(&["turn", "busy"], &["either", "back"], "")
        .replace("required = true", "required = false");
    let rounds = soak(2_000).to_string();
    let arguments = [rounds.as_str(), &one.to_string_lossy(), &two.to_string_lossy()];
    let twice = twice(&binary, &arguments, &map)?;
    twice.check_unharmed()?;
    let same = twice.watched.stdout.lines().find_map(|line| line.strip_prefix("same place "));
    ensure!(same.is_some_and(|count| count != "0"), "they were never at one address");
    let left: Vec<_> = twice
        .traces
        .iter()
        .flat_map(|trace| &trace.spans)
        .filter(|span| span.tags.get("qprof.exit").is_none_or(|exit| exit == "unwound"))
        .collect();
    ensure!(left.is_empty(), "nobody was unwound: {:?}", left.first());
    Ok(())
}
