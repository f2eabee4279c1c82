//! Functions of Go programs, as the newest Go here builds them: stripped or not, position-independent
//! or not, with C in them, with their sections and without; and what is done with broken ones.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::{can_probe, scratch};
use profiler_tests::fixture::compile;
use profiler_tests::golang::build;
use profiler_tests::process::{Process, run};
use profiler_tests::qprof::{check, check_code, verb};
use profiler_tests::symbol_map;
use profiler_tests::timeout::PATIENCE;
use qprof::config::{Select, Selector};
use qprof::model::VirtAddr;
use qprof::symbols::{Function, Language, SymbolSet};
use qprof::target::ObjectId;

const EXECUTABLE: ObjectId = ObjectId(0);
const ANY: usize = 1_000_000;
const STRIPPED: &str = "-ldflags=-s -w";
const EXTERNAL: &str = "-ldflags=-s -w -linkmode=external";

fn find(program: &Path, pattern: &str) -> Result<Vec<Function>> {
    let select = Select::Function(pattern.to_owned());
    Ok(SymbolSet::of_file(program).find(&Selector { select, object: None }, ANY)?.functions)
}

/// A function as the program's own runtime tells of it.
struct Told {
    name: String,
    entry: u64,
    file: String,
    line: u32,
}

/// The gateway, running.
fn start(program: &Path) -> Result<(Process, Vec<Told>)> {
    let mut process = Process::spawn("gateway", Command::new(program))?;
    let mut told = Vec::new();
    loop {
        let line = process.hear()?;
        if line.starts_with("ready") {
            return Ok((process, told));
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, entry, file, line] = words.as_slice() else {
            anyhow::bail!("the gateway says {line}");
        };
        told.push(Told {
            name: (*name).to_owned(),
            entry: entry.parse()?,
            file: (*file).to_owned(),
            line: line.parse()?,
        });
    }
}

/// Names, addresses and lines against what the runtime says; it does not tell type arguments.
fn agrees_with_its_runtime(program: &Path) -> Result<()> {
    let (mut process, told) = start(program)?;
    let symbols = SymbolSet::of_file(program);
    let main = find(program, "main.main")?;
    let main = main.first().context("no main.main")?.code.address.0;
    let there = told.iter().find(|told| told.name == "main.main").context("main is not told")?;
    let bias = there.entry - main;
    for told in &told {
        let address = VirtAddr(told.entry - bias);
        let found = symbols.function_at(EXECUTABLE, address);
        let found = found.with_context(|| format!("{} is not found", told.name))?;
        let plain = |name: &str| name.split('[').next().unwrap_or_default().to_owned();
        ensure!(plain(&found.name) == plain(&told.name), "{} is {}", found.name, told.name);
        ensure!(found.language == Language::Go, "{} is not Go", found.name);
        let lines = symbols.source_lines(EXECUTABLE, &[address]);
        let line = lines.first().and_then(Option::as_ref);
        let line = line.with_context(|| format!("no line of {}", told.name))?;
        ensure!(
            *line.file == *told.file && line.line == Some(told.line),
            "{}: {line:?}",
            told.name
        );
    }
    process.kill()?;
    Ok(())
}

/// The same file without section headers, as packers leave it.
fn without_sections(program: &Path) -> Result<std::path::PathBuf> {
    let mut bytes = fs::read(program)?;
    for range in [40..48, 60..64] {
        bytes.get_mut(range).context("too short a file")?.fill(0);
    }
    let copy = scratch("bare")?.join("gateway");
    fs::copy(program, &copy)?;
    fs::write(&copy, bytes)?;
    Ok(copy)
}

#[test]
fn stripped_programs_of_every_kind_are_read() -> Result<()> {
    for (cgo, flags) in [
        (false, &[STRIPPED][..]),
        (false, &[STRIPPED, "-buildmode=pie"]),
        (true, &[STRIPPED]),
        (true, &[EXTERNAL]),
        (true, &[EXTERNAL, "-buildmode=pie"]),
        (true, &[]),
    ] {
        let program = build("gateway", cgo, flags)?;
        let bare = without_sections(&program)?;
        for program in [&program, &bare] {
            agrees_with_its_runtime(program).with_context(|| format!("{cgo} {flags:?}"))?;
            for (pattern, count) in [
                ("internal/proxy.(*Node).Search", 1),
                ("example.org/gateway/internal/proxy.(*Node).Search", 1),
                ("proxy.Node.Count", 1),
                ("proxy.Each.func1", 1),
                ("proxy.(*Node).Search-fm", 1),
                ("proxy.(*Nodes).Search", 0),
            ] {
                let found = find(program, pattern)?.len();
                ensure!(found == count, "{pattern}: {found}, {flags:?}");
            }
            // Two bodies, and with newer versions what a function value of one is.
            let generic = find(program, "proxy.Sum[...]")?.len();
            ensure!(generic >= 2, "{generic} of Sum, {flags:?}");
            let version = SymbolSet::of_file(program);
            let version = version.go_version(EXECUTABLE).unwrap_or_default().to_owned();
            ensure!(version.starts_with("go1."), "{version}");
        }
    }
    Ok(())
}

#[test]
fn its_symbol_table_says_the_same() -> Result<()> {
    for (cgo, flags) in [(true, &[][..]), (false, &["-buildmode=pie"])] {
        let program = build("gateway", cgo, flags)?;
        let mut nm = Command::new("nm");
        nm.args(["-S", "--defined-only"]).arg(&program);
        let listed = run("nm", nm, PATIENCE)?;
        let mut sizes: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for line in listed.stdout.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [address, size, "t" | "T", ..] = words.as_slice() {
                let (address, size) =
                    (u64::from_str_radix(address, 16)?, u64::from_str_radix(size, 16)?);
                sizes.entry(address).or_default().push(size);
            }
        }
        let found = find(&program, "*")?;
        let mut addresses: Vec<u64> = found.iter().map(|f| f.code.address.0).collect();
        addresses.dedup();
        ensure!(addresses.len() == found.len(), "a function is there twice");
        let of_go: Vec<&Function> = found.iter().filter(|f| f.language == Language::Go).collect();
        ensure!(of_go.len() > 1000, "only {} Go functions", of_go.len());
        for function in of_go {
            let size = function.code.bytes.len() as u64;
            let same = sizes.get(&function.code.address.0).is_some_and(|all| all.contains(&size));
            ensure!(same, "{} has not {size} bytes", function.name);
        }
        for name in if cgo { &["engine_search", "engine_step"][..] } else { &[] } {
            let found = find(&program, name)?;
            let native: Vec<_> = found.iter().map(|function| function.language).collect();
            ensure!(native == [Language::Native], "{name}: {native:?}");
        }
    }
    Ok(())
}

#[test]
fn symbols_lists_them_of_a_file_and_of_a_process() -> Result<()> {
    let program = build("gateway", true, &[STRIPPED])?;
    let (mut process, _) = start(&program)?;
    let pattern = "internal/proxy.(*Node).Search";
    let path = program.to_string_lossy().into_owned();
    let by_file = verb(&["symbols", &path, pattern])?;
    let by_pid = verb(&["symbols", &process.pid().to_string(), pattern])?;
    process.kill()?;
    for said in [&by_file, &by_pid] {
        check_code(said, 0)?;
        ensure!(said.stdout.contains("(Go, go1."), "{}", said.stdout);
        ensure!(said.stdout.contains("example.org/gateway/internal/proxy.(*Node).Search\n"));
        ensure!(said.stdout.contains(" bytes  go\n") && said.stdout.contains("1 function\n"));
    }
    ensure!(by_file.stdout == by_pid.stdout, "{} and {}", by_file.stdout, by_pid.stdout);
    let near = verb(&["symbols", &path, "internal/proxy.(*Node).Serach"])?;
    ensure!(
        near.stderr.contains("example.org/gateway/internal/proxy.(*Node).Search"),
        "{}",
        near.stderr
    );
    Ok(())
}

#[test]
fn go_functions_are_planned_beside_c_functions() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    let program = build("gateway", true, &[])?;
    let (mut process, _) = start(&program)?;
    let search = "internal/proxy.(*Node).Search";
    let span = format!("\n[[span]]\nname = \"node\"\nfunction = \"{search}\"\n");
    let map = symbol_map::file(&symbol_map::of(&["engine_search"], &["engine_step"], &span))?;
    let checked = check(process.pid(), &map.to_string_lossy())?;
    let spans: Vec<_> = checked.functions.iter().filter_map(|f| f.span.as_deref()).collect();
    ensure!(spans == ["engine_search", "engine_step", "node"], "{spans:?}");
    ensure!(
        checked.skipped.iter().all(|(what, _)| !what.contains("Search")),
        "{:?}",
        checked.skipped
    );
    ensure!(process.alive(), "the gateway has ended");
    process.kill()?;
    Ok(())
}

#[test]
fn what_no_go_of_its_own_built_is_refused() -> Result<()> {
    if !can_probe()? {
        return Ok(());
    }
    for (mark, toolchain) in [("__go_init_main", "gccgo"), ("tinygo_longjmp", "TinyGo")] {
        let source = format!(
            "#include <stdio.h>\n\
             int searched(int n) __asm__(\"example.Search\");\n\
             __attribute__((noinline)) int searched(int n) {{ __asm__ volatile(\"\"); return n + 1; }}\n\
             __attribute__((noinline)) int plain(int n) {{ __asm__ volatile(\"\"); return n + 2; }}\n\
             void {mark}(void);\nvoid {mark}(void) {{}}\n\
             int main(void) {{ {mark}(); printf(\"%d ready\\n\", searched(1) + plain(1)); \
             fflush(stdout); getchar(); return 0; }}\n"
        );
        let path = scratch("other")?.join("other.c");
        fs::write(&path, source)?;
        let mut process = Process::spawn("other", Command::new(compile(&path, &["-O1"])?))?;
        process.hear()?;
        let span = "\n[[span]]\nname = \"search\"\nfunction = \"example.Search\"\n";
        let map = symbol_map::file(&symbol_map::of(&["plain"], &[], span))?;
        let checked = check(process.pid(), &map.to_string_lossy())?;
        process.kill()?;
        let (_, why) = checked.skipped.first().context("nothing is refused")?;
        ensure!(why.contains(&format!("built by {toolchain}")), "{why}");
        ensure!(checked.functions.iter().any(|f| f.span.as_deref() == Some("plain")));
    }
    Ok(())
}

/// Where the table of functions is in a file.
fn table(program: &Path) -> Result<(usize, usize)> {
    let mut readelf = Command::new("readelf");
    readelf.args(["-SW"]).arg(program);
    let said = run("readelf", readelf, PATIENCE)?.stdout;
    let line = said.lines().find(|line| line.contains(".gopclntab")).context("no .gopclntab")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "PROGBITS").context("no such line")?;
    let number = |word: Option<&&str>| usize::from_str_radix(word.copied().unwrap_or_default(), 16);
    Ok((number(words.get(at + 2))?, number(words.get(at + 3))?))
}

#[test]
fn an_obfuscated_table_is_told() -> Result<()> {
    let program = build("gateway", false, &[STRIPPED])?;
    let (at, _) = table(&program)?;
    let mut bytes = fs::read(&program)?;
    bytes.get_mut(at..at + 4).context("no table")?.copy_from_slice(&[0x5a, 0x13, 0x7c, 0x2e]);
    fs::write(&program, bytes)?;
    let said = verb(&["symbols", &program.to_string_lossy(), "main.main"])?;
    ensure!(said.stderr.contains("garble") && said.stderr.contains("gateway"), "{}", said.stderr);
    ensure!(!said.stderr.contains("panicked"), "{}", said.stderr);
    Ok(())
}

#[test]
fn changed_and_shortened_programs_are_errors_at_worst() -> Result<()> {
    let program = build("gateway", false, &[STRIPPED])?;
    let (at, size) = table(&program)?;
    let whole = fs::read(&program)?;
    let ask = |bytes: &[u8]| -> Result<()> {
        fs::write(&program, bytes)?;
        let symbols = SymbolSet::of_file(&program);
        let select = Select::Function("*proxy*".to_owned());
        let found = symbols.find(&Selector { select, object: None }, ANY);
        if let Err(error) = &found {
            ensure!(error.to_string().contains("gateway"), "{error}");
        }
        for function in found.into_iter().flat_map(|found| found.functions) {
            let _ = symbols.source_lines(EXECUTABLE, &[function.code.address]);
        }
        Ok(())
    };
    // A generator of Marsaglia's: the same changes each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % below
    };
    for round in 0..60 {
        let mut bytes = whole.clone();
        for _ in 0..=random(20) {
            // The file's header, that of the table, and all of it, in turn.
            let place = match round % 3 {
                0 => random(0x200),
                1 => at + random(72),
                _ => at + random(size),
            };
            *bytes.get_mut(place).context("beyond the end")? = random(256) as u8;
        }
        ask(&bytes)?;
        ask(whole.get(..random(whole.len())).unwrap_or_default())?;
    }
    Ok(())
}
