//! Heredocs: `<<EOF`, `<<-EOF`, `<<'EOF'` in RUN, COPY and ADD.
//!
//! A word `[digits]<<[-]name` starts one; `<<<` does not, nor does a word inside quotes. Quotes anywhere in the
//! name mean that the body is not expanded. `<<-` takes leading tabs (never spaces) off the lines and lets the
//! closing line be indented with tabs. Bodies follow the instruction in the order of their words.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::lexer::{Lexer, Word};
use crate::span::Span;
use crate::word::{Lex, LexOptions};

/// The start of a heredoc, as a word of an instruction.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeredocWord {
    /// The name, quotes taken off: the closing line, and the name of the file in COPY.
    pub name: String,
    /// The file descriptor in front of `<<`, 0 if there is none.
    pub descriptor: u32,
    /// `<<-`: leading tabs are taken off.
    pub strip_tabs: bool,
    /// Whether variables in the body are expanded (the name has no quotes).
    pub expand: bool,
}

impl HeredocWord {
    /// Reads a word such as `<<EOF` or `3<<-"END"`; `None` if it is something else.
    ///
    /// ```
    /// use rbuild_dockerfile::HeredocWord;
    ///
    /// let word = HeredocWord::parse("3<<-'END'").expect("a heredoc");
    /// assert_eq!((word.name.as_str(), word.descriptor, word.strip_tabs, word.expand), ("END", 3, true, false));
    /// assert_eq!(HeredocWord::parse("<<<text"), None);
    /// ```
    pub fn parse(word: &str) -> Option<Self> {
        let digits = word.len() - word.trim_start_matches(|ch: char| ch.is_ascii_digit()).len();
        let rest = word[digits..].strip_prefix("<<")?;
        let (strip_tabs, rest) = match rest.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let rest = rest.trim_start_matches([' ', '\t', '\n', '\x0c', '\r']);
        if rest.is_empty() || rest.contains('<') {
            return None;
        }
        let options = LexOptions { keep_unset: true, ..LexOptions::default() };
        let plain = single_word(rest, options)?;
        let quoted = single_word(rest, LexOptions { keep_quotes: true, ..options })?;
        Some(Self {
            expand: quotes(&plain) == quotes(&quoted),
            name: plain,
            descriptor: word[..digits].parse().unwrap_or_default(),
            strip_tabs,
        })
    }
}

fn single_word(text: &str, options: LexOptions) -> Option<String> {
    let mut words = Lex::new(text, '\\', options, &|_| None).words().ok()?;
    (words.len() == 1).then(|| words.swap_remove(0))
}

fn quotes(text: &str) -> usize {
    text.matches(['\'', '"']).count()
}

/// A heredoc with its body.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Heredoc {
    /// Its word in the instruction.
    pub word: HeredocWord,
    /// The lines between, as they stand in the file, line ends included.
    pub body: String,
    /// The body's bytes in the file.
    pub span: Span,
}

impl Heredoc {
    /// The name of the heredoc.
    pub fn name(&self) -> &str {
        &self.word.name
    }

    /// The body as a file gets it, before expansion: leading tabs taken off for `<<-`.
    pub fn content(&self) -> String {
        if !self.word.strip_tabs {
            return self.body.clone();
        }
        self.body.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The heredoc words of a whole instruction. A line whose quotes do not match has none.
pub(crate) fn heredoc_words(line: &str) -> Vec<HeredocWord> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let options = LexOptions { keep_quotes: true, keep_escapes: true, keep_unset: true, ..LexOptions::default() };
    let words = Lex::new(line, '\\', options, &|_| None).words().unwrap_or_default();
    words.iter().filter_map(|word| HeredocWord::parse(word)).collect()
}

/// Reads the bodies that belong to `words` from the lines that follow.
pub(crate) fn read_bodies(
    lexer: &mut Lexer<'_>,
    words: Vec<HeredocWord>,
    keyword: &Word,
    diagnostics: &mut Diagnostics,
) -> Vec<Heredoc> {
    let mut heredocs = Vec::new();
    for word in words {
        let mut body = String::new();
        let mut span: Option<Span> = None;
        let mut terminated = false;
        let mut nearly = None;
        let mut end = keyword.span.end;
        while let Some(line) = lexer.physical_line() {
            let candidate = if word.strip_tabs { line.text.trim_start_matches('\t') } else { line.text };
            if candidate == word.name {
                span.get_or_insert(Span::new(line.start, line.start));
                terminated = true;
                break;
            }
            if nearly.is_none() && line.text.trim() == word.name {
                nearly = Some(lexer.lines_read());
            }
            end = line.end;
            span = Some(span.map_or(Span::new(line.start, line.end), |span| Span::new(span.start, line.end)));
            body.push_str(lexer.raw(line));
        }
        if !terminated {
            let message = format!("unterminated heredoc `{}`", word.name);
            let mut help = format!("close it with a line that holds only `{}`", word.name);
            if let Some(line) = nearly {
                let dash = if word.strip_tabs { "" } else { " (`<<-` takes tabs in front)" };
                help.push_str(&format!("; in line {line} there are blanks beside it{dash}"));
            }
            diagnostics.push(Diagnostic::error("unterminated-heredoc", message, keyword.span).with_help(help));
        }
        heredocs.push(Heredoc { word, body, span: span.unwrap_or(Span::new(end, end)) });
    }
    heredocs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for word in ["<<EOF", "<<'EOF'", "<<\"EOF\"", "<<-EOF", "<<-'EOF'", "<<EO\"F\"", "<< EOF", "<<- EOF", "4<<EOF"]
        {
            let heredoc = HeredocWord::parse(word).unwrap_or_else(|| panic!("{word}"));
            assert_eq!(heredoc.name, "EOF", "{word}");
            assert_eq!(heredoc.expand, !word.contains(['\'', '"']), "{word}");
            assert_eq!(heredoc.strip_tabs, word.contains('-'), "{word}");
        }
        for word in ["", "EOF", "<<", "<<-", "<EOF", "<<<EOF", "<<EOF sh", "<<'EOF", "<<EOF\"", "a<<EOF"] {
            assert_eq!(HeredocWord::parse(word), None, "{word}");
        }
        assert_eq!(HeredocWord::parse("3<<$EOF").map(|word| (word.name, word.descriptor)), Some(("$EOF".into(), 3)));
    }

    #[test]
    fn words_of_a_line() {
        for (line, names) in [
            ("RUN <<EOF", vec!["EOF"]),
            ("RUN << -EOF", vec!["-EOF"]),
            ("RUN <<- EOF", vec![]),
            ("RUN <<EOF <<EOF2", vec!["EOF", "EOF2"]),
            ("RUN '<<EOF'", vec![]),
            ("RUN \"<<EOF\"", vec![]),
            ("RUN echo $((1<<4))", vec![]),
            ("RUN it's <<EOF", vec![]),
            ("RUN cat <<one > /1 && cat <<two > /2", vec!["one", "two"]),
        ] {
            let found: Vec<String> = heredoc_words(line).into_iter().map(|word| word.name).collect();
            assert_eq!(found, names, "{line}");
        }
    }
}
