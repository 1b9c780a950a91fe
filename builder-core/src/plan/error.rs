//! What can be wrong with a Dockerfile whose every line is right.

use rbuild_dockerfile::Span;

/// Something in a Dockerfile that can't be built as it is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The bytes of the Dockerfile that are wrong, where they are known.
    pub span: Option<Span>,
}

impl PlanError {
    pub(crate) fn new(message: impl Into<String>, span: Span) -> Self {
        Self { message: message.into(), help: String::new(), span: Some(span) }
    }

    pub(crate) fn general(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: String::new(), span: None }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}
