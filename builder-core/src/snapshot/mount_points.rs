//! Places for mounts that leave no trace.
//!
//! A mount needs something to be mounted on. What the tree lacks of that is put into a lower layer of its own, between
//! the image's layers and the upper directory. It is never written to while the step runs, so nothing has to be cleaned
//! up afterwards and no time of a directory changes:
//!
//! ```text
//! upper           (empty)
//! mount points    run/  run/secrets/  run/secrets/token      <- this layer; `run/` exactly as in the image
//! image           run/
//! ```
//!
//! A directory made here becomes part of the image only when the step makes something in it (BuildKit does likewise).

use super::{SnapshotError, StepPaths};
use crate::tree::{
    Change, Content, Entry, FollowLast, Metadata, Node, TreePath, TreeView, Xattrs, resolve, sort_changes,
};

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or a file system.
    Directory,
    /// A file or a socket.
    File,
}

/// A place where a step wants something mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The place as it was asked for; symbolic links in it are followed inside the tree.
    pub path: TreePath,
    /// What will be mounted.
    pub kind: MountKind,
}

/// The layer that holds the places which a tree lacks.
#[derive(Debug, Clone, Default)]
pub struct MountPointLayer {
    /// Its entries, sorted; empty where the tree has all places already.
    pub changes: Vec<Change>,
    /// Where each mount goes, in the order of the points given, without links. A caller that does not want a link to
    /// be followed (`/proc`, `/sys`, `/dev`) compares.
    pub targets: Vec<TreePath>,
    /// What must not be taken for a change of the step.
    pub own: StepPaths,
}

/// Decides what has to be there for mounts at `points` over the tree `below`.
///
/// A point inside an earlier one of kind `Directory` needs its place in what is mounted there, and gets none here.
///
/// # Errors
/// When a path leads in a circle or through something that is no directory, or when what is there is a directory where
/// a file is to be mounted, or the other way round.
pub fn mount_point_layer(below: &dyn TreeView, points: &[MountPoint]) -> Result<MountPointLayer, SnapshotError> {
    let mut layer = MountPointLayer::default();
    let mut directories: Vec<TreePath> = Vec::new();
    for point in points {
        let target = resolve(below, point.path.as_bytes(), FollowLast::Yes)?;
        let inside = directories.iter().any(|mounted| target.starts_with(mounted) && target != *mounted);
        if !inside && !is_there(below, &target, point.kind)? {
            add(below, &mut layer, &target, point.kind)?;
        }
        if point.kind == MountKind::Directory {
            directories.push(target.clone());
        }
        layer.own.mount_points.insert(target.clone());
        layer.targets.push(target);
    }
    sort_changes(&mut layer.changes);
    Ok(layer)
}

fn is_there(below: &dyn TreeView, target: &TreePath, kind: MountKind) -> Result<bool, SnapshotError> {
    let Some(entry) = below.get(target)? else { return Ok(false) };
    let error = |wanted, found| SnapshotError::MountPoint { path: target.clone(), wanted, found };
    match (kind, entry.node.is_directory()) {
        (MountKind::Directory, true) | (MountKind::File, false) => Ok(true),
        (MountKind::Directory, false) => Err(error("directory", "file")),
        (MountKind::File, true) => Err(error("file", "directory")),
    }
}

fn add(
    below: &dyn TreeView,
    layer: &mut MountPointLayer,
    target: &TreePath,
    kind: MountKind,
) -> Result<(), SnapshotError> {
    for path in target.ancestors() {
        match below.get(&path)? {
            Some(entry) => layer.changes.push(Change::new(entry)),
            None => {
                layer.changes.push(made(path.clone(), MountKind::Directory));
                layer.own.made_directories.insert(path);
            }
        }
    }
    layer.changes.push(made(target.clone(), kind));
    Ok(())
}

fn made(path: TreePath, kind: MountKind) -> Change {
    let (node, mode) = match kind {
        MountKind::Directory => (Node::Directory { opaque: false }, 0o755),
        MountKind::File => (Node::File { size: 0 }, 0o644),
    };
    // The time of 1970, not of now: an unchanged copy may end in a layer.
    let metadata = Metadata { mode, xattrs: Xattrs::new(), ..Metadata::default() };
    Change { entry: Entry { path, node, metadata }, content: Content::None }
}
