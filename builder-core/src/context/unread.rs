//! A context of which no digests are known yet, copied before it is digested.
//!
//! Whoever copies files reads them anyway. [`UnreadDir`] shows a context without reading any file, so that its files can be
//! copied at once; the digests that copying them gives are kept in memory, each for the file in the state in which it
//! was opened. A later look at the context itself finds them there, and reads only what was not copied.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::directory::ContextDir;
use super::visit::Contents;
use crate::tree::{Content, ContentDigest, Entry, Take, TreeError, TreePath, TreeView, Wants};

/// Digests of more files are not kept: these take some 20 MB.
const MOST_KEPT: usize = 200_000;

/// Digests of files that were copied.
#[derive(Default)]
pub(super) struct CopiedDigests {
    /// By a digest of path and stamp; `None` until somebody wants them.
    kept: Mutex<Option<HashMap<[u8; 16], ContentDigest>>>,
}

impl CopiedDigests {
    pub(super) fn keep_from_now(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default();
    }

    pub(super) fn note(&self, path: &TreePath, stamp: u64, digest: ContentDigest) {
        if let Some(kept) = &mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner)
            && kept.len() < MOST_KEPT
        {
            kept.insert(name_of(path, stamp), digest);
        }
    }

    /// The digest of a file as it was in the state that has this stamp.
    pub(super) fn find(&self, path: impl FnOnce() -> TreePath, stamp: impl FnOnce() -> u64) -> Option<ContentDigest> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|kept| !kept.is_empty())?.get(&name_of(&path(), stamp())).copied()
    }
}

fn name_of(path: &TreePath, stamp: u64) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&stamp.to_le_bytes()).update(path.as_bytes());
    *hasher.finalize().as_bytes().first_chunk().expect("a digest has more bytes")
}

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
        self.folder.copied.keep_from_now();
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
