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
    pub(crate) const WORKDIR: &str = "invalid-workdir";
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

/// All that is wrong with a Dockerfile, but for what only follows from something else that is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlanErrors {
    list: Vec<PlanError>,
}

impl PlanErrors {
    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds an error, unless it is there already: several ways lead to the same instruction.
    pub(super) fn push(&mut self, error: PlanError) {
        if !self.list.contains(&error) {
            self.list.push(error);
        }
    }

    /// Adds other errors.
    pub(super) fn append(&mut self, errors: Self) {
        errors.list.into_iter().for_each(|error| self.push(error));
    }

    /// What was made, or nothing and the errors noted.
    pub(super) fn note<T>(&mut self, result: Result<T, impl Into<Self>>) -> Option<T> {
        result.map_err(|errors| self.append(errors.into())).ok()
    }

    /// Changes every error.
    pub(super) fn map(self, change: impl FnMut(PlanError) -> PlanError) -> Self {
        Self { list: self.list.into_iter().map(change).collect() }
    }
}

impl From<PlanError> for PlanErrors {
    fn from(error: PlanError) -> Self {
        Self { list: vec![error] }
    }
}

impl IntoIterator for PlanErrors {
    type Item = PlanError;
    type IntoIter = std::vec::IntoIter<PlanError>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

/// Does the same with each of several things, also behind one that is wrong.
pub(super) fn each<T, R>(
    things: impl IntoIterator<Item = T>,
    mut work: impl FnMut(T) -> Result<R, PlanError>,
) -> Result<Vec<R>, PlanErrors> {
    let (mut made, mut errors) = (Vec::new(), PlanErrors::default());
    for thing in things {
        match work(thing) {
            Ok(result) => made.push(result),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(made) } else { Err(errors) }
}
