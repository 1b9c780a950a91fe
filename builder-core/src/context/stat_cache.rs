//! Digests of files by their status, so that a file that did not change is not read again.
//!
//! The cache only saves work: an entry counts only when the file's path, device, inode, size, mode and both times are
//! as they were. A file that changed shortly before it was read is not remembered, because a further change might leave
//! no trace in its times (git calls such a file racily clean).
//!
//! ```text
//! fact: device u64 | inode u64 | ctime, mtime (seconds i64, nanoseconds u32 each) | size u64 | mode u32
//!       | marks u8 (1: the file has no capabilities) | digest 32 bytes                     (little-endian)
//! ```
//!
//! The facts of a directory's files are looked up and replaced together; [`super::stat_table`] is how they lie on disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::stat_news::{News, Part};
use super::stat_table::{Cursor, Fact, StatTable, TableWriter, push_entry, runs};
use crate::tree::{ContentDigest, Timestamp};

/// The bytes of a fact that say in what status the file was.
const STATUS_SIZE: usize = 8 + 8 + 12 + 12 + 8 + 4;

/// The bytes of a fact.
pub(super) const FACT_SIZE: usize = STATUS_SIZE + 1 + 32;

/// The mark of a file that has no capabilities; setting some changes the status.
const PLAIN: u8 = 1;

/// A directory that nobody asked for in this many rewrites is dropped.
const OLDEST: u8 = 20;

/// What is put together of a directory is kept in parts of as many bytes, so that little is in memory however large it is.
const PART_SIZE: usize = 256 << 10;

/// Clocks of file systems move in steps of at most ten milliseconds, and that of another machine may be a little slow; a
/// file that changed within this time before it was read is not remembered.
const CLOCK_STEP_NANOSECONDS: i128 = 100_000_000;

/// The same for file systems that keep no fractions of seconds.
const COARSE_CLOCK_STEP_NANOSECONDS: i128 = 2_000_000_000;

/// A file whose contents are said to be changed so far in the future got that time from no clock: it was set, and a further
/// change gives another.
const FAR_NANOSECONDS: i128 = 24 * 3600 * 1_000_000_000;

/// The cache could not be written.
#[derive(Debug, thiserror::Error)]
#[error("could not write the stat cache `{path}`")]
pub struct StatCacheError {
    path: PathBuf,
    source: io::Error,
}

/// What a file's status says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileStatus {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) changed: Timestamp,
    pub(super) modified: Timestamp,
    pub(super) size: u64,
    pub(super) mode: u32,
}

impl FileStatus {
    /// A number by which the status is told from others of the same file.
    pub(super) fn stamp(&self) -> u64 {
        let unknown = Known { digest: blake3::Hash::from_bytes([0; 32]), plain: false };
        let digest = blake3::hash(&encode(self, unknown)[..STATUS_SIZE]);
        u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("a digest has more bytes"))
    }
}

/// What is known of a file in a status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) digest: ContentDigest,
    /// Whether it was looked for capabilities and has none.
    pub(super) plain: bool,
}

/// The digests of a context's files.
#[derive(Debug, Default)]
pub struct StatCache {
    file: Option<PathBuf>,
    opened: Timestamp,
    table: Option<StatTable>,
    news: Mutex<News>,
}

impl StatCache {
    /// Makes a cache that remembers nothing beyond its own life.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Opens a cache. A file that is missing or damaged is an empty cache. `now` is the time; what changed about then or
    /// later is not remembered.
    #[must_use]
    pub fn load(file: &Path, now: Timestamp) -> Self {
        Self { file: Some(file.to_owned()), opened: now, table: StatTable::open(file), news: Mutex::default() }
    }

    /// The folder that it is in, for temporary files; `None` for one that is kept nowhere.
    pub(super) fn folder(&self) -> Option<&Path> {
        self.file.as_deref().map(folder_of)
    }

    /// Whether nothing was known when it was opened, and what is learnt will be kept.
    pub(super) const fn is_new(&self) -> bool {
        self.file.is_some() && self.table.is_none()
    }

    /// Writes the cache if something was learnt. It replaces the old file at once, so that a reader sees either.
    ///
    /// # Errors
    /// When the file can't be written; nothing else suffers from that.
    pub fn save(&self) -> Result<(), StatCacheError> {
        let Some(file) = &self.file else { return Ok(()) };
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if news.is_empty() {
            return Ok(());
        }
        self.write(file, &news).map_err(|source| StatCacheError { path: file.clone(), source })
    }

    /// Starts to look up all files of a directory.
    pub(super) fn directory(&self, path: &[u8]) -> DirectoryFacts<'_> {
        DirectoryFacts { cache: self, path: path.to_vec(), cursor: self.cursor(path), gone: None, fresh: None }
    }

    /// What is known of a directory's files.
    fn cursor(&self, path: &[u8]) -> Cursor<'_> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if self.table.is_some() {
            news.visited.insert(path.to_vec());
        }
        self.cursor_of(&news, path)
    }

    fn cursor_of(&self, news: &News, directory: &[u8]) -> Cursor<'_> {
        match (news.parts(directory), &self.table) {
            (Some(parts), _) => Cursor::of(parts.to_vec()),
            (None, Some(table)) => table.directory(directory),
            (None, None) => Cursor::default(),
        }
    }

    /// What is known of a file that has this status.
    pub(super) fn look_up(&self, path: &[u8], status: &FileStatus) -> Option<Known> {
        let (directory, name) = split_path(path);
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fact) = news.files.get(directory).and_then(|files| files.get(name)) {
            return known(fact, status);
        }
        drop(news);
        let fact = self.directory(directory).find(name)?;
        known(&fact, status)
    }

    /// Remembers what is known of a file that had this status before it was read.
    pub(super) fn record(&self, path: &[u8], status: &FileStatus, known: Known) {
        if self.is_settled(status) {
            let (directory, name) = split_path(path);
            let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
            news.files.entry(directory.to_vec()).or_default().insert(name.to_vec(), encode(status, known));
        }
    }

    /// Whether any later change of a file with this status would show in its times.
    pub(super) fn is_settled(&self, status: &FileStatus) -> bool {
        let fine = status.changed.nanoseconds != 0 || status.modified.nanoseconds != 0;
        let step = if fine { CLOCK_STEP_NANOSECONDS } else { COARSE_CLOCK_STEP_NANOSECONDS };
        let [changed, modified, now] = [status.changed, status.modified, self.opened].map(nanoseconds);
        let is_no_clock = modified > now + FAR_NANOSECONDS;
        changed + step <= now && (modified + step <= now || is_no_clock)
    }

    /// Merges the table with the news.
    fn write(&self, file: &Path, news: &News) -> io::Result<()> {
        let mut writer = TableWriter::new(folder_of(file))?;
        let mut fresh = news.fresh().into_iter().peekable();
        let mut last_fresh: Option<&[u8]> = None;
        for block in (0..self.table.as_ref().map_or(0, StatTable::len)).filter_map(|n| self.table.as_ref()?.block(n)) {
            for run in runs(&block) {
                while let Some(directory) = fresh.next_if(|directory| *directory <= run.directory) {
                    self.write_fresh(&mut writer, news, directory)?;
                    last_fresh = Some(directory);
                }
                let age = if news.visited.contains(run.directory) { 0 } else { run.age.saturating_add(1) };
                if last_fresh != Some(run.directory) && age <= OLDEST {
                    writer.push(run.directory, age, run.entries)?;
                }
            }
        }
        for directory in fresh {
            self.write_fresh(&mut writer, news, directory)?;
        }
        writer.finish(file)
    }

    /// Writes a directory that there are news of.
    fn write_fresh(&self, writer: &mut TableWriter, news: &News, directory: &[u8]) -> io::Result<()> {
        let mut known = self.cursor_of(news, directory);
        let mut write = |name: &[u8], fact: &Fact| writer.push_entry(directory, 0, name, fact);
        for (name, fact) in news.files.get(directory).into_iter().flatten() {
            while let Some((known_name, known_fact)) = known.entry().filter(|(known, _)| *known <= name.as_slice()) {
                if known_name != name.as_slice() {
                    write(known_name, known_fact)?;
                }
                known.advance();
            }
            write(name, fact)?;
        }
        while let Some((name, fact)) = known.entry() {
            write(name, fact)?;
            known.advance();
        }
        Ok(())
    }
}

/// The facts of one directory's files, looked up in the order of their names while new ones are put together.
///
/// What is looked up may be ahead of what is kept and learnt. As long as all is as the cache has it, nothing is put
/// together.
pub(super) struct DirectoryFacts<'c> {
    cache: &'c StatCache,
    path: Vec<u8>,
    cursor: Cursor<'c>,
    /// The first name that the cache has and the directory has not.
    gone: Option<Vec<u8>>,
    fresh: Option<Fresh>,
}

/// The entries of a directory from its first name on.
#[derive(Default)]
struct Fresh {
    parts: Vec<Part>,
    last: Vec<u8>,
}

impl DirectoryFacts<'_> {
    /// What the cache has of a name. Names must come sorted.
    pub(super) fn find(&mut self, name: &[u8]) -> Option<Fact> {
        loop {
            let (next, fact) = self.cursor.entry()?;
            if next > name {
                return None;
            }
            let found = (next == name).then_some(*fact);
            if found.is_none() && self.gone.is_none() {
                self.gone = Some(next.to_vec());
            }
            self.cursor.advance();
            if found.is_some() {
                return found;
            }
        }
    }

    /// Keeps what the cache has. What is kept and learnt must come sorted.
    pub(super) fn keep(&mut self, name: &[u8], status: &FileStatus, known: Known) {
        if self.fresh.is_some() || self.gone.is_some() {
            self.push(name, &encode(status, known));
        }
    }

    /// Adds what was learnt of a file.
    pub(super) fn learn(&mut self, name: &[u8], status: &FileStatus, known: Known) {
        if self.cache.is_settled(status) {
            self.push(name, &encode(status, known));
        }
    }

    /// Remembers the directory as it was put together.
    pub(super) fn finish(mut self) {
        if let (None, Some((next, _))) = (&self.gone, self.cursor.entry()) {
            self.gone = Some(next.to_vec());
        }
        if let (None, Some(gone)) = (&self.fresh, self.gone.clone()) {
            self.fresh = Some(self.begin(&gone));
        }
        let Some(Fresh { mut parts, last }) = self.fresh.take() else { return };
        let mut news = self.cache.news.lock().unwrap_or_else(PoisonError::into_inner);
        parts.push(news.keep(last, self.cache.folder()));
        news.insert(self.path, parts);
    }

    fn push(&mut self, name: &[u8], fact: &Fact) {
        let mut fresh = self.fresh.take().unwrap_or_else(|| self.begin(name));
        fresh.push(name, fact, self.cache);
        self.fresh = Some(fresh);
    }

    /// What the cache has of the names before this one, and before all that are gone.
    fn begin(&self, name: &[u8]) -> Fresh {
        let end = self.gone.as_deref().map_or(name, |gone| gone.min(name));
        let mut fresh = Fresh::default();
        let mut before = self.cache.cursor(&self.path);
        while let Some((name, fact)) = before.entry().filter(|(name, _)| *name < end) {
            fresh.push(name, fact, self.cache);
            before.advance();
        }
        fresh
    }
}

impl Fresh {
    fn push(&mut self, name: &[u8], fact: &Fact, cache: &StatCache) {
        push_entry(&mut self.last, name, fact);
        if self.last.len() >= PART_SIZE {
            let entries = std::mem::take(&mut self.last);
            let mut news = cache.news.lock().unwrap_or_else(PoisonError::into_inner);
            self.parts.push(news.keep(entries, cache.folder()));
        }
    }
}

/// What a fact says of a file that has this status now.
pub(super) fn known(fact: &Fact, status: &FileStatus) -> Option<Known> {
    let unknown = Known { digest: blake3::Hash::from_bytes([0; 32]), plain: false };
    if fact[..STATUS_SIZE] != encode(status, unknown)[..STATUS_SIZE] {
        return None;
    }
    let digest = fact.last_chunk::<32>().expect("a fact ends with a digest");
    Some(Known { digest: blake3::Hash::from_bytes(*digest), plain: fact[STATUS_SIZE] & PLAIN != 0 })
}

fn encode(status: &FileStatus, known: Known) -> Fact {
    let mut fact = [0; FACT_SIZE];
    let mut rest = &mut fact[..];
    let mut put = |bytes: &[u8]| {
        let (head, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
        head.copy_from_slice(bytes);
        rest = tail;
    };
    put(&status.device.to_le_bytes());
    put(&status.inode.to_le_bytes());
    for time in [status.changed, status.modified] {
        put(&time.seconds.to_le_bytes());
        put(&time.nanoseconds.to_le_bytes());
    }
    put(&status.size.to_le_bytes());
    put(&status.mode.to_le_bytes());
    put(&[if known.plain { PLAIN } else { 0 }]);
    put(known.digest.as_bytes());
    fact
}

/// The folder that a file is in.
fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Splits a path into its directory and its name.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    path.iter().rposition(|byte| *byte == b'/').map_or((&[], path), |at| (&path[..at], &path[at + 1..]))
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

#[cfg(test)]
#[path = "stat_cache_tests.rs"]
mod tests;
