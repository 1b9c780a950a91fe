//! Reading a whole tree, wherever it is: a build context, a stack of layers, an unpacked archive.

use std::io;

use super::{Content, Entry, TreePath};

/// The BLAKE3 digest of a file's bytes: rbuild's own key for contents, never written into an image.
pub type ContentDigest = blake3::Hash;

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// A system call failed.
    #[error("could not {action} `{path}`")]
    Io {
        /// What was tried: `read`, `list`.
        action: &'static str,
        /// The path, as a user knows it.
        path: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Following symbolic links led in a circle, or through too many of them.
    #[error("too many symbolic links in `{path}`")]
    LinkLoop {
        /// The path that was resolved.
        path: String,
    },
    /// A part of the path is no directory.
    #[error("`{path}` is not a directory")]
    NotADirectory {
        /// The part.
        path: String,
    },
    /// A file is larger than what its use can need.
    #[error("`{path}` has {size} bytes, more than the {limit} that are read of it")]
    TooLarge {
        /// The file.
        path: String,
        /// Its size in bytes.
        size: u64,
        /// The most that is read, in bytes.
        limit: u64,
    },
}

/// A tree that can be looked into. Ignored and removed entries are not there.
///
/// Nothing here follows symbolic links. Entries are never whiteouts, and a further name of a file is given as that
/// file, with its metadata; [`TreeView::link_id`] tells which names belong together.
pub trait TreeView: Send + Sync {
    /// The entry of a path, or `None` where there is none. The root always exists.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError>;

    /// The entries of a directory, sorted; empty where the path is no directory.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError>;

    /// Where the bytes of a regular file come from.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn content(&self, path: &TreePath) -> Result<Content, TreeError>;

    /// The digest of a regular file's bytes.
    ///
    /// # Errors
    /// When the file can't be read.
    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError>;

    /// The same number for all names of one regular file that has several, `None` for one with a single name.
    ///
    /// # Errors
    /// When the tree can't be read.
    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError>;
}
