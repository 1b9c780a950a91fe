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
//! version of rbuild writes one) counts as absent.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use super::record_entry::{DIGEST_SIZE, FIXED_SIZE, HAS_LINKS, Record, TIME, u32_at, u64_at, write_record};
use super::{ContentDigest, Entry, TreePath, compare_paths};

const MAGIC: &[u8; 8] = b"rbuildtr";
const VERSION: u32 = 1;
const HEADER_SIZE: usize = 32;

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

/// The entries of one layer, sorted by path.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree {
    bytes: Vec<u8>,
    count: usize,
    table: usize,
}

/// Puts a record together, entry by entry.
pub struct TreeBuilder {
    bytes: Vec<u8>,
    offsets: Vec<u64>,
}

impl Default for TreeBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl TreeBuilder {
    /// Begins a record.
    #[must_use]
    pub fn new() -> Self {
        Self { bytes: vec![0; HEADER_SIZE], offsets: Vec::new() }
    }

    /// Adds an entry, whose path must come behind that of the last one; `has_links` tells whether it is a file with
    /// further names.
    pub fn add(&mut self, entry: &TreeEntry, has_links: bool) {
        self.offsets.push(self.bytes.len() as u64);
        write_record(&mut self.bytes, entry, has_links);
    }

    /// The record of what was added.
    #[must_use]
    pub fn finish(self) -> Tree {
        let Self { mut bytes, offsets } = self;
        let (count, table) = (offsets.len(), bytes.len());
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&(count as u64).to_le_bytes());
        bytes[24..32].copy_from_slice(&(table as u64).to_le_bytes());
        bytes.reserve_exact(8 * count + DIGEST_SIZE);
        bytes.extend(offsets.iter().flat_map(|offset| offset.to_le_bytes()));
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
        Tree { bytes, count, table }
    }
}

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
    #[must_use]
    pub fn build(mut entries: Vec<TreeEntry>) -> Self {
        entries.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
        entries.reverse();
        entries.dedup_by(|a, b| a.entry.path == b.entry.path);
        entries.reverse();
        let linked: BTreeSet<TreePath> =
            entries.iter().filter_map(|entry| entry.entry.node.link_target().cloned()).collect();
        let mut tree = TreeBuilder::new();
        entries.iter().for_each(|entry| tree.add(entry, linked.contains(&entry.entry.path)));
        tree.finish()
    }

    /// Takes over bytes that [`Tree::as_bytes`] gave.
    ///
    /// # Errors
    /// When they are cut short, changed, or of another version.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, TreeRecordError> {
        let error = |reason| TreeRecordError { reason };
        if bytes.len() < HEADER_SIZE + DIGEST_SIZE || !bytes.starts_with(MAGIC) {
            return Err(error("it does not begin like one"));
        }
        if u32_at(&bytes, 8) != Some(VERSION) {
            return Err(error("it has another version"));
        }
        let end = bytes.len() - DIGEST_SIZE;
        if blake3::hash(&bytes[..end]).as_bytes() != &bytes[end..] {
            return Err(error("its digest does not match"));
        }
        let field = |at| u64_at(&bytes, at).and_then(|value| usize::try_from(value).ok());
        let (Some(count), Some(table)) = (field(16), field(24)) else { return Err(error("its header is wrong")) };
        if table < HEADER_SIZE || count.checked_mul(8).and_then(|size| size.checked_add(table)) != Some(end) {
            return Err(error("its table is out of place"));
        }
        Ok(Self { bytes, count, table })
    }

    /// The bytes to keep.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
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
        let end = self.bytes.len() - DIGEST_SIZE;
        let digest: [u8; DIGEST_SIZE] = self.bytes[end..].try_into().expect("the digest ends the bytes");
        ContentDigest::from_bytes(digest)
    }

    /// The digest of everything but modification times: equal for layers that differ in nothing else.
    #[must_use]
    pub fn digest_without_times(&self) -> ContentDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.bytes[..16]);
        for record in self.records() {
            hasher.update(&record.bytes[..TIME.start]);
            hasher.update(&record.bytes[TIME.end..]);
        }
        hasher.finalize()
    }

    /// Whether `other` has the same entries, modification times aside.
    #[must_use]
    pub fn same_but_times(&self, other: &Self) -> bool {
        self.count == other.count
            && self.records().zip(other.records()).all(|(a, b)| {
                a.bytes[..TIME.start] == b.bytes[..TIME.start] && a.bytes[TIME.end..] == b.bytes[TIME.end..]
            })
    }

    /// The entry of a path.
    #[must_use]
    pub fn get(&self, path: &TreePath) -> Option<TreeEntry> {
        match self.slot(path) {
            Slot::Record(index) => self.entry(index),
            Slot::Absent | Slot::Implied => None,
        }
    }

    /// All entries, sorted by path.
    pub fn iter(&self) -> impl Iterator<Item = TreeEntry> + '_ {
        self.records().filter_map(|record| record.decode())
    }

    /// The entry of a path and everything below it, sorted by path.
    pub fn range(&self, path: &TreePath) -> impl Iterator<Item = TreeEntry> + '_ {
        self.subtree(path).filter_map(|index| self.entry(index))
    }

    /// The entries directly in a directory, sorted by path.
    pub fn children(&self, directory: &TreePath) -> impl Iterator<Item = TreeEntry> + '_ {
        self.child_slots(directory).filter_map(|(_, slot)| match slot {
            Slot::Record(index) => self.entry(index),
            Slot::Absent | Slot::Implied => None,
        })
    }

    /// The entry with a number.
    pub(super) fn entry(&self, index: usize) -> Option<TreeEntry> {
        self.record(index)?.decode()
    }

    /// Whether the file with a number has further names in this layer.
    pub(super) fn has_links(&self, index: usize) -> bool {
        self.record(index).is_some_and(|record| record.bytes[1] & HAS_LINKS != 0)
    }

    /// What is at a path.
    pub(super) fn slot(&self, path: &TreePath) -> Slot {
        let index = self.first(0..self.count, |found| compare_paths(found, path.as_bytes()) != Ordering::Less);
        match self.record(index) {
            Some(record) if record.path() == path.as_bytes() => Slot::Record(index),
            Some(record) if is_below(record.path(), path.as_bytes()) => Slot::Implied,
            _ => Slot::Absent,
        }
    }

    /// The paths directly in a directory, also of directories that have no entry of their own.
    pub(super) fn child_slots(&self, directory: &TreePath) -> ChildSlots<'_> {
        let mut range = self.subtree(directory);
        if self.record(range.start).is_some_and(|record| record.path() == directory.as_bytes()) {
            range.start += 1;
        }
        let prefix = if directory.is_root() { 0 } else { directory.as_bytes().len() + 1 };
        ChildSlots { tree: self, range, prefix }
    }

    fn subtree(&self, path: &TreePath) -> Range<usize> {
        let key = path.as_bytes();
        let start = self.first(0..self.count, |found| compare_paths(found, key) != Ordering::Less);
        let end = self.first(start..self.count, |found| found != key && !is_below(found, key));
        start..end
    }

    /// The first number in a range whose path fulfils a condition that holds for all paths after it too.
    fn first(&self, range: Range<usize>, condition: impl Fn(&[u8]) -> bool) -> usize {
        let Range { start: mut low, end: mut high } = range;
        while low < high {
            let middle = low + (high - low) / 2;
            if self.record(middle).is_some_and(|record| condition(record.path())) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        low
    }

    fn record(&self, index: usize) -> Option<Record<'_>> {
        if index >= self.count {
            return None;
        }
        let offset = |at: usize| u64_at(&self.bytes, at).and_then(|offset| usize::try_from(offset).ok());
        let start = offset(self.table + index * 8)?;
        let end = if index + 1 == self.count { self.table } else { offset(self.table + index * 8 + 8)? };
        let bytes = self.bytes.get(start..end)?;
        (bytes.len() >= FIXED_SIZE).then_some(Record { bytes })
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        (0..self.count).filter_map(|index| self.record(index))
    }
}

impl std::fmt::Debug for Tree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Paths directly in a directory of one layer.
pub(super) struct ChildSlots<'a> {
    tree: &'a Tree,
    range: Range<usize>,
    prefix: usize,
}

impl Iterator for ChildSlots<'_> {
    type Item = (TreePath, Slot);

    fn next(&mut self) -> Option<Self::Item> {
        if self.range.is_empty() {
            return None;
        }
        let index = self.range.start;
        let path = self.tree.record(index)?.path();
        let name_length = path.get(self.prefix..)?.iter().position(|&b| b == b'/');
        let child = &path[..name_length.map_or(path.len(), |length| self.prefix + length)];
        // Mostly the next record is the next child; only directories with contents need the search.
        self.range.start += 1;
        if name_length.is_some() || self.tree.record(index + 1).is_some_and(|next| is_below(next.path(), child)) {
            self.range.start = self.tree.first(self.range.clone(), |found| found != child && !is_below(found, child));
        }
        let slot = if name_length.is_some() { Slot::Implied } else { Slot::Record(index) };
        TreePath::new(child).ok().map(|child| (child, slot))
    }
}

/// Whether `path` is inside the directory `directory` (and not itself it).
fn is_below(path: &[u8], directory: &[u8]) -> bool {
    directory.is_empty() && !path.is_empty() || path.starts_with(directory) && path.get(directory.len()) == Some(&b'/')
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
