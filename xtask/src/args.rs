//! Command-line words by hand: a parser crate would cost more build time than all commands need.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, anyhow};

/// The command line was wrong; the text says how and what is right.
#[derive(Debug)]
pub(crate) struct Usage(pub(crate) String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The words after the command's name, taken out one by one; [`Args::finish`] refuses the rest.
#[derive(Debug)]
pub(crate) struct Args {
    words: Vec<String>,
    /// The words after `--`, for the program a command runs.
    passed_on: Vec<String>,
}

impl Args {
    pub(crate) fn new(mut words: Vec<String>) -> Self {
        let passed_on = match words.iter().position(|word| word == "--") {
            Some(at) => words.split_off(at).into_iter().skip(1).collect(),
            None => Vec::new(),
        };
        Self { words, passed_on }
    }

    pub(crate) fn asks_for_help(&self) -> bool {
        self.words.iter().any(|word| word == "-h" || word == "--help")
    }

    /// Takes the flag `name` out; whether it was there.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.words.len();
        self.words.retain(|word| word != name);
        self.words.len() != before
    }

    /// Takes `name VALUE` or `name=VALUE` out.
    ///
    /// # Errors
    /// [`Usage`] when the value is missing or does not parse.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>> {
        let joined = format!("{name}=");
        let Some(at) = self.words.iter().position(|word| word == name || word.starts_with(&joined))
        else {
            return Ok(None);
        };
        let word = self.words.remove(at);
        let text = match word.strip_prefix(&joined) {
            Some(text) => text.to_owned(),
            None if at < self.words.len() => self.words.remove(at),
            None => return Err(anyhow!(Usage(format!("{name} needs a value")))),
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(anyhow!(Usage(format!("{name}: `{text}` is no valid value")))),
        }
    }

    /// Takes all words that are no flags.
    pub(crate) fn plain(&mut self) -> Vec<String> {
        let (plain, flags) =
            std::mem::take(&mut self.words).into_iter().partition(|word| !word.starts_with('-'));
        self.words = flags;
        plain
    }

    /// Takes what came after `--`.
    pub(crate) fn passed_on(&mut self) -> Vec<String> {
        std::mem::take(&mut self.passed_on)
    }

    /// # Errors
    /// [`Usage`] naming the first word that nothing took.
    pub(crate) fn finish(self) -> Result<()> {
        match self.words.into_iter().chain(self.passed_on).next() {
            None => Ok(()),
            Some(word) => Err(anyhow!(Usage(format!(
                "`{word}` is not understood here; add --help for the command's usage"
            )))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn flags_values_and_passed_on_words() {
        let mut args = args("--full --seconds 7 --jaeger=http://127.0.0.1:4317 -- hop --exact");
        assert!(args.flag("--full"));
        assert!(!args.flag("--full"));
        assert_eq!(args.value::<u32>("--seconds").unwrap(), Some(7));
        assert_eq!(
            args.value::<String>("--jaeger").unwrap().as_deref(),
            Some("http://127.0.0.1:4317")
        );
        assert_eq!(args.passed_on(), ["hop", "--exact"]);
        args.finish().unwrap();
    }

    #[test]
    fn what_nothing_took_is_refused() {
        assert!(args("--ful").finish().unwrap_err().is::<Usage>());
        assert!(args("-- filter").finish().unwrap_err().is::<Usage>());
        assert!(args("--seconds").value::<u32>("--seconds").unwrap_err().is::<Usage>());
        assert!(args("--seconds x").value::<u32>("--seconds").unwrap_err().is::<Usage>());
    }

    #[test]
    fn plain_words_leave_the_flags() {
        let mut args = args("rust --fix jaeger");
        assert_eq!(args.plain(), ["rust", "jaeger"]);
        assert!(args.flag("--fix"));
        args.finish().unwrap();
    }
}
