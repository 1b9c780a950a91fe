//! The reader behind every expansion.

use super::pattern::{Pattern, Steps};
use super::{
    Expanded, ExpandedWords, Lookup, MAX_EXPANSION_BYTES, MAX_NESTING, VariableUse, WordError, WordErrorKind as Kind,
};
use crate::span::Span;

/// What is kept as it stands. All off for ordinary expansion.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LexOptions {
    /// Quotes stay in the result.
    pub(crate) keep_quotes: bool,
    /// Escape characters stay in the result.
    pub(crate) keep_escapes: bool,
    /// Unset variables stay as they are written.
    pub(crate) keep_unset: bool,
    /// Quotes are ordinary characters.
    pub(crate) plain_quotes: bool,
}

/// One expansion of one text.
pub(crate) struct Lex<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    options: LexOptions,
    keep_escapes: bool,
    lookup: &'a Lookup<'a>,
    variables: Vec<VariableUse>,
    depth: usize,
    produced: usize,
    steps: Steps,
}

/// Collects words while characters arrive.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    word: String,
    in_word: bool,
}

impl Words {
    fn add(&mut self, ch: char) {
        if !ch.is_whitespace() {
            self.add_literal(ch);
        } else if self.in_word && !self.word.is_empty() {
            self.done.push(std::mem::take(&mut self.word));
            self.in_word = false;
        }
    }

    fn add_literal(&mut self, ch: char) {
        self.word.push(ch);
        self.in_word = true;
    }

    fn add_literals(&mut self, text: &str) {
        self.word.push_str(text);
        self.in_word = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.done.push(self.word);
        }
        self.done
    }
}

impl<'a> Lex<'a> {
    pub(crate) fn new(text: &'a str, escape: char, options: LexOptions, lookup: &'a Lookup<'a>) -> Self {
        let keep_escapes = options.keep_escapes;
        Self {
            text,
            at: 0,
            escape,
            options,
            keep_escapes,
            lookup,
            variables: Vec::new(),
            depth: 0,
            produced: 0,
            steps: Steps::default(),
        }
    }

    pub(crate) fn expand(mut self) -> Result<Expanded, WordError> {
        match self.until(None, self.keep_escapes) {
            Ok((text, _)) => Ok(Expanded { text, variables: self.variables }),
            Err(kind) => Err(self.fail(kind)),
        }
    }

    pub(crate) fn expand_words(mut self) -> Result<ExpandedWords, WordError> {
        match self.until(None, self.keep_escapes) {
            Ok((_, words)) => Ok(ExpandedWords { words: words.finish(), variables: self.variables }),
            Err(kind) => Err(self.fail(kind)),
        }
    }

    pub(crate) fn words(self) -> Result<Vec<String>, WordError> {
        self.expand_words().map(|expanded| expanded.words)
    }

    fn fail(self, kind: Kind) -> WordError {
        WordError { kind, text: self.text.to_owned(), variables: self.variables }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let ch = self.peek()?;
        self.at += ch.len_utf8();
        Some(ch)
    }

    fn push(&mut self, out: &mut String, text: &str) -> Result<(), Kind> {
        self.produced += text.len();
        if self.produced > MAX_EXPANSION_BYTES + self.text.len() {
            return Err(Kind::TooLarge);
        }
        out.push_str(text);
        Ok(())
    }

    /// Reads up to `stop` (taking it) or to the end of the text.
    fn until(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Words), Kind> {
        let outer = std::mem::replace(&mut self.keep_escapes, keep_escapes);
        let result = self.read_until(stop);
        self.keep_escapes = outer;
        result
    }

    fn read_until(&mut self, stop: Option<char>) -> Result<(String, Words), Kind> {
        let mut out = String::new();
        let mut words = Words::default();
        while let Some(ch) = self.peek() {
            if stop == Some(ch) {
                self.next();
                return Ok((out, words));
            }
            match ch {
                '$' => {
                    let value = self.dollar()?;
                    self.push(&mut out, &value)?;
                    value.chars().for_each(|ch| words.add(ch));
                }
                '\'' | '"' | '<' if ch == '<' || !self.options.plain_quotes => {
                    let value = match ch {
                        '\'' => self.single_quoted()?,
                        '"' => self.double_quoted()?,
                        _ => self.possible_heredoc(),
                    };
                    out.push_str(&value);
                    words.add_literals(&value);
                }
                _ => {
                    self.next();
                    if ch != self.escape {
                        words.add(ch);
                        out.push(ch);
                        continue;
                    }
                    if self.keep_escapes {
                        words.add_literal(ch);
                        out.push(ch);
                    }
                    let Some(escaped) = self.next() else { break };
                    words.add_literal(escaped);
                    out.push(escaped);
                }
            }
        }
        match stop {
            Some('/') => Err(Kind::MissingSlash),
            Some(_) => Err(Kind::MissingBrace),
            None => Ok((out, words)),
        }
    }

    fn single_quoted(&mut self) -> Result<String, Kind> {
        let start = self.at;
        self.next();
        while let Some(ch) = self.next() {
            if ch == '\'' {
                let whole = start..self.at;
                let inner = start + 1..self.at - 1;
                return Ok(self.text[if self.options.keep_quotes { whole } else { inner }].to_owned());
            }
        }
        Err(Kind::UnmatchedQuote("single"))
    }

    fn double_quoted(&mut self) -> Result<String, Kind> {
        let mut out = String::new();
        self.next();
        if self.options.keep_quotes {
            out.push('"');
        }
        while let Some(ch) = self.peek() {
            if ch == '"' {
                self.next();
                if self.options.keep_quotes {
                    out.push('"');
                }
                return Ok(out);
            }
            if ch == '$' {
                let value = self.dollar()?;
                self.push(&mut out, &value)?;
                continue;
            }
            self.next();
            if ch == self.escape {
                if self.keep_escapes {
                    out.push(ch);
                }
                match self.peek() {
                    None => continue,
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        self.next();
                        out.push(next);
                        continue;
                    }
                    Some(_) => {}
                }
            }
            out.push(ch);
        }
        Err(Kind::UnmatchedQuote("double"))
    }

    /// `<< name` is one word, blanks between included, so that heredocs are found.
    fn possible_heredoc(&mut self) -> String {
        let start = self.at;
        self.next();
        if self.peek() == Some('<') {
            self.next();
            while self.peek().is_some_and(char::is_whitespace) {
                self.next();
            }
        }
        self.text[start..self.at].to_owned()
    }

    fn name(&mut self) -> &'a str {
        let rest = &self.text[self.at..];
        let end = match rest.chars().next() {
            Some('0'..='9') => rest.find(|ch: char| !ch.is_ascii_digit()),
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => Some(1),
            _ => rest.find(|ch: char| !(ch.is_alphanumeric() || ch == '_')),
        };
        let name = &rest[..end.unwrap_or(rest.len())];
        self.at += name.len();
        name
    }

    /// The value of `name`; the place begins at `start` and ends where the reader is.
    fn value(&mut self, name: &str, start: usize) -> Option<String> {
        let value = (self.lookup)(name);
        self.variables.push(VariableUse {
            name: name.to_owned(),
            set: value.is_some(),
            span: Span::new(start, self.at),
        });
        value
    }

    fn dollar(&mut self) -> Result<String, Kind> {
        let start = self.at;
        self.next();
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return Ok(match self.value(name, start) {
                Some(value) => value,
                None if self.options.keep_unset => self.text[start..self.at].to_owned(),
                None => String::new(),
            });
        }
        self.next();
        match self.peek() {
            None => return Err(Kind::MissingBrace),
            Some('{' | '}' | ':') => return Err(Kind::BadSubstitution),
            Some(_) => {}
        }
        if self.depth >= MAX_NESTING {
            return Err(Kind::TooDeep);
        }
        self.depth += 1;
        let value = self.braced(start);
        self.depth -= 1;
        value
    }

    /// Behind `${`.
    fn braced(&mut self, start: usize) -> Result<String, Kind> {
        let name = self.name();
        let Some(mut operator) = self.next() else { return Err(Kind::MissingBrace) };
        match operator {
            '}' => Ok(match self.value(name, start) {
                Some(value) => value,
                None if self.options.keep_unset => self.text[start..self.at].to_owned(),
                None => String::new(),
            }),
            '/' => self.replace(name, start),
            ':' | '+' | '-' | '?' | '#' | '%' => {
                let colon = operator == ':';
                if colon {
                    operator = self.next().ok_or(Kind::MissingBrace)?;
                }
                let trim = matches!(operator, '#' | '%');
                let (word, _) = self.until(Some('}'), trim).map_err(|kind| self.unless_at_end(kind))?;
                if (colon && trim) || !matches!(operator, '+' | '-' | '?' | '#' | '%') {
                    let colon = if colon { ":" } else { "" };
                    return Err(Kind::UnsupportedModifier(format!("{colon}{operator}")));
                }
                let value = self.value(name, start);
                if self.options.keep_unset && value.is_none() {
                    return Ok(self.text[start..self.at].to_owned());
                }
                apply(name, operator, colon, word, value, &mut self.steps)
            }
            other => Err(Kind::UnsupportedModifier(other.to_string())),
        }
    }

    /// A fault found at the end of the text is the missing brace, whatever was looked for.
    fn unless_at_end(&self, kind: Kind) -> Kind {
        match kind {
            Kind::TooDeep | Kind::TooLarge | Kind::Required { .. } => kind,
            _ if self.at >= self.text.len() => Kind::MissingBrace,
            _ => kind,
        }
    }

    /// Behind `${name/`.
    fn replace(&mut self, name: &str, start: usize) -> Result<String, Kind> {
        let all = self.peek() == Some('/');
        if all {
            self.next();
        }
        let (pattern, _) = self.until(Some('/'), true)?;
        let (replacement, _) = self.until(Some('}'), true).map_err(|kind| self.unless_at_end(kind))?;
        let value = self.value(name, start);
        let value = match value {
            None if self.options.keep_unset => return Ok(self.text[start..self.at].to_owned()),
            None => String::new(),
            Some(value) => value,
        };
        let pattern = Pattern::parse(&pattern)?;
        match all {
            true => pattern.replace_all(&value, &replacement, &mut self.steps),
            false => pattern.replace_first(&value, &replacement, &mut self.steps),
        }
    }
}

/// The value of `${name` `operator` `word}`.
fn apply(
    name: &str,
    operator: char,
    colon: bool,
    word: String,
    value: Option<String>,
    steps: &mut Steps,
) -> Result<String, Kind> {
    let present = value.as_ref().is_some_and(|value| !(colon && value.is_empty()));
    match operator {
        '-' => Ok(if present { value.unwrap_or_default() } else { word }),
        '+' => Ok(if present { word } else { String::new() }),
        '?' if present => Ok(value.unwrap_or_default()),
        '?' => {
            let state = if value.is_none() { "unset" } else { "empty" };
            let message = if word.is_empty() { format!("is not allowed to be {state}") } else { word };
            Err(Kind::Required { name: name.to_owned(), message })
        }
        _ => {
            let value = value.unwrap_or_default();
            let (longest, pattern) = match word.strip_prefix(operator) {
                Some(rest) => (true, rest),
                None => (false, word.as_str()),
            };
            let pattern = Pattern::parse(pattern)?;
            match operator {
                '#' => pattern.trim_start(&value, longest, steps),
                _ => pattern.trim_end(&value, longest, steps),
            }
        }
    }
}
