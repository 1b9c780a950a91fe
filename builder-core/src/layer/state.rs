//! What an archive has made of a layer so far, in memory.
//!
//! Members are applied in their order, the way a reader would that extracts them one by one on top of lower layers it
//! can't see: the last of several with one name stays, something put over a removed or replaced path hides what lower
//! layers have there, and a parent that is a symbolic link of this layer is followed inside the layer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::Path;

use crate::tree::{ContentDigest, Entry, Metadata, Node, Timestamp, Tree, TreeBuilder, TreeEntry, TreePath};

/// As many links as the kernel follows in one path.
const MOST_LINKS: u32 = 40;

/// What is at a path: a file's data may have several names.
#[derive(Debug, Clone)]
enum Placed {
    File(u32),
    Other(Box<(Node, Metadata)>),
}

/// A regular file. Its owner, mode and attributes, which many files have in common, are in a table.
#[derive(Debug)]
struct FileData {
    size: u64,
    /// Known when all of the content was read.
    digest: Option<ContentDigest>,
    modified: Timestamp,
    owner: usize,
}

impl Placed {
    fn other(node: Node, metadata: Metadata) -> Self {
        Self::Other(Box::new((node, metadata)))
    }

    /// What it is, unless it is a regular file.
    fn node(&self) -> Option<&Node> {
        if let Self::Other(other) = self { Some(&other.0) } else { None }
    }

    fn directory(&self) -> Option<(bool, &Metadata)> {
        match self {
            Self::Other(other) => match &**other {
                (Node::Directory { opaque }, metadata) => Some((*opaque, metadata)),
                _ => None,
            },
            Self::File(_) => None,
        }
    }
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
    /// Metadata of files without the time.
    owners: Vec<Metadata>,
    owner_numbers: HashMap<Metadata, usize>,
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
            match self.entries.get(&next).map(Placed::node) {
                Some(Some(Node::Symlink { target })) => {
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
                Some(Some(Node::Whiteout)) => {
                    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
                    self.entries.insert(next.clone(), Placed::other(Node::Directory { opaque: true }, metadata));
                    revived.push(next.clone());
                }
                None | Some(Some(Node::Directory { .. })) => {}
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
            Some(found) if directory && found.directory().is_some() => Before::SameDirectory,
            Some(_) => Before::Remove,
            None if !self.has_below(path) => Before::Free,
            None if directory => Before::SameDirectory,
            None => Before::Remove,
        }
    }

    /// Puts a directory; it hides lower layers' contents if it takes the place of something else in this layer.
    pub(super) fn put_directory(&mut self, path: &TreePath, metadata: Metadata) {
        let found = self.entries.get(path);
        let opaque = found.is_some_and(|found| found.directory().is_none_or(|(opaque, _)| opaque));
        self.put(path.clone(), Placed::other(Node::Directory { opaque }, metadata));
    }

    /// Makes a directory opaque; it comes into being where it was only implied.
    pub(super) fn put_opaque(&mut self, path: &TreePath) {
        let metadata = match self.entries.get(path).and_then(Placed::directory) {
            Some((_, metadata)) => metadata.clone(),
            None => Metadata { mode: 0o755, ..Metadata::default() },
        };
        self.put(path.clone(), Placed::other(Node::Directory { opaque: true }, metadata));
    }

    /// Puts a regular file; gives the number by which to tell its digest.
    pub(super) fn put_file(&mut self, path: &TreePath, size: u64, metadata: Metadata) -> usize {
        let number = u32::try_from(self.files.len()).expect("the limit of entries is far below");
        let modified = metadata.modified;
        let owner = Metadata { modified: Timestamp::default(), ..metadata };
        let owner = *self.owner_numbers.entry(owner).or_insert_with_key(|owner| {
            self.owners.push(owner.clone());
            self.owners.len() - 1
        });
        self.files.push(FileData { size, digest: None, modified, owner });
        self.replace(path, Placed::File(number));
        number as usize
    }

    /// Tells the digest of a regular file.
    pub(super) fn set_digest(&mut self, number: usize, digest: ContentDigest) {
        self.files[number].digest = Some(digest);
    }

    /// Puts anything but directories, regular files and hard links.
    pub(super) fn put_other(&mut self, path: &TreePath, node: Node, metadata: Metadata) {
        self.replace(path, Placed::other(node, metadata));
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
            Some(Placed::Other(other)) => match &**other {
                (Node::Directory { .. } | Node::Whiteout, _) => Err("it is a hard link to no file"),
                (node, metadata) => Ok(LinkTarget::Copy(node.clone(), metadata.clone())),
            },
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
            if let Some(directory) = placed.directory() {
                directories.insert(path.clone(), Some(directory));
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

    /// The record of the layer, in a file of `folder` where it is large. Of a file's names, the first in order is the
    /// file, and the others are hard links to it.
    pub(super) fn finish(self, folder: Option<&Path>) -> io::Result<Tree> {
        let Self { entries, files, owners, .. } = self;
        // How many names each file has, up to two.
        let mut names = vec![0_u8; files.len()];
        for placed in entries.values() {
            if let Placed::File(number) = placed {
                names[*number as usize] = (names[*number as usize] + 1).min(2);
            }
        }
        let mut first_names: HashMap<u32, TreePath> = HashMap::new();
        let mut tree = TreeBuilder::new(folder);
        for (path, placed) in entries {
            let number = match placed {
                Placed::Other(other) => {
                    let (node, metadata) = *other;
                    tree.add(&TreeEntry { entry: Entry { path, node, metadata }, digest: None }, false)?;
                    continue;
                }
                Placed::File(number) => number,
            };
            if let Some(first) = first_names.get(&number) {
                let node = Node::HardLink { target: first.clone() };
                let entry = Entry { path, node, metadata: Metadata::default() };
                tree.add(&TreeEntry { entry, digest: None }, false)?;
                continue;
            }
            let has_links = names[number as usize] > 1;
            if has_links {
                first_names.insert(number, path.clone());
            }
            let FileData { size, digest, modified, owner } = files[number as usize];
            let metadata = Metadata { modified, ..owners[owner].clone() };
            let entry = Entry { path, node: Node::File { size }, metadata };
            tree.add(&TreeEntry { entry, digest }, has_links)?;
        }
        tree.finish()
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
