//! The Dockerfile as far as messages need it: its name and its text.

use std::ops::Range;
use std::sync::Arc;

/// A named text, cheap to copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Source {
    /// The name to show.
    pub(crate) name: Arc<str>,
    /// The text that spans point into.
    pub(crate) text: Arc<str>,
}

impl Source {
    /// A named text.
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// The line, counted from 1, that a byte is on.
    pub(crate) fn line(&self, offset: usize) -> usize {
        let end = offset.min(self.text.len());
        1 + self.text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count()
    }

    /// The span cut to the text, and to whole letters.
    pub(crate) fn clamp(&self, span: &Range<usize>) -> Range<usize> {
        let start = floor_of_letter(&self.text, span.start);
        let end = floor_of_letter(&self.text, span.end.max(span.start));
        start..end.max(start)
    }

    /// `NAME:LINE` of a span.
    pub(crate) fn place(&self, span: &Range<usize>) -> String {
        format!("{}:{}", self.name, self.line(span.start))
    }
}

/// The whole lines of a text that a span of it is on, the last one's end included: all that a renderer needs, which
/// reads whatever it is given.
pub(crate) fn lines_of(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
    start..text[span.end..].find('\n').map_or(text.len(), |length| span.end + length + 1)
}

fn floor_of_letter(text: &str, offset: usize) -> usize {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_placed() {
        let source = Source::new("Dockerfile", "FROM a\nRUN ü\n");
        assert_eq!(source.place(&(7..10)), "Dockerfile:2");
        assert_eq!(source.line(999), 3);
        assert_eq!(source.clamp(&(12..99)), 11..14);
        assert_eq!([7..10, 3..9, 0..0, 14..14].map(|span| lines_of(&source.text, &span)), [7..14, 0..14, 0..7, 14..14]);
        assert_eq!(source.clamp(&Range { start: 5, end: 2 }), 5..5);
    }
}
