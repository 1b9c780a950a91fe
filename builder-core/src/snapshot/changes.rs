//! Comparing the tree after a step with the one before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use super::SnapshotError;
use super::walk::OrderedWalk;
use crate::rootfs::{Inode, Root, Status, digest_file};
use crate::tree::{ChangeList, Entry, Metadata, Node, Timestamp, TreeError, TreePath, TreeView};

/// The longest path that a step may leave behind. PAX headers allow any; this bounds what a chain of directories
/// costs, as every one of them is named in full.
pub(super) const GREATEST_PATH: usize = 32 * 1024;
const WHITEOUT_PREFIX: &[u8] = b".wh.";

/// What rbuild itself placed in a step's tree, none of it to be taken for a change.
#[derive(Debug, Clone, Default)]
pub struct StepPaths {
    /// Where something was mounted (or, without mounts, put in place of what is there): not looked at.
    pub mount_points: BTreeSet<TreePath>,
    /// Directories made to hold mount points: a change only when the step made something in them.
    pub made_directories: BTreeSet<TreePath>,
}

/// Reads the upper directory of an overlay mounted with `userxattr`, after the step's last process is gone.
///
/// `below` is the tree of the layers under it, without the mount points' own layer. Contents of changes are opened when
/// they are wanted, and stay readable when the directory is renamed. Where there are many changes, they are in a file of
/// `folder` that has no name.
///
/// # Errors
/// When something can't be read, or the step left what no layer can hold.
pub fn upper_changes(
    upper: &Path,
    below: &dyn TreeView,
    own: &StepPaths,
    folder: &Path,
) -> Result<ChangeList, SnapshotError> {
    let after = Root::open(upper)?;
    let comparison = Comparison { after, before: below, own, marks: Marks::Overlay, unchanged: &Unchanged::Unknown };
    OrderedWalk::new(&comparison, folder).run()
}

/// Compares a whole tree on disk with the one that was there before; else as [`upper_changes`].
///
/// # Errors
/// When something can't be read, or the step left what no layer can hold.
pub fn diff(before: &dyn TreeView, after: &Path, own: &StepPaths, folder: &Path) -> Result<ChangeList, SnapshotError> {
    diff_knowing(before, after, own, &Unchanged::Unknown, folder)
}

/// The same, where it is known of some files that nothing touched them.
pub(super) fn diff_knowing(
    before: &dyn TreeView,
    after: &Path,
    own: &StepPaths,
    unchanged: &Unchanged<'_>,
    folder: &Path,
) -> Result<ChangeList, SnapshotError> {
    let comparison = Comparison { after: Root::open(after)?, before, own, marks: Marks::None, unchanged };
    OrderedWalk::new(&comparison, folder).run()
}

/// Which files need no look, because they are still the same and their time of change is.
pub(super) enum Unchanged<'a> {
    Unknown,
    Identities(&'a HashMap<TreePath, (Inode, Timestamp)>),
}

impl Unchanged<'_> {
    fn holds(&self, status: &Status) -> bool {
        match self {
            Self::Unknown => false,
            Self::Identities(known) => known.get(&status.entry.path) == Some(&(status.inode, status.changed)),
        }
    }
}

/// What devices 0:0 and overlayfs's attributes mean in the tree that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Marks {
    Overlay,
    None,
}

/// A tree after a step, and what it is compared with.
pub(super) struct Comparison<'a> {
    pub(super) after: Root,
    before: &'a dyn TreeView,
    pub(super) own: &'a StepPaths,
    marks: Marks,
    unchanged: &'a Unchanged<'a>,
}

/// A directory that is still to be read.
pub(super) struct Pending {
    pub(super) path: TreePath,
    /// Whether there is a directory of this path before the step.
    pub(super) existed: bool,
    /// Whether everything that existed and is not in the tree after the step is gone.
    pub(super) complete: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Changed,
}

impl Comparison<'_> {
    /// Whether the tree after the step is all that is there, and not only what was changed.
    pub(super) fn sees_everything(&self) -> bool {
        self.marks == Marks::None
    }

    /// All entries that a directory had, where asking for all is needed or cheaper than one by one.
    pub(super) fn entries_before(
        &self,
        directory: &Pending,
        wanted: usize,
    ) -> Result<Option<EntriesBefore>, SnapshotError> {
        const CHEAPER_AS_A_LIST: usize = 32;
        if !directory.existed {
            return Ok(Some(BTreeMap::new()));
        }
        if !directory.complete && wanted < CHEAPER_AS_A_LIST {
            return Ok(None);
        }
        let entries = self.before.read_dir(&directory.path)?;
        Ok(Some(entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect()))
    }

    pub(super) fn judge(
        &self,
        status: Status,
        directory: &Pending,
        before: Option<&EntriesBefore>,
    ) -> Result<Judged, SnapshotError> {
        let path = status.entry.path.clone();
        let before = match before {
            Some(entries) => entries.get(&path).cloned(),
            None => self.before.get(&path)?,
        };
        if self.marks == Marks::Overlay && status.marks.redirected {
            return Err(SnapshotError::Redirected { path });
        }
        let device_zero = status.entry.node == Node::CharDevice { major: 0, minor: 0 };
        if self.marks == Marks::Overlay && (device_zero || status.marks.whiteout) {
            return Ok(if before.is_some() { Judged::Gone(path) } else { Judged::Nothing });
        }
        if device_zero || path.file_name().is_some_and(|name| name.starts_with(WHITEOUT_PREFIX)) {
            return Err(SnapshotError::ReservedName { path });
        }
        if status.entry.node.is_directory() {
            let before = before.filter(|entry| entry.node.is_directory());
            let same = before.as_ref().is_some_and(|before| same_directory(&before.metadata, &status.entry.metadata))
                || self.own.made_directories.contains(&path);
            let opaque = self.marks == Marks::Overlay && status.marks.opaque;
            return Ok(Judged::Directory {
                entry: status.entry,
                verdict: if same { Verdict::Same } else { Verdict::Changed },
                pending: Pending { path, existed: before.is_some(), complete: directory.complete || opaque },
            });
        }
        let same = match before {
            Some(_) if self.unchanged.holds(&status) => true,
            Some(before) => same_entry(&before, &status.entry) && self.same_content(&status.entry)?,
            None => false,
        };
        Ok(Judged::File(status, if same { Verdict::Same } else { Verdict::Changed }))
    }

    fn same_content(&self, entry: &Entry) -> Result<bool, TreeError> {
        if !matches!(entry.node, Node::File { size: 1.. }) {
            return Ok(true);
        }
        let before = self.before.content_digest(&entry.path)?;
        let file = self.after.open_file(&entry.path)?;
        let after = digest_file(&file).map_err(|error| self.after.error("read", &entry.path, error))?;
        Ok(before == after)
    }
}

pub(super) type EntriesBefore = BTreeMap<TreePath, Entry>;

/// One entry, compared with what was there.
pub(super) enum Judged {
    Nothing,
    Gone(TreePath),
    Directory { entry: Entry, verdict: Verdict, pending: Pending },
    File(Status, Verdict),
}

/// The time of a directory alone says nothing: anything that came and went in it changed it.
fn same_directory(before: &Metadata, after: &Metadata) -> bool {
    (before.mode, before.uid, before.gid, &before.xattrs) == (after.mode, after.uid, after.gid, &after.xattrs)
}

fn same_entry(before: &Entry, after: &Entry) -> bool {
    let (old, new) = (&before.metadata, &after.metadata);
    // A symbolic link's mode can't be set, so the disk's says nothing.
    let same_mode = old.mode == new.mode || matches!(after.node, Node::Symlink { .. });
    before.node == after.node
        && same_mode
        && (old.uid, old.gid, &old.xattrs) == (new.uid, new.gid, &new.xattrs)
        && same_time(old.modified, new.modified)
}

/// Layers often hold whole seconds only; where one of the two does, seconds are compared.
fn same_time(before: Timestamp, after: Timestamp) -> bool {
    before.seconds == after.seconds
        && (before.nanoseconds == after.nanoseconds || before.nanoseconds == 0 || after.nanoseconds == 0)
}
