//! Reads the functions of a stripped Go program, and with `types` its types, and prints how many there
//! are and the most memory it took, as JSON: `go_tables functions|types FILE PATTERN`.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::env::args;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use qprof::config::{Select, Selector};
use qprof::symbols::SymbolSet;
use qprof::target::ObjectId;

/// More than any pattern of the benches matches.
const LIMIT: usize = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = args().skip(1);
    let (Some(what), Some(file), Some(pattern)) = (words.next(), words.next(), words.next()) else {
        return Err("usage: go_tables functions|types FILE PATTERN".into());
    };
    let file = PathBuf::from(file);
    let symbols = SymbolSet::of_file(&file);
    let selector = Selector { select: Select::Function(pattern), object: None };
    let found = symbols.find(&selector, LIMIT)?.functions.len();
    let types = match what.as_str() {
        "types" => symbols.go_types(ObjectId(0))?.all().count(),
        _ => 0,
    };
    println!("{{\"found\": {found}, \"types\": {types}, \"peak_kib\": {}}}", peak()?);
    Ok(())
}

/// proc(5): the most memory that this process had at once, KiB.
fn peak() -> Result<u64, Box<dyn Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.ok_or("no VmHWM in /proc/self/status")?.parse()?)
}
