//! What `--call=check` prints: BuildKit's JSON, and a text for people.

use std::fmt;

use serde::Serialize;

use super::{FindingFile, LintOutcome, LintWarning};
use crate::dockerfile::Dockerfile;
use crate::span::{LineIndex, LineRange};

/// The report as JSON, in the form of BuildKit's `lint` subrequest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonReport {
    /// The findings.
    pub warnings: Vec<JsonWarning>,
    /// The files that findings point into.
    pub sources: Vec<JsonSource>,
    /// The fault that ends the build.
    #[serde(rename = "buildError", skip_serializing_if = "Option::is_none")]
    pub build_error: Option<JsonError>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JsonWarning {
    /// The rule.
    pub rule_name: String,
    /// What the rule asks for.
    pub description: String,
    /// Where the rule is explained.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// What is the matter here.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Where.
    pub location: JsonLocation,
}

/// A place in a source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonLocation {
    /// Which of the sources it is in; 0, the Dockerfile, is not written.
    #[serde(rename = "sourceIndex", skip_serializing_if = "is_first")]
    pub source: usize,
    /// The lines.
    pub ranges: Vec<JsonRange>,
}

/// From one line to another, both included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonRange {
    /// First line.
    pub start: JsonPosition,
    /// Last line.
    pub end: JsonPosition,
}

/// A line, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct JsonPosition {
    /// The line.
    pub line: usize,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonSource {
    /// Its name.
    pub filename: String,
    /// Its language.
    pub language: String,
    /// Its text in base64.
    pub data: String,
}

/// A fault that ends the build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JsonError {
    /// What is wrong.
    pub message: String,
    /// Where, if it has a place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<JsonLocation>,
}

impl JsonReport {
    /// The report of a file called `filename`.
    pub fn new(outcome: &LintOutcome, file: &Dockerfile, filename: &str) -> Self {
        let warning = |warning: &LintWarning| JsonWarning {
            rule_name: warning.rule.to_owned(),
            description: warning.description.to_owned(),
            url: warning.url.to_owned(),
            detail: warning.detail.clone(),
            location: location(warning.file, warning.lines),
        };
        let source = |filename: &str, language: &str, text: &str| JsonSource {
            filename: filename.to_owned(),
            language: language.to_owned(),
            data: base64(text.as_bytes()),
        };
        let mut sources = vec![source(filename, "Dockerfile", file.source())];
        sources.extend(outcome.ignore_file.iter().map(|(name, text)| source(name, "ignore", text)));
        Self {
            warnings: outcome.warnings.iter().map(warning).collect(),
            sources,
            build_error: outcome.error.as_ref().map(|error| JsonError {
                message: error.message.clone(),
                location: error.lines.map(|lines| location(FindingFile::Dockerfile, lines)),
            }),
        }
    }
}

// The form of the function is given by serde.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_first(source: &usize) -> bool {
    *source == 0
}

fn location(file: FindingFile, lines: LineRange) -> JsonLocation {
    let position = |line| JsonPosition { line };
    JsonLocation {
        source: usize::from(file == FindingFile::IgnoreFile),
        ranges: vec![JsonRange { start: position(lines.first), end: position(lines.last) }],
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0_u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let digit = DIGITS[(value >> (18 - 6 * index) & 63) as usize];
            out.push(if index <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// The report as text: each finding with its lines and what stands there.
#[derive(Debug, Clone, Copy)]
pub struct TextReport<'a> {
    /// What was found.
    pub outcome: &'a LintOutcome,
    /// The file.
    pub file: &'a Dockerfile,
    /// Its name.
    pub filename: &'a str,
}

/// Lines shown before and behind those that are meant.
const CONTEXT_LINES: usize = 2;

impl TextReport<'_> {
    fn excerpt(&self, f: &mut fmt::Formatter<'_>, file: FindingFile, lines: LineRange) -> fmt::Result {
        let index;
        let (name, source, borders) = match (file, &self.outcome.ignore_file) {
            (FindingFile::IgnoreFile, Some((name, text))) => {
                index = LineIndex::new(text);
                (name.as_str(), text.as_str(), &index)
            }
            _ => (self.filename, self.file.source(), self.file.lines()),
        };
        writeln!(f, "{name}:{}", lines.first)?;
        writeln!(f, "--------------------")?;
        let first = lines.first.saturating_sub(CONTEXT_LINES).max(1);
        for line in first..=lines.last + CONTEXT_LINES {
            let Some(span) = borders.line_span(line) else { break };
            if span.is_empty() && line > lines.last {
                break;
            }
            let mark = if (lines.first..=lines.last).contains(&line) { ">>>" } else { "   " };
            writeln!(f, "{line:4} | {mark} {}", span.text(source).trim_end_matches(['\r', '\n']))?;
        }
        writeln!(f, "--------------------")
    }
}

impl fmt::Display for TextReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.outcome.warnings.len() {
            0 => writeln!(f, "Check complete, no warnings found.")?,
            1 => writeln!(f, "Check complete, 1 warning has been found!")?,
            count => writeln!(f, "Check complete, {count} warnings have been found!")?,
        }
        for warning in &self.outcome.warnings {
            let link = if warning.url.is_empty() { String::new() } else { format!(" - {}", warning.url) };
            writeln!(f, "\nWARNING: {}{link}\n{}\n{}", warning.rule, warning.description, warning.detail)?;
            self.excerpt(f, warning.file, warning.lines)?;
        }
        if let Some(error) = &self.outcome.error {
            writeln!(f, "\nERROR: {}", error.message)?;
            if let Some(lines) = error.lines {
                self.excerpt(f, FindingFile::Dockerfile, lines)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_digits() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("\u{ff}?", "w78/")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
