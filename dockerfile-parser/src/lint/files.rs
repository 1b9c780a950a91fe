//! What the linter is told of the build context: its ignore file, and which of that file's lines do nothing.

use std::fmt;

/// The file that a finding points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum FindingFile {
    /// The Dockerfile.
    #[default]
    Dockerfile,
    /// The ignore file of the context.
    IgnoreFile,
}

/// An ignore file whose patterns were held against the context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IgnoreFile {
    /// Its name: `.dockerignore`, or `<Dockerfile>.dockerignore`.
    pub name: String,
    /// Its text.
    pub text: String,
    /// Its lines that do nothing, and seem to be meant for something.
    pub idle: Vec<IdlePattern>,
}

/// A line of an ignore file that does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdlePattern {
    /// The line, from 1.
    pub line: usize,
    /// The pattern as written, without blanks around.
    pub pattern: String,
    /// What it seems to be meant for.
    pub reason: IdleReason,
}

/// What a pattern without effect seems to be meant for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdleReason {
    /// There is a comment behind it, which is part of the pattern.
    Comment,
    /// It is an exception, and nothing before it is ignored.
    NothingToExcept,
    /// It would match in a folder deeper down: an example.
    Deeper(String),
    /// There is something with nearly that name.
    Similar(String),
}

impl fmt::Display for IdlePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pattern = &self.pattern;
        match &self.reason {
            IdleReason::Comment => {
                write!(f, "`{pattern}` matches nothing: a comment must be a line of its own")
            }
            IdleReason::NothingToExcept => {
                write!(f, "`{pattern}` does nothing: no line before it leaves anything out")
            }
            IdleReason::Deeper(example) => {
                let start = pattern.trim_start_matches('/');
                write!(f, "`{pattern}` matches nothing: for `{example}` it must be `**/{start}`")
            }
            IdleReason::Similar(name) => write!(f, "`{pattern}` matches nothing: there is `{name}`"),
        }
    }
}
