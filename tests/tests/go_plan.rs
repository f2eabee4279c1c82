//! What the planner says of Go programs, against objdump and the unwind tables, where there are some.
#![expect(clippy::print_stderr, reason = "the shares are to be read, not only to be good enough")]

use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use profiler_common::{Cookie, LaneKind, Role};
use profiler_tests::golang::build;
use profiler_tests::jaeger::Jaeger;
use profiler_tests::planned::{compare, functions};
use profiler_tests::symbol_map;
use profiler_tests::witness::{Frames, Witness};
use qprof::config::{Select, Selector, load_map};
use qprof::model::Pid;
use qprof::plan::{
    CostClass, KernelForms, ProbePlan, add_go_runtime, build as plan_of, go_runtime,
};
use qprof::symbols::{Found, Function, Language, SymbolSet};
use qprof::target::Target;

/// How many functions one plan can have.
const AT_ONCE: usize = 4000;
/// How much code around a function objdump is shown.
const AROUND: u64 = 64;

/// The functions of Go among all of a file.
fn of_go(path: &Path) -> Result<Vec<Function>> {
    let mut all = functions(path)?;
    all.retain(|function| function.language == Language::Go);
    ensure!(all.len() > 500, "only {} functions of Go in {}", all.len(), path.display());
    Ok(all)
}

/// Plans functions of a file as the calls of one span.
fn plan(path: &Path, functions: &[Function]) -> Result<ProbePlan> {
    let symbols = SymbolSet::of_file(path);
    let map = symbol_map::file(&symbol_map::of(&["everything"], &[], ""))?;
    let map = load_map(&map.to_string_lossy(), &[])?.map;
    let target = Target::open(Pid(std::process::id()))?;
    let found = [Found { functions: functions.to_vec(), nothing: None }];
    let lookup = |object, address| symbols.function_at(object, address);
    let forms = KernelForms::default();
    let mut plan = plan_of(&map, &target, &found, &lookup, forms)?;
    for (place, selects) in go_runtime() {
        let found: Vec<_> = selects.iter().flat_map(|select| symbols.everywhere(select)).collect();
        add_go_runtime(&mut plan, &target, place, &found, forms);
    }
    Ok(plan)
}

/// Whether a function's first instructions compare the stack with the limit of the g in r14:
/// `cmp rsp, [r14+0x10]`, `cmp r12, [r14+0x10]`.
fn checks_stack(function: &Function) -> bool {
    let head = function.code.bytes.iter().take(40).copied().collect::<Vec<_>>();
    let compares = |four: &[u8]| matches!(four, [0x49 | 0x4d, 0x3b, 0x66, 0x10]);
    head.windows(4).any(compares)
}

/// Holds what is planned of functions against what their first bytes say, and says how cheap it is.
fn check_enters(path: &Path, functions: &[Function]) -> Result<()> {
    let (mut checked, mut at_check, mut cheap, mut enters) = (0, 0, 0, 0);
    let mut others = Vec::new();
    for some in functions.chunks(AT_ONCE) {
        let plan = plan(path, some)?;
        let calls = plan
            .probes
            .iter()
            .filter(|probe| probe.sites.iter().any(|site| site.role == Role::Enter));
        for probe in calls.clone() {
            ensure!(probe.lane() == LaneKind::Goroutine, "on no goroutine: {probe:#?}");
            let go = probe.sites.iter().all(|site| site.flags & Cookie::GO != 0);
            ensure!(go, "a site of another lane: {probe:#?}");
        }
        let sites = calls.flat_map(|probe| &probe.sites);
        let sites: Vec<_> = sites.filter(|site| site.role == Role::Enter).collect();
        enters += sites.len();
        cheap += sites.iter().filter(|site| site.cost < CostClass::SingleStepped).count();
        for function in some.iter().filter(|function| checks_stack(function)) {
            checked += 1;
            let right = sites.iter().any(|site| {
                function.contains(site.address)
                    && site.instruction.starts_with("jbe ")
                    && site.slot_offset == 0
                    && site.flags & Cookie::RESTARTS != 0
            });
            at_check += usize::from(right);
            if !right && others.len() < 10 {
                let why = plan.skipped.iter().find(|of| of.what.starts_with(&*function.name));
                others.push(format!("{} {why:?}", function.name));
            }
        }
    }
    eprintln!(
        "{}: {at_check} of {checked} functions that check the stack are entered there, {cheap} of \
         {enters} enters are emulated",
        path.display()
    );
    ensure!(at_check * 100 > checked * 99, "{at_check} of {checked}: {others:#?}");
    ensure!(cheap * 100 > enters * 90, "{cheap} of {enters} enters are emulated");
    Ok(())
}

/// Holds every site of functions, and every landing in them, against the witnesses.
fn check_sites(path: &Path, functions: &[Function], witness: &Witness) -> Result<usize> {
    let compared = compare(path, functions, witness)?;
    let calls = compared.calls();
    eprintln!(
        "{}: of {calls} calls {} have an emulated landing, {} are their caller's return, {} have a \
         single-stepped landing, {} none",
        path.display(),
        compared.cheap,
        compared.chains,
        compared.dear,
        compared.none
    );
    ensure!(compared.tally.wrong_sites == 0, "{:#?}", compared.tally);
    ensure!(compared.tally.wrong_stacks == 0, "{:#?}", compared.tally);
    ensure!(compared.cheap * 100 > calls * 70, "{compared:#?}");
    ensure!((compared.none + compared.dear) * 100 < calls * 12, "{compared:#?}");
    Ok(compared.tally.stacks)
}

/// What the runtime tells is found, and where it is said to be.
fn check_runtime(path: &Path, functions: &[Function]) -> Result<()> {
    let plan = plan(path, functions.get(..500).context("too few")?)?;
    let places: Vec<_> = plan
        .probes
        .iter()
        .filter_map(|probe| {
            let [site] = probe.sites.as_slice() else { return None };
            (site.role == Role::GoRuntime).then_some((&*probe.function, site, probe.at_enter))
        })
        .collect();
    let one = |function: &str| {
        let mut of = places.iter().filter(|(name, ..)| *name == function);
        let only = of.next().filter(|_| of.next().is_none());
        only.with_context(|| format!("not one {function} in {places:#?} {:?}", plan.skipped))
    };
    for (function, flag) in
        [("runtime.recovery", Cookie::UNWINDS), ("runtime.goexit1", Cookie::ENDS_LANE)]
    {
        let (_, site, words) = one(function)?;
        let flags = flag | Cookie::GO | Cookie::RESTARTS | Cookie::NO_EXIT;
        ensure!(site.flags == flags && words.len == 0, "{function}: {site:#?}");
        ensure!(site.slot_offset == 0 && site.cost == CostClass::Emulated, "{site:#?}");
    }
    let (_, site, words) = one("runtime.newproc.func1")?;
    let flags = Cookie::SPAWNS | Cookie::GO | Cookie::HAS_CAPTURE | Cookie::NO_EXIT;
    ensure!(site.flags == flags && words.len == 1, "{site:#?}");
    ensure!(site.cost == CostClass::Emulated, "{site:#?}");
    Ok(())
}

#[test]
fn a_program_is_planned_as_its_tables_say() -> Result<()> {
    let program = build("gateway", true, &["-ldflags=-compressdwarf=false"])?;
    let functions = of_go(&program)?;
    check_enters(&program, &functions)?;
    check_runtime(&program, &functions)?;
    let witness = Witness::of(&program, &[], Frames::of(&program)?)?;
    let stacks = check_sites(&program, &functions, &witness)?;
    ensure!(stacks > functions.len(), "the tables say too little: {stacks}");
    Ok(())
}

#[test]
fn a_stripped_server_is_planned() -> Result<()> {
    let program = Jaeger::program()?;
    let select = Select::Function("github.com/jaegertracing/**".to_owned());
    let symbols = SymbolSet::of_file(&program);
    let functions = symbols.find(&Selector { select, object: None }, usize::MAX)?.functions;
    ensure!(functions.len() > 1000, "only {} functions", functions.len());
    check_enters(&program, &functions)?;
    check_runtime(&program, &functions)?;
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for function in &functions {
        let start = function.code.address.0;
        let end = start + function.code.bytes.len() as u64;
        match ranges.last_mut() {
            Some(last) if (last.start..last.end + AROUND).contains(&start) => {
                last.end = last.end.max(end);
            }
            _ => ranges.push(start..end),
        }
    }
    let witness = Witness::of(&program, &ranges, Frames::default())?;
    check_sites(&program, &functions, &witness)?;
    Ok(())
}
