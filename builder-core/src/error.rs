//! What can go wrong with a build, with the step and the place in the Dockerfile that it belongs to.

use std::collections::BTreeSet;
use std::error::Error;
use std::ops::Range;

use rbuild_dockerfile::Diagnostic;

use crate::progress::Miss;

/// Any cause that another module reports.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Why a build ended without an image.
///
/// `Display` says what was attempted; the cause, where there is one, is the error's source.
#[derive(Debug)]
pub struct BuildError {
    /// What went wrong.
    pub kind: ErrorKind,
    /// The step it went wrong in.
    pub step: Option<FailedStep>,
    /// The bytes of the Dockerfile that it belongs to, where no step says so or they are a part of it.
    pub place: Option<Range<usize>>,
    /// The Dockerfile's path and text, once it was read.
    pub dockerfile: Option<(String, String)>,
}

/// The step that an error belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedStep {
    /// The instruction, variables expanded.
    pub name: String,
    /// The stage it is in.
    pub stage: String,
    /// The bytes of the Dockerfile that it comes from.
    pub span: Option<Range<usize>>,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The Dockerfile has errors: all that were found.
    #[error("the Dockerfile has errors")]
    Dockerfile(Vec<Diagnostic>),
    /// The Dockerfile can't be built as it is meant: a name that nothing has, a value that can't be.
    #[error("{message}")]
    Plan {
        /// A stable name for what is wrong, in kebab case; `docs/errors.md` lists them.
        code: &'static str,
        /// What is wrong.
        message: String,
        /// What to do about it; may be empty.
        help: String,
        /// The bytes of the Dockerfile that are wrong.
        span: Option<Range<usize>>,
    },
    /// Several things went wrong that do not depend on each other.
    #[error("{} errors", .0.len())]
    Several(Vec<BuildError>),
    /// An option has a value that can't be.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do about it; may be empty.
        help: String,
    },
    /// Something could not be done.
    #[error("could not {action}")]
    Failed {
        /// What was attempted, with its values.
        action: String,
        /// What to do about it; may be empty.
        help: String,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
    /// A command of a RUN step ended with another status than 0.
    #[error("the command ended with {}", describe_exit(*code, *signal))]
    Command {
        /// The exit status; 128 and the signal's number where a signal ended it.
        code: i32,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The last lines that it wrote.
        output: Vec<String>,
        /// What to do about it; may be empty.
        help: String,
    },
    /// A step that was expected to have an earlier result has none; it was not done.
    #[error("the step is not cached, but was expected to be: {miss}")]
    NotCached {
        /// Why there is none.
        miss: Miss,
    },
    /// The build was asked to stop.
    #[error("the build was cancelled")]
    Cancelled,
}

fn describe_exit(code: i32, signal: Option<i32>) -> String {
    signal.map_or_else(|| format!("exit status {code}"), |signal| format!("signal {signal}"))
}

impl BuildError {
    /// Reports an action that failed, and why.
    pub fn failed(action: impl Into<String>, cause: impl Into<Cause>) -> Self {
        ErrorKind::Failed { action: action.into(), help: String::new(), cause: cause.into() }.into()
    }

    /// Reports something in the Dockerfile that can't be.
    pub fn plan(
        code: &'static str,
        message: impl Into<String>,
        help: impl Into<String>,
        span: Option<Range<usize>>,
    ) -> Self {
        ErrorKind::Plan { code, message: message.into(), help: help.into(), span }.into()
    }

    /// Reports an option that can't be.
    pub fn usage(message: impl Into<String>, help: impl Into<String>) -> Self {
        ErrorKind::Usage { message: message.into(), help: help.into() }.into()
    }

    /// Reports that the build was asked to stop.
    #[must_use]
    pub fn cancelled() -> Self {
        ErrorKind::Cancelled.into()
    }

    /// Fails with all `errors` where there are any, told as [`BuildError::several`] does.
    pub(crate) fn unless_none(errors: Vec<Self>) -> Result<(), Self> {
        Self::several(errors).map_or(Ok(()), Err)
    }

    /// Tells several errors as one: by their places in the Dockerfile, each once, and nothing else beside a wish to stop.
    /// `None` where there is none.
    #[must_use]
    pub fn several(errors: Vec<Self>) -> Option<Self> {
        let mut list: Vec<Self> = Vec::new();
        for error in errors {
            match error.kind {
                ErrorKind::Cancelled => return Some(error),
                ErrorKind::Several(parts) => list.extend(parts),
                _ => list.push(error),
            }
        }
        list.sort_by_key(|error| error.span().map_or(usize::MAX, |span| span.start));
        let mut told = BTreeSet::new();
        list.retain(|error| told.insert((error.span().map(|span| (span.start, span.end)), error.to_string())));
        match list.len() {
            0 | 1 => list.pop(),
            _ => Some(ErrorKind::Several(list).into()),
        }
    }

    /// The errors that this one tells: itself, unless it stands for several.
    #[must_use]
    pub fn parts(&self) -> &[Self] {
        match &self.kind {
            ErrorKind::Several(parts) => parts,
            _ => std::slice::from_ref(self),
        }
    }

    /// Says what to do about a failed action.
    #[must_use]
    pub fn with_help(mut self, text: impl Into<String>) -> Self {
        if let ErrorKind::Failed { help, .. } | ErrorKind::Plan { help, .. } | ErrorKind::Usage { help, .. } =
            &mut self.kind
        {
            *help = text.into();
        }
        self
    }

    /// Says which step an error belongs to, unless that is known already.
    #[must_use]
    pub fn in_step(mut self, step: impl FnOnce() -> FailedStep) -> Self {
        if self.step.is_none() && !matches!(self.kind, ErrorKind::Cancelled) {
            self.step = Some(step());
        }
        self
    }

    /// Says which bytes of the Dockerfile an error belongs to, unless that is known already.
    #[must_use]
    pub fn at(mut self, place: impl Into<Option<Range<usize>>>) -> Self {
        self.place = self.place.or(place.into());
        self
    }

    /// What to do about it; empty where nothing is known.
    #[must_use]
    pub fn help(&self) -> &str {
        match &self.kind {
            ErrorKind::Plan { help, .. }
            | ErrorKind::Usage { help, .. }
            | ErrorKind::Failed { help, .. }
            | ErrorKind::Command { help, .. } => help,
            ErrorKind::Dockerfile(_) | ErrorKind::Several(_) | ErrorKind::NotCached { .. } | ErrorKind::Cancelled => "",
        }
    }

    /// The bytes of the Dockerfile to point at.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        match &self.kind {
            ErrorKind::Plan { span: Some(span), .. } => Some(span.clone()),
            _ => self.place.clone().or_else(|| self.step.as_ref().and_then(|step| step.span.clone())),
        }
    }
}

impl From<ErrorKind> for BuildError {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, step: None, place: None, dockerfile: None }
    }
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.kind.fmt(f)
    }
}

impl Error for BuildError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.kind.source()
    }
}

/// Turns a module's error into one of the build, saying what was attempted.
pub(crate) trait During<T> {
    /// Says what was attempted.
    fn during(self, action: impl FnOnce() -> String) -> Result<T, BuildError>;
}

impl<T, E: Into<Cause>> During<T> for Result<T, E> {
    fn during(self, action: impl FnOnce() -> String) -> Result<T, BuildError> {
        self.map_err(|cause| BuildError::failed(action(), cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(message: &str, start: usize) -> BuildError {
        BuildError::plan("some-code", message, "", Some(start..start + 1))
    }

    #[test]
    fn several_errors_are_told_in_order_and_once() {
        let all = vec![plan("b", 9), plan("a", 2), BuildError::several(vec![plan("c", 4), plan("b", 9)]).unwrap()];
        let told = BuildError::several(all).unwrap();
        assert_eq!(told.parts().iter().map(ToString::to_string).collect::<Vec<_>>(), ["a", "c", "b"]);
        let one = BuildError::several(vec![plan("a", 2), plan("a", 2)]).unwrap();
        assert!(matches!(one.kind, ErrorKind::Plan { .. }) && one.parts().len() == 1);
        assert!(BuildError::several(Vec::new()).is_none());
        let stopped = BuildError::several(vec![plan("a", 2), BuildError::cancelled()]).unwrap();
        assert!(matches!(stopped.kind, ErrorKind::Cancelled));
    }
}
