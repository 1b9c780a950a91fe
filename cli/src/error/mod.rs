//! What the user is told when something fails, and the exit status that programs see.
//!
//! | status | meaning |
//! | --- | --- |
//! | 0 | done |
//! | 1 | the build failed: the Dockerfile, a source, a registry |
//! | 1 to 125 | a command of a RUN step failed: its own status; 1 where it has none in this range |
//! | 2 | the command line cannot be meant |
//! | 3 | the machine cannot do it: no namespaces, a full disk, a store that cannot be written; of `plan`: something would run |
//! | 4 | a step is not cached that was expected to be |
//! | 70 | a fault in rbuild itself |
//! | 130, 143 | stopped by SIGINT or SIGTERM |

mod build;
mod heredoc;
mod render;

use std::error::Error;
use std::io;
use std::ops::Range;

use serde_json::{Value, json};

use crate::output::Source;
use crate::settings::UsageError;

pub(crate) use build::{of_build, of_core, of_diagnostics};
pub(crate) use render::{Look, render};

/// The exit status of a fault in rbuild itself (`EX_SOFTWARE`).
const INTERNAL_STATUS: u8 = 70;

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The command line's.
    Usage,
    /// The Dockerfile's, or of what it needs.
    Build,
    /// A command's that ended with this status.
    Command(i32),
    /// A command's that could not be started; the status is rbuild's own.
    Started(u8),
    /// The machine's.
    Environment,
    /// Nobody's: a step has no earlier result, and was expected to have one.
    NotCached,
    /// rbuild's.
    Internal,
    /// Nobody's: a signal asked to stop.
    Cancelled(i32),
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Usage => "usage",
            Self::Build => "build",
            Self::Command(_) | Self::Started(_) => "command",
            Self::Environment => "environment",
            Self::NotCached => "not-cached",
            Self::Internal => "internal",
            Self::Cancelled(_) => "cancelled",
        }
    }

    fn status(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Build => 1,
            Self::Command(status) => u8::try_from(status).ok().filter(|status| (1..=125).contains(status)).unwrap_or(1),
            Self::Started(status) => status,
            Self::Environment => 3,
            Self::NotCached => 4,
            Self::Internal => INTERNAL_STATUS,
            Self::Cancelled(signal) => u8::try_from(128 + signal).unwrap_or(1),
        }
    }
}

/// A place in the Dockerfile that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// The text.
    pub(crate) source: Source,
    /// The bytes.
    pub(crate) span: Range<usize>,
    /// What to write beside them; may be empty.
    pub(crate) label: String,
}

/// One thing that went wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// A stable code; empty where there is none.
    pub(crate) code: String,
    /// What was attempted, with its values.
    pub(crate) message: String,
    /// Where in the Dockerfile.
    pub(crate) place: Option<Place>,
    /// The step it belongs to, by its title.
    pub(crate) step: Option<String>,
    /// The last lines that the step's command wrote.
    pub(crate) output: Vec<Vec<u8>>,
    /// Why, from the nearest cause to the first.
    pub(crate) causes: Vec<String>,
    /// What to do about it.
    pub(crate) hints: Vec<String>,
}

impl Problem {
    /// A message alone.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            code: String::new(),
            message: message.into(),
            place: None,
            step: None,
            output: Vec::new(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }
}

/// Why a command of rbuild failed: everything that is said about it, and the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Whose fault it is.
    pub(crate) kind: Kind,
    /// All that went wrong, in the order it is told.
    pub(crate) problems: Vec<Problem>,
}

impl Failure {
    /// One problem with a message.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, problems: vec![Problem::new(message)] }
    }

    /// An action that failed for the reason that `cause` and its sources give.
    pub(crate) fn caused(kind: Kind, message: impl Into<String>, cause: &(dyn Error + 'static)) -> Self {
        let mut problem = Problem::new(message);
        problem.causes = causes(Some(cause));
        let kind = if kind == Kind::Build && is_environment(cause) { Kind::Environment } else { kind };
        Self { kind, problems: vec![problem] }
    }

    /// An error of the core told as it is, with its sources.
    pub(crate) fn of(kind: Kind, error: &(dyn Error + 'static)) -> Self {
        let mut problem = Problem::new(error.to_string());
        problem.causes = causes(error.source());
        let kind = if kind == Kind::Build && is_environment(error) { Kind::Environment } else { kind };
        Self { kind, problems: vec![problem] }
    }

    /// Adds what to do about it; an empty text adds nothing.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if let Some(problem) = self.problems.last_mut().filter(|_| !hint.is_empty()) {
            problem.hints.push(hint);
        }
        self
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.kind.status()
    }

    /// The failure as data, for `--progress=rawjson`.
    pub(crate) fn to_json(&self) -> Value {
        json!({ "kind": self.kind.name(), "status": self.status(), "problems": self.problems_json() })
    }

    /// What went wrong, each as an object.
    pub(crate) fn problems_json(&self) -> Value {
        self.problems.iter().map(problem_json).collect()
    }
}

fn problem_json(problem: &Problem) -> Value {
    let output: Vec<_> = problem.output.iter().map(|line| String::from_utf8_lossy(line)).collect();
    let place = problem.place.as_ref().map(|place| {
        json!({
            "file": &*place.source.name,
            "line": place.source.line(place.span.start),
            "span": [place.span.start, place.span.end],
        })
    });
    json!({
        "code": problem.code, "message": problem.message, "place": place, "step": problem.step,
        "output": output, "causes": problem.causes, "hints": problem.hints,
    })
}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Self {
        Self::new(Kind::Usage, error.message).hint(error.hint)
    }
}

/// The texts of an error and its sources; a text that only repeats what stands before it is left out.
pub(crate) fn causes(error: Option<&(dyn Error + 'static)>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let mut next = error;
    while let Some(error) = next {
        let text = error.to_string();
        // A prefix that the transport's library puts before the system's words.
        let text = text.strip_prefix("io: ").map_or(text.clone(), str::to_owned);
        if !texts.iter().any(|before| before.ends_with(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    texts
}

/// Whether the first cause is something that only the machine's owner can mend.
fn is_environment(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::QuotaExceeded
            );
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_stable() {
        for (kind, status) in [
            (Kind::Usage, 2),
            (Kind::Build, 1),
            (Kind::Command(7), 7),
            (Kind::Command(127), 1),
            (Kind::Command(137), 1),
            (Kind::Command(0), 1),
            (Kind::Started(127), 127),
            (Kind::Environment, 3),
            (Kind::NotCached, 4),
            (Kind::Internal, 70),
            (Kind::Cancelled(2), 130),
            (Kind::Cancelled(15), 143),
        ] {
            assert_eq!(kind.status(), status, "{kind:?}");
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("cannot write `{0}`")]
    struct Outer(&'static str, #[source] io::Error);

    #[test]
    fn causes_are_a_chain() {
        let error = Outer("/store", io::Error::from(io::ErrorKind::StorageFull));
        let failure = Failure::caused(Kind::Build, "cannot keep the layer", &error);
        assert_eq!(failure.kind, Kind::Environment);
        assert_eq!(failure.problems[0].causes[0], "cannot write `/store`");
        assert_eq!(failure.problems[0].causes.len(), 2);
        let denied = Outer("/context", io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(Failure::of(Kind::Build, &denied).kind, Kind::Build);
    }
}
