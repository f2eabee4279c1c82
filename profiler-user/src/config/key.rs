//! Key expressions: `arg(N)`, `ret`, `*(arg(N)+OFF)`, `*(ret+OFF)`.

use std::ops::Range;

use super::map::KeyExpr;

/// What is wrong with an expression: which bytes of it, and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyError {
    pub(super) at: Range<usize>,
    pub(super) problem: String,
    pub(super) help: &'static str,
}

const FORMS: &str = "write `arg(N)`, `ret`, `*(arg(N)+OFF)` or `*(ret+OFF)`, with N from 1 to 6, on Go \
                     functions to 9";
const ARGUMENTS: &str = "arguments count from 1 and the first six integer or pointer arguments can \
                         be read, of Go functions the first nine words of them; a hidden result \
                         pointer, `this` and a receiver count too";
const OFFSETS: &str = "OFF is a number of bytes, decimal or 0x…, that fits 32 bits with its sign";

/// One word of a key.
pub(super) fn parse_key(text: &str) -> Result<KeyExpr, KeyError> {
    let mut parser = Parser { text, at: 0 };
    let word = parser.expression()?;
    let rest = parser.token();
    if rest.is_empty() { Ok(word) } else { Err(parser.unexpected("after the expression", FORMS)) }
}

#[derive(Clone, Copy)]
enum Base {
    Arg(u8),
    Ret,
}

struct Parser<'a> {
    text: &'a str,
    /// Byte position; always on a character boundary.
    at: usize,
}

impl<'a> Parser<'a> {
    fn expression(&mut self) -> Result<KeyExpr, KeyError> {
        if !self.eat("*") {
            return Ok(match self.base()? {
                Base::Arg(number) => KeyExpr::Arg(number),
                Base::Ret => KeyExpr::Ret,
            });
        }
        self.expect("(")?;
        if self.token() == "*" {
            return Err(self.unexpected("here", "one word can be read through one pointer only"));
        }
        let base = self.base()?;
        let offset = self.offset()?;
        self.expect(")")?;
        Ok(match base {
            Base::Arg(number) => KeyExpr::ArgWord(number, offset),
            Base::Ret => KeyExpr::RetWord(offset),
        })
    }

    fn base(&mut self) -> Result<Base, KeyError> {
        if self.eat("ret") {
            return Ok(Base::Ret);
        }
        if !self.eat("arg") {
            return Err(self.unexpected("where `arg(N)` or `ret` should be", FORMS));
        }
        self.expect("(")?;
        let token = self.token();
        let number = match token.parse::<u8>() {
            Ok(number @ 1..=9) => number,
            _ if !token.starts_with(|first: char| first.is_ascii_digit()) => {
                return Err(self.unexpected("where the argument's number should be", ARGUMENTS));
            }
            _ => return Err(self.error(format!("there is no argument {token}"), ARGUMENTS)),
        };
        self.at += token.len();
        self.expect(")")?;
        Ok(Base::Arg(number))
    }

    /// `+OFF`, `-OFF`, or nothing.
    fn offset(&mut self) -> Result<i32, KeyError> {
        let negative = if self.eat("-") {
            true
        } else if self.eat("+") {
            false
        } else {
            return Ok(0);
        };
        let token = self.token();
        let digits = token.strip_prefix("0x").or_else(|| token.strip_prefix("0X"));
        let size = match digits {
            Some(hex) if hex.starts_with(|first: char| first.is_ascii_hexdigit()) => {
                i64::from_str_radix(hex, 16)
            }
            _ if token.starts_with(|first: char| first.is_ascii_digit()) => token.parse(),
            _ => return Err(self.unexpected("where the offset should be", OFFSETS)),
        };
        let offset = size
            .ok()
            .and_then(|size: i64| i32::try_from(if negative { -size } else { size }).ok())
            .ok_or_else(|| self.error(format!("`{token}` is no offset"), OFFSETS))?;
        self.at += token.len();
        Ok(offset)
    }

    /// The next token, not yet taken: a word of letters and digits, or one other character.
    fn token(&mut self) -> &'a str {
        let rest = self.text[self.at..].trim_start();
        self.at = self.text.len() - rest.len();
        let word = rest
            .find(|character: char| !character.is_alphanumeric() && character != '_')
            .unwrap_or(rest.len());
        let len = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
        &rest[..len]
    }

    fn eat(&mut self, token: &str) -> bool {
        let found = self.token() == token;
        if found {
            self.at += token.len();
        }
        found
    }

    fn expect(&mut self, token: &str) -> Result<(), KeyError> {
        if self.eat(token) {
            return Ok(());
        }
        Err(self.unexpected(&format!("where `{token}` should be"), FORMS))
    }

    fn unexpected(&mut self, place: &str, help: &'static str) -> KeyError {
        let problem = match self.token() {
            "" => format!("the key expression ends {place}"),
            token => format!("unexpected `{token}` {place}"),
        };
        self.error(problem, help)
    }

    /// An error at the next token.
    fn error(&mut self, problem: String, help: &'static str) -> KeyError {
        let len = self.token().len();
        KeyError { at: self.at..self.at + len, problem, help }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, word) in [
            ("arg(1)", KeyExpr::Arg(1)),
            (" arg ( 6 ) ", KeyExpr::Arg(6)),
            ("ret", KeyExpr::Ret),
            ("*(arg(2)+8)", KeyExpr::ArgWord(2, 8)),
            ("*(arg(2))", KeyExpr::ArgWord(2, 0)),
            ("*( arg(2) - 0x10 )", KeyExpr::ArgWord(2, -16)),
            ("*(ret+0X20)", KeyExpr::RetWord(32)),
            ("*(ret-2147483648)", KeyExpr::RetWord(i32::MIN)),
        ] {
            assert_eq!(parse_key(text), Ok(word), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_token() {
        for (text, at, problem) in [
            ("", 0..0, "the key expression ends where `arg(N)` or `ret` should be"),
            ("rdi", 0..3, "unexpected `rdi` where `arg(N)` or `ret` should be"),
            ("arg1", 0..4, "unexpected `arg1` where `arg(N)` or `ret` should be"),
            ("arg(0)", 4..5, "there is no argument 0"),
            ("arg(10)", 4..6, "there is no argument 10"),
            ("arg(999)", 4..7, "there is no argument 999"),
            ("arg(x)", 4..5, "unexpected `x` where the argument's number should be"),
            ("arg(1", 5..5, "the key expression ends where `)` should be"),
            ("arg(1)+8", 6..7, "unexpected `+` after the expression"),
            ("*arg(1)", 1..4, "unexpected `arg` where `(` should be"),
            ("*(*(arg(1)))", 2..3, "unexpected `*` here"),
            ("*(arg(1)+)", 9..10, "unexpected `)` where the offset should be"),
            ("*(arg(1)+0x)", 9..11, "`0x` is no offset"),
            ("*(arg(1)+8k)", 9..11, "`8k` is no offset"),
            ("*(arg(1)+4294967296)", 9..19, "`4294967296` is no offset"),
            ("*(arg(1)+99999999999999999999)", 9..29, "`99999999999999999999` is no offset"),
        ] {
            let error = parse_key(text).expect_err(text);
            assert_eq!((error.at, error.problem.as_str()), (at, problem), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,24}") {
            if let Err(error) = parse_key(&text) {
                prop_assert!(text.get(error.at).is_some());
            }
        }

        #[test]
        fn tokens_in_any_order_do_not_panic(
            tokens in proptest::collection::vec(
                prop_oneof![Just("*"), Just("("), Just(")"), Just("arg"), Just("ret"), Just("+"),
                    Just("-"), Just("1"), Just("0x1f"), Just(" "), Just("é")], 0..12),
        ) {
            let text = tokens.concat();
            if let Err(error) = parse_key(&text) {
                prop_assert!(text.get(error.at).is_some());
            }
        }
    }
}
