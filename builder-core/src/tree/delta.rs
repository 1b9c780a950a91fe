//! What a layer has that another one has not, where its files may stand over those of the other.
//!
//! A folder with the entries that a [`Delta`] holds, stacked over the other layer's folder, shows what the layer's own
//! folder would show alone, whatever is stacked below the two; all but the size and the number of links of merged
//! directories, which file systems choose by themselves. For that
//!
//! - nothing of the other layer is missing: a mark for it would also hide what further layers below have;
//! - what was a directory is one, and what was none is none, as directories are merged and other things hide;
//! - neither layer has whiteouts or opaque directories, which say something of the layers below;
//! - hard links are the same in both, and no file that has any is held: all names of a file stay in one folder;
//! - the directories that lead to what is held are held too, with their own metadata.

use std::collections::BTreeSet;
use std::io;

use super::{Node, Tree, TreeEntry, TreePath};

/// The disk space that an entry takes besides its bytes, about.
const ENTRY_BYTES: u64 = 4096;

/// Which entries of a layer differ from those of another one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// Whether it holds the entry, for each entry of the layer in order.
    holds: Vec<bool>,
    held_bytes: u64,
    all_bytes: u64,
}

impl Delta {
    /// Compares `entries` of a layer, sorted by path, with those of `base`. A file without a digest counts as having the
    /// contents of the file of `base` that is like it in all else. `None` where the one must not stand over the other.
    ///
    /// # Errors
    /// When a record or an entry can't be read.
    pub fn over(base: &Tree, entries: impl Iterator<Item = io::Result<TreeEntry>>) -> io::Result<Option<Self>> {
        let mut before = base.iter().peekable();
        let mut comparison = Comparison::default();
        for entry in entries {
            let entry = entry?;
            let old = before.next_if(|old| old.as_ref().map_or(true, |old| old.entry.path <= entry.entry.path));
            let old = old.transpose()?;
            if old.as_ref().is_some_and(|old| old.entry.path != entry.entry.path) {
                return Ok(None);
            }
            if comparison.add(old.as_ref(), &entry).is_none() {
                return Ok(None);
            }
        }
        Ok(if before.next().transpose()?.is_some() { None } else { comparison.finish() })
    }

    /// Whether it holds the entry, for each entry of the layer in order.
    #[must_use]
    pub fn holds(&self) -> &[bool] {
        &self.holds
    }

    /// Whether it takes so much less disk space than the layer that it is worth one more folder in a stack.
    #[must_use]
    pub const fn is_small(&self) -> bool {
        self.held_bytes <= self.all_bytes / 2
    }
}

/// A comparison on its way through the entries.
#[derive(Default)]
struct Comparison {
    delta: Delta,
    /// The directories that lead to the current entry: path, number and what each takes.
    above: Vec<(TreePath, usize)>,
    /// Files that are held.
    held: Vec<TreePath>,
    /// Files with further names.
    linked: BTreeSet<TreePath>,
}

impl Comparison {
    fn add(&mut self, old: Option<&TreeEntry>, new: &TreeEntry) -> Option<()> {
        let path = &new.entry.path;
        while self.above.last().is_some_and(|(directory, _)| !path.starts_with(directory)) {
            self.above.pop();
        }
        let nodes = old.map(|old| &old.entry.node).into_iter().chain([&new.entry.node]);
        if nodes.clone().any(|node| matches!(node, Node::Whiteout | Node::Directory { opaque: true })) {
            return None;
        }
        if old.is_some_and(|old| old.entry.node.is_directory() != new.entry.node.is_directory()) {
            return None;
        }
        let bytes = ENTRY_BYTES + if let Node::File { size } = new.entry.node { size } else { 0 };
        let number = self.delta.holds.len();
        self.delta.holds.push(false);
        self.delta.all_bytes += bytes;
        if !old.is_some_and(|old| is_same(old, new)) {
            if nodes.clone().any(|node| node.link_target().is_some()) {
                return None;
            }
            for at in self.above.iter().rev().map(|(_, at)| *at) {
                if !self.delta.hold(at, ENTRY_BYTES) {
                    break;
                }
            }
            self.delta.hold(number, bytes);
            if matches!(new.entry.node, Node::File { .. }) {
                self.held.push(path.clone());
            }
        }
        self.linked.extend(new.entry.node.link_target().cloned());
        if new.entry.node.is_directory() {
            self.above.push((path.clone(), number));
        }
        Some(())
    }

    fn finish(self) -> Option<Delta> {
        let splits_links = self.held.iter().any(|path| self.linked.contains(path));
        (!splits_links).then_some(self.delta)
    }
}

impl Delta {
    /// Adds an entry; whether it was not held before.
    fn hold(&mut self, number: usize, bytes: u64) -> bool {
        let is_new = !std::mem::replace(&mut self.holds[number], true);
        self.held_bytes += if is_new { bytes } else { 0 };
        is_new
    }
}

fn is_same(old: &TreeEntry, new: &TreeEntry) -> bool {
    old.entry == new.entry && (new.digest.is_none() || old.digest == new.digest)
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
