//! What can go wrong with a store.

use std::io;
use std::path::{Path, PathBuf};

use crate::oci::{DiffId, Digest};

/// Work on a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed.
    #[error("could not {action} `{}`", path.display())]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A newer rbuild made the store.
    #[error(
        "the store's `{}` says format `{found}`{}, but this rbuild knows only format {known}", path.display(),
        if features.is_empty() { String::new() } else { format!(" with `{}`", features.join("`, `")) }
    )]
    NewerFormat {
        /// The version file.
        path: PathBuf,
        /// The format that it names.
        found: String,
        /// Features that the store needs.
        features: Vec<String>,
        /// The newest format that this rbuild reads.
        known: u32,
    },
    /// The folder holds something else.
    #[error("`{}` is neither empty nor a store of rbuild", path.display())]
    NotAStore {
        /// The folder.
        path: PathBuf,
    },
    /// Other users could change the store.
    #[error("`{}` can't be a store: {reason}", path.display())]
    Unsafe {
        /// The folder or file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A blob is not in the store.
    #[error("the store has no blob `{digest}`")]
    BlobMissing {
        /// Its digest.
        digest: Digest,
    },
    /// A blob's bytes are not what its digest says. It was removed, so that it is made or fetched again.
    #[error("the blob `{digest}` in the store is damaged")]
    BlobCorrupt {
        /// Its digest.
        digest: Digest,
        /// What differs.
        source: io::Error,
    },
    /// A blob is not what was announced, so it was not stored.
    #[error("the blob to store as `{digest}` of {size} bytes has other content")]
    BlobMismatch {
        /// The digest that was announced.
        digest: Digest,
        /// The size in bytes that was announced.
        size: u64,
    },
    /// A blob is larger than its kind may be.
    #[error("the blob `{digest}` of {size} bytes is larger than the {limit} bytes allowed for it")]
    BlobTooLarge {
        /// Its digest.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The largest size in bytes.
        limit: u64,
    },
    /// A layer can be had from nowhere in the store: it must be made again.
    #[error("the store has lost the layer {diff_id}")]
    LayerLost {
        /// The layer.
        diff_id: DiffId,
    },
    /// A text can't name an object of the store.
    #[error("`{name}` is not a name for a {kind} in the store")]
    BadName {
        /// What was to be named.
        kind: &'static str,
        /// The text.
        name: String,
    },
    /// A build or another prune is running.
    #[error("the store `{}` is in use by a running build", path.display())]
    Busy {
        /// The store's folder.
        path: PathBuf,
    },
}

impl StoreError {
    /// Says what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Says what was tried on which path, for a failure of a direct system call.
    pub(super) fn errno(action: &'static str, path: &Path) -> impl FnOnce(rustix::io::Errno) -> Self + use<> {
        let path = path.to_owned();
        move |errno| Self::Io { action, path, source: errno.into() }
    }
}
