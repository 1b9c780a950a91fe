//! A tree that is drawn on: the tree below, with what a step places on top of it.

use std::collections::{BTreeMap, BTreeSet};

use super::error::CopyError;
use super::links::{self, Last};
use super::place::unkept;
use crate::tree::{
    Change, ChangeListBuilder, Content, Entry, Metadata, Node, Timestamp, TreeError, TreePath, TreeView,
};

/// Names of one regular file have the same number.
pub(super) type LinkGroup = u64;

/// The tree below and what was placed on it.
pub(super) struct Canvas<'a> {
    below: &'a dyn TreeView,
    placed: BTreeMap<TreePath, Box<Placed>>,
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

/// What the tree below has in a directory and in those in it, asked for in the order of paths.
pub(super) struct Existing<'a> {
    pub(super) below: &'a dyn TreeView,
    /// Of the directory and of those down to the last one, whether the tree below has nothing in them.
    pub(super) fresh: Vec<bool>,
}

impl Existing<'_> {
    /// What is at a path that is so many names below the directory.
    pub(super) fn get(&mut self, path: &TreePath, depth: usize) -> Result<Option<(Node, Metadata)>, TreeError> {
        self.fresh.truncate(depth);
        if self.fresh.last().is_some_and(|fresh| *fresh) {
            return Ok(None);
        }
        Ok(self.below.get(path)?.map(|entry| (entry.node, entry.metadata)))
    }

    /// Goes on in the directory that was asked for last.
    pub(super) fn enter(&mut self, fresh: bool) {
        self.fresh.push(fresh);
    }
}

impl<'a> Canvas<'a> {
    pub(super) fn new(below: &'a dyn TreeView) -> Self {
        Self { below, placed: BTreeMap::new(), removed: Vec::new(), groups: 0, group_metadata: BTreeMap::new() }
    }

    pub(super) fn new_group(&mut self) -> LinkGroup {
        self.groups += 1;
        self.groups
    }

    /// The tree below.
    pub(super) const fn below(&self) -> &'a dyn TreeView {
        self.below
    }

    /// Whether the tree below has nothing in what is a directory now.
    pub(super) fn is_fresh(&self, directory: &TreePath) -> Result<bool, TreeError> {
        Ok(match self.placed.get(directory) {
            Some(placed) => placed.fresh,
            None => self.get(directory)?.is_none(),
        })
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
        let node = Node::Directory { opaque: false };
        check_placed(path, &node)?;
        let fresh = self.is_fresh(path)?;
        let placed = Placed { node, metadata, content: Content::None, group: None, fresh };
        self.placed.insert(path.clone(), Box::new(placed));
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
        check_placed(path, &node)?;
        self.placed.insert(path.clone(), Box::new(Placed { node, metadata, content, group, fresh: false }));
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
            let placed = Placed { node, metadata, content, group: None, fresh: false };
            self.placed.insert(path.clone(), Box::new(placed));
        }
        let group = self.groups + 1;
        let Some(placed) = self.placed.get_mut(path) else { return Ok(None) };
        if placed.group.is_none() && matches!(placed.node, Node::File { .. }) {
            placed.group = Some(group);
            self.groups = group;
        }
        Ok(Some((**placed).clone()))
    }

    /// Gives every name of a file the same metadata.
    pub(super) fn set_group_metadata(&mut self, group: LinkGroup, metadata: Metadata) {
        self.group_metadata.insert(group, metadata);
    }

    /// Everything that was placed.
    pub(super) fn into_placed(mut self) -> BTreeMap<TreePath, Box<Placed>> {
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

    /// Adds the changes that turn the tree below into this one. The directories above every change are among them,
    /// because some readers unpack a layer without the layers below; `further` is one that more changes come in.
    pub(super) fn into_changes(
        mut self,
        further: Option<&TreePath>,
        list: &mut ChangeListBuilder,
    ) -> Result<(), TreeError> {
        self.apply_group_metadata();
        let mut above = BTreeSet::new();
        let parents = self.placed.keys().filter_map(TreePath::parent).chain(further.cloned());
        for parent in parents {
            // A parent that was placed sees to those above it.
            let mut parent = Some(parent).filter(|parent| !parent.is_root());
            while let Some(directory) = parent.take().filter(|directory| !self.placed.contains_key(directory)) {
                let next = directory.parent().filter(|parent| !parent.is_root());
                if above.insert(directory) {
                    parent = next;
                }
            }
        }
        let mut above = above.into_iter().peekable();
        let mut first_names: BTreeMap<LinkGroup, TreePath> = BTreeMap::new();
        for (path, placed) in std::mem::take(&mut self.placed) {
            while let Some(directory) = above.next_if(|directory| *directory < path) {
                self.repeat(directory, list)?;
            }
            let placed = *placed;
            if let Some(target) = placed.group.and_then(|group| first_names.get(&group)) {
                let node = Node::HardLink { target: target.clone() };
                list.push(Change::new(Entry { path, node, metadata: Metadata::default() })).map_err(unkept)?;
                continue;
            }
            if let Some(group) = placed.group {
                first_names.insert(group, path.clone());
            }
            let hides = placed.node.is_directory() && self.removed.contains(&path);
            let node = if hides { Node::Directory { opaque: true } } else { placed.node };
            let entry = Entry { path, node, metadata: placed.metadata };
            list.push(Change { entry, content: placed.content }).map_err(unkept)?;
        }
        above.try_for_each(|directory| self.repeat(directory, list))
    }

    /// Repeats a directory of the tree below as it is.
    fn repeat(&self, path: TreePath, list: &mut ChangeListBuilder) -> Result<(), TreeError> {
        if let Some(entry) = self.below.get(&path)?.filter(|entry| entry.node.is_directory()) {
            let node = Node::Directory { opaque: false };
            list.push(Change::new(Entry { path, node, metadata: entry.metadata })).map_err(unkept)?;
        }
        Ok(())
    }

    fn is_removed(&self, path: &TreePath) -> bool {
        self.removed.iter().any(|removed| path.starts_with(removed))
    }
}

/// Refuses what a layer can't hold.
pub(super) fn check_placed(path: &TreePath, node: &Node) -> Result<(), CopyError> {
    if matches!(node, Node::CharDevice { major: 0, minor: 0 }) {
        return Err(CopyError::ReservedDevice { path: path.to_string() });
    }
    if path.file_name().is_some_and(|name| name.starts_with(b".wh.")) {
        return Err(CopyError::ReservedName { path: path.to_string() });
    }
    Ok(())
}
