//! Going through a step's tree in the order of paths, with few entries in memory at a time.
//!
//! A directory's names are listed and sorted; what has them is looked at some hundred names at a time, on all
//! processors. So that many small directories keep the processors busy too, the next few directories are begun together.
//! Of directories on the way, an unchanged one is a change only when there is a change in it: it waits until then.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;

use super::SnapshotError;
use super::changes::{Comparison, EntriesBefore, GREATEST_PATH, Judged, Pending, Verdict};
use crate::rootfs::{Inode, Names, Status};
use crate::tree::{
    Change, ChangeList, ChangeListBuilder, Content, Entry, Metadata, Node, OpenContent, SourceFile, TreePath,
};

/// How many names are looked at together.
const AT_ONCE: usize = 512;

/// How many of them are one thread's work; waking another for fewer takes longer than they do.
const WORK: usize = 64;

/// How many directories are begun together.
const BEGUN: usize = 16;

/// A walk, and what it found so far.
pub(super) struct OrderedWalk<'a> {
    comparison: &'a Comparison<'a>,
    changes: ChangeListBuilder,
    opener: Arc<dyn OpenContent>,
    first_names: HashMap<Inode, TreePath>,
    /// The directories on the way to where the walk is.
    levels: Vec<Level>,
}

/// A directory on the way.
struct Level {
    /// Its own change, where that depends on what is in it.
    waiting: Option<Entry>,
    reading: Reading,
}

/// A directory that is being read.
struct Reading {
    directory: Pending,
    names: Names,
    /// How many of the names were looked at.
    looked_at: usize,
    before: Option<EntriesBefore>,
    found: VecDeque<Found>,
}

enum Found {
    Gone(TreePath),
    File(Status),
    Directory(Box<Directory>),
}

struct Directory {
    entry: Entry,
    verdict: Verdict,
    /// Taken when it is read, which is ahead of its turn where others are read too.
    pending: Option<Pending>,
    reading: Option<Reading>,
}

impl<'a> OrderedWalk<'a> {
    /// Where there are many changes, they are put into a file in `folder`.
    pub(super) fn new(comparison: &'a Comparison<'a>, folder: &Path) -> Self {
        Self {
            comparison,
            changes: ChangeListBuilder::in_folder(folder),
            opener: Arc::new(comparison.after.clone()),
            first_names: HashMap::new(),
            levels: Vec::new(),
        }
    }

    /// Goes through the whole tree, and gives the changes.
    pub(super) fn run(mut self) -> Result<ChangeList, SnapshotError> {
        let root = Pending { path: TreePath::root(), existed: true, complete: self.comparison.sees_everything() };
        let reading = Reading::begin(root, self.comparison)?;
        self.levels.push(Level { waiting: None, reading });
        while let Some(level) = self.levels.last_mut() {
            let Some(found) = level.reading.next(self.comparison)? else {
                self.levels.pop();
                continue;
            };
            match found {
                Found::Gone(path) => {
                    self.add(Change::new(Entry { path, node: Node::Whiteout, metadata: Metadata::default() }))?;
                }
                Found::File(status) => self.add_file(status)?,
                Found::Directory(directory) => {
                    let Directory { entry, verdict, reading, .. } = *directory;
                    let reading = reading.expect("a directory is begun before it is given");
                    let mut waiting = Some(entry);
                    if verdict == Verdict::Changed {
                        waiting.take().map_or(Ok(()), |entry| self.add(Change::new(entry)))?;
                    }
                    self.levels.push(Level { waiting, reading });
                }
            }
        }
        self.changes.finish().map_err(|source| SnapshotError::Keep { source })
    }

    fn add(&mut self, change: Change) -> Result<(), SnapshotError> {
        // What waits are the last levels: an earlier change in any of them took along all those above.
        let first = self.levels.iter().rposition(|level| level.waiting.is_none()).map_or(0, |last| last + 1);
        let waiting = self.levels[first..].iter_mut().filter_map(|level| level.waiting.take()).map(Change::new);
        let mut all = waiting.chain([change]);
        all.try_for_each(|change| self.changes.push(change)).map_err(|source| SnapshotError::Keep { source })
    }

    fn add_file(&mut self, status: Status) -> Result<(), SnapshotError> {
        if status.is_linked() {
            // COMPAT(buildkit): a new name for a file of a layer below is a file of its own; the old name is no change.
            if let Some(target) = self.first_names.get(&status.inode) {
                let node = Node::HardLink { target: target.clone() };
                let (path, metadata) = (status.entry.path, Metadata::default());
                return self.add(Change::new(Entry { path, node, metadata }));
            }
            self.first_names.insert(status.inode, status.entry.path.clone());
        }
        let (opener, path) = (Arc::clone(&self.opener), status.entry.path.clone());
        let content = match status.entry.node {
            Node::File { size: 1.. } => Content::Source(SourceFile { opener, path, stamp: 0, mark: None }),
            _ => Content::None,
        };
        self.add(Change { entry: status.entry, content })
    }
}

impl Directory {
    /// Begins to read it, if that was not done yet.
    fn begin(&mut self, comparison: &Comparison<'_>) -> Result<(), SnapshotError> {
        if let Some(pending) = self.pending.take() {
            self.reading = Some(Reading::begin(pending, comparison)?);
        }
        Ok(())
    }
}

impl Reading {
    /// Lists a directory, and looks at its first names.
    fn begin(directory: Pending, comparison: &Comparison<'_>) -> Result<Self, SnapshotError> {
        if directory.path.as_bytes().len() > GREATEST_PATH {
            return Err(SnapshotError::PathTooLong { path: directory.path, limit: GREATEST_PATH });
        }
        let names = comparison.after.names(&directory.path)?;
        let before = comparison.entries_before(&directory, names.len())?;
        let mut reading = Self { directory, names, looked_at: 0, before, found: VecDeque::new() };
        reading.look(comparison)?;
        Ok(reading)
    }

    /// What comes next; a directory is begun then.
    fn next(&mut self, comparison: &Comparison<'_>) -> Result<Option<Found>, SnapshotError> {
        while self.found.is_empty() {
            if self.looked_at == self.names.len() {
                return Ok(None);
            }
            self.look(comparison)?;
        }
        if matches!(self.found.front(), Some(Found::Directory(directory)) if directory.reading.is_none()) {
            let directories = self.found.iter_mut().filter_map(|found| match found {
                Found::Directory(directory) => Some(directory),
                _ => None,
            });
            let mut some: Vec<&mut Box<Directory>> = directories.take(BEGUN).collect();
            match some.as_mut_slice() {
                [directory] => directory.begin(comparison)?,
                some => some.par_iter_mut().try_for_each(|directory| directory.begin(comparison))?,
            }
        }
        Ok(self.found.pop_front())
    }

    /// Looks at the next names.
    fn look(&mut self, comparison: &Comparison<'_>) -> Result<(), SnapshotError> {
        let numbers = self.looked_at..self.names.len().min(self.looked_at + AT_ONCE);
        let (names, directory, before) = (&self.names, &self.directory, self.before.as_ref());
        let judge =
            |numbers: Range<usize>| judge(comparison, directory, before, numbers.map(|number| names.name(number)));
        let judged: Vec<Vec<(TreePath, Judged)>> = if numbers.len() <= WORK {
            vec![judge(numbers.clone())?]
        } else {
            let parts: Vec<_> = numbers.clone().step_by(WORK).collect();
            let parts = parts.into_par_iter().map(|start| judge(start..numbers.end.min(start + WORK)));
            parts.collect::<Result<_, _>>()?
        };
        self.looked_at = numbers.end;
        for (path, judged) in judged.into_iter().flatten() {
            self.take_missing(comparison, Some(&path));
            match judged {
                Judged::Nothing => {}
                Judged::Gone(path) => self.found.push_back(Found::Gone(path)),
                Judged::File(_, Verdict::Same) => {}
                Judged::File(status, Verdict::Changed) => self.found.push_back(Found::File(status)),
                Judged::Directory { entry, verdict, pending } => {
                    let directory = Directory { entry, verdict, pending: Some(pending), reading: None };
                    self.found.push_back(Found::Directory(Box::new(directory)));
                }
            }
        }
        if self.looked_at == self.names.len() {
            self.take_missing(comparison, None);
        }
        Ok(())
    }

    /// Adds what was in the directory before, up to a path that is still there, and is not any more.
    fn take_missing(&mut self, comparison: &Comparison<'_>, there: Option<&TreePath>) {
        let Some(before) = self.before.as_mut().filter(|_| self.directory.complete) else { return };
        while let Some(first) = before.first_entry() {
            match there {
                Some(there) if first.key() > there => return,
                Some(there) if first.key() == there => {
                    first.remove();
                    return;
                }
                _ => {
                    let (path, _) = first.remove_entry();
                    if !comparison.own.mount_points.contains(&path) {
                        self.found.push_back(Found::Gone(path));
                    }
                }
            }
        }
    }
}

/// Judges names of a directory; those that have nothing a layer can hold are left out.
fn judge<'n>(
    comparison: &Comparison<'_>,
    directory: &Pending,
    before: Option<&EntriesBefore>,
    names: impl Iterator<Item = &'n [u8]>,
) -> Result<Vec<(TreePath, Judged)>, SnapshotError> {
    let statuses = comparison.after.statuses(&directory.path, names)?;
    statuses
        .into_iter()
        .flatten()
        .filter(|status| !comparison.own.mount_points.contains(&status.entry.path))
        .map(|status| Ok((status.entry.path.clone(), comparison.judge(status, directory, before)?)))
        .collect()
}
