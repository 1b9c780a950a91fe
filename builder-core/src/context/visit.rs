//! Going through a folder's directories in one pass each, without keeping what was seen.
//!
//! A directory's names are read at once and sorted. Then, for as many as are worth a batch: every entry's status is read, the
//! stat cache says which files it knows, the others are hashed, and all are handed over. Statuses and hashes of a
//! batch are shared out among threads.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, RawDir, Stat};
use rustix::io::Errno;

use super::directory::{ContextDir, may_have_capability, node_of};
use super::folder::{hash_file, read_capability};
use super::pattern::DirectoryMatch;
use super::stat_cache::{DirectoryFacts, FileStatus, Known, known};
use crate::tree::{Content, ContentDigest, Metadata, Node, Seen, Take, TreeError, TreePath, Wants, Xattrs};

/// As many entries are looked at before they are handed over.
const BATCH: usize = 2048;

/// Fewer entries are not worth another thread.
const SHARE: usize = 256;

/// Bytes for the names that one system call gives.
const NAMES_SIZE: usize = 32 * 1024;

/// What is done about the contents of files.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// Their digests are looked up, or computed.
    Digested,
    /// They count as empty, and no file is read.
    LeftOut,
}

/// The names of a directory, sorted.
#[derive(Default)]
struct Names {
    bytes: Vec<u8>,
    places: Vec<NamePlace>,
}

#[derive(Clone, Copy)]
struct NamePlace {
    start: usize,
    length: u16,
    kind: FileType,
}

/// An entry that is there.
struct Looked {
    stat: Stat,
    wanted: bool,
    hollow: bool,
    known: Option<Known>,
    fresh: bool,
}

impl ContextDir {
    /// Does what [`crate::tree::TreeView::visit`] says.
    pub(super) fn visit_directory(
        &self,
        path: &TreePath,
        contents: Contents,
        wants: &Wants<'_>,
        take: &mut Take<'_>,
    ) -> Result<(), TreeError> {
        if self.hides(path) {
            return Ok(());
        }
        let error = |source: Errno| self.folder.error("list", path, source.into());
        let directory = match self.folder.open_directory(path) {
            Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => return Ok(()),
            directory => directory.map_err(error)?,
        };
        let state = self.state_of(path);
        let visit = Visit { context: self, path, directory, state, wants };
        let names = visit.read_names().map_err(error)?;
        if contents == Contents::LeftOut {
            for batch in names.places.chunks(BATCH) {
                let looked = visit.look_at(&names, batch)?;
                visit.hand_over_all(&names, batch, looked, None, take)?;
            }
            return Ok(());
        }
        let mut facts = self.cache.directory(path.as_bytes());
        for batch in names.places.chunks(BATCH) {
            visit.batch(&names, batch, &mut facts, take)?;
        }
        facts.finish();
        Ok(())
    }

    /// Whether something in an ignored directory belongs to the context.
    pub(super) fn has_kept_below(&self, path: &TreePath) -> Result<bool, TreeError> {
        let kept = AtomicBool::new(false);
        let mut hollow = vec![path.clone()];
        while let Some(directory) = hollow.pop() {
            // Whether a file is wanted is asked of those only that are not ignored.
            let wants = |_: &[u8]| {
                kept.store(true, Ordering::Relaxed);
                false
            };
            self.visit_directory(&directory, Contents::Digested, &wants, &mut |seen| {
                if seen.hollow {
                    hollow.push(directory.join(seen.name));
                } else {
                    kept.store(true, Ordering::Relaxed);
                }
                Ok(())
            })?;
            if kept.load(Ordering::Relaxed) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

struct Visit<'a> {
    context: &'a ContextDir,
    path: &'a TreePath,
    directory: OwnedFd,
    state: DirectoryMatch,
    wants: &'a Wants<'a>,
}

impl Visit<'_> {
    /// Reads the names of all that is not ignored; of directories it is not known yet.
    fn read_names(&self) -> Result<Names, Errno> {
        let mut names = Names::default();
        let mut buffer = Vec::with_capacity(NAMES_SIZE);
        let mut items = RawDir::new(&self.directory, buffer.spare_capacity_mut());
        while let Some(item) = items.next() {
            let item = item?;
            let (name, kind) = (item.file_name().to_bytes(), item.file_type());
            if matches!(name, b"." | b"..") {
                continue;
            }
            if !matches!(kind, FileType::Directory | FileType::Unknown) && self.is_ignored(name) {
                continue;
            }
            let length = u16::try_from(name.len()).map_err(|_| Errno::NAMETOOLONG)?;
            names.places.push(NamePlace { start: names.bytes.len(), length, kind });
            names.bytes.extend_from_slice(name);
        }
        let bytes = &names.bytes;
        names.places.sort_unstable_by(|a, b| a.of(bytes).cmp(b.of(bytes)));
        Ok(names)
    }

    fn is_ignored(&self, name: &[u8]) -> bool {
        let rules = &self.context.rules;
        !rules.is_empty() && rules.patterns().decide(self.path.join(name).as_bytes(), &self.state).is_match()
    }

    fn batch(
        &self,
        names: &Names,
        batch: &[NamePlace],
        facts: &mut DirectoryFacts<'_>,
        take: &mut Take<'_>,
    ) -> Result<(), TreeError> {
        let mut looked = self.look_at(names, batch)?;
        let mut unknown = Vec::new();
        let copied = self.context.folder.copied.of_directory(self.path);
        for (place, entry) in batch.iter().zip(&mut looked) {
            let Some(entry) = entry.as_mut().filter(|entry| entry.has_content()) else { continue };
            let name = place.of(&names.bytes);
            let status = FileStatus::of(&entry.stat);
            entry.known = facts.find(name).and_then(|fact| known(&fact, &status));
            if entry.known.is_some() || !entry.wanted {
                continue;
            }
            entry.fresh = true;
            let copied = copied.find(|| self.path.join(name), || status.stamp());
            entry.known = copied.map(|digest| Known { digest, plain: false });
            if copied.is_none() {
                unknown.push((name, status));
            }
        }
        let hash = |(name, status): &(&[u8], FileStatus)| self.hash(name, status);
        let digests: Vec<ContentDigest> = if unknown.len() > 1 {
            unknown.par_iter().map(hash).collect::<Result<_, _>>()?
        } else {
            unknown.iter().map(hash).collect::<Result<_, _>>()?
        };
        let mut digests = digests.into_iter();
        for entry in looked.iter_mut().flatten().filter(|entry| entry.fresh && entry.known.is_none()) {
            let digest = digests.next().expect("every file that was not known was hashed");
            entry.known = Some(Known { digest, plain: false });
        }
        self.hand_over_all(names, batch, looked, Some(facts), take)
    }

    /// Reads the status of every entry; `None` for one that is gone or does not belong to the context.
    fn look_at(&self, names: &Names, batch: &[NamePlace]) -> Result<Vec<Option<Looked>>, TreeError> {
        let look = |place: &NamePlace| self.look(place.of(&names.bytes), place.kind);
        if batch.len() > SHARE {
            batch.par_iter().with_min_len(SHARE).map(look).collect()
        } else {
            batch.iter().map(look).collect()
        }
    }

    fn hand_over_all(
        &self,
        names: &Names,
        batch: &[NamePlace],
        looked: Vec<Option<Looked>>,
        mut facts: Option<&mut DirectoryFacts<'_>>,
        take: &mut Take<'_>,
    ) -> Result<(), TreeError> {
        for (place, entry) in batch.iter().zip(looked) {
            let Some(entry) = entry else { continue };
            let name = place.of(&names.bytes);
            if let (Some(known), Some(facts)) = (entry.known.filter(|_| !entry.fresh), &mut facts) {
                // Also what is not wanted: a step that wants it may come.
                facts.keep(name, &FileStatus::of(&entry.stat), known);
            }
            if entry.wanted {
                self.hand_over(name, entry, facts.as_deref_mut(), take)?;
            }
        }
        Ok(())
    }

    /// Reads an entry's status; `None` where it is gone or does not belong to the context.
    fn look(&self, name: &[u8], kind: FileType) -> Result<Option<Looked>, TreeError> {
        let stat = match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(None),
            stat => stat.map_err(|error| self.error(name, error.into()))?,
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_directory && self.context.hidden.is_some() && self.context.hides(&self.path.join(name)) {
            return Ok(None);
        }
        let mut hollow = false;
        // What is no directory was decided by the type that the directory gives.
        let undecided = is_directory || matches!(kind, FileType::Directory | FileType::Unknown);
        if undecided && self.is_ignored(name) {
            let path = self.path.join(name);
            let patterns = self.context.rules.patterns();
            if !is_directory || !patterns.may_except_below(path.as_bytes(), &self.context.state_of(&path)) {
                return Ok(None);
            }
            hollow = true;
        }
        let wanted = is_directory || (self.wants)(name);
        Ok(Some(Looked { stat, wanted, hollow, known: None, fresh: false }))
    }

    fn hash(&self, name: &[u8], status: &FileStatus) -> Result<ContentDigest, TreeError> {
        let unchanged = |digest| self.context.folder.unchanged(&self.path.join(name), digest);
        hash_file(self.directory.as_fd(), name, status).and_then(unchanged).map_err(|error| self.error(name, error))
    }

    fn hand_over(
        &self,
        name: &[u8],
        entry: Looked,
        facts: Option<&mut DirectoryFacts<'_>>,
        take: &mut Take<'_>,
    ) -> Result<(), TreeError> {
        let directory = self.directory.as_fd();
        let stat = &entry.stat;
        let node = node_of(directory, name, stat).map_err(|error| self.error(name, error.into()))?;
        let status = FileStatus::of(stat);
        let plain = entry.known.is_some_and(|known| known.plain);
        let xattrs = if may_have_capability(stat) && !plain { read_capability(directory, name) } else { Xattrs::new() };
        if let (Some(known), Some(facts)) = (entry.known.filter(|_| entry.fresh), facts) {
            let plain = may_have_capability(stat) && xattrs.is_empty();
            facts.learn(name, &status, Known { plain, ..known });
        }
        let is_file = matches!(node, Node::File { .. });
        let digest = is_file.then(|| entry.known.map_or_else(|| blake3::hash(b""), |known| known.digest));
        let inode = (status.device, status.inode);
        let content = || {
            if !entry.has_content() {
                return Ok(Content::None);
            }
            Ok(Content::Source(self.context.source_file(self.path.join(name), &status)))
        };
        take(Seen {
            name,
            node: &node,
            metadata: &Metadata { mode: stat.st_mode & 0o7777, uid: 0, gid: 0, modified: status.modified, xattrs },
            digest,
            link: (is_file && stat.st_nlink > 1).then(|| self.context.link_of(inode)),
            hollow: entry.hollow,
            content: &content,
        })
    }

    fn error(&self, name: &[u8], source: std::io::Error) -> TreeError {
        self.context.folder.error("read", &self.path.join(name), source)
    }
}

impl Looked {
    /// Whether it is a regular file with bytes in it.
    fn has_content(&self) -> bool {
        FileType::from_raw_mode(self.stat.st_mode) == FileType::RegularFile && self.stat.st_size != 0
    }
}

impl NamePlace {
    fn of<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[self.start..self.start + usize::from(self.length)]
    }
}
