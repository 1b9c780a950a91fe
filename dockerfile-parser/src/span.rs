//! Where things are in the source text: byte spans, and the translation of an offset to a line and a column.

use std::fmt;
use std::ops::Range;

use memchr::memchr_iter;
use serde::{Deserialize, Serialize};

/// A half-open range of bytes `start..end` in the Dockerfile's text.
///
/// Both ends lie on character borders of the text that was parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Span {
    /// Offset of the first byte.
    pub start: usize,
    /// Offset behind the last byte.
    pub end: usize,
}

impl Span {
    /// The span `start..end`; an `end` before `start` gives an empty span at `start`.
    pub fn new(start: usize, end: usize) -> Self {
        Self { start, end: end.max(start) }
    }

    /// Whether the span holds no byte.
    pub fn is_empty(self) -> bool {
        self.start >= self.end
    }

    /// Number of bytes in the span.
    pub fn len(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// The span as a range, to index the text with.
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The text that the span covers, or an empty string if `source` is not the text it was made for.
    pub fn text(self, source: &str) -> &str {
        source.get(self.range()).unwrap_or_default()
    }

    /// The smallest span that covers both.
    pub fn join(self, other: Self) -> Self {
        Self::new(self.start.min(other.start), self.end.max(other.end))
    }
}

/// A place in the text as people count: line and column begin at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The lines that an instruction covers, first and last, both from 1 and both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LineRange {
    /// First line, from 1.
    pub first: usize,
    /// Last line, from 1.
    pub last: usize,
}

/// Finds the line and column of a byte offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineIndex {
    starts: Vec<usize>,
    length: usize,
}

impl LineIndex {
    /// Reads the line borders of `text`; lines end with `\n`.
    pub fn new(text: &str) -> Self {
        let mut starts = vec![0];
        starts.extend(memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1));
        Self { starts, length: text.len() }
    }

    /// The line of `offset`, from 1. An offset behind the text is on the last line.
    pub fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset.min(self.length))
    }

    /// The line and column of `offset` in `text`, which must be the text that the index was made of.
    pub fn position(&self, text: &str, offset: usize) -> Position {
        let line = self.line(offset);
        let start = self.starts[line - 1];
        let mut end = offset.min(text.len());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let column = text.get(start..end).map_or(0, |before| before.chars().count()) + 1;
        Position { line, column }
    }

    /// The bytes of a line (from 1) with its line end, or `None` if there is no such line.
    pub fn line_span(&self, line: usize) -> Option<Span> {
        let start = *self.starts.get(line.checked_sub(1)?)?;
        Some(Span::new(start, self.starts.get(line).copied().unwrap_or(self.length)))
    }

    /// The number of lines; text that ends with a line end has an empty last line.
    pub fn count(&self) -> usize {
        self.starts.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters_from_one() {
        let text = "FROM a\nRUN \u{e9}x\n";
        let index = LineIndex::new(text);
        assert_eq!(index.position(text, 0), Position { line: 1, column: 1 });
        assert_eq!(index.position(text, 7), Position { line: 2, column: 1 });
        assert_eq!(index.position(text, 13), Position { line: 2, column: 6 });
        assert_eq!(index.position(text, 999).line, 3);
        assert_eq!(index.line_span(2).map(|span| span.text(text)), Some("RUN \u{e9}x\n"));
        assert_eq!(index.line_span(0), None);
        assert_eq!(index.line_span(9), None);
        assert_eq!(index.count(), 3);
    }

    #[test]
    fn an_offset_inside_a_character_is_no_panic() {
        let text = "\u{e9}";
        assert_eq!(LineIndex::new(text).position(text, 1).column, 1);
    }
}
