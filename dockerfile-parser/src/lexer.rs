//! Physical lines to logical lines: continuation, comments, and the place of every joined byte in the text.
//!
//! ```text
//! RUN a \          logical text "RUN a   && b", leading blanks kept on all lines but the first;
//!   # comment      comment and empty lines inside are left out (an empty one is a lint finding)
//!   && b
//! ```
//!
//! A line goes on in the next one if it ends in the escape character (blanks behind it allowed) and that is the
//! line's only character or follows another one than itself.

use memchr::memchr;

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::directive::{Directives, directive_block};
use crate::span::{LineRange, Span};

/// The longest physical line in bytes, its line end not counted.
pub const MAX_LINE_BYTES: usize = 65_535;

/// A piece of text with its place: a word, an argument, or the rest of a line.
///
/// `text` is what the instruction holds, continuation lines joined and, in the exec form, JSON escapes decoded;
/// quotes and variables are still as they were written. `span` covers it in the file, so it may hold line ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Word {
    /// The text, not expanded.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

impl Word {
    /// A word at a place.
    pub fn new(text: impl Into<String>, span: Span) -> Self {
        Self { text: text.into(), span }
    }
}

impl AsRef<str> for Word {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// One physical line: `text` without its line end, which `end` lies behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PhysicalLine<'a> {
    /// The line without `\r` and `\n` at its end.
    pub(crate) text: &'a str,
    /// Offset of its first byte.
    pub(crate) start: usize,
    /// Offset behind its line end.
    pub(crate) end: usize,
}

/// A logical line: an instruction without its heredocs.
#[derive(Debug, Clone)]
pub(crate) struct LogicalLine {
    /// The joined text.
    pub(crate) text: String,
    /// Pairs (offset in `text`, offset in the file), one for each physical line but the first that is part of it.
    pieces: Vec<(usize, usize)>,
    /// From the first to the last byte of the text in the file.
    pub(crate) span: Span,
    /// Its physical lines.
    pub(crate) lines: LineRange,
    /// Whether an empty line stands between continued ones.
    pub(crate) empty_continuation: bool,
    /// Comments right above, without `#` and blanks around.
    pub(crate) comments: Vec<Word>,
}

impl LogicalLine {
    /// A line that stands for itself, such as a trigger that an image brought along.
    #[cfg(test)]
    pub(crate) fn single(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            pieces: Vec::new(),
            span: Span::new(0, text.len()),
            lines: LineRange { first: 1, last: 1 },
            empty_continuation: false,
            comments: Vec::new(),
        }
    }

    /// The place in the file of the joined bytes `start..end`.
    pub(crate) fn span(&self, start: usize, end: usize) -> Span {
        let first = self.source_offset(start);
        if end <= start {
            return Span::new(first, first);
        }
        Span::new(first, self.source_offset(end - 1) + 1)
    }

    fn source_offset(&self, at: usize) -> usize {
        let pieces_before = self.pieces.partition_point(|(joined, _)| *joined <= at);
        let (joined, source) = match pieces_before.checked_sub(1) {
            Some(last) => self.pieces[last],
            None => (0, self.span.start),
        };
        source + (at - joined)
    }

    /// All of the joined text.
    pub(crate) fn all(&self) -> Part<'_> {
        Part { line: self, start: 0, end: self.text.len() }
    }
}

/// A part of a logical line that remembers where it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part<'a> {
    line: &'a LogicalLine,
    start: usize,
    end: usize,
}

impl<'a> Part<'a> {
    pub(crate) fn text(self) -> &'a str {
        &self.line.text[self.start..self.end]
    }

    pub(crate) fn is_empty(self) -> bool {
        self.start == self.end
    }

    pub(crate) fn span(self) -> Span {
        self.line.span(self.start, self.end)
    }

    /// The bytes `start..end` of this part.
    pub(crate) fn slice(self, start: usize, end: usize) -> Self {
        Self { line: self.line, start: self.start + start, end: self.start + end }
    }

    pub(crate) fn from(self, start: usize) -> Self {
        self.slice(start, self.end - self.start)
    }

    /// Without blanks (of any kind that Unicode knows) at both ends.
    pub(crate) fn trim(self) -> Self {
        let text = self.text();
        let trimmed = text.trim_start();
        let start = text.len() - trimmed.len();
        self.slice(start, start + trimmed.trim_end().len())
    }

    pub(crate) fn word(self) -> Word {
        Word::new(self.text(), self.span())
    }

    /// Cuts at the first run of blanks, if there is one.
    pub(crate) fn cut_blank(self) -> (Self, Option<Self>) {
        let text = self.text().as_bytes();
        let Some(at) = text.iter().position(is_blank) else { return (self, None) };
        let blanks = text[at..].iter().take_while(|byte| is_blank(byte)).count();
        (self.slice(0, at), Some(self.from(at + blanks)))
    }

    /// The words between runs of blanks; the part must have no blanks at its ends.
    pub(crate) fn blank_delimited(self) -> Vec<Word> {
        let mut words = Vec::new();
        let mut rest = self;
        while !rest.is_empty() {
            let (word, behind) = rest.cut_blank();
            words.push(word.word());
            match behind {
                Some(behind) => rest = behind,
                None => break,
            }
        }
        words
    }
}

/// The blanks between words. Other Unicode spaces are part of a word.
pub(crate) fn is_blank(byte: &u8) -> bool {
    matches!(byte, b'\t' | b'\x0b' | b'\x0c' | b'\r' | b' ')
}

/// The line without `\r` and `\n` at its end.
fn without_line_end(line: &str) -> &str {
    let ends = line.bytes().rev().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    &line[..line.len() - ends]
}

/// Hands out logical lines, and the raw lines behind them for heredocs.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: usize,
    escape: char,
    directive_lines: LineRange,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str, directives: &Directives) -> Self {
        Self { text, at: 0, line: 0, escape: directives.escape, directive_lines: directive_block(text) }
    }

    /// The number of physical lines read so far.
    pub(crate) fn lines_read(&self) -> usize {
        self.line
    }

    /// Offset behind the line read last, its line end not counted.
    pub(crate) fn last_line_end(&self) -> usize {
        without_line_end(&self.text[..self.at]).len()
    }

    /// The next physical line as it stands.
    pub(crate) fn physical_line(&mut self) -> Option<PhysicalLine<'a>> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        let rest = &self.text.as_bytes()[start..];
        let end = memchr(b'\n', rest).map_or(self.text.len(), |at| start + at + 1);
        self.at = end;
        self.line += 1;
        Some(PhysicalLine { text: without_line_end(&self.text[start..end]), start, end })
    }

    /// The bytes of a physical line, its line end included.
    pub(crate) fn raw(&self, line: PhysicalLine<'_>) -> &'a str {
        &self.text[line.start..line.end]
    }

    fn checked_line(&mut self, diagnostics: &mut Diagnostics) -> Option<PhysicalLine<'a>> {
        let line = self.physical_line()?;
        if line.text.len() > MAX_LINE_BYTES {
            let message = format!("dockerfile line greater than max allowed size of {MAX_LINE_BYTES} bytes");
            diagnostics.push(Diagnostic::error("line-too-long", message, Span::new(line.start, line.start)));
        }
        Some(line)
    }

    /// The next instruction, or `None` at the end of the text.
    pub(crate) fn logical_line(&mut self, diagnostics: &mut Diagnostics) -> Option<LogicalLine> {
        let mut comments = Vec::new();
        loop {
            let line = self.checked_line(diagnostics)?;
            let mut text = line.text;
            let mut start = line.start;
            if self.line == 1
                && let Some(rest) = text.strip_prefix('\u{feff}')
            {
                start += text.len() - rest.len();
                text = rest;
            }
            let trimmed = text.trim_start();
            start += text.len() - trimmed.len();
            if let Some(comment) = trimmed.strip_prefix('#') {
                self.note_comment(comment, start + 1, &mut comments);
            } else if trimmed.is_empty() {
                comments.clear();
            } else {
                return Some(self.continue_line(trimmed, start, comments, diagnostics));
            }
        }
    }

    fn note_comment(&self, comment: &str, start: usize, comments: &mut Vec<Word>) {
        let text = comment.trim();
        if text.is_empty() {
            comments.clear();
        } else if !(self.directive_lines.first..=self.directive_lines.last).contains(&self.line) {
            let start = start + (comment.len() - comment.trim_start().len());
            comments.push(Word::new(text, Span::new(start, start + text.len())));
        }
    }

    fn continue_line(
        &mut self,
        first: &str,
        start: usize,
        comments: Vec<Word>,
        diagnostics: &mut Diagnostics,
    ) -> LogicalLine {
        let first_line = self.line;
        let (part, mut goes_on) = trim_continuation(first, self.escape);
        let mut line = LogicalLine {
            text: part.to_owned(),
            pieces: Vec::new(),
            span: Span::new(start, start + first.trim_end().len()),
            lines: LineRange { first: first_line, last: first_line },
            empty_continuation: false,
            comments,
        };
        while goes_on {
            let Some(next) = self.checked_line(diagnostics) else { break };
            let trimmed = next.text.trim_start();
            if trimmed.starts_with('#') {
                continue;
            }
            if trimmed.is_empty() {
                line.empty_continuation = true;
                continue;
            }
            let (part, again) = trim_continuation(next.text, self.escape);
            line.pieces.push((line.text.len(), next.start));
            line.text.push_str(part);
            line.span.end = next.start + next.text.trim_end().len();
            goes_on = again;
        }
        line.lines.last = self.line;
        line
    }
}

/// Takes the continuation character and the blanks behind it off; tells whether there was one.
fn trim_continuation(line: &str, escape: char) -> (&str, bool) {
    let Some(before) = line.trim_end_matches([' ', '\t']).strip_suffix(escape) else { return (line, false) };
    if before.ends_with(escape) { (line, false) } else { (before, true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logical(text: &str) -> Vec<LogicalLine> {
        let mut diagnostics = Diagnostics::default();
        let mut lexer = Lexer::new(text, &Directives::default());
        std::iter::from_fn(|| lexer.logical_line(&mut diagnostics)).collect()
    }

    #[test]
    fn continuation() {
        for (text, expected) in [
            ("A b \\\n  c\n", vec!["A b   c"]),
            ("A b\\  \t\n # x\n\n   \nc", vec!["A bc"]),
            ("A b\\\\\nC d", vec!["A b\\\\", "C d"]),
            ("A b\\\\\\\nC d", vec!["A b\\\\\\", "C d"]),
            ("\\\n  A b", vec!["  A b"]),
            ("A b \\", vec!["A b "]),
            ("# x \\\nA b", vec!["A b"]),
            ("\u{feff}  A b\r\n\r\nC \\\r\n d\r\n", vec!["A b", "C  d"]),
            ("", vec![]),
        ] {
            let lines = logical(text);
            assert_eq!(lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }

    #[test]
    fn joined_bytes_know_their_place() {
        let text = "\nENV A=1 \\\n\n  # c\n    B=2\n";
        let line = &logical(text)[0];
        assert_eq!(line.text, "ENV A=1     B=2");
        let at = line.text.find("B=2").unwrap();
        assert_eq!(line.span(at, at + 3).text(text), "B=2");
        assert_eq!(line.span(4, 7).text(text), "A=1");
        assert_eq!(line.lines, LineRange { first: 2, last: 5 });
        assert!(line.empty_continuation);
        assert_eq!(line.span.text(text), "ENV A=1 \\\n\n  # c\n    B=2");
    }

    #[test]
    fn comments_right_above_belong_to_the_instruction() {
        for (text, expected) in [
            ("# one\n#  two \nA", vec!["one", "two"]),
            ("# one\n\nA", vec![]),
            ("# one\n#\n# two\nA", vec!["two"]),
            ("# check=skip=all\n# one\nA", vec!["one"]),
        ] {
            let lines = logical(text);
            assert_eq!(lines[0].comments.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), expected, "{text}");
        }
    }

    #[test]
    fn too_long_lines_are_errors() {
        let mut diagnostics = Diagnostics::default();
        let text = format!("A {}\n", "x".repeat(MAX_LINE_BYTES));
        Lexer::new(&text, &Directives::default()).logical_line(&mut diagnostics);
        assert_eq!(diagnostics.first_error().unwrap().code, "line-too-long");
    }
}
