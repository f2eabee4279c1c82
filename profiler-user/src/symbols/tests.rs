//! Real files of real compilers, and what becomes of them when they are stripped, split or broken.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::config::{Select, Selector};
use crate::model::{Pid, VirtAddr};
use crate::target::{ObjectId, Target};

const ENGINE: &str = r#"
#include <stdexcept>
#include <string>
#include <stdio.h>
#define KEEP __attribute__((noinline, used))
namespace engine {
struct Base { virtual ~Base() = default; virtual int go(int) = 0; };
struct Other { virtual ~Other() = default; virtual int stop(int) = 0; };
struct Segment : Base, Other {
    int rows = 3;
    KEEP int search(int k) const { return k + rows; }
    KEEP int search(const char* k) const { return k[0] + rows; }
    KEEP int operator()(int k) const { return k - rows; }
    KEEP operator bool() const { return rows != 0; }
    KEEP std::string name(int n) const;
    KEEP int go(int) override;
    KEEP int stop(int) override;
};
std::string Segment::name(int n) const { if (n < 0) throw std::runtime_error("negative"); return std::string(n, 'x'); }
int Segment::go(int n) { return n * rows; }
int Segment::stop(int n) { return n / rows; }
template <class T> KEEP T merge(T a, T b) { return a < b ? a : b; }
namespace { KEEP int hidden(int a) { return a * 7; } }
KEEP int visit(int n) { auto each = [n](int k) KEEP { return k * n; }; return each(n) + each(2); }
}
extern "C" KEEP int c_entry(int n) { return n + 1; }
extern "C" int c_alias(int) __attribute__((alias("c_entry")));
asm(".text\n.type bare,@function\n.globl bare\nbare: push %rax\npop %rax\nret\n.type after_bare,@function\nafter_bare: ret\n.size after_bare,.-after_bare\n");
int main(int argc, char** argv) {
    engine::Segment s; s.rows = argc;
    engine::Other* o = &s; engine::Base* b = &s;
    int r = s.search(argc) + s.search(argv[0]) + s(argc) + bool(s) + (int)s.name(argc).size();
    r += engine::merge(argc, r) + engine::merge<long>(argc, r) + engine::hidden(argc) + engine::visit(argc);
    r += o->stop(r | 1) + b->go(r) + c_entry(r);
    if (argc > 1) { char c; return (int)fread(&c, 1, 1, stdin); }
    return r & 1;
}
"#;

struct Built {
    _dir: TempDir,
    path: PathBuf,
}

fn sh(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

fn build(compiler: &str, sources: &[(&str, &str)], flags: &[&str]) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    let mut args: Vec<String> = flags.iter().map(|&flag| flag.into()).collect();
    for (name, source) in sources {
        let file = dir.path().join(name);
        fs::write(&file, source).unwrap();
        args.push(file.to_str().unwrap().into());
    }
    args.extend(["-o".into(), path.to_str().unwrap().into()]);
    sh(compiler, &args.iter().map(String::as_str).collect::<Vec<_>>());
    Built { _dir: dir, path }
}

/// The engine, built once.
fn engine() -> &'static Path {
    static ENGINE_PATH: OnceLock<Built> = OnceLock::new();
    let flags = ["-O2", "-Wl,--build-id"];
    &ENGINE_PATH.get_or_init(|| build("g++", &[("engine.cc", ENGINE)], &flags)).path
}

/// A changed copy of the engine.
fn changed(change: impl FnOnce(&Path)) -> Built {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    fs::copy(engine(), &path).unwrap();
    change(&path);
    Built { _dir: dir, path }
}

fn function(pattern: &str) -> Selector {
    Selector { select: Select::Function(pattern.into()), object: None }
}

fn find(path: &Path, pattern: &str) -> Vec<Function> {
    let found = SymbolSet::of_file(path).find(&function(pattern), 256).unwrap();
    assert_eq!(found.nothing.is_some(), found.functions.is_empty(), "{pattern}");
    found.functions
}

fn nothing(path: &Path, pattern: &str) -> Nothing {
    let found = SymbolSet::of_file(path).find(&function(pattern), 256).unwrap();
    assert_eq!(found.functions, [], "{pattern}");
    found.nothing.unwrap()
}

fn at(path: &Path, address: VirtAddr) -> Found {
    let selector = Selector { select: Select::Address(address), object: None };
    SymbolSet::of_file(path).find(&selector, 256).unwrap()
}

fn names(functions: &[Function]) -> Vec<&str> {
    functions.iter().map(|function| &*function.name).collect()
}

#[test]
fn overloads_templates_operators_and_their_kin() {
    let engine = engine();
    let both = find(engine, "engine::Segment::search");
    let mut both = names(&both);
    both.sort_unstable();
    assert_eq!(
        both,
        ["engine::Segment::search(char const*) const", "engine::Segment::search(int) const"]
    );
    for (pattern, name) in [
        ("engine::Segment::search(int)", "engine::Segment::search(int) const"),
        ("engine::merge<int>(*)", "engine::merge<int>(int, int)"),
        ("engine::merge<long>", "engine::merge<long>(long, long)"),
        ("engine::(anonymous namespace)::hidden", "engine::(anonymous namespace)::hidden(int)"),
        ("engine::*::operator()", "engine::Segment::operator()(int) const"),
        ("engine::Segment::operator bool", "engine::Segment::operator bool() const"),
        ("engine::visit(*)", "engine::visit(int)"),
        ("engine::Segment::stop(*)", "engine::Segment::stop(int)"),
        ("c_entry", "c_entry"),
        ("c_entry(*)", "c_entry"),
    ] {
        let functions = find(engine, pattern);
        assert!(names(&functions).contains(&name), "{pattern}: {:?}", names(&functions));
        assert!(!names(&functions).iter().any(|name| name.contains("thunk")), "{pattern}");
    }
    let lambda = find(engine, "engine::visit*lambda*");
    assert!(lambda.iter().any(|f| f.name.starts_with("engine::visit(int)::{lambda(int)#1}")));
}

#[test]
fn code_is_what_the_file_has_there() {
    let engine = engine();
    let bytes = fs::read(engine).unwrap();
    let functions = find(engine, "engine::*");
    assert!(functions.len() > 8);
    for function in functions {
        for part in std::iter::once(&function.code).chain(&function.cold) {
            let from = part.offset.0 as usize;
            assert_eq!(bytes[from..from + part.bytes.len()], part.bytes[..]);
            assert_ne!(part.bytes.len(), 0, "{}", function.name);
        }
    }
}

#[test]
fn a_cold_part_hangs_on_its_function_and_is_none() {
    let engine = engine();
    let functions = find(engine, "engine::Segment::name");
    assert_eq!(functions.len(), 1);
    let [cold] = &functions[0].cold[..] else { panic!("{:?}", functions[0].cold) };
    assert_ne!(cold.address, functions[0].code.address);
    // The address of the cold part belongs to the function.
    assert_eq!(at(engine, cold.address).functions, functions);
    assert_eq!(SymbolSet::of_file(engine).function_at(ObjectId(0), cold.address), None);
}

#[test]
fn static_namesakes_keep_their_own_cold_parts() {
    let source = |name: &str, text: &str| {
        format!(
            "#include <stdexcept>\n#include <string>\nnamespace {{ __attribute__((noinline, used)) \
             int step(int n) {{ if (n < 0) throw std::runtime_error(\"{text}\"); return n * 3; }} }}\n\
             int {name}(int n) {{ return step(n) + 1; }}\n"
        )
    };
    let sources = [
        ("a.cc", source("one", "a")),
        ("b.cc", source("two", "bb")),
        (
            "m.cc",
            "int one(int); int two(int); int main(int n, char**) { return one(n) + two(n); }"
                .into(),
        ),
    ];
    let sources: Vec<_> = sources.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let built = build("g++", &sources, &["-O2"]);
    let steps = find(&built.path, "(anonymous namespace)::step");
    assert_eq!(steps.len(), 2);
    assert!(steps.iter().all(|step| step.cold.len() == 1), "{steps:?}");
    assert_ne!(steps[0].cold, steps[1].cold);
    // Sources are laid out in their order, so are their cold parts.
    assert!(steps[0].cold[0].address < steps[1].cold[0].address);
}

#[test]
fn clones_belong_to_their_function() {
    let source = "__attribute__((noinline)) static int twice(int n, int unused, int k) { return n * k; }\n\
        int main(int n, char** v) { (void)v; return twice(n, 1, 2) + twice(n + 1, 5, 2); }\n";
    let built = build("gcc", &[("a.c", source)], &["-O3"]);
    let functions = find(&built.path, "twice");
    assert_eq!(functions.len(), 1);
    assert!(functions[0].linkage.starts_with("twice."), "{}", functions[0].linkage);
    assert_eq!(&*functions[0].name, "twice");
}

#[test]
fn aliases_are_one_function_under_the_name_that_matched() {
    let engine = engine();
    let (entry, alias) = (find(engine, "c_entry"), find(engine, "c_alias"));
    assert_eq!((entry.len(), alias.len()), (1, 1));
    assert_eq!(entry[0].code, alias[0].code);
    assert_eq!((&*entry[0].name, &*alias[0].name), ("c_entry", "c_alias"));
    assert_eq!(find(engine, "c_*").len(), 1);
}

#[test]
fn a_symbol_without_size_ends_where_the_next_begins() {
    let bare = find(engine(), "bare");
    assert_eq!(*bare[0].code.bytes, [0x50, 0x58, 0xc3]);
}

#[test]
fn an_address_is_the_function_around_it() {
    let engine = engine();
    let merge = find(engine, "engine::merge<int>");
    let start = merge[0].code.address;
    let set = SymbolSet::of_file(engine);
    assert_eq!(set.function_at(ObjectId(0), start), Some(merge[0].clone()));
    assert_eq!(set.function_at(ObjectId(0), VirtAddr(start.0 + 1)), None);
    assert_eq!(set.function_at(ObjectId(7), start), None);
    assert_eq!(at(engine, VirtAddr(start.0 + 1)).functions, merge);
    for outside in [0, 1, u64::MAX] {
        let outside = VirtAddr(outside);
        assert_eq!(at(engine, outside).nothing, Some(Nothing::NoAddress(outside)));
    }
}

#[test]
fn every_byte_of_a_function_lies_in_it() {
    let engine = engine();
    let set = SymbolSet::of_file(engine);
    let containing = |address| set.containing(ObjectId(0), VirtAddr(address));
    let mut cold = 0;
    for expected in find(engine, "*").into_iter().filter(|f| !f.code.bytes.is_empty()) {
        cold += expected.cold.len();
        for part in std::iter::once(&expected.code).chain(&expected.cold) {
            let start = part.address.0;
            let last = start + part.bytes.len() as u64 - 1;
            for address in [start, u64::midpoint(start, last), last] {
                let found = containing(address).unwrap();
                assert_eq!((&found.code, &found.cold), (&expected.code, &expected.cold));
                assert_eq!(demangled(&found.name), &*expected.name);
            }
        }
    }
    assert!(cold > 0, "no function had a cold part");
    for outside in [0, 1, u64::MAX] {
        assert_eq!(containing(outside), None);
    }
    assert_eq!(set.containing(ObjectId(7), VirtAddr(0)), None);
}

#[test]
fn an_address_without_a_symbol_lies_where_the_unwind_table_says() {
    let hidden = find(engine(), "engine::(anonymous namespace)::hidden").remove(0);
    let stripped = changed(|path| sh("strip", &[path.to_str().unwrap()]));
    let set = SymbolSet::of_file(&stripped.path);
    let inside = VirtAddr(hidden.code.address.0 + 1);
    let found = set.containing(ObjectId(0), inside).unwrap();
    assert_eq!(
        (found.code, &*found.name),
        (hidden.code.clone(), &*hidden.code.address.to_string())
    );
}

#[test]
fn a_label_inside_a_function_does_not_hide_it() {
    let assembly = ".text\n.globl outer\n.type outer,@function\nouter: push %rax\n\
                    .type inner,@function\ninner: nop\n.size inner,.-inner\npop %rax\nret\n\
                    .size outer,.-outer\n.globl main\nmain: ret\n";
    let built = build("gcc", &[("labels.s", assembly)], &[]);
    let outer = find(&built.path, "outer").remove(0);
    let set = SymbolSet::of_file(&built.path);
    let name = |into| {
        let address = VirtAddr(outer.code.address.0 + into);
        set.containing(ObjectId(0), address).map(|function| function.name.to_string())
    };
    assert_eq!(
        [0, 1, 2, 3].map(name),
        ["outer", "inner", "outer", "outer"].map(|n| Some(n.into()))
    );
}

#[test]
fn stubs_of_the_linker_are_no_functions() {
    let elf = elf::Elf::open(engine(), engine()).unwrap();
    let plt = elf.sections.iter().filter(|section| section.name.starts_with(b".plt"));
    let set = SymbolSet::of_file(engine());
    let stubs: Vec<_> =
        plt.clone().map(|plt| set.function_at(ObjectId(0), VirtAddr(plt.address))).collect();
    assert!(plt.map(|plt| set.containing(ObjectId(0), VirtAddr(plt.address))).all(|f| f.is_none()));
    assert!(!stubs.is_empty() && stubs.iter().all(Option::is_none));
}

#[test]
fn nothing_found_says_why() {
    let engine = engine();
    let Nothing::NoName(near) = nothing(engine, "engine::Segment::serach") else { panic!() };
    assert_eq!(near[0], "engine::Segment::search");
    assert!(near.len() <= 5);
    let Nothing::NoName(near) = nothing(engine, "engine::merge(*)") else { panic!() };
    assert!(near.iter().any(|name| name == "engine::merge<int>(int, int)"), "{near:?}");
    assert_eq!(nothing(engine, "fread"), Nothing::NoCode(vec!["fread".into()]));

    let set = SymbolSet::of_file(engine);
    let elsewhere = Selector { object: Some("libother.so*".into()), ..function("main") };
    let found = set.find(&elsewhere, 256).unwrap();
    assert_eq!(found.nothing, Some(Nothing::NoObject(vec!["engine".into()])));
    let select = Select::Linkage("c_entri".into());
    let found = set.find(&Selector { select, object: None }, 256).unwrap();
    assert_eq!(found.nothing, Some(Nothing::NoName(vec!["c_entry".into()])));
}

#[test]
fn linkage_names_are_exact() {
    let set = SymbolSet::of_file(engine());
    for (linkage, count) in [("_ZNK6engine7Segment6searchEi", 1), ("_ZNK6engine7Segment6search", 0)]
    {
        let selector =
            Selector { select: Select::Linkage(linkage.into()), object: Some("eng*".into()) };
        assert_eq!(set.find(&selector, 256).unwrap().functions.len(), count, "{linkage}");
    }
}

#[test]
fn too_many_is_refused_with_the_count() {
    let error = SymbolSet::of_file(engine()).find(&function("engine::*"), 2).unwrap_err();
    let SymbolError::TooMany { count, limit: 2, examples, .. } = error else { panic!("{error}") };
    assert!(count > 8 && examples.len() == 3);
}

#[test]
fn a_stripped_program_says_so_and_takes_addresses() {
    let hidden = find(engine(), "engine::(anonymous namespace)::hidden").remove(0);
    let stripped = changed(|path| sh("strip", &[path.to_str().unwrap()]));
    let why = nothing(&stripped.path, "engine::Segment::search");
    assert_eq!(why, Nothing::Stripped(vec!["engine: no function symbols at all".into()]));
    // Its bounds are in .eh_frame.
    let found = at(&stripped.path, hidden.code.address);
    assert_eq!(found.functions[0].code, hidden.code);
    assert_eq!(&*found.functions[0].name, hidden.code.address.to_string());
}

/// Splits the symbols of a copy off into `engine.debug` and links it.
fn split(path: &Path, debug: &Path) {
    let (path, debug) = (path.to_str().unwrap(), debug.to_str().unwrap());
    sh("objcopy", &["--only-keep-debug", path, debug]);
    sh("strip", &[path]);
    sh("objcopy", &[&format!("--add-gnu-debuglink={debug}"), path]);
}

#[test]
fn symbols_of_a_debug_file_lead_to_code_of_the_program() {
    let whole = find(engine(), "engine::(anonymous namespace)::hidden");
    for place in ["engine.debug", ".debug/engine.debug"] {
        let built = changed(|path| {
            let debug = path.with_file_name("engine.debug");
            split(path, &debug);
            let place = path.with_file_name(place);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::rename(debug, place).unwrap();
        });
        assert_eq!(find(&built.path, "engine::*::hidden"), whole, "{place}");
    }
}

#[test]
fn a_debug_file_of_another_build_is_not_believed() {
    for flags in [&["-O1", "-Wl,--build-id"][..], &["-O1", "-Wl,--build-id=none"]] {
        let other = build("g++", &[("engine.cc", ENGINE)], flags);
        let built = changed(|path| {
            let debug = path.with_file_name("engine.debug");
            split(path, &debug);
            sh(
                "objcopy",
                &["--only-keep-debug", other.path.to_str().unwrap(), debug.to_str().unwrap()],
            );
        });
        assert!(matches!(nothing(&built.path, "engine::*::hidden"), Nothing::Stripped(_)));
    }
}

#[test]
fn without_build_id_the_crc_decides() {
    let flags = ["-O2", "-Wl,--build-id=none"];
    let built = build("g++", &[("engine.cc", ENGINE)], &flags);
    let debug = built.path.with_file_name("engine.debug");
    split(&built.path, &debug);
    assert_eq!(find(&built.path, "engine::*::hidden").len(), 1);
    let mut bytes = fs::read(&debug).unwrap();
    bytes.push(0);
    fs::write(&debug, bytes).unwrap();
    assert!(matches!(nothing(&built.path, "engine::*::hidden"), Nothing::Stripped(_)));
}

#[test]
fn packed_symbols_are_unpacked() {
    let whole = find(engine(), "engine::(anonymous namespace)::hidden");
    let built = changed(|path| {
        let mini = path.with_file_name("mini");
        let (path, mini) = (path.to_str().unwrap(), mini.to_str().unwrap());
        sh("objcopy", &["--only-keep-debug", path, mini]);
        sh("strip", &[path]);
        sh("xz", &[mini]);
        sh("objcopy", &["--add-section", &format!(".gnu_debugdata={mini}.xz"), path]);
    });
    assert_eq!(find(&built.path, "engine::*::hidden"), whole);
}

#[test]
fn broken_packed_symbols_cost_only_themselves() {
    let built = changed(|path| {
        let junk = path.with_file_name("junk");
        fs::write(&junk, b"\xfd7zXZ\0 and then nothing of the kind").unwrap();
        let path = path.to_str().unwrap();
        sh("strip", &[path]);
        sh("objcopy", &["--add-section", &format!(".gnu_debugdata={}", junk.display()), path]);
    });
    assert!(matches!(nothing(&built.path, "engine::*::hidden"), Nothing::Stripped(_)));
}

#[test]
fn build_ids_are_read() {
    let id = build_id(engine()).unwrap();
    assert_eq!(id.to_string().len(), 40);
    assert_eq!(build_id(Path::new("/proc/self/stat")), None);
    assert_eq!(build_id(Path::new("/nonexistent")), None);
}

#[test]
fn what_is_no_elf_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = dir.path().join("notes.txt");
    fs::write(&text, "x".repeat(100)).unwrap();
    let fifo = dir.path().join("fifo");
    sh("mkfifo", &[fifo.to_str().unwrap()]);
    for (path, reason) in [
        (text.as_path(), "not an ELF file"),
        (fifo.as_path(), "not a regular file"),
        (dir.path(), "not a regular file"),
        (Path::new("/nonexistent"), "No such file"),
    ] {
        let error = SymbolSet::of_file(path).find(&function("main"), 256).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_process_is_searched_executable_first() {
    let target = Target::open(Pid(std::process::id())).unwrap();
    let set = SymbolSet::new(&target);
    let ours = set.find(&function("qprof::symbols::tests::shared_name"), 256).unwrap();
    assert_eq!(ours.functions[0].object, ObjectId(0));
    // Not ours: libc's.
    let theirs = set.find(&function("qsort_r"), 256).unwrap();
    let object = target.object(theirs.functions[0].object).unwrap();
    assert!(object.file_name().starts_with("libc"), "{object:?}");
    let named = Selector { object: Some("libc.so*".into()), ..function("qsort_r") };
    assert_eq!(set.find(&named, 256).unwrap(), theirs);
    shared_name();
}

#[inline(never)]
fn shared_name() {
    std::hint::black_box(0);
}

/// All there is to ask of a file.
fn ask_everything(path: &Path) {
    let set = SymbolSet::of_file(path);
    for pattern in ["engine::Segment::search(*)", "*", "serach", "bare"] {
        let _ = set.find(&function(pattern), 100_000);
    }
    let select = Select::Linkage("c_entry".into());
    let _ = set.find(&Selector { select, object: None }, 256);
    for address in (0..0x6000).step_by(0x333).chain([u64::MAX]) {
        let _ = set.function_at(ObjectId(0), VirtAddr(address));
        let _ = set.containing(ObjectId(0), VirtAddr(address));
        let select = Select::Address(VirtAddr(address));
        let _ = set.find(&Selector { select, object: None }, 256);
    }
    let _ = build_id(path);
}

/// The tables that steer the reader: where a changed byte hurts.
fn steering(bytes: &[u8]) -> Vec<usize> {
    let elf = elf::Elf::open(engine(), engine()).unwrap();
    let mut places: Vec<usize> = (0..64 + 14 * 56).collect();
    let sections = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
    places.extend(sections..bytes.len());
    for name in [&b".symtab"[..], b".dynsym", b".eh_frame_hdr", b".eh_frame", b".note.gnu.build-id"]
    {
        let section = elf.section(name).unwrap();
        places.extend((section.offset as usize..).take(section.size as usize));
    }
    places
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn a_hostile_file_is_an_error_and_no_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        stripped in any::<bool>(),
    ) {
        let source = if stripped { stripped_engine() } else { engine() };
        let mut bytes = fs::read(source).unwrap();
        let places = steering(&fs::read(engine()).unwrap());
        for (place, byte) in changes {
            let place = places[place.index(places.len())] % bytes.len();
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("engine");
        fs::write(&path, bytes).unwrap();
        ask_everything(&path);
    }
}

fn stripped_engine() -> &'static Path {
    static STRIPPED: OnceLock<Built> = OnceLock::new();
    &STRIPPED.get_or_init(|| changed(|path| sh("strip", &[path.to_str().unwrap()]))).path
}

#[test]
fn each_shorter_file_is_an_error_or_less() {
    let bytes = fs::read(engine()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("engine");
    for len in (0..bytes.len()).step_by(997).chain(0..70) {
        fs::write(&path, &bytes[..len]).unwrap();
        let error = SymbolSet::of_file(&path).find(&function("main"), 256).unwrap_err();
        assert!(error.to_string().contains("engine"), "{error}");
    }
}
