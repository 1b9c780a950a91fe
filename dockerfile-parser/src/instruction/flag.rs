//! `--flag=value` between the keyword and the arguments.

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::lexer::{Part, Word};
use crate::span::Span;
use crate::suggest::{did_you_mean, nearest};

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlagKind {
    /// `--flag`, `--flag=true` or `--flag=false`.
    Bool,
    /// `--flag=text`, once.
    Text,
    /// `--flag=text`, any number of times.
    List,
}

/// The flags of an instruction, by name.
pub(crate) type FlagTable = &'static [(&'static str, FlagKind)];

/// Takes the flags off the front of the arguments: words that begin with `--`, up to a lone `--`.
///
/// Quotes are removed and a backslash takes the next character as it is, whatever the escape character.
pub(crate) fn split_flags(args: Part<'_>) -> (Vec<Word>, Part<'_>) {
    let text = args.text();
    let mut flags = Vec::new();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if !text[at..].starts_with("--") {
            return (flags, args.from(at));
        }
        let (word, end) = flag_word(&text[at..]);
        let start = at;
        at += end;
        if word == "--" {
            return (flags, args.from(at));
        }
        flags.push(Word::new(word, args.slice(start, at).span()));
    }
}

/// The first word of `text`, quotes and escapes taken off, and how many bytes it takes.
fn flag_word(text: &str) -> (String, usize) {
    let plain = text.find(|ch: char| ch.is_whitespace() || matches!(ch, '\\' | '\'' | '"')).unwrap_or(text.len());
    let mut word = text[..plain].to_owned();
    let mut quote = None;
    let mut chars = text[plain..].char_indices();
    while let Some((at, ch)) = chars.next() {
        match (ch, quote) {
            ('\\', _) => word.extend(chars.next().map(|(_, escaped)| escaped)),
            (_, Some(open)) if ch == open => quote = None,
            (_, Some(_)) => word.push(ch),
            ('\'' | '"', None) => quote = Some(ch),
            (_, None) if ch.is_whitespace() => return (word, plain + at),
            (_, None) => word.push(ch),
        }
    }
    (word, text.len())
}

/// The understood flags of one instruction.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    texts: Vec<(&'static str, Word)>,
    bools: Vec<(&'static str, bool)>,
}

impl Flags {
    /// The value of a flag that is given once; an empty value counts as none.
    pub(crate) fn text(&mut self, name: &str) -> Option<Word> {
        let at = self.texts.iter().position(|(flag, word)| *flag == name && !word.text.is_empty())?;
        Some(self.texts.remove(at).1)
    }

    /// All values of a flag that may be repeated.
    pub(crate) fn list(&mut self, name: &str) -> Vec<Word> {
        if self.texts.is_empty() {
            return Vec::new();
        }
        self.texts.extract_if(.., |(flag, _)| *flag == name).map(|(_, word)| word).collect()
    }

    /// The value of a truth flag.
    pub(crate) fn bool(&self, name: &str) -> Option<bool> {
        self.bools.iter().find(|(flag, _)| *flag == name).map(|(_, value)| *value)
    }
}

/// Checks `words` against what the instruction knows.
pub(crate) fn parse_flags(keyword: &str, words: &[Word], table: FlagTable, diagnostics: &mut Diagnostics) -> Flags {
    let mut flags = Flags::default();
    let mut used: Vec<&str> = Vec::new();
    for word in words {
        let body = word.text.strip_prefix("--").unwrap_or(&word.text);
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (body, None),
        };
        let Some((known, kind)) = table.iter().find(|(known, _)| *known == name) else {
            diagnostics.push(unknown_flag(keyword, name, word.span, table));
            continue;
        };
        if used.contains(known) && *kind != FlagKind::List {
            let message = format!("duplicate flag specified: `--{known}` of {keyword}");
            diagnostics.push(Diagnostic::error("duplicate-flag", message, word.span));
            continue;
        }
        used.push(known);
        let missing = match kind {
            FlagKind::Bool => value == Some(""),
            FlagKind::Text | FlagKind::List => value.is_none(),
        };
        if missing {
            let message = format!("missing a value on flag `--{known}` of {keyword}");
            diagnostics.push(Diagnostic::error("missing-flag-value", message, word.span));
            continue;
        }
        let value = value.unwrap_or_default();
        if *kind == FlagKind::Bool {
            match value.to_ascii_lowercase().as_str() {
                "" | "true" => flags.bools.push((known, true)),
                "false" => flags.bools.push((known, false)),
                _ => {
                    let message = format!("expecting boolean value for flag `--{known}` of {keyword}, not `{value}`");
                    diagnostics.push(Diagnostic::error("invalid-flag-value", message, word.span));
                }
            }
        } else {
            flags.texts.push((known, Word::new(value, value_span(word, value))));
        }
    }
    flags
}

fn unknown_flag(keyword: &str, name: &str, span: Span, table: FlagTable) -> Diagnostic {
    let error = Diagnostic::error("unknown-flag", format!("unknown flag `--{name}` of {keyword}"), span);
    if let Some(candidate) = nearest(name, table.iter().map(|(known, _)| *known)) {
        return error.with_help(did_you_mean(&format!("--{candidate}")));
    }
    if table.is_empty() {
        return error.with_help(format!("{keyword} takes no flags"));
    }
    let known: Vec<String> = table.iter().map(|(known, _)| format!("`--{known}`")).collect();
    error.with_help(format!("{keyword} knows {}", known.join(", ")))
}

/// Where the value stands; the whole flag if quotes or escapes moved it.
fn value_span(word: &Word, value: &str) -> Span {
    if word.span.len() == word.text.len() { Span::new(word.span.end - value.len(), word.span.end) } else { word.span }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::LogicalLine;

    #[test]
    fn flags_are_taken_off() {
        for (text, flags, rest) in [
            ("--a=b --c d --e", vec!["--a=b", "--c"], "d --e"),
            ("--chmod=\"6 0\" --\"x\"=1 f", vec!["--chmod=6 0", "--x=1"], "f"),
            ("-- --odd f", vec![], " --odd f"),
            ("--a=b\\ c", vec!["--a=b c"], ""),
            ("-x --y", vec![], "-x --y"),
            ("--", vec![], ""),
            ("--u=\u{e9} f", vec!["--u=\u{e9}"], "f"),
        ] {
            let line = LogicalLine::single(text);
            let (found, part) = split_flags(line.all());
            assert_eq!(found.iter().map(|word| word.text.as_str()).collect::<Vec<_>>(), flags, "{text}");
            assert_eq!(part.text(), rest, "{text}");
        }
    }

    #[test]
    fn faults() {
        const TABLE: FlagTable = &[("from", FlagKind::Text), ("link", FlagKind::Bool), ("mount", FlagKind::List)];
        for (flag, code) in [
            ("--form=x", "unknown-flag"),
            ("--from", "missing-flag-value"),
            ("--link=", "missing-flag-value"),
            ("--link=maybe", "invalid-flag-value"),
            ("--mount", "missing-flag-value"),
        ] {
            let mut diagnostics = Diagnostics::default();
            parse_flags("COPY", &[Word::new(flag, Span::default())], TABLE, &mut diagnostics);
            assert_eq!(diagnostics.first_error().unwrap().code, code, "{flag}");
        }
        let mut diagnostics = Diagnostics::default();
        let twice = [Word::new("--link", Span::default()), Word::new("--link=TRUE", Span::default())];
        assert_eq!(parse_flags("COPY", &twice, TABLE, &mut diagnostics).bool("link"), Some(true));
        assert_eq!(diagnostics.first_error().unwrap().code, "duplicate-flag");
    }
}
