//! The record of one layer: what its entries are, kept beside the unpacked layer and trusted before the disk.
//!
//! One file, little-endian. A path is looked up by a binary search in the bytes as they are.
//!
//! ```text
//! 0    8   magic "rbuildtr"
//! 8    4   version, 1
//! 12   4   reserved, 0
//! 16   8   n, the number of records
//! 24   8   where the table begins
//! 32       n records, in the order of their paths
//! table    n × 8 bytes: where each record begins
//! end-32   BLAKE3 digest of everything before
//!
//! record:
//! 0    1   kind: 1 directory, 2 file, 3 symbolic link, 4 hard link, 5 fifo, 6 character device, 7 block device, 8 whiteout
//! 1    1   flags: 1 opaque, 2 a content digest follows, 4 a file with further names in this layer
//! 2    2   mode
//! 4    4   uid
//! 8    4   gid
//! 12   12  modification time: nanoseconds (4), seconds (8)
//! 24   8   size of a file; major (upper half) and minor number of a device
//! 32   4   length of the path
//! 36   4   length of the link target
//! 40   4   number of attributes
//! 44       content digest (32, if flagged), path, link target, attributes: length of name (4), of value (4), name, value
//! ```
//!
//! The digest at the end is checked once, when the bytes are taken over. A record inside that still can't be read (no
//! version of rbuild writes one) counts as absent. A small layer's record is in memory, that of a large one stays in its
//! file (`record_file.rs`).

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::record_entry::{DIGEST_SIZE, FIXED_SIZE, HAS_LINKS, Record, RecordBytes, TIME, u32_at, u64_at};
use super::record_file::{BLOCK, Block, RecordFile};
use super::spool::MOST_IN_MEMORY;
use super::{ContentDigest, Entry, TreePath, compare_paths};

pub(super) const MAGIC: &[u8; 8] = b"rbuildtr";
pub(super) const VERSION: u32 = 1;
pub(super) const HEADER_SIZE: usize = 32;

/// Bytes are not the record of a layer's tree.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error("the record of a layer's tree is damaged: {reason}")]
pub struct TreeRecordError {
    reason: &'static str,
}

/// An entry of a layer, and the digest of its bytes where it is a regular file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// The entry; a whiteout and a further name of a file are nodes of their own here.
    pub entry: Entry,
    /// The digest of a regular file's bytes.
    pub digest: Option<ContentDigest>,
}

/// The entries of one layer, sorted by path. Cheap to clone.
///
/// What reads entries fails only where the record is in a file that can't be read any more.
#[derive(Clone)]
pub struct Tree {
    bytes: Bytes,
    count: usize,
    table: usize,
}

#[derive(Clone)]
enum Bytes {
    Memory(Arc<[u8]>),
    File(Arc<RecordFile>, ContentDigest),
}

impl PartialEq for Tree {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl Eq for Tree {}

/// What a layer holds at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// Nothing.
    Absent,
    /// No entry of its own, but entries below it: a directory that the layer's archive left out.
    Implied,
    /// The record with this number.
    Record(usize),
}

impl Tree {
    /// Makes the record of `entries`, in whatever order they come; of several with one path the last stays.
    #[cfg(test)]
    pub(crate) fn build(mut entries: Vec<TreeEntry>) -> Self {
        entries.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        entries.reverse();
        entries.dedup_by(|a, b| a.entry.path == b.entry.path);
        entries.reverse();
        let linked: std::collections::BTreeSet<TreePath> =
            entries.iter().filter_map(|entry| entry.entry.node.link_target().cloned()).collect();
        let mut tree = super::TreeBuilder::new(None);
        let added = entries.iter().try_for_each(|entry| tree.add(entry, linked.contains(&entry.entry.path)));
        added.and_then(|()| tree.finish()).expect("in memory nothing fails")
    }

    /// Takes over bytes that [`Tree::reader`] gave.
    ///
    /// # Errors
    /// When they are cut short, changed, or of another version.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, TreeRecordError> {
        let (count, table) = read_header(&bytes, bytes.len() as u64)?;
        let end = bytes.len() - DIGEST_SIZE;
        if blake3::hash(&bytes[..end]).as_bytes() != &bytes[end..] {
            return Err(TreeRecordError { reason: "its digest does not match" });
        }
        Ok(Self { bytes: Bytes::Memory(bytes.into()), count, table })
    }

    /// Takes over the first bytes of a file, which [`Tree::reader`] gave. Nothing may write to the file any more. Where
    /// they are many they stay in it.
    ///
    /// # Errors
    /// When the file can't be read; an error as of [`Tree::from_bytes`] is inside the first one.
    pub fn from_file(file: File, length: u64) -> io::Result<Result<Self, TreeRecordError>> {
        if length <= MOST_IN_MEMORY as u64 {
            let mut bytes = vec![0; length as usize];
            file.read_exact_at(&mut bytes, 0)?;
            return Ok(Self::from_bytes(bytes));
        }
        let mut header = [0; HEADER_SIZE];
        file.read_exact_at(&mut header, 0)?;
        let (count, table) = match read_header(&header, length) {
            Ok(found) => found,
            Err(error) => return Ok(Err(error)),
        };
        let mut wanted = [0; DIGEST_SIZE];
        file.read_exact_at(&mut wanted, length - DIGEST_SIZE as u64)?;
        let scanned = match RecordFile::scan(Arc::new(file), count, table as u64) {
            Err(error) if error.kind() != io::ErrorKind::InvalidData => return Err(error),
            scanned => scanned.ok().filter(|(_, digest)| *digest == wanted),
        };
        Ok(match scanned {
            Some((file, digest)) => Ok(Self::in_file(file, digest, count, table)),
            None => Err(TreeRecordError { reason: "its digest does not match" }),
        })
    }

    pub(super) fn in_memory(bytes: Vec<u8>, count: usize, table: usize) -> Self {
        Self { bytes: Bytes::Memory(bytes.into()), count, table }
    }

    pub(super) fn in_file(file: RecordFile, digest: ContentDigest, count: usize, table: usize) -> Self {
        Self { bytes: Bytes::File(Arc::new(file), digest), count, table }
    }

    /// Gives the bytes to keep.
    #[must_use]
    pub const fn reader(&self) -> TreeReader<'_> {
        TreeReader { tree: self, place: 0 }
    }

    /// The number of entries.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether the layer changes nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The digest of everything in the record.
    #[must_use]
    pub fn digest(&self) -> ContentDigest {
        match &self.bytes {
            Bytes::Memory(bytes) => ContentDigest::from_bytes(*bytes.last_chunk().expect("the digest ends the bytes")),
            Bytes::File(_, digest) => *digest,
        }
    }

    /// Whether `other` has the same entries, modification times aside.
    ///
    /// # Errors
    /// When a record can't be read.
    pub fn same_but_times(&self, other: &Self) -> io::Result<bool> {
        if self.count != other.count {
            return Ok(false);
        }
        for index in 0..self.count {
            let (Some(a), Some(b)) = (self.record(index)?, other.record(index)?) else { return Ok(false) };
            let (a, b): (&[u8], &[u8]) = (&a.bytes, &b.bytes);
            if a[..TIME.start] != b[..TIME.start] || a[TIME.end..] != b[TIME.end..] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The entry of a path.
    ///
    /// # Errors
    /// When the record can't be read.
    pub fn get(&self, path: &TreePath) -> io::Result<Option<TreeEntry>> {
        match self.slot(path)? {
            Slot::Record(index) => self.entry(index),
            Slot::Absent | Slot::Implied => Ok(None),
        }
    }

    /// All entries, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = io::Result<TreeEntry>> + '_ {
        (0..self.count).filter_map(|index| self.entry(index).transpose())
    }

    /// The entry with a number.
    pub(super) fn entry(&self, index: usize) -> io::Result<Option<TreeEntry>> {
        Ok(self.record(index)?.and_then(|record| record.decode()))
    }

    /// Whether the file with a number has further names in this layer.
    pub(super) fn has_links(&self, index: usize) -> io::Result<bool> {
        Ok(self.record(index)?.is_some_and(|record| record.bytes[1] & HAS_LINKS != 0))
    }

    /// What is at a path.
    pub(super) fn slot(&self, path: &TreePath) -> io::Result<Slot> {
        let index = self.first(0..self.count, |found| compare_paths(found, path.as_bytes()) != Ordering::Less)?;
        Ok(match self.record(index)? {
            Some(record) if record.path() == path.as_bytes() => Slot::Record(index),
            Some(record) if is_below(record.path(), path.as_bytes()) => Slot::Implied,
            _ => Slot::Absent,
        })
    }

    /// The paths directly in a directory, also of directories that have no entry of their own.
    pub(super) fn child_slots(&self, directory: &TreePath) -> io::Result<ChildSlots<'_>> {
        let key = directory.as_bytes();
        let mut start = self.first(0..self.count, |found| compare_paths(found, key) != Ordering::Less)?;
        let end = self.first(start..self.count, |found| found != key && !is_below(found, key))?;
        if self.record(start)?.is_some_and(|record| record.path() == key) {
            start += 1;
        }
        let prefix = if directory.is_root() { 0 } else { key.len() + 1 };
        Ok(ChildSlots { tree: self, range: start..end, prefix })
    }

    /// The first number in a range whose path fulfils a condition that holds for all paths after it too.
    fn first(&self, range: Range<usize>, condition: impl Fn(&[u8]) -> bool) -> io::Result<usize> {
        let Range { start: mut low, end: mut high } = match &self.bytes {
            Bytes::Memory(_) => range,
            Bytes::File(file, _) => file.narrow(range, &condition),
        };
        while low < high {
            let middle = low + (high - low) / 2;
            if self.record(middle)?.is_some_and(|record| condition(record.path())) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    fn record(&self, index: usize) -> io::Result<Option<Record<'_>>> {
        if index >= self.count {
            return Ok(None);
        }
        match &self.bytes {
            Bytes::Memory(bytes) => Ok(self.record_in(bytes, index)),
            Bytes::File(file, _) => {
                let block: Arc<Block> = file.block(index / BLOCK)?;
                let range = block.range(index % BLOCK);
                Ok(range.map(|range| Record { bytes: RecordBytes::InBlock(block, range) }))
            }
        }
    }

    fn record_in<'a>(&self, bytes: &'a [u8], index: usize) -> Option<Record<'a>> {
        let offset = |at: usize| u64_at(bytes, at).and_then(|offset| usize::try_from(offset).ok());
        let start = offset(self.table + index * 8)?;
        let end = if index + 1 == self.count { self.table } else { offset(self.table + index * 8 + 8)? };
        let bytes = bytes.get(start..end)?;
        (bytes.len() >= FIXED_SIZE).then_some(Record::borrowed(bytes))
    }
}

/// The number of records and the place of the table, as a header says them of a record of so many bytes.
fn read_header(header: &[u8], length: u64) -> Result<(usize, usize), TreeRecordError> {
    let error = |reason| TreeRecordError { reason };
    if length < (HEADER_SIZE + DIGEST_SIZE) as u64 || !header.starts_with(MAGIC) {
        return Err(error("it does not begin like one"));
    }
    if u32_at(header, 8) != Some(VERSION) {
        return Err(error("it has another version"));
    }
    let end = length - DIGEST_SIZE as u64;
    let field = |at| u64_at(header, at).and_then(|value| usize::try_from(value).ok());
    let (Some(count), Some(table)) = (field(16), field(24)) else { return Err(error("its header is wrong")) };
    if table < HEADER_SIZE || count.checked_mul(8).and_then(|size| size.checked_add(table)) != Some(end as usize) {
        return Err(error("its table is out of place"));
    }
    Ok((count, table))
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Gives the bytes of a record; made by [`Tree::reader`].
pub struct TreeReader<'a> {
    tree: &'a Tree,
    place: u64,
}

impl Read for TreeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = (self.tree.table + 8 * self.tree.count + DIGEST_SIZE) as u64;
        let most = usize::try_from(length - self.place).unwrap_or(usize::MAX).min(buffer.len());
        let count = match &self.tree.bytes {
            Bytes::Memory(bytes) => {
                buffer[..most].copy_from_slice(&bytes[self.place as usize..][..most]);
                most
            }
            Bytes::File(file, _) => file.file().read_at(&mut buffer[..most], self.place)?,
        };
        self.place += count as u64;
        Ok(count)
    }
}

/// Paths directly in a directory of one layer.
pub(super) struct ChildSlots<'a> {
    tree: &'a Tree,
    range: Range<usize>,
    prefix: usize,
}

impl Iterator for ChildSlots<'_> {
    type Item = io::Result<(TreePath, Slot)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        self.child().transpose()
    }
}

impl ChildSlots<'_> {
    fn child(&mut self) -> io::Result<Option<(TreePath, Slot)>> {
        let index = self.range.start;
        let Some(record) = self.tree.record(index)? else { return Ok(None) };
        let path = record.path();
        let Some(name) = path.get(self.prefix..) else { return Ok(None) };
        let name_length = name.iter().position(|&b| b == b'/');
        let child = &path[..name_length.map_or(path.len(), |length| self.prefix + length)];
        // Mostly the next record is the next child; only directories with contents need the search.
        self.range.start += 1;
        if name_length.is_some() || self.tree.record(index + 1)?.is_some_and(|next| is_below(next.path(), child)) {
            self.range.start =
                self.tree.first(self.range.clone(), |found| found != child && !is_below(found, child))?;
        }
        let slot = if name_length.is_some() { Slot::Implied } else { Slot::Record(index) };
        Ok(TreePath::new(child).ok().map(|child| (child, slot)))
    }
}

/// Whether `path` is inside the directory `directory` (and not itself it).
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() && !path.is_empty() || path.starts_with(directory) && path.get(directory.len()) == Some(&b'/')
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
