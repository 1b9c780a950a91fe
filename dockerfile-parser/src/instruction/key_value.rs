//! ENV, LABEL and ARG: names and values.

use super::Request;
use crate::diagnostic::Diagnostic;
use crate::lexer::{Part, Word};
use crate::span::Span;

/// `name=value`; both sides are expanded in ENV and LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The name.
    pub key: Word,
    /// The value, quotes still in it.
    pub value: Word,
}

/// ENV. All values are expanded with the environment from before the instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Env {
    /// The variables in order.
    pub pairs: Vec<KeyValue>,
    /// The old form `ENV name value`.
    pub legacy: bool,
}

/// LABEL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The labels in order.
    pub pairs: Vec<KeyValue>,
    /// The old form `LABEL name value`.
    pub legacy: bool,
}

/// A name that ARG declares. The name is never expanded; the default is, unless it is not needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name.
    pub name: Word,
    /// The text behind `=`; `None` without `=`.
    pub default: Option<Word>,
}

/// ARG. Each default may use the names declared before it, also on the same line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arg {
    /// The names in order.
    pub declarations: Vec<ArgDeclaration>,
}

pub(super) fn parse_env(request: &mut Request<'_>) -> Option<Env> {
    request.no_flags();
    pairs(request).map(|(pairs, legacy)| Env { pairs, legacy })
}

pub(super) fn parse_label(request: &mut Request<'_>) -> Option<Label> {
    request.no_flags();
    pairs(request).map(|(pairs, legacy)| Label { pairs, legacy })
}

pub(super) fn parse_arg(request: &mut Request<'_>) -> Option<Arg> {
    // COMPAT(buildkit): flags of ARG are neither known nor refused.
    let words = quoted_words(request.parts.args, request.escape);
    if words.is_empty() {
        request.at_least_one();
        return None;
    }
    let mut declarations = Vec::new();
    for word in words {
        match split_pair(&word) {
            Some(pair) if pair.key.text.is_empty() => {
                request.error_at("blank-name", "ARG names can not be blank".to_owned(), word.span);
            }
            Some(pair) => declarations.push(ArgDeclaration { name: pair.key, default: Some(pair.value) }),
            None => declarations.push(ArgDeclaration { name: word, default: None }),
        }
    }
    Some(Arg { declarations })
}

/// The pairs, and whether they are in the old form: the first word without `=` is the name, all the rest its value.
fn pairs(request: &mut Request<'_>) -> Option<(Vec<KeyValue>, bool)> {
    let args = request.parts.args;
    let words = quoted_words(args, request.escape);
    let Some(first) = words.first() else {
        request.at_least_one();
        return None;
    };
    if !first.text.contains('=') {
        let (key, value) = args.cut_blank();
        let Some(value) = value else {
            let message = format!("{} must have two arguments: a name and a value", request.name);
            let error = Diagnostic::error("missing-value", message, request.span());
            let help = format!("write `{} {}=value`", request.name, key.word().text);
            request.diagnostics.push(error.with_help(help));
            return None;
        };
        return Some((vec![KeyValue { key: key.word(), value: value.word() }], true));
    }
    let mut pairs = Vec::new();
    for word in words {
        match split_pair(&word) {
            Some(pair) if pair.key.text.is_empty() => {
                let message = format!("{} names can not be blank", request.name);
                request.error_at("blank-name", message, word.span);
            }
            Some(pair) => pairs.push(pair),
            None => {
                let message =
                    format!("can't find = in `{}`: {} takes words of the form name=value", word.text, request.name);
                request.error_at("missing-equals", message, word.span);
            }
        }
    }
    Some((pairs, false))
}

fn split_pair(word: &Word) -> Option<KeyValue> {
    let (key, value) = word.text.split_once('=')?;
    let exact = word.span.len() == word.text.len();
    let (key_span, value_span) = if exact {
        let border = word.span.start + key.len();
        (Span::new(word.span.start, border), Span::new(border + 1, word.span.end))
    } else {
        (word.span, word.span)
    };
    Some(KeyValue { key: Word::new(key, key_span), value: Word::new(value, value_span) })
}

/// Words between blanks that are not in quotes; quotes and escapes stay, but for an escape at the very end.
pub(super) fn quoted_words(args: Part<'_>, escape: char) -> Vec<Word> {
    let text = args.text();
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut end = 0;
    let mut quote: Option<char> = None;
    let mut chars = text.char_indices();
    while let Some((at, ch)) = chars.next() {
        if quote.is_none() && ch.is_whitespace() {
            if let Some(from) = start.take() {
                words.push(args.slice(from, end).word());
            }
            continue;
        }
        start.get_or_insert(at);
        if ch == escape && quote != Some('\'') {
            let Some((next, escaped)) = chars.next() else {
                // An escape character with nothing behind it is dropped.
                end = end.max(start.unwrap_or(at));
                break;
            };
            end = next + escaped.len_utf8();
            continue;
        }
        end = at + ch.len_utf8();
        match quote {
            Some(open) if open == ch => quote = None,
            Some(_) => {}
            None if matches!(ch, '\'' | '"') => quote = Some(ch),
            None => {}
        }
    }
    if let Some(from) = start
        && end > from
    {
        words.push(args.slice(from, end).word());
    }
    words
}
