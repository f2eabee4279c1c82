//! `go-facts`: where Go keeps what it knows of a goroutine, by version, asked of the toolchains
//! themselves.
//!
//! Each release comes as the Go module it is, builds a small program with debug information, and
//! goes again; the program stays. `qprof` reads it with the very reader that users' own programs
//! are read by.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::args::{Args, Usage};
use crate::cache::{Cache, Step, Workshop, replace_file};
use crate::cli::Context;
use crate::command::{run_logged, stdout_of};
use crate::toolchain::Toolchain;
use crate::{build, jaeger, say};

/// The table that is compiled into `qprof`.
pub(crate) const TABLE: &str = "profiler-user/src/target/go/facts.json";

/// The first and the last release of each minor version. A new minor version is a new line here;
/// `cargo xtask go-facts --newest 1` then writes its numbers.
const RELEASES: [[&str; 2]; 10] = [
    ["1.18", "1.18.10"],
    ["1.19", "1.19.13"],
    ["1.20", "1.20.14"],
    ["1.21.0", "1.21.13"],
    ["1.22.0", "1.22.12"],
    ["1.23.0", "1.23.12"],
    ["1.24.0", "1.24.13"],
    ["1.25.0", "1.25.14"],
    ["1.26.0", "1.26.11"],
    ["1.27.0", "1.27.4"],
];

/// The program: whatever it does, the runtime is in it.
const SOURCES: [(&str, &str); 3] = [
    ("go.mod", "module facts\n\ngo 1.18\n"),
    ("main.go", "package main\n\nfunc main() { go println() }\n"),
    // Left out where cgo is off.
    (
        "c.go",
        "package main\n\n// int one(void) { return 1; }\nimport \"C\"\n\nfunc init() { C.one() }\n",
    ),
];

pub(crate) fn run(context: &Context, mut args: Args) -> Result<ExitCode> {
    let check_only = args.flag("--check");
    let all = args.flag("--all");
    let newest = args.value("--newest")?;
    args.finish()?;
    let newest = match newest {
        Some(_) if all => {
            return Err(anyhow!(Usage("--all and --newest exclude each other".to_owned())));
        }
        Some(newest) => newest,
        None => RELEASES.len(),
    };
    let toolchain = Toolchain::ensure(&context.cache, &context.root)?;
    let qprof = build::release(context, &toolchain)?;
    if !is_current(context, &qprof, newest, !check_only)? {
        bail!("{TABLE} is not what the toolchains say: run `cargo xtask go-facts`");
    }
    say::step("go-facts", &format!("{TABLE} is what the toolchains say"));
    Ok(ExitCode::SUCCESS)
}

/// Whether the table says of the `newest` minor versions what their toolchains say; with `fix` it
/// does afterwards.
///
/// # Errors
/// When a toolchain cannot be had, does not build the program, or two releases of a minor version
/// differ.
pub(crate) fn is_current(
    context: &Context,
    qprof: &Path,
    newest: usize,
    fix: bool,
) -> Result<bool> {
    let file = context.root.join(TABLE);
    let kept = fs::read_to_string(&file).unwrap_or_default();
    let asked_from = RELEASES.len().saturating_sub(newest);
    let mut lines = Vec::new();
    for (index, releases) in RELEASES.iter().enumerate() {
        let kept = kept.lines().find(|line| line.starts_with(&line_start(releases)));
        match kept {
            Some(line) if index < asked_from => lines.push(line.trim_end_matches(',').to_owned()),
            _ => lines.push(line(&context.cache, qprof, releases)?),
        }
    }
    let table = format!("[\n{}\n]\n", lines.join(",\n"));
    if table == kept {
        return Ok(true);
    }
    if fix {
        replace_file(&file, table.as_bytes())?;
    }
    Ok(fix)
}

fn line_start([first, last]: &[&str; 2]) -> String {
    let minor = first.strip_suffix(".0").unwrap_or(first);
    format!(r#"{{"go":"{minor}","read_from":["{first}","{last}"],"#)
}

/// The table's line for a minor version.
fn line(cache: &Cache, qprof: &Path, releases: &[&str; 2]) -> Result<String> {
    let mut said: Option<(PathBuf, String)> = None;
    for release in releases {
        for program in ensure_programs(cache, release)? {
            let facts =
                stdout_of(Command::new(qprof).args(["generate", "go-facts"]).arg(&program))?;
            match &said {
                Some((other, others)) if *others != facts => bail!(
                    "{} and {} of one minor version differ, and the table has one line for \
                     both:\n{others}{facts}",
                    other.display(),
                    program.display()
                ),
                _ => said = Some((program, facts)),
            }
        }
    }
    let (_, facts) = said.context("no release to ask")?;
    Ok(format!(r#"{}"facts":{}}}"#, line_start(releases), facts.trim_end()))
}

/// The program as a release builds it, without C code and with it.
fn ensure_programs(cache: &Cache, release: &str) -> Result<[PathBuf; 2]> {
    let dir = cache.join("go-facts");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let programs = ["", "-cgo"].map(|kind| dir.join(format!("go{release}{kind}")));
    let sources: String = SOURCES.iter().map(|(_, text)| *text).collect();
    let step = Step {
        name: &format!("go-facts-{release}"),
        key: &sources,
        doing: &format!("fetching Go {release} and building a program with it (about 20 s)"),
        files: &programs,
        probe: &|| false,
    };
    cache.ensure(&step, |workshop| make(cache, release, workshop, &programs))?;
    Ok(programs)
}

fn make(cache: &Cache, release: &str, workshop: &Workshop, programs: &[PathBuf; 2]) -> Result<()> {
    let scratch = &workshop.scratch;
    let source = scratch.join("source");
    fs::create_dir(&source)?;
    for (name, text) in SOURCES {
        fs::write(source.join(name), text)?;
    }
    let go = fetch(cache, release, workshop, &source)?;
    for (program, cgo) in programs.iter().zip(["0", "1"]) {
        let built = scratch.join("built");
        let mut command = Command::new(&go);
        command
            .current_dir(&source)
            .env_remove("GOROOT")
            .env("GOTOOLCHAIN", "local")
            // Go 1.19 builds nothing when it lies in the module cache that it uses.
            .env("GOMODCACHE", scratch.join("no-modules"))
            .env("GOCACHE", scratch.join("cache"))
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            // Experiments of the user's would be built in.
            .env("GOEXPERIMENT", "")
            .env("GOARCH", "amd64")
            .env("GOOS", "linux")
            .env("CC", "cc")
            .env("CGO_ENABLED", cgo)
            .args(["build", "-trimpath", "-buildvcs=false", "-o"])
            .arg(&built);
        run_logged(&mut command, &workshop.log)?;
        let version = stdout_of(Command::new(&go).arg("version").arg(&built))?;
        if !version.trim_end().ends_with(&format!(": go{release}")) {
            bail!("asked for go{release}, built by another: {version}");
        }
        fs::rename(&built, program)
            .with_context(|| format!("cannot move it to {}", program.display()))?;
    }
    Ok(())
}

/// The program `go` of a release, below the step's scratch directory: a toolchain is 200 MB that
/// nobody asks for again.
fn fetch(cache: &Cache, release: &str, workshop: &Workshop, module: &Path) -> Result<PathBuf> {
    let mut command = Command::new(jaeger::ensure_go(cache)?);
    command
        .current_dir(module)
        .env_remove("GOROOT")
        .env("GOTOOLCHAIN", format!("go{release}"))
        .env("GOMODCACHE", workshop.scratch.join("modules"))
        // Otherwise its directories could not be removed.
        .env("GOFLAGS", "-modcacherw")
        .env("GOWORK", "off")
        .args(["env", "GOROOT"]);
    let root = stdout_of(&mut command)?;
    Ok(Path::new(root.trim()).join("bin/go"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minor_version_has_its_first_and_a_later_release() {
        for [first, last] in RELEASES {
            let minor = first.strip_suffix(".0").unwrap_or(first);
            assert!(last.starts_with(&format!("{minor}.")), "{first} {last}");
        }
    }

    #[test]
    fn the_kept_table_has_a_line_for_each_minor_version() {
        let table = fs::read_to_string(Path::new("..").join(TABLE)).unwrap();
        for releases in &RELEASES {
            let start = line_start(releases);
            assert_eq!(table.lines().filter(|line| line.starts_with(&start)).count(), 1, "{start}");
        }
    }
}
