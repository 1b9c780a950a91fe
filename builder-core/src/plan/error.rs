//! What can be wrong with a Dockerfile whose every line is right.

use rbuild_dockerfile::Span;

/// The codes of errors. Those that the parser gives for the same fault have its names.
pub(crate) mod code {
    pub(crate) const BASE_NAME: &str = "invalid-base-name";
    pub(crate) const BLANK_BASE_NAME: &str = "blank-base-name";
    pub(crate) const CHECKSUM: &str = "invalid-checksum";
    pub(crate) const CHMOD: &str = "invalid-chmod";
    pub(crate) const CIRCULAR: &str = "circular-stages";
    pub(crate) const COPY_URL: &str = "copy-url";
    pub(crate) const DEVICE: &str = "invalid-device";
    pub(crate) const EMPTY_VOLUME: &str = "empty-volume";
    pub(crate) const EXPANSION: &str = "invalid-expansion";
    pub(crate) const LATER_STAGE: &str = "later-stage";
    pub(crate) const MOUNT: &str = "invalid-mount";
    pub(crate) const NO_STAGE: &str = "no-stage";
    pub(crate) const PLATFORM: &str = "invalid-platform";
    pub(crate) const PORT: &str = "invalid-port";
    pub(crate) const SIGNAL: &str = "invalid-signal";
    pub(crate) const STAGE_INDEX: &str = "invalid-stage-index";
    pub(crate) const TRIGGER: &str = "onbuild-trigger";
    pub(crate) const UNKNOWN_TARGET: &str = "unknown-target";
    pub(crate) const VARIABLE_IN_FROM: &str = "variable-in-from";
}

/// Something in a Dockerfile that can't be built as it is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    /// A stable name for what is wrong, in kebab case; `docs/errors.md` lists them.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
    /// The bytes of the Dockerfile that are wrong, where they are known.
    pub span: Option<Span>,
}

impl PlanError {
    pub(crate) fn new(code: &'static str, message: impl Into<String>, span: Span) -> Self {
        Self { code, message: message.into(), help: String::new(), span: Some(span) }
    }

    pub(crate) fn general(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: String::new(), span: None }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}
