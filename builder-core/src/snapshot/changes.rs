//! Comparing the tree after a step with the one before.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::SnapshotError;
use crate::rootfs::{Inode, Root, Status, digest_file};
use crate::tree::{
    Change, Content, Entry, Metadata, Node, OpenContent, SourceFile, Timestamp, TreeError, TreePath, TreeView,
    sort_changes,
};

/// The longest path that a step may leave behind. PAX headers allow any; this bounds what a chain of directories
/// costs, as every one of them is named in full.
const GREATEST_PATH: usize = 32 * 1024;
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
/// `below` is the tree of the layers under it, without the mount points' own layer. Gives sorted changes; contents
/// are opened when they are wanted, and stay readable when the directory is renamed.
///
/// # Errors
/// When something can't be read, or the step left what no layer can hold.
pub fn upper_changes(upper: &Path, below: &dyn TreeView, own: &StepPaths) -> Result<Vec<Change>, SnapshotError> {
    let after = Root::open(upper)?;
    Comparison { after, before: below, own, marks: Marks::Overlay, unchanged: &Unchanged::Unknown }.run()
}

/// Compares a whole tree on disk with the one that was there before.
///
/// # Errors
/// When something can't be read, or the step left what no layer can hold.
pub fn diff(before: &dyn TreeView, after: &Path, own: &StepPaths) -> Result<Vec<Change>, SnapshotError> {
    diff_knowing(before, after, own, &Unchanged::Unknown)
}

/// The same, where it is known of some files that nothing touched them.
pub(super) fn diff_knowing(
    before: &dyn TreeView,
    after: &Path,
    own: &StepPaths,
    unchanged: &Unchanged<'_>,
) -> Result<Vec<Change>, SnapshotError> {
    Comparison { after: Root::open(after)?, before, own, marks: Marks::None, unchanged }.run()
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

struct Comparison<'a> {
    after: Root,
    before: &'a dyn TreeView,
    own: &'a StepPaths,
    marks: Marks,
    unchanged: &'a Unchanged<'a>,
}

/// A directory that is still to be read.
struct Pending {
    path: TreePath,
    /// Whether there is a directory of this path before the step.
    existed: bool,
    /// Whether everything that existed and is not in the tree after the step is gone.
    complete: bool,
}

/// What a directory's entries turned out to be.
#[derive(Default)]
struct Outcome {
    gone: Vec<TreePath>,
    files: Vec<(Status, Verdict)>,
    directories: Vec<(Entry, Verdict)>,
    pending: Vec<Pending>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Changed,
}

impl Comparison<'_> {
    fn run(&self) -> Result<Vec<Change>, SnapshotError> {
        let mut all = Outcome::default();
        let mut level = vec![Pending { path: TreePath::root(), existed: true, complete: self.marks == Marks::None }];
        // Level by level, not by recursion: the depth is the step's choice.
        while !level.is_empty() {
            let outcomes: Vec<Outcome> =
                level.par_iter().map(|directory| self.read_directory(directory)).collect::<Result<_, _>>()?;
            level = Vec::new();
            for mut outcome in outcomes {
                all.gone.append(&mut outcome.gone);
                all.files.append(&mut outcome.files);
                all.directories.append(&mut outcome.directories);
                level.append(&mut outcome.pending);
            }
        }
        let mut changes: Vec<Change> = all.gone.into_iter().map(whiteout).collect();
        changes.append(&mut self.file_changes(all.files));
        add_directories(&mut changes, all.directories);
        sort_changes(&mut changes);
        Ok(changes)
    }

    fn read_directory(&self, directory: &Pending) -> Result<Outcome, SnapshotError> {
        if directory.path.as_bytes().len() > GREATEST_PATH {
            return Err(SnapshotError::PathTooLong { path: directory.path.clone(), limit: GREATEST_PATH });
        }
        let listed: Vec<Status> = self.after.list(&directory.path)?;
        let before = self.entries_before(directory, listed.len())?;
        let judged: Vec<Judged> = listed
            .into_par_iter()
            .filter(|status| !self.own.mount_points.contains(&status.entry.path))
            .map(|status| self.judge(status, directory, before.as_ref()))
            .collect::<Result<_, _>>()?;
        let mut outcome = Outcome::default();
        let mut present = BTreeSet::new();
        for entry in judged {
            match entry {
                Judged::Gone(path) => outcome.gone.push(path),
                Judged::Nothing => {}
                Judged::Directory { entry, verdict, pending } => {
                    present.insert(entry.path.clone());
                    outcome.directories.push((entry, verdict));
                    outcome.pending.push(pending);
                }
                Judged::File(status, verdict) => {
                    present.insert(status.entry.path.clone());
                    outcome.files.push((status, verdict));
                }
            }
        }
        if directory.complete {
            let missing = before.into_iter().flatten().map(|(path, _)| path);
            outcome
                .gone
                .extend(missing.filter(|path| !present.contains(path) && !self.own.mount_points.contains(path)));
            outcome.gone.sort_unstable();
            outcome.gone.dedup();
        }
        Ok(outcome)
    }

    /// All entries that a directory had, where asking for all is needed or cheaper than one by one.
    fn entries_before(&self, directory: &Pending, wanted: usize) -> Result<Option<EntriesBefore>, SnapshotError> {
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

    fn judge(
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

    /// The changes of everything but directories, with names of one file as links.
    fn file_changes(&self, mut files: Vec<(Status, Verdict)>) -> Vec<Change> {
        files.sort_unstable_by(|(a, _), (b, _)| a.entry.path.cmp(&b.entry.path));
        // COMPAT(buildkit): a new name for a file of a layer below is a file of its own; the old name is no change.
        let mut first_names: HashMap<Inode, TreePath> = HashMap::new();
        let opener: Arc<dyn OpenContent> = Arc::new(self.after.clone());
        let mut changes = Vec::new();
        for (status, _) in files.into_iter().filter(|(_, verdict)| *verdict == Verdict::Changed) {
            if status.is_linked() {
                if let Some(target) = first_names.get(&status.inode) {
                    let node = Node::HardLink { target: target.clone() };
                    changes.push(Change::new(Entry { path: status.entry.path, node, metadata: Metadata::default() }));
                    continue;
                }
                first_names.insert(status.inode, status.entry.path.clone());
            }
            let content = Self::content(&opener, &status.entry);
            changes.push(Change { entry: status.entry, content });
        }
        changes
    }

    fn content(opener: &Arc<dyn OpenContent>, entry: &Entry) -> Content {
        match entry.node {
            Node::File { size: 1.. } => {
                Content::Source(SourceFile { opener: Arc::clone(opener), path: entry.path.clone(), stamp: 0 })
            }
            _ => Content::None,
        }
    }
}

type EntriesBefore = BTreeMap<TreePath, Entry>;

/// One entry, compared with what was there.
enum Judged {
    Nothing,
    Gone(TreePath),
    Directory { entry: Entry, verdict: Verdict, pending: Pending },
    File(Status, Verdict),
}

fn whiteout(path: TreePath) -> Change {
    Change::new(Entry { path, node: Node::Whiteout, metadata: Metadata::default() })
}

/// Adds the directories that changed, and those that lead to a change.
fn add_directories(changes: &mut Vec<Change>, directories: Vec<(Entry, Verdict)>) {
    let mut same = HashMap::new();
    for (entry, verdict) in directories {
        match verdict {
            Verdict::Changed => changes.push(Change::new(entry)),
            Verdict::Same => {
                same.insert(entry.path.clone(), entry);
            }
        }
    }
    for index in 0..changes.len() {
        let mut path = changes[index].entry.path.parent();
        // A directory that is not among the rest was added before, or is a change whose own turn comes.
        while let Some(directory) = path {
            path = directory.parent();
            let Some(entry) = same.remove(&directory) else { break };
            changes.push(Change::new(entry));
        }
    }
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
