//! Types of stripped Go programs against what the programs and their compilers say of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use profiler_tests::environment::scratch;
use profiler_tests::go_dwarf::{self, Parameter, Told, ToldPlace};
use profiler_tests::golang::{build, build_by};
use profiler_tests::jaeger::Jaeger;
use profiler_tests::process::run;
use profiler_tests::timeout::PATIENCE;
use qprof::config::{Select, Selector};
use qprof::model::VirtAddr;
use qprof::symbols::SymbolSet;
use qprof::symbols::go_types::{
    ContextParent, ContextSource, GoTypes, Kind, Place, Register, Type, Value,
};
use qprof::target::ObjectId;

const EXECUTABLE: ObjectId = ObjectId(0);
const MODULE: &str = "signatures";
const WITH_DWARF: &str = "-ldflags=-compressdwarf=false";
const STRIPPED: &str = "-ldflags=-s -w";
const EXTERNAL: &str = "-ldflags=-s -w -linkmode=external";
/// The first whose types are read, one of the middle, and the one that laid them out anew.
const OTHERS: [&str; 3] = ["1.18.10", "1.21.13", "1.27.4"];

fn stripped(program: &Path) -> Result<PathBuf> {
    let copy = scratch("stripped")?.join("program");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&copy).arg(program);
    let said = run("strip", strip, PATIENCE)?;
    ensure!(copy.is_file(), "{}", said.stderr);
    Ok(copy)
}

/// A type's name as DWARF has it, with the whole paths of packages; none for those that are written
/// in several ways.
fn name_of(ty: Type<'_>) -> Option<String> {
    if let Some(name) = ty.full_name() {
        return Some(name);
    }
    let elem = || name_of(ty.elem()?);
    match ty.kind() {
        Kind::Pointer => Some(format!("*{}", elem()?)),
        Kind::Slice => Some(format!("[]{}", elem()?)),
        Kind::Array => Some(format!("[{}]{}", ty.length()?, elem()?)),
        Kind::Map => Some(format!("map[{}]{}", name_of(ty.key()?)?, elem()?)),
        _ => None,
    }
}

const fn by_dwarf(register: Register) -> u16 {
    const INTEGERS: [u16; 9] = [0, 3, 2, 5, 4, 8, 9, 10, 11];
    match register {
        Register::Integer(at) => INTEGERS[at as usize],
        Register::Float(at) => 17 + at as u16,
    }
}

/// What was compared.
#[derive(Debug, Default)]
struct Compared {
    /// What the addresses of types are told from.
    first: Option<u64>,
    functions: usize,
    parameters: usize,
    types_by_address: usize,
    types_by_name: usize,
    in_registers: usize,
    on_stack: usize,
    results: usize,
    /// Functions of which the compiler tells that one register holds two parameters at once.
    contradictions: usize,
    wrong: Vec<String>,
}

impl Compared {
    fn type_of(&mut self, function: &str, told: &Parameter, ty: Type<'_>) {
        let name = name_of(ty).map(|name| name.replace("interface {}", "any"));
        let told_name = told.type_name.replace("interface {}", "any").replace("%2e", ".");
        // The linker makes the debug information on `uintptr` itself, up to 1.18 without the address.
        let address = told.type_address.filter(|_| ty.kind() != Kind::Uintptr);
        let is_right = match (address, name) {
            (Some(address), _) => {
                self.types_by_address += 1;
                // Newer compilers tell how far behind the first type it is.
                let first = ty.address().wrapping_sub(address);
                *self.first.get_or_insert(first) == first
            }
            (None, Some(name)) => {
                self.types_by_name += 1;
                name == told_name
            }
            (None, None) => true,
        };
        let is_right = is_right || told_name.is_empty();
        if !is_right {
            self.wrong.push(format!("{function}: {} is a {told_name}, not {ty:?}", told.name));
        }
    }

    fn place_of(&mut self, function: &str, told: &Parameter, value: &Value<'_>) {
        let is_right = match (&told.place, &value.place) {
            (None, _) => return,
            (Some(ToldPlace::Registers(told)), Place::Registers(parts)) => {
                self.in_registers += 1;
                parts.iter().map(|part| by_dwarf(part.register)).collect::<Vec<_>>() == *told
            }
            (Some(ToldPlace::Stack(told)), Place::Stack(at)) => {
                self.on_stack += 1;
                // Of a slice whose length alone is used, only where that is.
                let told = u64::try_from(*told);
                told.is_ok_and(|told| (*at..*at + value.ty.size()).contains(&told))
            }
            // What has no size is nowhere, what nobody uses is told to be where it might be saved.
            (Some(ToldPlace::Stack(_)), Place::Registers(parts)) => {
                parts.is_empty() || told.name.starts_with('~')
            }
            (Some(ToldPlace::Registers(_)), Place::Stack(_)) => false,
        };
        if !is_right {
            let at = (&told.name, &told.place, &value.place);
            self.wrong.push(format!("{function}: {at:?}"));
        }
    }
}

fn shares_registers(told: &Told) -> bool {
    let registers = told.parameters.iter().filter_map(|told| match &told.place {
        Some(ToldPlace::Registers(registers)) => Some(registers),
        _ => None,
    });
    let mut all: Vec<_> = registers.flatten().collect();
    all.sort_unstable();
    all.windows(2).any(|two| two[0] == two[1])
}

/// Compares all signatures of a stripped program with what its debug information said.
fn compare(program: &Path) -> Result<Compared> {
    let functions = go_dwarf::functions(program)?;
    let stripped = stripped(program)?;
    let symbols = SymbolSet::of_file(&stripped);
    let types = symbols.go_types(EXECUTABLE)?;
    let mut compared = Compared::default();
    for told in &functions {
        let Some(function) = symbols.function_at(EXECUTABLE, VirtAddr(told.address)) else {
            continue;
        };
        let Some(signature) = types.signature(told.address, &function.linkage) else { continue };
        let name = &function.name;
        let Some(parameters) = signature.parameters.as_deref() else {
            if let Some(told) = told.parameters.first() {
                compared.type_of(name, told, signature.receiver.ty);
            }
            continue;
        };
        let taken: Vec<_> = std::iter::once(&signature.receiver).chain(parameters).collect();
        // Wrappers that the compiler makes have no debug information on their parameters.
        if told.parameters.len() != taken.len() {
            continue;
        }
        compared.functions += 1;
        let is_contradiction = shares_registers(told);
        compared.contradictions += usize::from(is_contradiction);
        for (told, value) in told.parameters.iter().zip(taken) {
            compared.parameters += 1;
            compared.type_of(name, told, value.ty);
            if !is_contradiction {
                compared.place_of(name, told, value);
            }
        }
        let results = signature.results.as_deref().unwrap_or_default();
        if told.results.len() == results.len() {
            for (told, value) in told.results.iter().zip(results) {
                compared.results += 1;
                compared.type_of(name, told, value.ty);
            }
        }
    }
    Ok(compared)
}

#[test]
fn parameters_are_what_and_where_the_compiler_says() -> Result<()> {
    let mut programs = vec![("this Go", build(MODULE, false, &[WITH_DWARF])?)];
    for release in OTHERS {
        programs.push((release, build_by(release, MODULE, false, &[WITH_DWARF])?));
    }
    for (what, program) in programs {
        let compared = compare(&program)?;
        println!("{what}: {compared:?}");
        ensure!(compared.wrong.is_empty(), "{what}: {:#?}", compared.wrong);
        ensure!(compared.functions > 500 && compared.in_registers > 500, "{what}: {compared:?}");
        ensure!(compared.contradictions * 20 < compared.functions, "{what}: {compared:?}");
    }
    Ok(())
}

/// A word of a line that is a number.
fn number<T: std::str::FromStr>(words: &[&str], at: usize) -> Result<T> {
    let word = words.get(at).with_context(|| format!("no word {at} in {words:?}"))?;
    word.parse().ok().with_context(|| format!("{word} of {words:?} is no number"))
}

/// What the program says of its own types, by reflection, against what is read.
fn agrees_with_itself(program: &Path) -> Result<()> {
    let types = GoTypes::read(program)?;
    let said = run(MODULE, Command::new(program), PATIENCE)?.stdout;
    let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split(' ').collect()).collect();
    ensure!(lines.iter().any(|words| words.first() == Some(&"ready")), "{said}");
    let timer = types.named("*context.timerCtx").context("no timerCtx")?;
    let timed = lines.iter().find(|words| words.first() == Some(&"timed"));
    let bias = number::<u64>(timed.context("no context with a time")?, 1)? - timer.address();
    let contexts = types.contexts();
    let (mut fields, mut known, mut seen) = (Vec::new(), 0, 0);
    for words in &lines {
        match words.first() {
            Some(&"context") => {
                let ty = types.at(number::<u64>(words, 1)? - bias).context("no such type")?;
                let found = contexts.iter().find(|one| one.ty == ty);
                let found = found.with_context(|| format!("{ty:?} has no parent"))?.parent;
                let expected = (number::<i64>(words, 2)?, number::<u64>(words, 3)?);
                let parent = (found.pointer.map_or(Ok(-1), i64::try_from)?, found.offset);
                ensure!(parent == expected, "{ty:?}: {parent:?} and not {expected:?}");
                known += 1;
            }
            Some(&"closure") => {
                let found = captured(program, &types)?;
                ensure!(found == number::<u64>(words, 1)?, "{found}, {words:?}");
            }
            Some(&"type") => {
                let ty = types.at(number::<u64>(words, 1)? - bias).context("no such type")?;
                let shown = words.get(4..).unwrap_or_default().join(" ");
                ensure!(ty.shown() == shown, "{} and {shown}", ty.shown());
                ensure!(ty.size() == number::<u64>(words, 2)?, "{ty:?}: {words:?}");
                let exported = |name: &str| name.starts_with(char::is_uppercase);
                let methods = ty.methods().filter(|method| exported(method.name)).count();
                ensure!(methods == number::<usize>(words, 3)?, "{ty:?}: {words:?}");
                ensure!(fields.is_empty(), "{fields:?} are not told");
                fields = ty.fields().collect();
                fields.reverse();
                seen += 1;
            }
            Some(&"field") => {
                let field = fields.pop().with_context(|| format!("no field {words:?}"))?;
                let told = (words.get(1).copied(), number::<u64>(words, 2)?, words.get(3).copied());
                let embedded = field.embedded.to_string();
                let read = (Some(field.name), field.offset, Some(embedded.as_str()));
                ensure!(read == told, "{read:?} and not {told:?}");
                ensure!(field.ty.shown() == words.get(4..).unwrap_or_default().join(" "));
            }
            _ => {}
        }
    }
    ensure!(known > 10 && seen > 20, "{said}");
    sources(program, &types)
}

/// Where a closure of the program has captured a context.
fn captured(program: &Path, types: &GoTypes) -> Result<u64> {
    let symbols = SymbolSet::of_file(program);
    let [maker, closure] = ["shapes.Closure", "shapes.Closure.func1"].map(|function| {
        let select = Select::Function(function.to_owned());
        let found = symbols.find(&Selector { select, object: None }, 1)?.functions;
        found.into_iter().next().with_context(|| format!("no {function}"))
    });
    let (maker, closure) = (maker?.code, closure?.code.address.0);
    let object = types.closure(&maker.bytes, maker.address.0, closure).context("no object")?;
    types.context_in(object).with_context(|| format!("no context in {object:?}"))
}

/// Where functions of the program find their contexts.
fn sources(program: &Path, types: &GoTypes) -> Result<()> {
    let symbols = SymbolSet::of_file(program);
    for (function, register, deref_offset) in [
        // A field of what the receiver points at, also of what is embedded there.
        ("shapes.(*Job).Run", 0, Some(8)),
        ("shapes.(*Task).Step", 0, Some(24)),
        // A parameter comes before a field; a receiver may be a struct in registers.
        ("shapes.(*Job).With", 2, None),
        ("shapes.Job.Copy", 1, None),
    ] {
        let select = Select::Function(function.to_owned());
        let found = symbols.find(&Selector { select, object: None }, 1)?.functions;
        let found = found.first().with_context(|| format!("no {function}"))?;
        let signature = types.signature(found.code.address.0, &found.linkage);
        let signature = signature.with_context(|| format!("{function} takes what?"))?;
        let expected = Some(ContextSource { register, deref_offset });
        let source = types.context_source(&signature);
        ensure!(source == expected, "{function}: {source:?}, {signature:?}");
    }
    Ok(())
}

#[test]
fn types_of_stripped_programs_are_what_they_themselves_say() -> Result<()> {
    for (cgo, flags) in [
        (false, &[STRIPPED][..]),
        (false, &[STRIPPED, "-buildmode=pie"]),
        (true, &[STRIPPED]),
        (true, &[EXTERNAL, "-buildmode=pie"]),
        (false, &[WITH_DWARF]),
    ] {
        let program = build(MODULE, cgo, flags)?;
        let bare = without_sections(&program)?;
        for program in [program, bare] {
            agrees_with_itself(&program).with_context(|| format!("{cgo} {flags:?}"))?;
        }
    }
    for release in OTHERS {
        let program = stripped(&build_by(release, MODULE, false, &[WITH_DWARF])?)?;
        agrees_with_itself(&program).context(release)?;
    }
    Ok(())
}

#[test]
fn contexts_of_a_stripped_server_are_followed() -> Result<()> {
    let symbols = SymbolSet::of_file(&Jaeger::program()?);
    let types = symbols.go_types(EXECUTABLE)?;
    let contexts = types.contexts();
    for (name, pointer, offset) in [
        ("*context.valueCtx", None, 0),
        ("*context.cancelCtx", None, 0),
        ("*context.timerCtx", None, 0),
        ("*context.afterFuncCtx", None, 0),
        ("context.withoutCancelCtx", None, 0),
    ] {
        let ty = types.named(name).with_context(|| format!("no {name}"))?;
        let found = contexts.iter().find(|one| one.ty == ty);
        let parent = found.with_context(|| format!("{name} has no parent"))?.parent;
        ensure!(parent == ContextParent { pointer, offset }, "{name}: {parent:?}");
    }
    for name in ["context.backgroundCtx", "context.todoCtx", "*context.emptyCtx"] {
        ensure!(!contexts.iter().any(|one| Some(one.ty) == types.named(name)), "{name}");
    }
    let field = |ty: &str, name: &str| {
        let field = types.named(ty).and_then(|ty| ty.field(name));
        field.map(|field| field.offset).with_context(|| format!("no {name} in {ty}"))
    };
    ensure!(field("context.valueCtx", "key")? == 16 && field("context.valueCtx", "val")? == 32);
    ensure!(types.named("google.golang.org/grpc/metadata.mdIncomingKey").is_some());
    let request = Some(field("net/http.Request", "ctx")?);
    for (function, register, deref_offset) in [
        // The request is the third of its arguments: mux, writer of two words, request.
        ("net/http.(*ServeMux).ServeHTTP", 3, request),
        // The receiver comes first, then the context.
        ("net.(*Dialer).DialContext", 1, None),
        ("net.(*Resolver).lookupIPAddr", 1, None),
    ] {
        let select = Select::Function(function.to_owned());
        let found = symbols.find(&Selector { select, object: None }, 1)?.functions;
        let found = found.first().with_context(|| format!("no {function}"))?;
        let signature = types.signature(found.code.address.0, &found.linkage);
        let signature = signature.with_context(|| format!("{function} takes what?"))?;
        let source = types.context_source(&signature);
        let expected = Some(ContextSource { register, deref_offset });
        ensure!(source == expected, "{function}: {source:?}, {signature:?}");
    }
    Ok(())
}

#[test]
fn shapes_of_arguments_are_those_that_tracebacks_show() -> Result<()> {
    let symbols = SymbolSet::of_file(&build(MODULE, false, &[STRIPPED])?);
    for (function, expected) in [
        ("shapes.(*Server).Plain", "8 {8,8} 8"),
        ("shapes.(*Server).Spill", "8 {8,8,8} {8,8,8} {8,8,8} …"),
        ("shapes.Small.ByValue", "{4,{8,8}} {{4,{8,8}},{8,8,4},8} …"),
        ("shapes.contextOf", "{8,8} 8"),
    ] {
        let select = Select::Function(function.to_owned());
        let found = symbols.find(&Selector { select, object: None }, 1)?.functions;
        let found = found.first().with_context(|| format!("no {function}"))?;
        let shape = symbols.argument_shape(EXECUTABLE, found.code.address);
        let shape = shape.map(|shape| shape.to_string()).unwrap_or_default();
        ensure!(shape == expected, "{function}: {shape}");
        let inside = VirtAddr(found.code.address.0 + 1);
        ensure!(symbols.argument_shape(EXECUTABLE, inside).is_none());
    }
    Ok(())
}

/// The same file without section headers, as packers leave it.
fn without_sections(program: &Path) -> Result<PathBuf> {
    let mut bytes = fs::read(program)?;
    for range in [40..48, 60..64] {
        bytes.get_mut(range).context("too short a file")?.fill(0);
    }
    let copy = scratch("bare")?.join("program");
    fs::copy(program, &copy)?;
    fs::write(&copy, bytes)?;
    Ok(copy)
}
