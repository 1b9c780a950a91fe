//! What can go wrong with a snapshot.

use std::io;

use crate::tree::{TreeError, TreePath};

/// A snapshot could not be made or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The tree before or after the step can't be read.
    #[error("could not read the file tree of a step")]
    Tree(#[from] TreeError),
    /// A step made a name that layers use to say that something is removed (OCI image spec, "Whiteouts").
    #[error("the step made `{path}`, a name that is reserved in image layers")]
    ReservedName {
        /// The name.
        path: TreePath,
    },
    /// Something in the upper directory points to another place: rbuild's overlay mounts never make such a thing.
    #[error("the overlay's upper directory refers to another place at `{path}`")]
    Redirected {
        /// Where.
        path: TreePath,
    },
    /// A step made directories that are nested too deeply.
    #[error("the step made a path of more than {limit} bytes below `{path}`")]
    PathTooLong {
        /// The deepest directory that was read.
        path: TreePath,
        /// The limit in bytes.
        limit: usize,
    },
    /// A mount can't be placed on what is there.
    #[error("can't mount a {wanted} on `{path}`: there is a {found}")]
    MountPoint {
        /// Where, with links resolved.
        path: TreePath,
        /// `directory` or `file`.
        wanted: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The list of changes can't be put by.
    #[error("could not keep the list of what the step changed")]
    Keep {
        /// Why.
        source: io::Error,
    },
    /// Something could not be written to disk.
    #[error("could not {action} `{path}`")]
    Write {
        /// What was tried.
        action: &'static str,
        /// The path on disk.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
}
