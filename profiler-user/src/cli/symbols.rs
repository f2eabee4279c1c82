//! `qprof symbols`: the functions that match a pattern.

use std::io::Write;
use std::path::Path;

use clap::Args;
use rustc_hash::FxHashMap;
use serde::Serialize;

use crate::config::{Select, Selector};
use crate::model::{Pid, VirtAddr};
use crate::symbols::{Function, Language, SymbolError, SymbolSet};
use crate::target::{ObjectId, Target};

/// Functions that match a pattern, with object, size and copies
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Examples:
  qprof symbols 4711 'milvus::*::Search(*)'
  qprof symbols 4711 '*BruteForce*' --object 'libknowhere.so*'
  qprof symbols /usr/lib/libduckdb.so 'duckdb::Planner::CreatePlan'
  qprof symbols ./server _ZN6server6handleEv
  qprof symbols ./server 0x401136
  qprof symbols ./gateway 'internal/proxy.(*Proxy).Search'

`*` stands for anything, also `::` and spaces. Without `(` the pattern is compared with the name
without its parameter list. Go names may be cut at any `/` of their import path; in them, a `*`
behind `(` is the star of a receiver.")]
pub(super) struct SymbolsArgs {
    /// A running process, or a file (a file named like a number: ./123)
    #[arg(value_name = "PID|FILE")]
    pub(super) target: String,

    /// Glob on the demangled name, a mangled name, or an address (0x…) as the file names it
    pub(super) pattern: String,

    /// One JSON document
    #[arg(long)]
    pub(super) json: bool,

    /// Only objects whose file name matches [default: the executable, then any mapped object]
    #[arg(long, value_name = "GLOB")]
    pub(super) object: Option<String>,

    /// Refuse patterns that match more functions
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub(super) limit: usize,
}

/// One function, for `--json`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    base_name: &'a str,
    linkage: &'a str,
    object: String,
    /// `native`, or what compiled it: `go`, `gccgo`, `tinygo`.
    language: &'static str,
    /// The version of Go that built the object, if it has Go code and says.
    #[serde(skip_serializing_if = "Option::is_none")]
    go_version: Option<&'a str>,
    /// As the ELF file names it.
    address: String,
    offset: String,
    size: usize,
    cold_size: usize,
    /// How many functions of this object have this name.
    copies: usize,
}

/// Runs the verb.
///
/// # Errors
/// [`crate::target::TargetError`] and [`SymbolError`] ([`SymbolError::NotFound`] if nothing
/// matches), and what `out` says.
pub(super) fn run(args: &SymbolsArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let set = open(&args.target)?;
    let selector = Selector { select: select(&args.pattern), object: args.object.clone() };
    let found = set.find(&selector, args.limit)?;
    if let Some(nothing) = found.nothing {
        return Err(SymbolError::NotFound { pattern: args.pattern.clone(), nothing }.into());
    }
    let rows = rows(&set, &found.functions);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &rows)?;
        writeln!(out)?;
    } else {
        table(&rows, out)?;
    }
    Ok(())
}

fn open(target: &str) -> anyhow::Result<SymbolSet> {
    match target.parse() {
        Ok(pid) => Ok(SymbolSet::new(&Target::open(Pid(pid))?)),
        Err(_) => Ok(SymbolSet::of_file(Path::new(target))),
    }
}

/// What a pattern on the command line means.
fn select(pattern: &str) -> Select {
    let address = pattern.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    match address {
        Some(address) => Select::Address(VirtAddr(address)),
        None if pattern.starts_with("_Z") || pattern.starts_with("_R") => {
            Select::Linkage(pattern.to_owned())
        }
        None => Select::Function(pattern.to_owned()),
    }
}

fn rows<'a>(set: &'a SymbolSet, functions: &'a [Function]) -> Vec<Row<'a>> {
    let mut copies: FxHashMap<(ObjectId, &str), usize> = FxHashMap::default();
    for function in functions {
        *copies.entry((function.object, &function.name)).or_default() += 1;
    }
    let row = |function: &'a Function| Row {
        name: &function.name,
        base_name: &function.base_name,
        linkage: &function.linkage,
        object: set
            .path(function.object)
            .map_or_else(String::new, |path| path.display().to_string()),
        language: match function.language {
            Language::Native => "native",
            Language::Go => "go",
            Language::GccGo => "gccgo",
            Language::TinyGo => "tinygo",
        },
        go_version: set.go_version(function.object),
        address: function.code.address.to_string(),
        offset: function.code.offset.to_string(),
        size: function.code.bytes.len(),
        cold_size: function.cold.iter().map(|part| part.bytes.len()).sum(),
        copies: copies.get(&(function.object, &*function.name)).copied().unwrap_or(1),
    };
    functions.iter().map(row).collect()
}

fn table(rows: &[Row<'_>], out: &mut impl Write) -> std::io::Result<()> {
    let mut object = "";
    for row in rows {
        if row.object != object {
            match row.go_version {
                None => writeln!(out, "{}", row.object)?,
                Some("") => writeln!(out, "{}  (Go, of an unknown version)", row.object)?,
                Some(version) => writeln!(out, "{}  (Go, {version})", row.object)?,
            }
            object = &row.object;
        }
        writeln!(out, "  {}", row.name)?;
        write!(out, "      {}  {} bytes", row.address, row.size)?;
        if row.cold_size > 0 {
            write!(out, " + {} cold", row.cold_size)?;
        }
        if row.copies > 1 {
            write!(out, "  1 of {} copies", row.copies)?;
        }
        if row.language != "native" {
            write!(out, "  {}", row.language)?;
        }
        if row.linkage != row.name {
            write!(out, "  {}", row.linkage)?;
        }
        writeln!(out)?;
    }
    let plural = if rows.len() == 1 { "" } else { "s" };
    writeln!(out, "{} function{plural}", rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(target: &str, pattern: &str) -> SymbolsArgs {
        SymbolsArgs {
            target: target.into(),
            pattern: pattern.into(),
            json: false,
            object: None,
            limit: 256,
        }
    }

    fn text(args: &SymbolsArgs) -> anyhow::Result<String> {
        let mut out = Vec::new();
        run(args, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn our_own_functions_by_process_and_by_file() {
        let pattern = "qprof::cli::symbols::table*";
        let pid = std::process::id().to_string();
        let by_pid = text(&args(&pid, pattern)).unwrap();
        assert!(by_pid.contains("  qprof::cli::symbols::table"), "{by_pid}");
        let exe = std::env::current_exe().unwrap();
        let by_file = text(&args(exe.to_str().unwrap(), pattern)).unwrap();
        assert_eq!(by_pid, by_file);
        let json = text(&SymbolsArgs { json: true, ..args(&pid, pattern) }).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json[0]["size"].as_u64().unwrap() > 0);
        assert!(json[0]["address"].as_str().unwrap().starts_with("0x"));
    }

    #[test]
    fn nothing_found_names_the_nearest() {
        let error = text(&args(&std::process::id().to_string(), "qprof::cli::symbols::tabel"));
        let error = error.unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(SymbolError::NotFound { .. })));
        assert!(error.to_string().contains("qprof::cli::symbols::table"), "{error}");
    }

    #[test]
    fn what_is_no_target_is_a_typed_error() {
        let error = text(&args("0", "x")).unwrap_err();
        assert!(error.downcast_ref::<crate::target::TargetError>().is_some());
        let error = text(&args("/nonexistent/file", "x")).unwrap_err();
        assert!(error.downcast_ref::<SymbolError>().is_some());
    }

    #[test]
    fn patterns_say_what_they_are() {
        assert_eq!(select("0x40"), Select::Address(VirtAddr(0x40)));
        assert_eq!(select("_ZN1aE"), Select::Linkage("_ZN1aE".into()));
        assert_eq!(select("0xyz"), Select::Function("0xyz".into()));
    }
}
