//! `qprof maps`: the symbol maps that are part of the program.

use std::io::Write;

use clap::Args;
use serde::Serialize;

use crate::config::{self, BuiltIn, SymbolMap};

#[derive(Debug, Args)]
pub(super) struct MapsArgs {
    /// Print the TOML of this map: the start of a map of your own.
    name: Option<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MapsArgs, out: &mut impl Write) -> anyhow::Result<()> {
    match (&args.name, args.json) {
        (Some(name), false) => out.write_all(config::find_built_in(name)?.text.as_bytes())?,
        (Some(name), true) => {
            let built_in = config::find_built_in(name)?;
            write_json(out, &Listed::new(built_in, &built_in.parse()?))?;
        }
        (None, true) => write_json(out, &listed()?)?,
        (None, false) => list(out, &listed()?)?,
    }
    Ok(())
}

/// A built-in map as it is listed.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    description: String,
    system: String,
    /// The spans that start a trace, in the map's order.
    roots: Vec<String>,
    /// All other spans, in the map's order, and those of hand-offs.
    spans: Vec<String>,
    handoffs: Vec<String>,
    toml: &'static str,
}

impl Listed {
    fn new(built_in: &BuiltIn, map: &SymbolMap) -> Self {
        let SymbolMap { name, description, system, spans, handoffs, .. } = map;
        let of_root = |root| {
            spans.iter().filter(move |span| span.root == root).map(|span| span.name.to_string())
        };
        let waits = handoffs.iter().filter_map(|handoff| handoff.span.as_deref());
        Self {
            name: name.clone(),
            description: description.clone(),
            system: system.clone(),
            roots: once_each(of_root(true)),
            spans: once_each(of_root(false).chain(waits.map(str::to_owned))),
            handoffs: handoffs.iter().map(|handoff| handoff.name.to_string()).collect(),
            toml: built_in.text,
        }
    }
}

fn listed() -> anyhow::Result<Vec<Listed>> {
    config::built_in()
        .iter()
        .map(|built_in| Ok(Listed::new(built_in, &built_in.parse()?)))
        .collect()
}

/// Several declarations may share a name.
fn once_each(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut once = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

fn write_json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(())
}

fn list(out: &mut impl Write, maps: &[Listed]) -> std::io::Result<()> {
    for (index, map) in maps.iter().enumerate() {
        let Listed { name, description, system, roots, spans, .. } = map;
        if index > 0 {
            writeln!(out)?;
        }
        writeln!(out, "{name}: {description}")?;
        writeln!(out, "  system  {system}")?;
        write_words(out, "  roots   ", roots)?;
        write_words(out, "  spans   ", spans)?;
    }
    Ok(())
}

/// Words with commas between, in lines that fit a terminal.
fn write_words(out: &mut impl Write, label: &str, words: &[String]) -> std::io::Result<()> {
    const WIDTH: usize = 80;
    let mut line = label.to_owned();
    for (index, word) in words.iter().enumerate() {
        let comma = if index + 1 < words.len() { "," } else { "" };
        if line.len() + word.len() + comma.len() > WIDTH && line.len() > label.len() {
            writeln!(out, "{}", line.trim_end())?;
            line = " ".repeat(label.len());
        }
        line.push_str(word);
        line.push_str(comma);
        line.push(' ');
    }
    writeln!(out, "{}", line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: Option<&str>, json: bool) -> anyhow::Result<String> {
        let mut out = Vec::new();
        run(&MapsArgs { name: name.map(str::to_owned), json }, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn the_list_names_every_map_with_its_roots() {
        let text = output(None, false).unwrap();
        assert!(
            text.starts_with("duckdb: DuckDB 2.0") && text.contains("\nmilvus-lite: Milvus Lite"),
            "{text}"
        );
        assert!(text.contains("\n  roots   search_request, "), "{text}");
        assert!(text.contains("queue_wait"), "{text}");
        assert_eq!(text.matches("parse_request").count(), 1, "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_printed_map_can_be_read_again() {
        let text = output(Some("milvus-lite"), false).unwrap();
        let origin = config::MapOrigin::File("copy.toml".into());
        assert_eq!(config::parse_map(&text, origin).unwrap().name, "milvus-lite");
    }

    #[test]
    fn json_is_an_array_or_one_map() {
        let all: serde_json::Value = serde_json::from_str(&output(None, true).unwrap()).unwrap();
        let text = output(Some("milvus-lite"), true).unwrap();
        let one: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(all.as_array().unwrap().contains(&one), "{all}");
        assert_eq!(one["system"], "milvus");
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        let error = output(Some("milvus"), false).unwrap_err().to_string();
        assert!(error.contains("milvus-lite"), "{error}");
    }
}
