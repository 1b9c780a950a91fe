//! A tree in memory: the files of heredocs, of downloads and of archives.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use super::spool::hash_content;
use crate::tree::{Content, ContentDigest, Entry, Metadata, Node, Timestamp, TreeError, TreePath, TreeView};

/// A tree whose entries are held in memory; the contents of large files may be elsewhere.
pub struct MemoryTree {
    root: Metadata,
    entries: BTreeMap<TreePath, Stored>,
    children: BTreeMap<TreePath, BTreeSet<Vec<u8>>>,
}

struct Stored {
    entry: Entry,
    content: Content,
    digest: OnceLock<ContentDigest>,
    link: Option<u64>,
}

impl Default for MemoryTree {
    fn default() -> Self {
        let root = Metadata { mode: 0o755, ..Metadata::default() };
        Self { root, entries: BTreeMap::new(), children: BTreeMap::new() }
    }
}

impl MemoryTree {
    /// Makes a tree without entries.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a regular file of root's, as a heredoc makes one (mode 0644), and the directories above it.
    pub fn add_file(&mut self, path: &TreePath, bytes: impl Into<Arc<[u8]>>, mode: u32, modified: Timestamp) {
        let bytes = bytes.into();
        let entry = Entry {
            path: path.clone(),
            node: Node::File { size: bytes.len() as u64 },
            metadata: Metadata { mode, modified, ..Metadata::default() },
        };
        self.add(entry, Content::Bytes(bytes), None);
    }

    /// Adds an entry, or replaces it. Directories above it that are missing are made with mode 0755. Names of one file
    /// have the same `link`. The entry must be neither a hard link nor a whiteout.
    pub fn add(&mut self, entry: Entry, content: Content, link: Option<u64>) {
        debug_assert!(!matches!(entry.node, Node::HardLink { .. } | Node::Whiteout));
        let path = entry.path.clone();
        if path.is_root() {
            self.root = entry.metadata;
            return;
        }
        let parent = path.parent().unwrap_or_default();
        if !parent.is_root() && !self.entries.contains_key(&parent) {
            let metadata = Metadata { mode: 0o755, modified: entry.metadata.modified, ..Metadata::default() };
            self.add(
                Entry { path: parent.clone(), node: Node::Directory { opaque: false }, metadata },
                Content::None,
                None,
            );
        }
        self.children.entry(parent).or_default().insert(path.file_name().unwrap_or_default().to_vec());
        self.entries.insert(path, Stored { entry, content, digest: OnceLock::new(), link });
    }
}

impl MemoryTree {
    /// As [`Self::add`], for a file of one name whose content's digest is known.
    pub fn add_hashed(&mut self, entry: Entry, content: Content, digest: ContentDigest) {
        let path = entry.path.clone();
        self.add(entry, content, None);
        if let Some(stored) = self.entries.get_mut(&path) {
            stored.digest = digest.into();
        }
    }
}

impl TreeView for MemoryTree {
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        if path.is_root() {
            let node = Node::Directory { opaque: false };
            return Ok(Some(Entry { path: path.clone(), node, metadata: self.root.clone() }));
        }
        Ok(self.entries.get(path).map(|stored| stored.entry.clone()))
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError> {
        let names = self.children.get(path).into_iter().flatten();
        Ok(names.filter_map(|name| self.entries.get(&path.join(name))).map(|stored| stored.entry.clone()).collect())
    }

    fn content(&self, path: &TreePath) -> Result<Content, TreeError> {
        Ok(self.entries.get(path).map_or(Content::None, |stored| stored.content.clone()))
    }

    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError> {
        let Some(stored) = self.entries.get(path) else { return Ok(blake3::hash(b"")) };
        if let Some(digest) = stored.digest.get() {
            return Ok(*digest);
        }
        let digest = hash_content(&stored.content).map_err(|source| TreeError::Io {
            action: "read",
            path: path.to_string(),
            source,
        })?;
        Ok(*stored.digest.get_or_init(|| digest))
    }

    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError> {
        Ok(self.entries.get(path).and_then(|stored| stored.link))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_what_was_added() {
        let mut tree = MemoryTree::new();
        tree.add_file(&TreePath::clean(b"a/b/f"), *b"text", 0o644, Timestamp::from_seconds(5));
        tree.add_file(&TreePath::clean(b"a.txt"), *b"", 0o600, Timestamp::default());
        let names = |path: &str| -> Vec<String> {
            tree.read_dir(&TreePath::clean(path.as_bytes())).unwrap().iter().map(|e| e.path.to_string()).collect()
        };
        assert_eq!(names(""), ["/a", "/a.txt"]);
        assert_eq!(names("a"), ["/a/b"]);
        assert!(names("a/b/f").is_empty());
        let file = TreePath::clean(b"a/b/f");
        assert_eq!(tree.get(&file).unwrap().unwrap().node, Node::File { size: 4 });
        assert_eq!(tree.content_digest(&file).unwrap(), blake3::hash(b"text"));
        assert!(tree.get(&TreePath::root()).unwrap().unwrap().node.is_directory());
    }
}
