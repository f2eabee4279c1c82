//! A reader for the JSON that our own programs print: a crate for it would be the largest part
//! of xtask. Numbers are `f64`; what is deeper than [`MAX_DEPTH`] is refused.

use std::iter::Peekable;
use std::str::Chars;

use anyhow::{Context as _, Result, bail};

const MAX_DEPTH: usize = 64;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    List(Vec<Json>),
    /// In the order they came; a repeated key keeps its first value.
    Object(Vec<(String, Json)>),
}

impl Json {
    /// # Errors
    /// When `text` is not exactly one JSON value.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut reader = Reader { rest: text.chars().peekable() };
        let value = reader.value(0).context("not JSON")?;
        reader.blanks();
        if let Some(extra) = reader.rest.next() {
            bail!("not JSON: `{extra}` after the value");
        }
        Ok(value)
    }

    /// The value at `path`, keys separated by dots.
    pub(crate) fn at(&self, path: &str) -> Option<&Json> {
        path.split('.').try_fold(self, |value, key| match value {
            Self::Object(members) => {
                members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
            }
            _ => None,
        })
    }

    /// The number at `path`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn number(&self, path: &str) -> Result<f64> {
        match self.at(path) {
            Some(Self::Number(number)) => Ok(*number),
            _ => bail!("no number `{path}` in {self:?}"),
        }
    }

    /// The text at `path`, if there is one.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match self.at(path) {
            Some(Self::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// The list at `path`; none is an empty one.
    pub(crate) fn list(&self, path: &str) -> &[Json] {
        match self.at(path) {
            Some(Self::List(list)) => list,
            _ => &[],
        }
    }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
}

impl Reader<'_> {
    fn blanks(&mut self) {
        while self.rest.next_if(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).is_some() {}
    }

    /// Whether the next character that is no blank is `c`; takes it if so.
    fn takes(&mut self, c: char) -> bool {
        self.blanks();
        self.rest.next_if_eq(&c).is_some()
    }

    fn needs(&mut self, c: char) -> Result<()> {
        if self.takes(c) {
            return Ok(());
        }
        bail!("`{c}` expected, found {:?}", self.rest.peek());
    }

    fn value(&mut self, depth: usize) -> Result<Json> {
        if depth > MAX_DEPTH {
            bail!("nested deeper than {MAX_DEPTH}");
        }
        self.blanks();
        match self.rest.peek().copied() {
            Some('{') => self.object(depth),
            Some('[') => self.list(depth),
            Some('"') => Ok(Json::Text(self.text()?)),
            Some('t') => self.word("true", Json::Bool(true)),
            Some('f') => self.word("false", Json::Bool(false)),
            Some('n') => self.word("null", Json::Null),
            Some(c) if c == '-' || c.is_ascii_digit() => self.number(),
            Some(c) => bail!("no value begins with `{c}`"),
            None => bail!("it ends where a value should be"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Json> {
        self.needs('{')?;
        let mut members = Vec::new();
        if self.takes('}') {
            return Ok(Json::Object(members));
        }
        loop {
            self.blanks();
            let key = self.text()?;
            self.needs(':')?;
            members.push((key, self.value(depth + 1)?));
            if !self.takes(',') {
                self.needs('}')?;
                return Ok(Json::Object(members));
            }
        }
    }

    fn list(&mut self, depth: usize) -> Result<Json> {
        self.needs('[')?;
        let mut items = Vec::new();
        if self.takes(']') {
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            if !self.takes(',') {
                self.needs(']')?;
                return Ok(Json::List(items));
            }
        }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json> {
        for c in word.chars() {
            if self.rest.next() != Some(c) {
                bail!("`{word}` expected");
            }
        }
        Ok(value)
    }

    fn number(&mut self) -> Result<Json> {
        let mut text = String::new();
        while let Some(c) =
            self.rest.next_if(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E'))
        {
            text.push(c);
        }
        Ok(Json::Number(text.parse().with_context(|| format!("`{text}` is no number"))?))
    }

    fn text(&mut self) -> Result<String> {
        self.needs('"')?;
        let mut text = String::new();
        loop {
            match self.rest.next().context("a text has no end")? {
                '"' => return Ok(text),
                '\\' => text.push(self.escaped()?),
                c => text.push(c),
            }
        }
    }

    fn escaped(&mut self) -> Result<char> {
        Ok(match self.rest.next().context("a text has no end")? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'u' => {
                let mut code = 0;
                for _ in 0..4 {
                    let digit = self.rest.next().and_then(|c| c.to_digit(16));
                    code = code * 16 + digit.context("\\u needs four hexadecimal digits")?;
                }
                // Half of a surrogate pair: our programs print such characters as they are.
                char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            c @ ('"' | '\\' | '/') => c,
            c => bail!("`\\{c}` means nothing"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_our_programs_print() {
        let json = Json::parse(
            r#" {"traces": 400, "roots": {"search": {"p50_us": 1.5e3}}, "silent": [],
                 "list": [{"name": "a\"\u00e9\n"}, null, true, -2]} "#,
        )
        .unwrap();
        assert_eq!(json.number("traces").unwrap(), 400.0);
        assert_eq!(json.number("roots.search.p50_us").unwrap(), 1500.0);
        assert!(json.list("silent").is_empty() && json.list("absent").is_empty());
        assert_eq!(json.list("list")[0].text("name"), Some("a\"é\n"));
        assert_eq!(json.list("list")[3], Json::Number(-2.0));
        assert!(json.number("silent").is_err());
    }

    #[test]
    fn refuses_what_is_no_json() {
        let deep = "[".repeat(100_000);
        for text in ["", "{", "[1,]", "{\"a\" 1}", "\"a", "tru", "1 2", "--", "\"\\x\"", &deep] {
            assert!(Json::parse(text).is_err(), "{}", &text[..text.len().min(20)]);
        }
    }
}
