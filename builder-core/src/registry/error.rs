//! What can go wrong with a registry.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use super::credentials::CredentialError;
use super::transport::{Passing, TransportError, TransportFailure};
use crate::oci::{Digest, Platform};

/// What was being done at a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Setting up the client.
    Configure,
    /// Looking up a tag.
    Resolve,
    /// Fetching a manifest or index.
    FetchManifest,
    /// Fetching a blob.
    FetchBlob(Digest),
    /// Asking whether a blob is there.
    FindBlob(Digest),
    /// Sending a blob.
    PushBlob(Digest),
    /// Sending a manifest or index.
    PushManifest,
    /// Getting a token.
    LogIn,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configure => f.write_str("cannot set up the registry client"),
            Self::Resolve => f.write_str("cannot look up"),
            Self::FetchManifest => f.write_str("cannot fetch the manifest of"),
            Self::FetchBlob(digest) => write!(f, "cannot fetch the blob `{digest}` of"),
            Self::FindBlob(digest) => write!(f, "cannot ask for the blob `{digest}` of"),
            Self::PushBlob(digest) => write!(f, "cannot push the blob `{digest}` of"),
            Self::PushManifest => f.write_str("cannot push the manifest of"),
            Self::LogIn => f.write_str("cannot log in for"),
        }
    }
}

/// Something went wrong with a registry.
#[derive(Debug, thiserror::Error)]
pub struct RegistryError {
    /// What was being done.
    pub action: Action,
    /// The image, as people write it; empty where none was involved.
    pub image: String,
    /// The registry's host, as in the image's name.
    pub registry: String,
    /// What went wrong.
    pub kind: Box<RegistryErrorKind>,
    #[source]
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl fmt::Display for RegistryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.action)?;
        if !self.image.is_empty() {
            write!(f, " `{}`", self.image)?;
        }
        if !self.registry.is_empty() {
            write!(f, " at `{}`", self.registry)?;
        }
        write!(f, ": {}", self.kind)
    }
}

/// The kinds of failures with a registry.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryErrorKind {
    /// The registry wants (other) credentials, or the user may not do this (401, 403).
    #[error("access is denied{}", said(.message))]
    Unauthorized {
        /// The HTTP status.
        status: u16,
        /// The registry's words, escaped and bounded.
        message: String,
        /// Whether credentials were sent.
        logged_in: bool,
    },
    /// The image, tag, blob or repository is not there (404).
    #[error("it is not there{}", said(.message))]
    NotFound {
        /// The registry's words, escaped and bounded.
        message: String,
    },
    /// The registry wants fewer requests (429).
    #[error("the registry limits how often it is asked{}", said(.message))]
    RateLimited {
        /// The registry's words, escaped and bounded.
        message: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// Another answer than the one that was wanted.
    #[error("the registry answers with status {status}{}", said(.message))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The registry's words, escaped and bounded.
        message: String,
        /// How long the registry asks to wait.
        retry_after: Option<Duration>,
    },
    /// There was no answer: host name, connection, TLS, time-out, redirect.
    #[error("{0}")]
    Transport(TransportFailure),
    /// The bytes are not those that the digest names.
    #[error("the registry sent other bytes: want {wanted}, got {got}")]
    Digest {
        /// The digest asked for.
        wanted: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// There are more or fewer bytes than the descriptor says.
    #[error("the registry sent {got} bytes or more where {wanted} are right")]
    Size {
        /// The size in bytes that the descriptor says.
        wanted: u64,
        /// How many bytes came, or were announced.
        got: u64,
    },
    /// The registry's answer makes no sense.
    #[error("the registry's answer cannot be used: {0}")]
    Answer(String),
    /// No image of the index is for the platform.
    #[error("there is no image for `{wanted}`; there are images for {}", list(.available))]
    Platform {
        /// The platform asked for.
        wanted: Platform,
        /// The platforms that there are images for.
        available: Vec<Platform>,
    },
    /// Credentials could not be had.
    #[error("credentials cannot be read")]
    Credentials,
    /// The bytes to push could not be read.
    #[error("the bytes to push cannot be read")]
    Source,
    /// The fetched bytes could not be stored.
    #[error("the fetched bytes cannot be stored")]
    Sink,
    /// What was to be pushed contradicts itself.
    #[error("{0}")]
    Content(String),
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

fn list(platforms: &[Platform]) -> String {
    if platforms.is_empty() {
        return "no platform".to_owned();
    }
    platforms.iter().map(|platform| format!("`{platform}`")).collect::<Vec<_>>().join(", ")
}

impl RegistryError {
    pub(super) fn new(kind: RegistryErrorKind) -> Self {
        let (image, registry) = (String::new(), String::new());
        Self { action: Action::Configure, image, registry, kind: Box::new(kind), source: None }
    }

    pub(super) fn answer(reason: impl Into<String>) -> Self {
        Self::new(RegistryErrorKind::Answer(reason.into()))
    }

    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what was being done, unless something closer already did.
    pub(super) fn during(mut self, action: Action, image: String, registry: &str) -> Self {
        if self.registry.is_empty() {
            self.registry = registry.to_owned();
            self.image = image;
            if self.action == Action::Configure {
                self.action = action;
            }
        }
        self
    }

    pub(super) fn logging_in(mut self) -> Self {
        self.action = Action::LogIn;
        self
    }

    /// The HTTP status, where the registry answered with one that is the error.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match &*self.kind {
            RegistryErrorKind::Unauthorized { status, .. } | RegistryErrorKind::Status { status, .. } => Some(*status),
            RegistryErrorKind::NotFound { .. } => Some(404),
            RegistryErrorKind::RateLimited { .. } => Some(429),
            _ => None,
        }
    }

    /// Whether the image, tag or blob is simply not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(*self.kind, RegistryErrorKind::NotFound { .. })
    }

    /// Whether nobody was asked, because the caller forbids it.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        matches!(*self.kind, RegistryErrorKind::Transport(TransportFailure::Offline))
    }
}

impl From<TransportError> for RegistryError {
    fn from(mut error: TransportError) -> Self {
        let source = error.source.take();
        let kind = match error.failure {
            TransportFailure::Cancelled => RegistryErrorKind::Cancelled,
            TransportFailure::Payload => RegistryErrorKind::Source,
            failure => RegistryErrorKind::Transport(failure),
        };
        Self { source, ..Self::new(kind) }
    }
}

impl From<CredentialError> for RegistryError {
    fn from(error: CredentialError) -> Self {
        Self::new(RegistryErrorKind::Credentials).caused_by(error).logging_in()
    }
}

impl Passing for RegistryError {
    fn passing(&self) -> Option<Option<Duration>> {
        match &*self.kind {
            RegistryErrorKind::RateLimited { retry_after, .. } => Some(*retry_after),
            RegistryErrorKind::Status { status: 408 | 500 | 502..=504, retry_after, .. } => Some(*retry_after),
            RegistryErrorKind::Transport(
                TransportFailure::Timeout | TransportFailure::Connection | TransportFailure::Refused,
            ) => Some(None),
            RegistryErrorKind::Transport(TransportFailure::Resolve) => {
                // Only a name server that is away for a moment is worth asking again.
                self.source.as_ref().is_some_and(|source| source.to_string().contains("emporary")).then_some(None)
            }
            _ => None,
        }
    }

    fn is_unlikely_to_pass(&self) -> bool {
        matches!(*self.kind, RegistryErrorKind::Transport(TransportFailure::Refused | TransportFailure::Resolve))
    }

    fn cancelled(self) -> Self {
        Self { kind: Box::new(RegistryErrorKind::Cancelled), source: None, ..self }
    }

    fn line(&self) -> String {
        // What was being done is only known further out.
        match self.action {
            Action::Configure => format!("a request to a registry failed: {}", self.kind),
            _ => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_request_is_not_called_another_action() {
        let refused = || RegistryError::new(RegistryErrorKind::Transport(TransportFailure::Refused));
        assert_eq!(refused().line(), "a request to a registry failed: the connection was refused");
        let known = refused().during(Action::Resolve, "a/b:1".to_owned(), "localhost:5000");
        assert_eq!(known.line(), "cannot look up `a/b:1` at `localhost:5000`: the connection was refused");
    }
}
