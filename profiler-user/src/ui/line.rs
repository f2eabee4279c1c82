//! A line of text in pieces, each with its colour, cut to a width.

use std::fmt;

/// How a piece looks where colour is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Style {
    #[default]
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Blue,
    Magenta,
    Cyan,
}

impl Style {
    const fn code(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Blue => "34",
            Self::Magenta => "35",
            Self::Cyan => "36",
        }
    }
}

/// A line being built.
#[derive(Debug, Default)]
pub(super) struct Line {
    pieces: Vec<(String, Style)>,
}

impl Line {
    /// Adds a piece.
    pub(super) fn add(&mut self, text: impl Into<String>, style: Style) -> &mut Self {
        self.pieces.push((text.into(), style));
        self
    }

    /// Adds a piece, filled with blanks on the right to `width` characters.
    pub(super) fn left(&mut self, text: &str, width: usize, style: Style) -> &mut Self {
        self.add(text, style);
        self.blanks(width.saturating_sub(text.chars().count()))
    }

    /// Adds a piece, filled with blanks on the left to `width` characters.
    pub(super) fn right(&mut self, text: &str, width: usize, style: Style) -> &mut Self {
        self.blanks(width.saturating_sub(text.chars().count()));
        self.add(text, style)
    }

    /// Adds blanks.
    pub(super) fn blanks(&mut self, count: usize) -> &mut Self {
        self.add(" ".repeat(count), Style::Plain)
    }

    /// Writes the line without a line break, no blanks at its end, at most `width` characters of
    /// it.
    pub(super) fn write(
        &self,
        out: &mut dyn fmt::Write,
        colour: bool,
        width: Option<usize>,
    ) -> fmt::Result {
        let mut pieces = self.pieces.as_slice();
        while let [rest @ .., (text, _)] = pieces
            && text.trim_end().is_empty()
        {
            pieces = rest;
        }
        let total: usize = pieces.iter().map(|(text, _)| text.chars().count()).sum();
        let mut room = width.unwrap_or(usize::MAX);
        let cut = total > room;
        if cut {
            room = room.saturating_sub(1);
        }
        for (text, style) in pieces {
            let shown: String = text.chars().take(room).collect();
            room -= shown.chars().count();
            match (shown.is_empty(), colour, style.code()) {
                (true, _, _) => {}
                (false, true, code) if !code.is_empty() => {
                    write!(out, "\x1b[{code}m{shown}\x1b[0m")?;
                }
                _ => out.write_str(&shown)?,
            }
        }
        if cut && width != Some(0) {
            out.write_str("…")?;
        }
        Ok(())
    }

    /// Writes the line with a line break.
    pub(super) fn end(
        &self,
        out: &mut dyn fmt::Write,
        colour: bool,
        width: Option<usize>,
    ) -> fmt::Result {
        self.write(out, colour, width)?;
        out.write_char('\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(line: &Line, colour: bool, width: Option<usize>) -> String {
        let mut text = String::new();
        line.write(&mut text, colour, width).unwrap();
        text
    }

    #[test]
    fn pieces_are_aligned_and_cut() {
        let mut line = Line::default();
        line.left("ab", 4, Style::Bold).right("12", 5, Style::Plain).blanks(3);
        assert_eq!(text(&line, false, None), "ab     12");
        assert_eq!(text(&line, true, None), "\x1b[1mab\x1b[0m     12");
        assert_eq!(text(&line, false, Some(9)), "ab     12");
        assert_eq!(text(&line, false, Some(8)), "ab     …");
        assert_eq!(text(&line, true, Some(2)), "\x1b[1ma\x1b[0m…");
        assert_eq!(text(&line, false, Some(0)), "");
    }
}
