//! One entry's bytes in the record of a layer; [`super::record`] has the format.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::sync::Arc;

use super::record_file::Block;
use super::{ContentDigest, Entry, Metadata, Node, Timestamp, TreeEntry, TreePath};

/// The size in bytes of what every record has.
pub(super) const FIXED_SIZE: usize = 44;
/// The size in bytes of a BLAKE3 digest.
pub(super) const DIGEST_SIZE: usize = 32;
/// Where a record has its modification time.
pub(super) const TIME: Range<usize> = 12..24;

const OPAQUE: u8 = 1;
const HAS_DIGEST: u8 = 2;
/// The flag of a file with further names in its layer.
pub(super) const HAS_LINKS: u8 = 4;

/// One record's bytes, [`FIXED_SIZE`] of them at least.
pub(super) struct Record<'a> {
    pub(super) bytes: RecordBytes<'a>,
}

/// Where a record's bytes are.
pub(super) enum RecordBytes<'a> {
    Borrowed(&'a [u8]),
    InBlock(Arc<Block>, Range<usize>),
}

impl Deref for RecordBytes<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::InBlock(block, range) => &block.bytes()[range.clone()],
        }
    }
}

impl<'a> Record<'a> {
    pub(super) const fn borrowed(bytes: &'a [u8]) -> Self {
        Self { bytes: RecordBytes::Borrowed(bytes) }
    }

    pub(super) fn path(&self) -> &[u8] {
        let length = u32_at(&self.bytes, 32).unwrap_or(0) as usize;
        let start = self.path_start();
        self.bytes.get(start..start + length).unwrap_or_default()
    }

    fn path_start(&self) -> usize {
        FIXED_SIZE + if self.bytes[1] & HAS_DIGEST == 0 { 0 } else { DIGEST_SIZE }
    }

    pub(super) fn decode(&self) -> Option<TreeEntry> {
        let flags = self.bytes[1];
        let path = TreePath::new(self.path()).ok()?;
        let mut rest = self.bytes.get(self.path_start() + path.as_bytes().len()..)?;
        let mut take = |length: u32| {
            let (taken, left) = rest.split_at_checked(length as usize)?;
            rest = left;
            Some(taken)
        };
        let target = take(u32_at(&self.bytes, 36)?)?;
        let mut xattrs = BTreeMap::new();
        for _ in 0..u32_at(&self.bytes, 40)? {
            let name_length = u32_at(take(4)?, 0)?;
            let value_length = u32_at(take(4)?, 0)?;
            xattrs.insert(take(name_length)?.to_vec(), take(value_length)?.to_vec());
        }
        let number = u64_at(&self.bytes, 24)?;
        let (major, minor) = ((number >> 32) as u32, number as u32);
        let node = match self.bytes[0] {
            1 => Node::Directory { opaque: flags & OPAQUE != 0 },
            2 => Node::File { size: number },
            3 => Node::Symlink { target: target.to_vec() },
            4 => Node::HardLink { target: TreePath::new(target).ok()? },
            5 => Node::Fifo,
            6 => Node::CharDevice { major, minor },
            7 => Node::BlockDevice { major, minor },
            8 => Node::Whiteout,
            _ => return None,
        };
        let digest = match flags & HAS_DIGEST {
            0 => None,
            _ => {
                Some(ContentDigest::from_bytes(self.bytes.get(FIXED_SIZE..FIXED_SIZE + DIGEST_SIZE)?.try_into().ok()?))
            }
        };
        let modified =
            Timestamp { nanoseconds: u32_at(&self.bytes, 12)?, seconds: u64_at(&self.bytes, 16)?.cast_signed() };
        let mode = u32::from(u16::from_le_bytes([self.bytes[2], self.bytes[3]]));
        let (uid, gid) = (u32_at(&self.bytes, 4)?, u32_at(&self.bytes, 8)?);
        Some(TreeEntry { entry: Entry { path, node, metadata: Metadata { mode, uid, gid, modified, xattrs } }, digest })
    }
}

/// Appends the record of an entry.
pub(super) fn write_record(bytes: &mut Vec<u8>, entry: &TreeEntry, has_links: bool) {
    let TreeEntry { entry: Entry { path, node, metadata }, digest } = entry;
    let device = |major: u32, minor: u32| u64::from(major) << 32 | u64::from(minor);
    let (kind, number, target): (u8, u64, &[u8]) = match node {
        Node::Directory { .. } => (1, 0, &[]),
        Node::File { size } => (2, *size, &[]),
        Node::Symlink { target } => (3, 0, target),
        Node::HardLink { target } => (4, 0, target.as_bytes()),
        Node::Fifo => (5, 0, &[]),
        Node::CharDevice { major, minor } => (6, device(*major, *minor), &[]),
        Node::BlockDevice { major, minor } => (7, device(*major, *minor), &[]),
        Node::Whiteout => (8, 0, &[]),
    };
    let opaque = if matches!(node, Node::Directory { opaque: true }) { OPAQUE } else { 0 };
    let links = if has_links && matches!(node, Node::File { .. }) { HAS_LINKS } else { 0 };
    bytes.extend_from_slice(&[kind, opaque | links | if digest.is_some() { HAS_DIGEST } else { 0 }]);
    bytes.extend_from_slice(&((metadata.mode & 0o7777) as u16).to_le_bytes());
    bytes.extend_from_slice(&metadata.uid.to_le_bytes());
    bytes.extend_from_slice(&metadata.gid.to_le_bytes());
    bytes.extend_from_slice(&metadata.modified.nanoseconds.to_le_bytes());
    bytes.extend_from_slice(&metadata.modified.seconds.to_le_bytes());
    bytes.extend_from_slice(&number.to_le_bytes());
    for length in [path.as_bytes().len(), target.len(), metadata.xattrs.len()] {
        bytes.extend_from_slice(&length_field(length));
    }
    bytes.extend_from_slice(digest.as_ref().map_or(&[], |digest| digest.as_bytes().as_slice()));
    bytes.extend_from_slice(path.as_bytes());
    bytes.extend_from_slice(target);
    for (name, value) in &metadata.xattrs {
        bytes.extend_from_slice(&length_field(name.len()));
        bytes.extend_from_slice(&length_field(value.len()));
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
    }
}

fn length_field(length: usize) -> [u8; 4] {
    u32::try_from(length).expect("paths, link targets and attributes are far below 4 GiB").to_le_bytes()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
