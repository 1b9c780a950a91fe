//! Parser directives: `# syntax=`, `# escape=` and `# check=` at the top of the file.
//!
//! Only lines of the form `# name=value` with one of the three names count, and the first line of another
//! kind ends them. `syntax` and `check` are also found behind a `#!` line, and `syntax` alone also as
//! `// syntax=` and as the key of a file that is one JSON object; `escape` is not (BuildKit reads it with the
//! instructions, not up front).

use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::json;
use crate::span::{LineRange, Span};

/// The escape character of a file that says nothing else.
pub const DEFAULT_ESCAPE: char = '\\';

/// How a directive is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirectiveForm {
    /// `# name=value`
    Hash,
    /// `// name=value`
    Slashes,
    /// `{"name": "value"}`
    Json,
}

/// One parser directive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive {
    /// The value, blanks around it taken off.
    pub value: String,
    /// The value's bytes in the text.
    pub span: Span,
    /// The line that it is on, from 1.
    pub line: usize,
    /// How it is written.
    pub form: DirectiveForm,
}

impl Directive {
    /// The value up to its first blank: the image of `syntax`, whose rest is the command line of a frontend.
    pub fn first_word(&self) -> &str {
        self.value.split(' ').next().unwrap_or_default()
    }
}

/// The directives of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// The frontend that the file asks for.
    pub syntax: Option<Directive>,
    /// The linter's settings.
    pub check: Option<Directive>,
    /// The directive that set the escape character.
    pub escape_directive: Option<Directive>,
    /// The escape character: `\` or a backtick.
    pub escape: char,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, check: None, escape_directive: None, escape: DEFAULT_ESCAPE }
    }
}

const NAMES: [&str; 3] = ["syntax", "escape", "check"];

/// A directive line taken apart: name in lower case, and where its value lies in the line.
struct DirectiveLine<'a> {
    name: String,
    value: &'a str,
}

/// Reads `#name=value`, the comment mark at the very start.
fn directive_line<'a>(line: &'a str, mark: &str) -> Option<DirectiveLine<'a>> {
    let rest = line.strip_prefix(mark)?.trim_start();
    let end = rest.find(|ch: char| !ch.is_ascii_alphanumeric()).unwrap_or(rest.len());
    let name = &rest[..end];
    if !name.starts_with(|ch: char| ch.is_ascii_alphabetic()) {
        return None;
    }
    let value = rest[end..].trim_start_matches(regex_blank).strip_prefix('=')?.trim_matches(regex_blank);
    let name = name.to_ascii_lowercase();
    (!value.is_empty() && NAMES.contains(&name.as_str())).then_some(DirectiveLine { name, value })
}

/// What `\s` stands for in Go's regular expressions.
fn regex_blank(ch: char) -> bool {
    matches!(ch, ' ' | '\t' | '\n' | '\x0c' | '\r')
}

/// Offset of `part`, a slice of `whole`, in it.
fn offset_in(whole: &str, part: &str) -> usize {
    (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize)
}

/// Reads the directives at the top of `text`, and complains of one given twice or of a wrong escape character.
pub(crate) fn parse_directives(text: &str, diagnostics: &mut Diagnostics) -> Directives {
    let mut directives = Directives::default();
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    parse_escape(text, start, &mut directives, diagnostics);
    directives.syntax = detect(text, start, "syntax", DirectiveForm::Hash)
        .or_else(|| detect(text, start, "syntax", DirectiveForm::Slashes))
        .or_else(|| detect_json(text, start));
    directives.check = detect(text, start, "check", DirectiveForm::Hash);
    directives
}

fn parse_escape(text: &str, start: usize, directives: &mut Directives, diagnostics: &mut Diagnostics) {
    let mut seen: Vec<String> = Vec::new();
    for (index, raw) in text[start..].split('\n').enumerate() {
        // The parser of instructions looks at lines without their indentation, the one for `syntax` does not.
        let Some(found) = directive_line(raw.trim_end_matches('\r').trim_start(), "#") else { return };
        let at = offset_in(text, found.value);
        let span = Span::new(at, at + found.value.len());
        if seen.contains(&found.name) {
            let message = format!("only one `{}` parser directive can be used", found.name);
            diagnostics.push(Diagnostic::error("duplicate-directive", message, span));
            return;
        }
        if found.name == "escape" {
            let value = found.value.to_owned();
            match found.value {
                "\\" | "`" => directives.escape = found.value.chars().next().unwrap_or(DEFAULT_ESCAPE),
                _ => {
                    let message = format!("invalid escape character `{value}`");
                    diagnostics.push(
                        Diagnostic::error("invalid-escape", message, span)
                            .with_help("the escape directive takes a backslash or a backtick"),
                    );
                }
            }
            directives.escape_directive = Some(Directive { value, span, line: index + 1, form: DirectiveForm::Hash });
        }
        seen.push(found.name);
    }
}

fn detect(text: &str, start: usize, name: &str, form: DirectiveForm) -> Option<Directive> {
    let mark = if form == DirectiveForm::Slashes { "//" } else { "#" };
    let mut seen: Vec<String> = Vec::new();
    for (index, raw) in text[start..].split('\n').enumerate() {
        if index == 0 && raw.starts_with("#!") {
            continue;
        }
        let found = directive_line(raw.trim_end_matches('\r'), mark)?;
        if seen.contains(&found.name) {
            return None;
        }
        if found.name == name {
            let at = offset_in(text, found.value);
            let span = Span::new(at, at + found.value.len());
            return Some(Directive { value: found.value.to_owned(), span, line: index + 1, form });
        }
        seen.push(found.name);
    }
    None
}

fn detect_json(text: &str, start: usize) -> Option<Directive> {
    let body = &text[start..];
    let (body, line) = match body.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => (rest, 2),
        _ => (body, 1),
    };
    if !body.trim_start().starts_with('{') {
        return None;
    }
    let json::Value::Object(entries) = json::parse(body)? else { return None };
    let (_, value) = entries.into_iter().rfind(|(key, _)| key == "syntax")?;
    let json::Value::String(value, range) = value else { return None };
    let base = offset_in(text, body);
    let span = Span::new(base + range.start, base + range.end);
    Some(Directive { value, span, line, form: DirectiveForm::Json })
}

/// What a comment line says about the linter, as in `check=skip=StageNameCasing`, without the comment mark.
pub(crate) fn check_comment(comment: &str) -> Option<&str> {
    let found = directive_line(comment, "")?;
    (found.name == "check").then_some(found.value)
}

/// Whether the physical line, its indentation taken off, is a directive in the block at the top of the file.
pub(crate) fn is_directive_line(line: &str) -> bool {
    directive_line(line, "#").is_some()
}

/// The lines of the directive block: they are no comments of the instruction below.
pub(crate) fn directive_block(text: &str) -> LineRange {
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let count =
        text[start..].split('\n').take_while(|raw| is_directive_line(raw.trim_end_matches('\r').trim_start())).count();
    LineRange { first: 1, last: count }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Directives, Diagnostics) {
        let mut diagnostics = Diagnostics::default();
        let directives = parse_directives(text, &mut diagnostics);
        (directives, diagnostics)
    }

    #[test]
    fn the_block_at_the_top() {
        let text = "# syntax = docker/dockerfile:1 --opt x \n#ESCAPE=`\n# check=skip=all\nFROM a\n";
        let (directives, diagnostics) = read(text);
        assert!(diagnostics.is_empty());
        let syntax = directives.syntax.unwrap();
        assert_eq!(
            (syntax.value.as_str(), syntax.first_word()),
            ("docker/dockerfile:1 --opt x", "docker/dockerfile:1")
        );
        assert_eq!(syntax.span.text(text), "docker/dockerfile:1 --opt x");
        assert_eq!(directives.escape, '`');
        let check = directives.check.unwrap();
        assert_eq!((check.value.as_str(), check.line), ("skip=all", 3));
    }

    #[test]
    fn what_ends_the_block() {
        for text in [
            "\n# escape=`\n",
            "# written by hand\n# escape=`\n",
            "# flavour=vanilla\n# escape=`\n",
            "#!/usr/bin/env x\n# escape=`\n",
            "FROM a\n# escape=`\n",
            "# escape=\n# escape=`\n",
        ] {
            assert_eq!(read(text).0.escape, '\\', "{text:?}");
        }
    }

    #[test]
    fn errors() {
        assert_eq!(read("# escape=`\n# escape=`\n").1.first_error().unwrap().code, "duplicate-directive");
        assert_eq!(read("# escape=x\n").1.first_error().unwrap().code, "invalid-escape");
    }

    #[test]
    fn other_forms_of_syntax() {
        for (text, form) in [
            ("#!/bin/x\n# syntax=a/b\n", DirectiveForm::Hash),
            ("// syntax=a/b\nx", DirectiveForm::Slashes),
            ("{\"syntax\": \"a/b\", \"x\": [1]}", DirectiveForm::Json),
            ("\u{feff}# syntax=a/b\r\n", DirectiveForm::Hash),
        ] {
            let syntax = read(text).0.syntax.unwrap();
            assert_eq!((syntax.value.as_str(), syntax.form, syntax.span.text(text)), ("a/b", form, "a/b"), "{text:?}");
        }
    }
}
