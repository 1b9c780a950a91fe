//! A tree that is drawn on: the tree below, with what a step places on top of it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CopyError;
use super::links::{self, Last};
use crate::tree::{Change, Content, Entry, Metadata, Node, Timestamp, TreeError, TreePath, TreeView};

/// Names of one regular file have the same number.
pub(super) type LinkGroup = u64;

/// The tree below and what was placed on it.
pub(super) struct Canvas<'a> {
    below: &'a dyn TreeView,
    placed: BTreeMap<TreePath, Placed>,
    /// Directories of the tree below that something else replaced.
    removed: Vec<TreePath>,
    groups: LinkGroup,
    /// What counts for all names of a file, where a later one brought it.
    group_metadata: BTreeMap<LinkGroup, Metadata>,
}

/// One entry that was placed.
#[derive(Clone)]
pub(super) struct Placed {
    pub(super) node: Node,
    pub(super) metadata: Metadata,
    pub(super) content: Content,
    pub(super) group: Option<LinkGroup>,
    /// Whether it is a directory where there was none before, so that nothing of the tree below is in it.
    fresh: bool,
}

/// How a directory that must exist is made.
#[derive(Clone, Copy)]
pub(super) struct Implied {
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    pub(super) modified: Timestamp,
}

impl<'a> Canvas<'a> {
    pub(super) fn new(below: &'a dyn TreeView) -> Self {
        Self { below, placed: BTreeMap::new(), removed: Vec::new(), groups: 0, group_metadata: BTreeMap::new() }
    }

    pub(super) fn new_group(&mut self) -> LinkGroup {
        self.groups += 1;
        self.groups
    }

    /// What is at a path now.
    pub(super) fn get(&self, path: &TreePath) -> Result<Option<(Node, Metadata)>, TreeError> {
        if let Some(placed) = self.placed.get(path) {
            return Ok(Some((placed.node.clone(), placed.metadata.clone())));
        }
        let parent = path.parent().and_then(|parent| self.placed.get(&parent));
        if parent.is_some_and(|placed| placed.fresh || !placed.node.is_directory()) || self.is_removed(path) {
            return Ok(None);
        }
        Ok(self.below.get(path)?.map(|entry| (entry.node, entry.metadata)))
    }

    pub(super) fn resolve(&self, root: &TreePath, path: &TreePath, last: Last) -> Result<TreePath, TreeError> {
        links::resolve(&|path| Ok(self.get(path)?.map(|(node, _)| node)), root, path, last)
    }

    /// Makes a directory, or gives an existing one new metadata.
    pub(super) fn set_directory(&mut self, path: &TreePath, metadata: Metadata) -> Result<(), CopyError> {
        if path.is_root() {
            // A layer says nothing of the root itself.
            return Ok(());
        }
        check_name(path)?;
        let fresh = match self.placed.get(path) {
            Some(placed) => placed.fresh,
            None => self.get(path)?.is_none(),
        };
        let node = Node::Directory { opaque: false };
        self.placed.insert(path.clone(), Placed { node, metadata, content: Content::None, group: None, fresh });
        Ok(())
    }

    /// Places anything but a directory. There must be no directory.
    pub(super) fn set(
        &mut self,
        path: &TreePath,
        node: Node,
        metadata: Metadata,
        content: Content,
        group: Option<LinkGroup>,
    ) -> Result<(), CopyError> {
        check_name(path)?;
        if matches!(node, Node::CharDevice { major: 0, minor: 0 }) {
            return Err(CopyError::ReservedDevice { path: path.to_string() });
        }
        self.placed.insert(path.clone(), Placed { node, metadata, content, group, fresh: false });
        Ok(())
    }

    /// Makes a directory and those above it where they are missing. The path must hold no symbolic link.
    pub(super) fn make_directories(&mut self, path: &TreePath, implied: Implied) -> Result<(), CopyError> {
        let mut missing = Vec::new();
        let mut at = path.clone();
        while !at.is_root() {
            match self.get(&at)? {
                Some((Node::Directory { .. }, _)) => break,
                Some(_) => return Err(CopyError::NotADirectory { path: at.to_string() }),
                None => {}
            }
            let parent = at.parent().unwrap_or_default();
            missing.push(std::mem::replace(&mut at, parent));
        }
        for path in missing.iter().rev() {
            let (uid, gid) = implied.owner;
            let metadata =
                Metadata { mode: implied.mode, uid, gid, modified: implied.modified, xattrs: BTreeMap::new() };
            self.set_directory(path, metadata)?;
        }
        Ok(())
    }

    /// Removes whatever is at a path, with all that is in it.
    pub(super) fn remove(&mut self, path: &TreePath) -> Result<(), TreeError> {
        let inside: Vec<_> = self
            .placed
            .range(path.clone()..)
            .map(|(inner, _)| inner.clone())
            .take_while(|inner| inner.starts_with(path))
            .collect();
        for inner in inside {
            self.placed.remove(&inner);
        }
        let is_directory = self.get(path)?.is_some_and(|(node, _)| node.is_directory());
        if is_directory {
            self.removed.push(path.clone());
        }
        Ok(())
    }

    /// A regular file's placed entry, with a group; one of the tree below is placed once more for that.
    pub(super) fn share(&mut self, path: &TreePath) -> Result<Option<Placed>, TreeError> {
        if !self.placed.contains_key(path) {
            let Some((node, metadata)) = self.get(path)? else { return Ok(None) };
            let content = if matches!(node, Node::File { .. }) { self.below.content(path)? } else { Content::None };
            self.placed.insert(path.clone(), Placed { node, metadata, content, group: None, fresh: false });
        }
        let group = self.groups + 1;
        let Some(placed) = self.placed.get_mut(path) else { return Ok(None) };
        if placed.group.is_none() && matches!(placed.node, Node::File { .. }) {
            placed.group = Some(group);
            self.groups = group;
        }
        Ok(Some(placed.clone()))
    }

    /// Gives every name of a file the same metadata.
    pub(super) fn set_group_metadata(&mut self, group: LinkGroup, metadata: Metadata) {
        self.group_metadata.insert(group, metadata);
    }

    /// Everything that was placed.
    pub(super) fn into_placed(mut self) -> BTreeMap<TreePath, Placed> {
        self.apply_group_metadata();
        self.placed
    }

    fn apply_group_metadata(&mut self) {
        if self.group_metadata.is_empty() {
            return;
        }
        for placed in self.placed.values_mut() {
            if let Some(metadata) = placed.group.and_then(|group| self.group_metadata.get(&group)) {
                placed.metadata = metadata.clone();
            }
        }
    }

    /// The changes that turn the tree below into this one. The directories above every change are among them, because
    /// some readers unpack a layer without the layers below.
    pub(super) fn into_changes(mut self) -> Result<Vec<Change>, TreeError> {
        self.apply_group_metadata();
        let mut above = BTreeSet::new();
        for path in self.placed.keys() {
            // A parent that was placed sees to those above it.
            let mut parent = path.parent().filter(|parent| !parent.is_root());
            while let Some(directory) = parent.take().filter(|directory| !self.placed.contains_key(directory)) {
                let next = directory.parent().filter(|parent| !parent.is_root());
                if above.insert(directory) {
                    parent = next;
                }
            }
        }
        let mut changes = Vec::with_capacity(self.placed.len() + above.len());
        for path in above {
            if let Some(entry) = self.below.get(&path)?.filter(|entry| entry.node.is_directory()) {
                let node = Node::Directory { opaque: false };
                changes.push(Change::new(Entry { path, node, metadata: entry.metadata }));
            }
        }
        let mut first_names: BTreeMap<LinkGroup, TreePath> = BTreeMap::new();
        for (path, placed) in self.placed {
            if let Some(target) = placed.group.and_then(|group| first_names.get(&group)) {
                let node = Node::HardLink { target: target.clone() };
                changes.push(Change::new(Entry { path, node, metadata: Metadata::default() }));
                continue;
            }
            if let Some(group) = placed.group {
                first_names.insert(group, path.clone());
            }
            let hides = placed.node.is_directory() && self.removed.contains(&path);
            let node = if hides { Node::Directory { opaque: true } } else { placed.node };
            changes.push(Change { entry: Entry { path, node, metadata: placed.metadata }, content: placed.content });
        }
        changes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        Ok(changes)
    }

    fn is_removed(&self, path: &TreePath) -> bool {
        self.removed.iter().any(|removed| path.starts_with(removed))
    }
}

/// Refuses names that a layer can't hold.
fn check_name(path: &TreePath) -> Result<(), CopyError> {
    if path.file_name().is_some_and(|name| name.starts_with(b".wh.")) {
        return Err(CopyError::ReservedName { path: path.to_string() });
    }
    Ok(())
}
