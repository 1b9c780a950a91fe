//! Digests of files by their status, so that a file that did not change is not read again.
//!
//! The cache only saves work: an entry counts only when the file's path, device, inode, size, mode and both times are
//! as they were. A file that changed shortly before it was read is not remembered, because a further change might leave
//! no trace in its times (git calls such a file racily clean).
//!
//! ```text
//! "rbstat1\n" | count u32 | entries, sorted by path | BLAKE3 of all before
//! entry: length u16 | path | device inode ctime mtime (seconds i64, nanoseconds u32 each) size u64 | mode u32
//!        | age u8 | digest 32 bytes                                                    (little-endian)
//! ```

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::tree::{ContentDigest, Timestamp};

const MAGIC: &[u8; 8] = b"rbstat1\n";

/// The bytes of an entry behind its path.
const TAIL: usize = 8 + 8 + 12 + 12 + 8 + 4 + 1 + 32;

/// The bytes of the tail that must be equal for an entry to count.
const STATUS: usize = 8 + 8 + 12 + 12 + 8 + 4;

/// An entry that was not asked for in this many rewrites is dropped.
const OLDEST: u8 = 20;

/// Clocks of file systems move in steps; a file that changed within this time before it was read is not remembered.
const CLOCK_STEP_NANOSECONDS: i128 = 20_000_000;

/// The same for file systems that keep no fractions of seconds.
const COARSE_CLOCK_STEP_NANOSECONDS: i128 = 2_000_000_000;

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

/// The digests of a context's files.
#[derive(Debug, Default)]
pub struct StatCache {
    file: Option<PathBuf>,
    opened: Timestamp,
    bytes: Vec<u8>,
    /// Where each entry begins.
    starts: Vec<u32>,
    news: Mutex<News>,
}

#[derive(Debug, Default)]
struct News {
    recorded: HashMap<Vec<u8>, [u8; TAIL]>,
    /// Entries of the file that were of use.
    used: Vec<u32>,
}

impl StatCache {
    /// Makes a cache that remembers nothing beyond its own life.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads a cache. A file that is missing or damaged is an empty cache. `now` is the time; what changed about then or
    /// later is not remembered.
    #[must_use]
    pub fn load(file: &Path, now: Timestamp) -> Self {
        let mut cache = Self { file: Some(file.to_owned()), opened: now, ..Self::default() };
        let Ok(bytes) = read_file(file) else { return cache };
        if let Some(starts) = index(&bytes) {
            cache.bytes = bytes;
            cache.starts = starts;
        }
        cache
    }

    /// Writes the cache if something was learnt. It replaces the old file at once, so that a reader sees either.
    ///
    /// # Errors
    /// When the file can't be written; nothing else suffers from that.
    pub fn save(&self) -> Result<(), StatCacheError> {
        let Some(file) = &self.file else { return Ok(()) };
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if news.recorded.is_empty() {
            return Ok(());
        }
        self.write(file, &news).map_err(|source| StatCacheError { path: file.clone(), source })
    }

    /// The digest of a file that has this status.
    pub(super) fn look_up(&self, path: &[u8], status: &FileStatus) -> Option<ContentDigest> {
        let tail = status.encode(blake3::Hash::from_bytes([0; 32]));
        let matching = |known: &[u8]| (known[..STATUS] == tail[..STATUS]).then(|| digest_of(known));
        let position = self.starts.binary_search_by(|start| self.entry(*start).0.cmp(path));
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        if !news.recorded.is_empty()
            && let Some(known) = news.recorded.get(path)
        {
            return matching(known);
        }
        let start = self.starts[position.ok()?];
        let digest = matching(self.entry(start).1)?;
        news.used.push(start);
        Some(digest)
    }

    /// Remembers the digest of a file that had this status before it was read.
    pub(super) fn record(&self, path: &[u8], status: &FileStatus, digest: ContentDigest) {
        let fine = status.changed.nanoseconds != 0 || status.modified.nanoseconds != 0;
        let step = if fine { CLOCK_STEP_NANOSECONDS } else { COARSE_CLOCK_STEP_NANOSECONDS };
        let latest = nanoseconds(status.changed).max(nanoseconds(status.modified));
        if latest + step > nanoseconds(self.opened) || path.len() > usize::from(u16::MAX) {
            return;
        }
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.recorded.insert(path.to_vec(), status.encode(digest));
    }

    /// The path of an entry, and what follows it.
    fn entry(&self, start: u32) -> (&[u8], &[u8]) {
        let rest = &self.bytes[start as usize..];
        let length = usize::from(u16::from_le_bytes([rest[0], rest[1]]));
        (&rest[2..2 + length], &rest[2 + length..2 + length + TAIL])
    }

    fn write(&self, file: &Path, news: &News) -> io::Result<()> {
        let mut used = news.used.clone();
        used.sort_unstable();
        let mut entries: Vec<(&[u8], [u8; TAIL])> = Vec::new();
        for start in &self.starts {
            let (path, tail) = self.entry(*start);
            if news.recorded.contains_key(path) {
                continue;
            }
            let mut tail: [u8; TAIL] = tail.try_into().expect("an entry's tail has that many bytes");
            tail[STATUS] = if used.binary_search(start).is_ok() { 0 } else { tail[STATUS].saturating_add(1) };
            if tail[STATUS] <= OLDEST {
                entries.push((path, tail));
            }
        }
        entries.extend(news.recorded.iter().map(|(path, tail)| (path.as_slice(), *tail)));
        entries.sort_unstable_by(|a, b| a.0.cmp(b.0));
        let mut bytes = MAGIC.to_vec();
        bytes.extend(u32::try_from(entries.len()).map_err(io::Error::other)?.to_le_bytes());
        for (path, tail) in entries {
            bytes.extend(u16::try_from(path.len()).map_err(io::Error::other)?.to_le_bytes());
            bytes.extend(path);
            bytes.extend(tail);
        }
        bytes.extend(blake3::hash(&bytes).as_bytes());
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut temporary = tempfile::NamedTempFile::new_in(folder)?;
        temporary.write_all(&bytes)?;
        temporary.persist(file).map_err(|error| error.error)?;
        Ok(())
    }
}

impl FileStatus {
    fn encode(&self, digest: ContentDigest) -> [u8; TAIL] {
        let mut tail = [0; TAIL];
        let mut rest = &mut tail[..];
        let mut put = |bytes: &[u8]| {
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            head.copy_from_slice(bytes);
            rest = tail;
        };
        put(&self.device.to_le_bytes());
        put(&self.inode.to_le_bytes());
        for time in [self.changed, self.modified] {
            put(&time.seconds.to_le_bytes());
            put(&time.nanoseconds.to_le_bytes());
        }
        put(&self.size.to_le_bytes());
        put(&self.mode.to_le_bytes());
        put(&[0]);
        put(digest.as_bytes());
        tail
    }
}

fn digest_of(tail: &[u8]) -> ContentDigest {
    let bytes: [u8; 32] = tail[STATUS + 1..].try_into().expect("32 bytes follow the age");
    blake3::Hash::from_bytes(bytes)
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut File::open(path)?, &mut bytes)?;
    Ok(bytes)
}

/// Checks a file's bytes, and finds its entries; `None` when something is wrong.
fn index(bytes: &[u8]) -> Option<Vec<u32>> {
    let (body, checksum) = bytes.split_at_checked(bytes.len().checked_sub(32)?)?;
    if blake3::hash(body).as_bytes() != checksum {
        return None;
    }
    let rest = body.strip_prefix(MAGIC)?;
    let count = u32::from_le_bytes(rest.get(..4)?.try_into().ok()?);
    let mut at = MAGIC.len() + 4;
    let mut starts = Vec::with_capacity(count.min(1 << 20) as usize);
    let mut last: Option<&[u8]> = None;
    for _ in 0..count {
        starts.push(u32::try_from(at).ok()?);
        let length = usize::from(u16::from_le_bytes(body.get(at..at + 2)?.try_into().ok()?));
        let path = body.get(at + 2..at + 2 + length)?;
        if last.is_some_and(|last| last >= path) {
            return None;
        }
        last = Some(path);
        at += 2 + length + TAIL;
    }
    (at == body.len()).then_some(starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(seconds: i64) -> FileStatus {
        let time = Timestamp { seconds, nanoseconds: 7 };
        FileStatus { device: 1, inode: 2, changed: time, modified: time, size: 3, mode: 0o100_644 }
    }

    #[test]
    fn remembers_across_processes() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        let (now, digest) = (Timestamp::from_seconds(1000), blake3::hash(b"x"));
        let cache = StatCache::load(&file, now);
        assert_eq!(cache.look_up(b"a", &status(5)), None);
        for path in [&b"b"[..], b"a", b"a/c"] {
            cache.record(path, &status(5), digest);
        }
        cache.record(b"young", &status(1000), digest);
        cache.save().unwrap();
        let cache = StatCache::load(&file, now);
        assert_eq!(cache.starts.len(), 3);
        assert_eq!(cache.look_up(b"a/c", &status(5)), Some(digest));
        assert_eq!(cache.look_up(b"a/c", &status(6)), None);
        assert_eq!(cache.look_up(b"a/c", &FileStatus { inode: 9, ..status(5) }), None);
        assert_eq!(cache.look_up(b"young", &status(1000)), None);
        cache.record(b"a", &status(6), blake3::hash(b"y"));
        assert_eq!(cache.look_up(b"a", &status(6)), Some(blake3::hash(b"y")));
        cache.save().unwrap();
        assert_eq!(StatCache::load(&file, now).look_up(b"a", &status(6)), Some(blake3::hash(b"y")));
    }

    #[test]
    fn a_torn_file_is_an_empty_cache() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        let cache = StatCache::load(&file, Timestamp::from_seconds(1000));
        cache.record(b"a", &status(5), blake3::hash(b"x"));
        cache.save().unwrap();
        let whole = read_file(&file).unwrap();
        for cut in 0..whole.len() {
            assert!(index(&whole[..cut]).is_none());
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(index(&bytes).is_none());
        }
    }

    #[test]
    fn entries_nobody_asks_for_go_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cache");
        let now = Timestamp::from_seconds(1000);
        for round in 0..=i64::from(OLDEST) + 2 {
            let cache = StatCache::load(&file, now);
            if round == 0 {
                cache.record(b"old", &status(5), blake3::hash(b"x"));
            }
            cache.record(b"busy", &status(round), blake3::hash(b"x"));
            cache.save().unwrap();
        }
        assert_eq!(StatCache::load(&file, now).starts.len(), 1);
    }
}
