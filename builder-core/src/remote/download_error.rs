//! What can go wrong with one file over HTTP.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::Digest;
use crate::registry::transport::{Passing, TransportFailure};

/// A file could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadError {
    /// The server answered with something else than the file.
    #[error("cannot fetch `{url}`: the server answers with status {status}{}", said(.message))]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words, escaped and bounded.
        message: String,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// There was no answer, or it broke off.
    #[error("cannot fetch `{url}`: {failure}")]
    Transport {
        /// The address.
        url: String,
        /// What happened.
        failure: TransportFailure,
        /// Why.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The file is another than the checksum says.
    #[error("`{url}` has the digest {got} and not {wanted}")]
    Checksum {
        /// The address.
        url: String,
        /// The digest asked for.
        wanted: Digest,
        /// The digest that it has.
        got: Digest,
    },
    /// The file is too large.
    #[error("`{url}` has more than {max} bytes")]
    Size {
        /// The address.
        url: String,
        /// The limit in bytes.
        max: u64,
    },
    /// The server sends it in another form than asked for.
    #[error("`{url}` comes encoded as `{encoding}`, which was not asked for")]
    Encoding {
        /// The address.
        url: String,
        /// The encoding.
        encoding: String,
    },
    /// The authorization is no header.
    #[error("the authorization for `{url}` is not a header's value")]
    Authorization {
        /// The address.
        url: String,
    },
    /// The temporary file could not be written.
    #[error("cannot write a file in `{}`", .folder.display())]
    Write {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl Passing for DownloadError {
    fn passing(&self) -> Option<Option<Duration>> {
        match self {
            Self::Status { status: 408 | 429 | 500 | 502..=504, retry_after, .. } => Some(*retry_after),
            Self::Transport {
                failure: TransportFailure::Timeout | TransportFailure::Connection | TransportFailure::Refused,
                ..
            } => Some(None),
            _ => None,
        }
    }

    fn is_unlikely_to_pass(&self) -> bool {
        matches!(self, Self::Transport { failure: TransportFailure::Refused | TransportFailure::Resolve, .. })
    }

    fn cancelled(self) -> Self {
        match self {
            Self::Status { url, .. } | Self::Transport { url, .. } => {
                Self::Transport { url, failure: TransportFailure::Cancelled, source: None }
            }
            other => other,
        }
    }

    fn line(&self) -> String {
        self.to_string()
    }
}
