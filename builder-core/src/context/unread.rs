//! A context of which no digests are known yet, copied before it is digested.
//!
//! Whoever copies files reads them anyway. [`UnreadDir`] shows a context without reading any file, so that its files can be
//! copied at once; the digests that copying them gives are kept, each for the file in the state in which it
//! was opened (`copied.rs`). A later look at the context itself finds them there, and reads only what was not copied.

use std::sync::Arc;

use super::directory::ContextDir;
use super::visit::Contents;
use crate::tree::{Content, ContentDigest, Entry, Take, TreeError, TreePath, TreeView, Wants};

/// A context in which every file has the digest of an empty one.
pub struct UnreadDir {
    context: Arc<ContextDir>,
}

impl ContextDir {
    /// Whether no earlier build left digests of the folder's files.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.cache.is_new()
    }

    /// Shows the context without reading files. From now on it keeps the digests of those that are copied.
    #[must_use]
    pub fn unread(self: &Arc<Self>) -> UnreadDir {
        self.folder.copied.keep_from_now(self.cache.folder());
        UnreadDir { context: Arc::clone(self) }
    }
}

impl TreeView for UnreadDir {
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        self.context.get(path)
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError> {
        self.context.read_dir(path)
    }

    fn content(&self, path: &TreePath) -> Result<Content, TreeError> {
        self.context.content(path)
    }

    fn content_digest(&self, _: &TreePath) -> Result<ContentDigest, TreeError> {
        Ok(blake3::hash(b""))
    }

    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError> {
        self.context.link_id(path)
    }

    fn visit(&self, directory: &TreePath, wants: &Wants<'_>, take: &mut Take<'_>) -> Result<(), TreeError> {
        self.context.visit_directory(directory, Contents::LeftOut, wants, take)
    }
}
