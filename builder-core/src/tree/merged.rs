//! A stack of layers seen as one tree, by the rules of overlayfs and of the OCI image spec's "Applying Changesets".
//!
//! Looked at from the top layer down:
//!
//! - a whiteout hides the path, and everything below it, in lower layers;
//! - anything that is no directory does so too;
//! - an opaque directory hides what lower layers have in it;
//! - other directories are merged, and have the metadata of the topmost one;
//! - a directory that a layer only implies (its archive names `a/b` and not `a`) is merged like one, but takes its
//!   metadata from below, or is `0755` and owned by root where nothing is below.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use super::record::Slot;
use super::{
    Content, ContentDigest, Entry, Metadata, Node, OpenContent, SourceFile, Tree, TreeEntry, TreeError, TreePath,
    TreeView,
};

/// One layer of a [`MergedTree`].
#[derive(Clone)]
pub struct TreeLayer {
    /// What the layer holds.
    pub tree: Arc<Tree>,
    /// Opens its files by their paths in this layer.
    pub files: Arc<dyn OpenContent>,
}

impl std::fmt::Debug for TreeLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TreeLayer").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// Layers on top of one another, seen as one tree. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct MergedTree {
    layers: Arc<[TreeLayer]>,
}

/// Where a visible entry is recorded.
#[derive(Debug, Clone, Copy)]
enum Place {
    Record { layer: usize, index: usize },
    Implied,
}

impl MergedTree {
    /// Stacks layers, the lowest first.
    #[must_use]
    pub fn new(layers: Vec<TreeLayer>) -> Self {
        Self { layers: layers.into() }
    }

    /// The layers, the lowest first.
    #[must_use]
    pub fn layers(&self) -> &[TreeLayer] {
        &self.layers
    }

    /// The entry of a path and all below it, sorted by path; empty where there is none.
    ///
    /// # Errors
    /// When the record of a layer can't be read.
    pub fn walk(&self, path: &TreePath) -> Result<Walk<'_>, TreeError> {
        let start = self.find(path)?;
        let below = match path.parent() {
            None => self.all_layers(),
            Some(parent) => self.layers_of_directory(&parent).map_err(unreadable)?,
        };
        Ok(Walk { tree: self, pending: vec![(below, start.into_iter().collect::<Vec<_>>().into_iter())] })
    }

    fn find(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        let Some(place) = self.locate(path).map_err(unreadable)? else { return Ok(None) };
        self.entry_at(path, place).map_err(unreadable)
    }

    /// The numbers of all layers, from the top.
    fn all_layers(&self) -> Vec<usize> {
        (0..self.layers.len()).rev().collect()
    }

    /// The layers, from the top, that have a part in the directory at a path; none where it is no directory.
    fn layers_of_directory(&self, path: &TreePath) -> io::Result<Vec<usize>> {
        let mut layers = self.layers_below(&self.all_layers(), &TreePath::root())?;
        for ancestor in path.ancestors() {
            layers = self.layers_below(&layers, &ancestor)?;
        }
        if path.is_root() { Ok(layers) } else { self.layers_below(&layers, path) }
    }

    /// Of the layers that have a part in the parent, those that have a part in the directory.
    fn layers_below(&self, parent: &[usize], path: &TreePath) -> io::Result<Vec<usize>> {
        let mut layers = Vec::new();
        for &layer in parent {
            let tree = &self.layers[layer].tree;
            match tree.slot(path)? {
                Slot::Absent => {}
                Slot::Implied => layers.push(layer),
                Slot::Record(index) => match tree.entry(index)?.map(|found| found.entry.node) {
                    Some(Node::Directory { opaque }) => {
                        layers.push(layer);
                        if opaque {
                            break;
                        }
                    }
                    _ => break,
                },
            }
        }
        Ok(layers)
    }

    fn locate(&self, path: &TreePath) -> io::Result<Option<Place>> {
        match path.parent() {
            Some(parent) => self.locate_in(&self.layers_of_directory(&parent)?, path),
            None => Ok(Some(self.locate_in(&self.all_layers(), path)?.unwrap_or(Place::Implied))),
        }
    }

    fn locate_in(&self, layers: &[usize], path: &TreePath) -> io::Result<Option<Place>> {
        let mut implied = false;
        for &layer in layers {
            let tree = &self.layers[layer].tree;
            match tree.slot(path)? {
                Slot::Absent => {}
                Slot::Implied => implied = true,
                Slot::Record(index) => match tree.entry(index)?.map(|found| found.entry.node) {
                    Some(Node::Directory { .. }) => return Ok(Some(Place::Record { layer, index })),
                    None | Some(Node::Whiteout) => break,
                    Some(_) if implied => break,
                    Some(_) => return Ok(Some(Place::Record { layer, index })),
                },
            }
        }
        Ok(implied.then_some(Place::Implied))
    }

    fn entry_at(&self, path: &TreePath, place: Place) -> io::Result<Option<Entry>> {
        Ok(match place {
            Place::Implied => Some(implied_directory(path)),
            Place::Record { layer, index } => {
                self.file_of(layer, index)?.map(|(_, found)| Entry { path: path.clone(), ..found.entry })
            }
        })
    }

    /// The record with a number, or the first name's where it is a further name of a file.
    fn file_of(&self, layer: usize, index: usize) -> io::Result<Option<(usize, TreeEntry)>> {
        let tree = &self.layers[layer].tree;
        let Some(found) = tree.entry(index)? else { return Ok(None) };
        let Node::HardLink { target } = &found.entry.node else { return Ok(Some((index, found))) };
        let Slot::Record(first) = tree.slot(target)? else { return Ok(None) };
        let file = tree.entry(first)?.filter(|file| matches!(file.entry.node, Node::File { .. }));
        Ok(file.map(|file| (first, file)))
    }

    fn entries_in(&self, layers: &[usize], directory: &TreePath) -> io::Result<Vec<Entry>> {
        let mut children: BTreeMap<TreePath, Place> = BTreeMap::new();
        // What a layer above says for good: lower layers' entries of these paths don't count.
        let mut settled: BTreeSet<TreePath> = BTreeSet::new();
        for &layer in layers {
            let tree = &self.layers[layer].tree;
            for child in tree.child_slots(directory)? {
                let (path, slot) = child?;
                let Slot::Record(index) = slot else {
                    if !settled.contains(&path) {
                        children.entry(path).or_insert(Place::Implied);
                    }
                    continue;
                };
                if !settled.insert(path.clone()) {
                    continue;
                }
                let visible = match tree.entry(index)?.map(|found| found.entry.node) {
                    Some(Node::Directory { .. }) => true,
                    None | Some(Node::Whiteout) => false,
                    Some(_) => !children.contains_key(&path),
                };
                if visible {
                    children.insert(path, Place::Record { layer, index });
                }
            }
        }
        children.into_iter().filter_map(|(path, place)| self.entry_at(&path, place).transpose()).collect()
    }

    fn regular_file(&self, path: &TreePath) -> Result<(usize, TreeEntry), TreeError> {
        let found = match self.locate(path).map_err(unreadable)? {
            Some(Place::Record { layer, index }) => {
                self.file_of(layer, index).map_err(unreadable)?.map(|(_, found)| (layer, found))
            }
            Some(Place::Implied) | None => None,
        };
        found.filter(|(_, found)| matches!(found.entry.node, Node::File { .. })).ok_or_else(|| TreeError::Io {
            action: "read",
            path: path.to_string(),
            source: io::Error::new(io::ErrorKind::NotFound, "there is no such regular file"),
        })
    }
}

impl TreeView for MergedTree {
    fn get(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        self.find(path)
    }

    fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError> {
        self.layers_of_directory(path).and_then(|layers| self.entries_in(&layers, path)).map_err(unreadable)
    }

    fn content(&self, path: &TreePath) -> Result<Content, TreeError> {
        let (layer, found) = self.regular_file(path)?;
        if found.entry.node == (Node::File { size: 0 }) {
            return Ok(Content::None);
        }
        let opener = Arc::clone(&self.layers[layer].files);
        Ok(Content::Source(SourceFile { opener, path: found.entry.path, stamp: 0, mark: None }))
    }

    fn content_digest(&self, path: &TreePath) -> Result<ContentDigest, TreeError> {
        let (layer, found) = self.regular_file(path)?;
        if let Some(digest) = found.digest {
            return Ok(digest);
        }
        let error = |source| TreeError::Io { action: "read", path: path.to_string(), source };
        let file = self.layers[layer].files.open(&found.entry.path, 0).map_err(error)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file).map_err(error)?;
        Ok(hasher.finalize())
    }

    fn link_id(&self, path: &TreePath) -> Result<Option<u64>, TreeError> {
        let Some(Place::Record { layer, index }) = self.locate(path).map_err(unreadable)? else { return Ok(None) };
        let Some((first, _)) = self.file_of(layer, index).map_err(unreadable)? else { return Ok(None) };
        let has_links = self.layers[layer].tree.has_links(first).map_err(unreadable)?;
        Ok(has_links.then_some((layer as u64) << 40 | first as u64))
    }
}

/// An entry and all below it; made by [`MergedTree::walk`].
pub struct Walk<'a> {
    tree: &'a MergedTree,
    /// Entries still to give, per directory on the way down, with the layers that have a part in that directory.
    pending: Vec<(Vec<usize>, std::vec::IntoIter<Entry>)>,
}

impl Iterator for Walk<'_> {
    type Item = Result<Entry, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (layers, entries) = self.pending.last_mut()?;
            let Some(entry) = entries.next() else {
                self.pending.pop();
                continue;
            };
            if entry.node.is_directory() {
                let layers = self.tree.layers_below(layers, &entry.path);
                let inner = layers.and_then(|layers| {
                    let entries = self.tree.entries_in(&layers, &entry.path)?;
                    Ok((layers, entries.into_iter()))
                });
                match inner {
                    Ok(inner) => self.pending.push(inner),
                    Err(error) => return Some(Err(unreadable(error))),
                }
            }
            return Some(Ok(entry));
        }
    }
}

fn unreadable(source: io::Error) -> TreeError {
    TreeError::Io { action: "read", path: "the record of a layer".to_owned(), source }
}

fn implied_directory(path: &TreePath) -> Entry {
    let metadata = Metadata { mode: 0o755, ..Metadata::default() };
    Entry { path: path.clone(), node: Node::Directory { opaque: false }, metadata }
}

#[cfg(test)]
#[path = "merged_tests.rs"]
pub(super) mod tests;
