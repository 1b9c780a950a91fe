//! Sorted changes in little memory: a layer of a million files takes some ten megabytes.
//!
//! Changes lie in blocks, one after another. What neighbours have in common is written once: a path is told by how much
//! of the path before it it repeats, a time by the distance to the time before. Owners, modes and attributes that come
//! again and again are in a table, and so are the folders that contents are read from.
//!
//! ```text
//! change: bytes shared with the path before | length, rest of the path | tag u8 (kind, opaque, content) | of the kind
//!         | number of owner, mode and attributes | time: seconds after the time before (zigzag), nanoseconds | content
//! of the kind:  size of a file | length, target of a link | major, minor number of a device
//! content:      number in the table of contents; or number of the folder, bytes of the path below it, stamp u64
//! ```
//!
//! Numbers are LEB128. The first change of a block repeats nothing, so a block is read without those before it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::packed::{PackedReader, push_bytes, push_number, push_signed};
use super::{
    Change, Content, Entry, Metadata, Node, OpenContent, SourceFile, Timestamp, TreePath, Xattrs, compare_paths,
};

/// A block ends after as many changes.
const BLOCK: usize = 128;

const KIND: u8 = 0x0f;
const OPAQUE: u8 = 0x10;
const IN_TABLE: u8 = 0x20;
const IN_FOLDER: u8 = 0x40;

/// The changes of a layer, sorted by path, each path once.
#[derive(Clone, Default)]
pub struct ChangeList {
    blocks: Vec<Box<[u8]>>,
    count: usize,
    owners: Vec<Owner>,
    folders: Vec<Folder>,
    contents: Vec<Content>,
    linked: BTreeSet<TreePath>,
    content_size: u64,
}

/// Where contents are read from.
#[derive(Clone)]
struct Folder {
    opener: Arc<dyn OpenContent>,
    /// What the paths that the opener knows begin with.
    start: Box<[u8]>,
}

/// What many entries have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owner {
    mode: u32,
    uid: u32,
    gid: u32,
    xattrs: Xattrs,
}

/// Puts a list together.
#[derive(Default)]
pub struct ChangeListBuilder {
    list: ChangeList,
    block: Vec<u8>,
    in_block: usize,
    path: Vec<u8>,
    seconds: i64,
    owners: HashMap<Owner, usize>,
    folders: HashMap<(usize, Box<[u8]>), usize>,
}

impl ChangeListBuilder {
    /// Adds a change, whose path must come behind that of the last one.
    pub fn push(&mut self, change: Change) {
        let Change { entry: Entry { path, node, metadata }, content } = change;
        if self.in_block == BLOCK {
            self.end_block();
        }
        let shared = self.path.iter().zip(path.as_bytes()).take_while(|(a, b)| a == b).count();
        push_number(&mut self.block, shared as u64);
        push_bytes(&mut self.block, &path.as_bytes()[shared..]);
        let tag = self.block.len();
        self.block.push(0);
        self.block[tag] = self.push_node(node);
        let Metadata { mode, uid, gid, modified, xattrs } = metadata;
        let owner = self.owner(Owner { mode, uid, gid, xattrs });
        push_number(&mut self.block, owner as u64);
        push_signed(&mut self.block, modified.seconds.wrapping_sub(self.seconds));
        push_number(&mut self.block, modified.nanoseconds.into());
        self.block[tag] |= self.push_content(path.as_bytes(), content);
        self.seconds = modified.seconds;
        self.path.clear();
        self.path.extend_from_slice(path.as_bytes());
        self.in_block += 1;
        self.list.count += 1;
    }

    /// The list.
    #[must_use]
    pub fn finish(mut self) -> ChangeList {
        self.end_block();
        self.list
    }

    /// Appends what a kind has of its own; gives the kind's part of the tag.
    fn push_node(&mut self, node: Node) -> u8 {
        let block = &mut self.block;
        let mut device = |kind, major: u32, minor: u32| {
            push_number(block, major.into());
            push_number(block, minor.into());
            kind
        };
        match node {
            Node::Directory { opaque } => 1 | if opaque { OPAQUE } else { 0 },
            Node::File { size } => {
                push_number(block, size);
                self.list.content_size += size;
                2
            }
            Node::Symlink { target } => {
                push_bytes(block, &target);
                3
            }
            Node::HardLink { target } => {
                push_bytes(block, target.as_bytes());
                self.list.linked.insert(target);
                4
            }
            Node::Fifo => 5,
            Node::CharDevice { major, minor } => device(6, major, minor),
            Node::BlockDevice { major, minor } => device(7, major, minor),
            Node::Whiteout => 8,
        }
    }

    /// Appends where a content is read from; gives its part of the tag.
    fn push_content(&mut self, path: &[u8], content: Content) -> u8 {
        match content {
            Content::None => 0,
            content @ Content::Bytes(_) => {
                push_number(&mut self.block, self.list.contents.len() as u64);
                self.list.contents.push(content);
                IN_TABLE
            }
            Content::Source(file) => {
                let source = file.path.as_bytes();
                let same = source.iter().rev().zip(path.iter().rev()).take_while(|(a, b)| a == b).count();
                let folder = self.folder(&file.opener, &source[..source.len() - same]);
                push_number(&mut self.block, folder as u64);
                push_number(&mut self.block, same as u64);
                self.block.extend_from_slice(&file.stamp.to_le_bytes());
                IN_FOLDER
            }
        }
    }

    fn owner(&mut self, owner: Owner) -> usize {
        if let Some(number) = self.owners.get(&owner) {
            return *number;
        }
        self.list.owners.push(owner.clone());
        self.owners.insert(owner, self.list.owners.len() - 1);
        self.list.owners.len() - 1
    }

    fn folder(&mut self, opener: &Arc<dyn OpenContent>, start: &[u8]) -> usize {
        let key = (Arc::as_ptr(opener).cast::<()>() as usize, Box::from(start));
        *self.folders.entry(key).or_insert_with_key(|(_, start)| {
            self.list.folders.push(Folder { opener: Arc::clone(opener), start: start.clone() });
            self.list.folders.len() - 1
        })
    }

    fn end_block(&mut self) {
        if self.in_block > 0 {
            self.list.blocks.push(self.block.as_slice().into());
        }
        self.block.clear();
        self.path.clear();
        (self.in_block, self.seconds) = (0, 0);
    }
}

impl ChangeList {
    /// The number of changes.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no change.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of all files' contents.
    #[must_use]
    pub const fn content_size(&self) -> u64 {
        self.content_size
    }

    /// Whether hard links name this path.
    #[must_use]
    pub fn is_linked(&self, path: &TreePath) -> bool {
        self.linked.contains(path)
    }

    /// All changes, in order.
    #[must_use]
    pub fn iter(&self) -> Changes<'_> {
        self.after_blocks(0)
    }

    /// The change of a path.
    #[must_use]
    pub fn find(&self, path: &TreePath) -> Option<Change> {
        let starts_behind = |block: &[u8]| {
            let mut reader = PackedReader::new(block);
            let _repeats_nothing = reader.number();
            compare_paths(reader.bytes(), path.as_bytes()).is_gt()
        };
        let behind = self.blocks.partition_point(|block| !starts_behind(block));
        let mut changes = self.after_blocks(behind.checked_sub(1)?).take(BLOCK);
        changes.find(|change| change.entry.path == *path)
    }

    fn after_blocks(&self, block: usize) -> Changes<'_> {
        let next = self.blocks[block..].iter();
        Changes {
            list: self,
            next,
            rest: PackedReader::new(&[]),
            path: Vec::new(),
            seconds: 0,
            left: self.count - block * BLOCK,
        }
    }
}

impl std::fmt::Debug for ChangeList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<Change> for ChangeList {
    fn from_iter<T: IntoIterator<Item = Change>>(changes: T) -> Self {
        let mut list = ChangeListBuilder::default();
        changes.into_iter().for_each(|change| list.push(change));
        list.finish()
    }
}

impl From<Vec<Change>> for ChangeList {
    fn from(changes: Vec<Change>) -> Self {
        changes.into_iter().collect()
    }
}

impl From<&[Change]> for ChangeList {
    fn from(changes: &[Change]) -> Self {
        changes.iter().cloned().collect()
    }
}

impl<'a> IntoIterator for &'a ChangeList {
    type Item = Change;
    type IntoIter = Changes<'a>;

    fn into_iter(self) -> Changes<'a> {
        self.iter()
    }
}

/// Goes through a list of changes; made by [`ChangeList::iter`].
pub struct Changes<'a> {
    list: &'a ChangeList,
    next: std::slice::Iter<'a, Box<[u8]>>,
    rest: PackedReader<'a>,
    path: Vec<u8>,
    seconds: i64,
    left: usize,
}

impl Iterator for Changes<'_> {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        if self.rest.is_empty() {
            self.rest = PackedReader::new(self.next.next()?);
            (self.path, self.seconds) = (Vec::new(), 0);
        }
        self.left -= 1;
        let shared = self.rest.number() as usize;
        self.path.truncate(shared);
        self.path.extend_from_slice(self.rest.bytes());
        let path = TreePath::from_checked(self.path.clone());
        let tag = self.rest.byte();
        let node = self.node(tag);
        let Owner { mode, uid, gid, xattrs } = self.list.owners[self.rest.number() as usize].clone();
        self.seconds = self.seconds.wrapping_add(self.rest.signed());
        let modified = Timestamp { seconds: self.seconds, nanoseconds: self.rest.number() as u32 };
        let content = self.content(tag);
        Some(Change { entry: Entry { path, node, metadata: Metadata { mode, uid, gid, modified, xattrs } }, content })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Changes<'_> {}

impl Changes<'_> {
    fn node(&mut self, tag: u8) -> Node {
        let rest = &mut self.rest;
        match tag & KIND {
            1 => Node::Directory { opaque: tag & OPAQUE != 0 },
            2 => Node::File { size: rest.number() },
            3 => Node::Symlink { target: rest.bytes().to_vec() },
            4 => Node::HardLink { target: TreePath::from_checked(rest.bytes().to_vec()) },
            5 => Node::Fifo,
            6 => Node::CharDevice { major: rest.number() as u32, minor: rest.number() as u32 },
            7 => Node::BlockDevice { major: rest.number() as u32, minor: rest.number() as u32 },
            8 => Node::Whiteout,
            kind => unreachable!("no kind {kind} was written"),
        }
    }

    fn content(&mut self, tag: u8) -> Content {
        if tag & IN_TABLE != 0 {
            return self.list.contents[self.rest.number() as usize].clone();
        }
        if tag & IN_FOLDER == 0 {
            return Content::None;
        }
        let Folder { opener, start } = &self.list.folders[self.rest.number() as usize];
        let same = self.rest.number() as usize;
        let path = [start, &self.path[self.path.len() - same..]].concat();
        let stamp = self.rest.fixed();
        Content::Source(SourceFile { opener: Arc::clone(opener), path: TreePath::from_checked(path), stamp })
    }
}

#[cfg(test)]
#[path = "change_list_tests.rs"]
mod tests;
