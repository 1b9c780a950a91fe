//! What an archive has made of a layer so far, in memory.
//!
//! Members are applied in their order, the way a reader would that extracts them one by one on top of lower layers it
//! can't see: the last of several with one name stays, something put over a removed or replaced path hides what lower
//! layers have there, and a parent that is a symbolic link of this layer is followed inside the layer.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::{ContentDigest, Entry, Metadata, Node, Tree, TreeEntry, TreePath};

/// As many links as the kernel follows in one path.
const MOST_LINKS: u32 = 40;

/// What is at a path: a file's data may have several names.
#[derive(Debug, Clone)]
enum Placed {
    File(usize),
    Other(Node, Metadata),
}

#[derive(Debug)]
struct FileData {
    size: u64,
    /// Known when all of the content was read.
    digest: Option<ContentDigest>,
    metadata: Metadata,
}

/// What has to go from a path before something can be put there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// Nothing is there.
    Free,
    /// A directory is there, and another one is to be put there: they are one.
    SameDirectory,
    /// What is there, and all below it, has to be removed.
    Remove,
}

/// What a hard link's target is.
#[derive(Debug, Clone)]
pub(super) enum LinkTarget {
    /// A regular file: the link is a further name of it.
    File,
    /// Something else that may have several names; the layer gets a second one like it.
    Copy(Node, Metadata),
}

/// The entries so far.
#[derive(Debug, Default)]
pub(super) struct LayerState {
    entries: BTreeMap<TreePath, Placed>,
    files: Vec<FileData>,
    /// The parent that was resolved last, as written, until something else than a file comes.
    last_parent: Option<(Vec<u8>, TreePath)>,
}

impl LayerState {
    /// The path of a directory as written, with the links of this layer followed; `..` in links never leaves the root.
    ///
    /// Removed directories on the way come into being again, empty: those are given too.
    pub(super) fn resolve(&mut self, directory: &[u8]) -> Result<(TreePath, Vec<TreePath>), &'static str> {
        if let Some((written, resolved)) = &self.last_parent
            && written == directory
        {
            return Ok((resolved.clone(), Vec::new()));
        }
        let mut todo: Vec<Vec<u8>> = names(directory).rev().map(<[u8]>::to_vec).collect();
        let mut found = TreePath::root();
        let mut revived = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                found = found.parent().unwrap_or_default();
                continue;
            }
            let next = found.join(&name);
            match self.entries.get(&next) {
                Some(Placed::Other(Node::Symlink { target }, _)) => {
                    links += 1;
                    if links > MOST_LINKS {
                        return Err("too many symbolic links lead to it");
                    }
                    if target.starts_with(b"/") {
                        found = TreePath::root();
                    }
                    todo.extend(names(target).rev().map(<[u8]>::to_vec));
                    continue;
                }
                Some(Placed::Other(Node::Whiteout, _)) => {
                    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
                    self.entries.insert(next.clone(), Placed::Other(Node::Directory { opaque: true }, metadata));
                    revived.push(next.clone());
                }
                None | Some(Placed::Other(Node::Directory { .. }, _)) => {}
                Some(_) => return Err("what it is in is no directory"),
            }
            found = next;
        }
        self.last_parent = Some((directory.to_vec(), found.clone()));
        Ok((found, revived))
    }

    /// What putting a node at a path means for what is there.
    pub(super) fn before(&self, path: &TreePath, directory: bool) -> Before {
        match self.entries.get(path) {
            Some(Placed::Other(Node::Directory { .. }, _)) if directory => Before::SameDirectory,
            Some(_) => Before::Remove,
            None if !self.has_below(path) => Before::Free,
            None if directory => Before::SameDirectory,
            None => Before::Remove,
        }
    }

    /// Puts a directory; it hides lower layers' contents if it takes the place of something else in this layer.
    pub(super) fn put_directory(&mut self, path: &TreePath, metadata: Metadata) {
        let opaque = match self.entries.get(path) {
            Some(Placed::Other(Node::Directory { opaque }, _)) => *opaque,
            found => found.is_some(),
        };
        self.put(path.clone(), Placed::Other(Node::Directory { opaque }, metadata));
    }

    /// Makes a directory opaque; it comes into being where it was only implied.
    pub(super) fn put_opaque(&mut self, path: &TreePath) {
        let metadata = match self.entries.get(path) {
            Some(Placed::Other(Node::Directory { .. }, metadata)) => metadata.clone(),
            _ => Metadata { mode: 0o755, ..Metadata::default() },
        };
        self.put(path.clone(), Placed::Other(Node::Directory { opaque: true }, metadata));
    }

    /// Puts a regular file; gives the number by which to tell its digest.
    pub(super) fn put_file(&mut self, path: &TreePath, size: u64, metadata: Metadata) -> usize {
        let number = self.files.len();
        self.files.push(FileData { size, digest: None, metadata });
        self.replace(path, Placed::File(number));
        number
    }

    /// Tells the digest of a regular file.
    pub(super) fn set_digest(&mut self, number: usize, digest: ContentDigest) {
        self.files[number].digest = Some(digest);
    }

    /// Puts anything but directories, regular files and hard links.
    pub(super) fn put_other(&mut self, path: &TreePath, node: Node, metadata: Metadata) {
        self.replace(path, Placed::Other(node, metadata));
        self.last_parent = None;
    }

    /// Puts a further name of the file at `target`.
    pub(super) fn put_link(&mut self, path: &TreePath, target: &TreePath) {
        if let Some(file @ Placed::File(_)) = self.entries.get(target).cloned() {
            self.replace(path, file);
        }
    }

    /// What a hard link to a path would be.
    pub(super) fn link_target(&self, target: &TreePath) -> Result<LinkTarget, &'static str> {
        match self.entries.get(target) {
            Some(Placed::File(_)) => Ok(LinkTarget::File),
            Some(Placed::Other(Node::Directory { .. } | Node::Whiteout, _)) => Err("it is a hard link to no file"),
            Some(Placed::Other(node, metadata)) => Ok(LinkTarget::Copy(node.clone(), metadata.clone())),
            None => Err("it is a hard link to what is not in the layer"),
        }
    }

    /// The layer's directories with their metadata, sorted; those without an entry are `None`.
    pub(super) fn directories(&self) -> BTreeMap<TreePath, Option<(bool, &Metadata)>> {
        let mut directories = BTreeMap::from([(TreePath::root(), None)]);
        for path in self.implied_directories() {
            directories.insert(path, None);
        }
        for (path, placed) in &self.entries {
            if let Placed::Other(Node::Directory { opaque }, metadata) = placed {
                directories.insert(path.clone(), Some((*opaque, metadata)));
            }
        }
        directories
    }

    /// Directories that have entries below them but none of their own.
    pub(super) fn implied_directories(&self) -> BTreeSet<TreePath> {
        let mut implied = BTreeSet::new();
        let mut last = None;
        for path in self.entries.keys() {
            let parent = path.parent();
            if parent != last {
                implied.extend(path.ancestors().filter(|ancestor| !self.entries.contains_key(ancestor)));
                last = parent;
            }
        }
        implied
    }

    /// The record of the layer. Of a file's names, the first in order is the file, and the others are hard links to it.
    pub(super) fn finish(self) -> Tree {
        let mut first_names: BTreeMap<usize, TreePath> = BTreeMap::new();
        let files = &self.files;
        let entry = |(path, placed): (TreePath, Placed)| match placed {
            Placed::Other(node, metadata) => TreeEntry { entry: Entry { path, node, metadata }, digest: None },
            Placed::File(index) => match first_names.get(&index) {
                Some(first) => {
                    let node = Node::HardLink { target: first.clone() };
                    TreeEntry { entry: Entry { path, node, metadata: Metadata::default() }, digest: None }
                }
                None => {
                    first_names.insert(index, path.clone());
                    let FileData { size, digest, metadata } = &files[index];
                    let node = Node::File { size: *size };
                    TreeEntry { entry: Entry { path, node, metadata: metadata.clone() }, digest: *digest }
                }
            },
        };
        Tree::build(self.entries.into_iter().map(entry).collect())
    }

    fn replace(&mut self, path: &TreePath, placed: Placed) {
        let below: Vec<_> = self.below(path).cloned().collect();
        for path in below {
            self.entries.remove(&path);
        }
        self.put(path.clone(), placed);
    }

    fn put(&mut self, path: TreePath, placed: Placed) {
        if self.entries.insert(path, placed).is_some() {
            self.last_parent = None;
        }
    }

    fn has_below(&self, path: &TreePath) -> bool {
        self.below(path).next().is_some()
    }

    fn below(&self, path: &TreePath) -> impl Iterator<Item = &TreePath> {
        let bounds = (std::ops::Bound::Excluded(path.clone()), std::ops::Bound::Unbounded);
        self.entries.range(bounds).map(|(found, _)| found).take_while(move |found| found.starts_with(path))
    }
}

fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|name| !matches!(*name, b"" | b"."))
}
