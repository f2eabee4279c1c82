//! `qprof maps`: the symbol maps there are, and which fit a process.

use std::collections::BTreeMap;
use std::io::Write;

use clap::Args;
use serde::Serialize;

use super::settings::ConfigArg;
use crate::agent::{Fit, ObjectFit, Survey, survey};
use crate::config::{Known, Library, MatchDecl, SymbolMap};
use crate::model::Pid;

#[derive(Debug, Args)]
#[command(after_help = "\
Maps are looked for in `maps_dir` of the configuration, ~/.config/qprof/maps, /etc/qprof/maps (*.toml)
and in qprof itself; the first one of a name stands for the others.

Examples:
  qprof maps                              all maps, with their origins and versions
  qprof maps milvus-lite >my-map.toml     the start of a map of your own
  sudo qprof maps -p $(pidof milvus)      which fit this process, and why")]
pub(super) struct MapsArgs {
    /// Print the TOML of this map: the start of a map of your own.
    name: Option<String>,

    /// Say of each map whether it fits this process, and why.
    #[arg(short, long, conflicts_with = "name")]
    pid: Option<u32>,

    #[command(flatten)]
    config: ConfigArg,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &MapsArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let library = Library::read(&args.config.load()?.map_dirs)?;
    if let Some(name) = &args.name {
        let known = library.find(name)?;
        if args.json {
            return write_json(out, &Listed::new(&known, None));
        }
        return Ok(out.write_all(known.text.as_bytes())?);
    }
    for broken in library.broken() {
        tracing::warn!("a symbol map is passed over: {}", broken.error);
    }
    let survey = args.pid.map(|pid| survey(Pid(pid), &library)).transpose()?;
    if args.json {
        let fits = survey.iter().flat_map(|survey| &survey.fits).map(Some);
        let fits = fits.chain(std::iter::repeat(None));
        let listed: Vec<_> =
            library.known().iter().zip(fits).map(|(known, fit)| Listed::new(known, fit)).collect();
        return write_json(out, &listed);
    }
    if let (Some(pid), Some(survey)) = (args.pid, &survey) {
        list_fits(out, Pid(pid), survey, &library)?;
    } else {
        let listed: Vec<_> = library.known().iter().map(|known| Listed::new(known, None)).collect();
        list(out, &listed)?;
    }
    Ok(())
}

/// A map as it is listed.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    name: String,
    description: String,
    /// `built in`, or the path of its file.
    origin: String,
    /// Where another map of its name is, which this one stands for.
    overrides: Option<String>,
    /// The versions of the program it is for, as it says.
    versions: Option<String>,
    /// The builds it was checked with: version by build id.
    builds: BTreeMap<String, String>,
    system: String,
    /// The spans that start a trace, in the map's order.
    roots: Vec<String>,
    /// All other spans, in the map's order, and those of hand-offs.
    spans: Vec<String>,
    handoffs: Vec<String>,
    toml: &'a str,
    /// With `--pid`: whether it fits that process.
    #[serde(skip_serializing_if = "Option::is_none")]
    fits: Option<bool>,
    /// With `--pid`: the objects whose path is right, and what was found in them.
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<&'a [ObjectFit]>,
}

impl<'a> Listed<'a> {
    /// `fit`: none where no process was asked about.
    fn new(known: &'a Known, fit: Option<&'a Fit>) -> Self {
        let SymbolMap { name, description, system, spans, handoffs, matching, origin, .. } =
            &known.map;
        let of_root = |root| {
            spans.iter().filter(move |span| span.root == root).map(|span| span.name.to_string())
        };
        let waits = handoffs.iter().filter_map(|handoff| handoff.span.as_deref());
        let builds = matching.iter().flat_map(|matching| &matching.builds);
        Self {
            name: name.clone(),
            description: description.clone(),
            origin: origin.to_string(),
            overrides: known.overrides.as_ref().map(ToString::to_string),
            versions: matching.as_ref().and_then(|matching| matching.versions.clone()),
            builds: builds.map(|build| (build.id.to_string(), build.version.clone())).collect(),
            system: system.clone(),
            roots: once_each(of_root(true)),
            spans: once_each(of_root(false).chain(waits.map(str::to_owned))),
            handoffs: handoffs.iter().map(|handoff| handoff.name.to_string()).collect(),
            toml: &known.text,
            fits: fit.map(|fit| fit.fits),
            objects: fit.map(|fit| &*fit.objects),
        }
    }
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
        let Listed { name, description, origin, overrides, versions, builds, .. } = map;
        if index > 0 {
            writeln!(out)?;
        }
        if description.is_empty() {
            writeln!(out, "{name}")?;
        } else {
            writeln!(out, "{name}: {description}")?;
        }
        writeln!(out, "  origin  {origin}")?;
        if let Some(other) = overrides {
            writeln!(out, "          instead of the one {other}")?;
        }
        write_words(out, "  for     ", &range(versions.as_deref(), builds))?;
        writeln!(out, "  system  {}", map.system)?;
        write_words(out, "  roots   ", &map.roots)?;
        write_words(out, "  spans   ", &map.spans)?;
    }
    Ok(())
}

/// The versions a map is for, in words.
fn range(versions: Option<&str>, builds: &BTreeMap<String, String>) -> Vec<String> {
    let mut words = vec![match versions {
        Some(versions) => format!("versions {versions}"),
        None => "no versions named".to_owned(),
    }];
    let checked = once_each(builds.values().cloned());
    words.extend(checked.iter().map(|version| format!("checked with a build of {version}")));
    words
}

/// What every map finds in one process, and which one `run` takes.
fn list_fits(
    out: &mut impl Write,
    pid: Pid,
    survey: &Survey,
    library: &Library,
) -> std::io::Result<()> {
    writeln!(out, "process {pid} ({}), {} mapped objects", survey.name, survey.objects)?;
    for (known, fit) in library.known().iter().zip(&survey.fits) {
        let word = if fit.fits { "fits" } else { "no" };
        writeln!(out, "\n{word:<5} {} ({})", known.map.name, known.map.origin)?;
        for reason in reasons(&known.map, fit, survey.objects) {
            writeln!(out, "      {reason}")?;
        }
    }
    match &survey.chosen {
        Ok(name) => writeln!(out, "\n`qprof run -p {pid}` takes {name}"),
        Err(why) => writeln!(out, "\n{why}"),
    }
}

/// Why a map fits, or does not.
fn reasons(map: &SymbolMap, fit: &Fit, objects: usize) -> Vec<String> {
    let Some(wanted) = &map.matching else {
        return vec![format!("it has no [match]: name it with -m {}", map.name)];
    };
    if fit.objects.is_empty() {
        return vec![format!("no path of {objects} mapped objects matches `{}`", wanted.object)];
    }
    let mut reasons = Vec::new();
    for object in &fit.objects {
        let found = object.functions.iter().filter(|function| function.found).count();
        let all = object.functions.len();
        reasons.push(format!(
            "object {} matches `{}`, {found} of {all} functions found",
            object.path, wanted.object
        ));
        for function in object.functions.iter().filter(|function| !function.found) {
            let why = function.why.as_deref().unwrap_or("it is not there");
            reasons.push(format!("  missing `{}`: {why}", function.function));
        }
        reasons.push(format!("  {}", build(wanted, object)));
    }
    reasons
}

/// What is known of an object's version.
fn build(wanted: &MatchDecl, object: &ObjectFit) -> String {
    let range = wanted.versions.as_deref();
    let range = range.map_or_else(String::new, |range| format!("; the map is for {range}"));
    match (&object.build_id, &object.version) {
        (Some(id), Some(version)) => {
            format!("version {version}: build {id}, which the map was checked with{range}")
        }
        (Some(id), None) if wanted.builds.is_empty() => {
            format!("version unknown: the map names no builds to compare {id} with{range}")
        }
        (Some(id), None) => {
            format!("version unknown: build {id} is none that the map was checked with{range}")
        }
        (None, _) => format!("version unknown: the object has no build id{range}"),
    }
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
    use crate::config::{MapOrigin, parse_map};

    fn output(name: Option<&str>, json: bool) -> anyhow::Result<String> {
        let mut out = Vec::new();
        let config = ConfigArg::default();
        run(&MapsArgs { name: name.map(str::to_owned), pid: None, config, json }, &mut out)?;
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
        assert!(text.contains("\n  origin  built in\n"), "{text}");
        assert!(text.contains("versions >=2.5, <2.6, checked with a build of 2.5.1\n"), "{text}");
        assert_eq!(text.matches("parse_request").count(), 1, "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    }

    #[test]
    fn a_printed_map_can_be_read_again() {
        let text = output(Some("milvus-lite"), false).unwrap();
        let origin = MapOrigin::File("copy.toml".into());
        assert_eq!(parse_map(&text, origin).unwrap().name, "milvus-lite");
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
