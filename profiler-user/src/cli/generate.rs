//! `qprof generate`: what is made from the definition of the command line and of its files.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config;
use crate::target::go::GoFacts;

#[derive(Debug, Args)]
pub(super) struct GenerateArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Completions for a shell: `qprof generate completions bash >/etc/bash_completion.d/qprof`.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// The manual, a page a verb: `qprof generate man | man -l -`.
    Man,
    /// A JSON Schema, for editors: `#:schema FILE` on the TOML file's first line.
    Schema {
        /// Of what.
        #[arg(default_value = "map")]
        of: SchemaOf,
    },
    /// What `doctor --go-offsets-from FILE` takes from a Go program, as JSON on one line.
    GoFacts {
        /// A program with debug information (built without -ldflags=-w, and not stripped).
        file: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    /// A symbol map.
    Map,
    /// The configuration file of `--config`.
    Config,
}

pub(super) fn run(
    args: &GenerateArgs,
    mut command: Command,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    // The generators may not stop on a write error: they write to memory.
    let mut text = Vec::new();
    match &args.what {
        What::Completions { shell } => {
            let name = command.get_name().to_owned();
            clap_complete::generate(*shell, &mut command, name, &mut text);
        }
        What::Man => manual(command, &mut text)?,
        What::Schema { of } => {
            let schema = match of {
                SchemaOf::Map => config::schema(),
                SchemaOf::Config => config::settings_schema(),
            };
            serde_json::to_writer_pretty(&mut text, &schema)?;
            text.push(b'\n');
        }
        What::GoFacts { file } => {
            serde_json::to_writer(&mut text, &GoFacts::from_dwarf(file)?)?;
            text.push(b'\n');
        }
    }
    out.write_all(&text)?;
    Ok(())
}

/// The page of the program, then those of its verbs and theirs.
fn manual(mut command: Command, text: &mut Vec<u8>) -> std::io::Result<()> {
    // Gives every verb the name it is called by.
    command.build();
    let mut pages = vec![command];
    while let Some(page) = pages.pop() {
        let verbs = page.get_subcommands().filter(|verb| {
            let called = verb.get_name();
            !verb.is_hide_set() && called != "help"
        });
        let verbs: Vec<_> = verbs.cloned().collect();
        pages.extend(verbs.into_iter().rev());
        let called = page.get_display_name().unwrap_or(page.get_name()).to_owned();
        clap_mangen::Man::new(page).title(called).render(text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(what: What) -> String {
        let command = Command::new("qprof")
            .about("Test")
            .subcommand(Command::new("run").about("Attach"))
            .subcommand(Command::new("secret").hide(true))
            .subcommand(Command::new("generate").subcommand(Command::new("man").about("Pages")));
        let mut out = Vec::new();
        run(&GenerateArgs { what }, command, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn completions_name_the_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            assert!(output(What::Completions { shell }).contains("run"), "{shell}");
        }
    }

    #[test]
    fn the_manual_has_a_page_for_each_verb_that_is_not_hidden() {
        let text = output(What::Man);
        let pages: Vec<_> =
            text.lines().filter_map(|line| line.strip_prefix(".TH ")?.split(' ').next()).collect();
        assert_eq!(pages, ["qprof", "qprof-run", "qprof-generate", "qprof-generate-man"]);
    }

    #[test]
    fn the_schemas_are_json() {
        for (of, title) in
            [(SchemaOf::Map, "qprof symbol map"), (SchemaOf::Config, "qprof configuration")]
        {
            let schema: serde_json::Value =
                serde_json::from_str(&output(What::Schema { of })).unwrap();
            assert_eq!(schema["title"], title);
        }
    }
}
