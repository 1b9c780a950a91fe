//! A private copy of a whole tree, for steps that no overlay can be mounted for.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rayon::prelude::*;

use super::changes::{Unchanged, diff_knowing};
use super::{MountPointLayer, SnapshotError, StepPaths, write_changes};
use crate::rootfs::{Inode, Root, Status};
use crate::tree::{Change, ChangeList, Content, Node, Timestamp, TreeError, TreePath, TreeView, sort_changes};

/// How exact the times of changes are on kernels before 6.13, generously: one tick of a slow timer.
const TICK: Duration = Duration::from_millis(20);

/// A copy of a merged tree.
///
/// Names that were hard links of one file are files of their own here, as they are in an overlay as soon as one of them
/// is written to: so a step changes the same names in both.
#[derive(Debug)]
pub struct FullCopy {
    directory: PathBuf,
    /// Every file's identity and time of change right after copying: what still has both was not touched.
    copied: HashMap<TreePath, (Inode, Timestamp)>,
    /// Devices that could not be made.
    left_out: Vec<TreePath>,
}

impl FullCopy {
    /// Copies a tree into an existing, empty directory.
    ///
    /// # Errors
    /// When something can't be read or written.
    pub fn create(tree: &dyn TreeView, directory: &Path) -> Result<Self, SnapshotError> {
        let changes = everything(tree)?;
        let left_out = write_changes(directory, &changes)?;
        let copied = identities(&Root::open(directory)?)?;
        Ok(Self { directory: directory.to_path_buf(), copied, left_out })
    }

    /// Where the copy is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes the places for mounts in the copy, or for what is put there in place of mounts.
    ///
    /// # Errors
    /// When something can't be written.
    pub fn add_mount_points(&self, layer: &MountPointLayer) -> Result<(), SnapshotError> {
        write_changes(&self.directory, &layer.changes).map(drop)
    }

    /// What a step changed in the copy; `before` is the tree that it was made of.
    ///
    /// Files that nothing touched since are neither read nor compared.
    ///
    /// # Errors
    /// When something can't be read, or the step left what no layer can hold.
    pub fn changes(&self, before: &dyn TreeView, own: &StepPaths, folder: &Path) -> Result<ChangeList, SnapshotError> {
        let mut own = own.clone();
        own.mount_points.extend(self.left_out.iter().cloned());
        diff_knowing(before, &self.directory, &own, &Unchanged::Identities(&self.copied), folder)
    }
}

/// Every entry of a tree as a change.
fn everything(tree: &dyn TreeView) -> Result<Vec<Change>, SnapshotError> {
    let mut changes: Vec<Change> = tree.get(&TreePath::root())?.into_iter().map(Change::new).collect();
    let mut level = vec![TreePath::root()];
    while !level.is_empty() {
        let listed: Vec<Vec<Change>> = level.par_iter().map(|path| list(tree, path)).collect::<Result<_, _>>()?;
        let start = changes.len();
        changes.extend(listed.into_iter().flatten());
        let directories = changes[start..].iter().filter(|change| change.entry.node.is_directory());
        level = directories.map(|change| change.entry.path.clone()).collect();
    }
    sort_changes(&mut changes);
    Ok(changes)
}

fn list(tree: &dyn TreeView, path: &TreePath) -> Result<Vec<Change>, TreeError> {
    let entries = tree.read_dir(path)?.into_iter();
    entries
        .map(|mut entry| {
            if let Node::Directory { opaque } = &mut entry.node {
                *opaque = false;
            }
            let content = match entry.node {
                Node::File { .. } => tree.content(&entry.path)?,
                _ => Content::None,
            };
            Ok(Change { entry, content })
        })
        .collect()
}

/// What every file's status says, except for those whose time is too close to the end of copying to tell a later
/// change from it (git calls such entries racily clean).
fn identities(root: &Root) -> Result<HashMap<TreePath, (Inode, Timestamp)>, SnapshotError> {
    let mut found: Vec<Status> = Vec::new();
    let mut level = vec![TreePath::root()];
    while !level.is_empty() {
        let listed: Vec<Vec<Status>> = level.par_iter().map(|path| root.list(path)).collect::<Result<_, _>>()?;
        level = Vec::new();
        for status in listed.into_iter().flatten() {
            if status.entry.node.is_directory() { level.push(status.entry.path) } else { found.push(status) }
        }
    }
    let Some(latest) = found.iter().map(|status| status.changed).max() else { return Ok(HashMap::new()) };
    let sure = earlier(latest, TICK);
    let sure = found.into_iter().filter(|status| status.changed < sure);
    Ok(sure.map(|status| (status.entry.path, (status.inode, status.changed))).collect())
}

fn earlier(time: Timestamp, by: Duration) -> Timestamp {
    const SECOND: u32 = 1_000_000_000;
    let (seconds, nanoseconds) = (by.as_secs().cast_signed(), by.subsec_nanos());
    if time.nanoseconds >= nanoseconds {
        Timestamp { seconds: time.seconds - seconds, nanoseconds: time.nanoseconds - nanoseconds }
    } else {
        Timestamp { seconds: time.seconds - seconds - 1, nanoseconds: time.nanoseconds + SECOND - nanoseconds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn earlier_borrows_a_second() {
        let time = Timestamp { seconds: 5, nanoseconds: 10_000_000 };
        assert_eq!(earlier(time, TICK), Timestamp { seconds: 4, nanoseconds: 990_000_000 });
        assert_eq!(earlier(time, Duration::from_millis(10)), Timestamp { seconds: 5, nanoseconds: 0 });
    }
}
