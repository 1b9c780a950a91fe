//! A tree turned into the changes that make it on top of nothing.

use std::collections::BTreeMap;

use super::{Change, Entry, MergedTree, Metadata, Node, TreeError, TreePath, TreeView};

/// The whole tree as one layer's changes, without whiteouts and without the root itself.
///
/// # Errors
/// When the tree can't be read.
pub fn flatten(tree: &MergedTree) -> Result<Vec<Change>, TreeError> {
    let mut changes = changes_of(tree, &TreePath::root())?;
    changes.retain(|change| !change.entry.path.is_root());
    Ok(changes)
}

/// The entry of a path and all below it as changes with their own paths, sorted. Names of one file stay names of one
/// file where both are in the subtree.
///
/// # Errors
/// When the tree can't be read.
pub fn changes_of(tree: &MergedTree, path: &TreePath) -> Result<Vec<Change>, TreeError> {
    let mut first_names: BTreeMap<u64, TreePath> = BTreeMap::new();
    let mut changes = Vec::new();
    for entry in tree.walk(path)? {
        let mut entry = entry?;
        match &mut entry.node {
            Node::Directory { opaque } => *opaque = false,
            Node::File { .. } => {
                if let Some(id) = tree.link_id(&entry.path)? {
                    if let Some(target) = first_names.get(&id) {
                        let node = Node::HardLink { target: target.clone() };
                        changes.push(Change::new(Entry { path: entry.path, node, metadata: Metadata::default() }));
                        continue;
                    }
                    first_names.insert(id, entry.path.clone());
                }
                let content = tree.content(&entry.path)?;
                changes.push(Change { entry, content });
                continue;
            }
            _ => {}
        }
        changes.push(Change::new(entry));
    }
    Ok(changes)
}
