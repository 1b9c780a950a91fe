//! What the parser and the linter have to say about a text: severity, stable code, message, place and remedy.

use std::fmt;

use serde::Serialize;

use crate::span::{LineIndex, Span};

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; the build goes on.
    Warning,
    /// The file cannot be built.
    Error,
}

/// One statement about the text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// Stable name in kebab-case, for tests and documentation.
    pub code: &'static str,
    /// What is wrong, in lower case, values in backticks.
    pub message: String,
    /// The bytes that it is about.
    pub span: Span,
    /// What to do about it, if that is known.
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a remedy.
    pub fn error(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), span, help: None }
    }

    /// A warning without a remedy.
    pub fn warning(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { severity: Severity::Warning, code, message: message.into(), span, help: None }
    }

    /// The same diagnostic with a remedy.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The message with its line, as in `dockerfile parse error on line 5: unknown instruction `SHOUT``.
    pub fn with_line(&self, lines: &LineIndex) -> String {
        format!("dockerfile parse error on line {}: {self}", lines.line(self.span.start))
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// All diagnostics of one text, in the order of their discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diagnostics {
    list: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds all of `other`.
    pub fn append(&mut self, mut other: Self) {
        self.list.append(&mut other.list);
    }

    /// All of them, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Diagnostic> {
        self.list.iter()
    }

    /// Whether there are none, warnings included.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The number of diagnostics, warnings included.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether one of them is an error, so that the file cannot be built.
    pub fn has_errors(&self) -> bool {
        self.first_error().is_some()
    }

    /// The error that stands first in the text.
    pub fn first_error(&self) -> Option<&Diagnostic> {
        self.list.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).min_by_key(|d| d.span.start)
    }

    /// The diagnostics with the code `code`.
    pub fn with_code<'a>(&'a self, code: &'a str) -> impl Iterator<Item = &'a Diagnostic> {
        self.list.iter().filter(move |diagnostic| diagnostic.code == code)
    }
}

impl IntoIterator for Diagnostics {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Diagnostics {
    type Item = &'a Diagnostic;
    type IntoIter = std::slice::Iter<'a, Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
