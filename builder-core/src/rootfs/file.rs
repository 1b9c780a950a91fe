//! A file below a root as the content of an entry.

use std::fs::File;
use std::io;

use super::Root;
use crate::tree::{ContentDigest, OpenContent, TreePath};

/// A regular file of a tree, opened when its bytes are wanted.
#[derive(Debug, Clone)]
pub struct RootFile {
    root: Root,
    path: TreePath,
}

impl RootFile {
    /// Names a file. Nothing is opened yet.
    #[must_use]
    pub const fn new(root: Root, path: TreePath) -> Self {
        Self { root, path }
    }
}

impl OpenContent for RootFile {
    fn open(&self) -> io::Result<File> {
        self.root.open_file(&self.path).map_err(|error| match error {
            crate::tree::TreeError::Io { source, .. } => source,
            error => io::Error::other(error),
        })
    }
}

/// Digests everything that is left in an open file.
///
/// # Errors
/// When reading fails.
pub fn digest_file(file: &File) -> io::Result<ContentDigest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(hasher.finalize())
}
