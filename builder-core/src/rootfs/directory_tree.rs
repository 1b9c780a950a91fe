//! A plain directory as a tree.

use std::sync::Arc;

use super::{Root, digest_file};
use crate::tree::{Content, ContentDigest, Entry, Node, OpenContent, SourceFile, TreeError, TreePath, TreeView};

/// The tree of a directory as it is: an unpacked archive, a checkout, a folder of the host. Sockets are left out.
#[derive(Clone)]
pub struct DirectoryTree {
    root: Root,
    opener: Arc<dyn OpenContent>,
}

impl DirectoryTree {
    /// Looks into an open directory.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { opener: Arc::new(root.clone()), root }
    }

    /// The directory.
    #[must_use]
    pub const fn root(&self) -> &Root {
        &self.root
    }
}

impl TreeView for DirectoryTree {
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        self.root.metadata(path)
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError> {
        self.root.read_dir(path)
    }

    fn content(&self, path: &TreePath) -> Result<Content, TreeError> {
        Ok(match self.root.metadata(path)?.map(|entry| entry.node) {
            Some(Node::File { size: 1.. }) => Content::Source(SourceFile {
                opener: Arc::clone(&self.opener),
                path: path.clone(),
                stamp: 0,
                mark: None,
            }),
            _ => Content::None,
        })
    }

    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError> {
        let file = self.root.open_file(path)?;
        digest_file(&file).map_err(|error| self.root.error("read", path, error))
    }

    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError> {
        Ok(self.root.status(path)?.filter(super::Status::is_linked).map(|status| status.inode.link_id()))
    }
}
