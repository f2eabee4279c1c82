//! Whose a function is: that of Go's table or that of a symbol table; and Go programs that Go's own
//! toolchain did not build, whose functions are symbols like those of C.

use rustc_hash::FxHashSet;

use crate::symbols::elf::Elf;
use crate::symbols::function::Language;
use crate::symbols::name;
use crate::symbols::table::{Kind, Symbol, Table};

/// Names that only programs of another Go toolchain have.
const OTHERS: [(&[u8], Language); 4] = [
    (b"__go_init_main", Language::GccGo),
    (b"runtime_iscgo", Language::GccGo),
    (b"tinygo_scanCurrentStack", Language::TinyGo),
    (b"tinygo_longjmp", Language::TinyGo),
];

/// The toolchain that built a Go program which has no table of Go's own. gccgo leaves a section even
/// in what was stripped.
pub(in crate::symbols) fn other_toolchain(elf: &Elf, tables: &[Table]) -> Option<Language> {
    if elf.section(b".go_export").is_some() {
        return Some(Language::GccGo);
    }
    let of_others = OTHERS.iter().find(|(name, _)| tables.iter().any(|table| table.mentions(name)));
    of_others.map(|(_, language)| *language)
}

/// Leaves each function in one table: Go functions in Go's, C functions in a symbol table where
/// they are in one. Where Go's table cannot be read (there are no `functions`), and in programs of
/// other toolchains, symbols that have names like Go's are marked as of that `language`.
pub(in crate::symbols) fn divide(
    language: Option<Language>,
    tables: &mut [Table],
    functions: &mut Option<Table>,
) {
    let Some(functions) = functions else {
        for table in tables.iter_mut() {
            if let Some(language) = language {
                table.mark(language, name::is_go_like);
            }
        }
        return;
    };
    let mut of_go: Vec<(u64, u64)> = functions
        .symbols
        .iter()
        .filter(|symbol| symbol.language == Language::Go)
        .map(|symbol| (symbol.address, symbol.address.saturating_add(u64::from(symbol.size))))
        .collect();
    of_go.sort_unstable();
    let in_go = |symbol: &Symbol| {
        let after = of_go.partition_point(|(start, _)| *start <= symbol.address);
        let before = after.checked_sub(1).and_then(|at| of_go.get(at));
        before.is_some_and(|(_, end)| symbol.address < *end)
    };
    for table in tables.iter_mut() {
        table.retain(|symbol, name| {
            symbol.kind == Kind::NoCode || !(in_go(symbol) || is_label(name))
        });
    }
    let symbols = tables.iter().flat_map(|table| &table.symbols);
    let with_code = symbols.filter(|symbol| symbol.kind != Kind::NoCode);
    let elsewhere: FxHashSet<u64> = with_code.map(|symbol| symbol.address).collect();
    functions.retain(|symbol, name| {
        symbol.language == Language::Go || !(elsewhere.contains(&symbol.address) || is_label(name))
    });
}

/// What Go's linker sets between functions, to find its own way.
fn is_label(name: &[u8]) -> bool {
    name.starts_with(b"go:") || [&b"runtime.text"[..], b"runtime.etext"].contains(&name)
}
