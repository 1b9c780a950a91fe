//! Files below a root as the contents of entries.

use std::fs::File;
use std::io;

use super::Root;
use crate::tree::{ContentDigest, OpenContent, TreePath};

impl OpenContent for Root {
    fn open(&self, path: &TreePath, _: u64) -> io::Result<File> {
        self.open_file(path).map_err(|error| match error {
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
