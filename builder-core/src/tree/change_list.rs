//! Sorted changes in little memory: a layer of a million files takes some forty megabytes, which are in a temporary file
//! where there is a folder for it.
//!
//! Changes lie in blocks, one after another. What neighbours have in common is written once: a path is told by how much
//! of the path before it it repeats, a time by the distance to the time before. Owners, modes and attributes that come
//! again and again are in a table, and so are the folders that contents are read from.
//!
//! ```text
//! change: bytes shared with the path before | length, rest of the path | tag u8 (kind, opaque, content) | of the kind
//!         | number of owner, mode and attributes | time: seconds after the time before (zigzag), nanoseconds | content
//! of the kind:  size of a file | length, target of a link | major, minor number of a device
//! content:      number in the table of contents; or number of the folder, bytes of the path below it (times two, and one
//!               more where there is a mark), stamp u64, mark (16 bytes);
//!               or number of the open file, place and length in it
//! ```
//!
//! Numbers are LEB128. The first change of a block repeats nothing, so a block is read without those before it.

mod reader;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use super::packed::{PackedReader, push_bytes, push_number, push_signed};
use super::spool::{Spool, Spooled};
use super::{Change, Content, Entry, FilePart, Metadata, Node, OpenContent, TreePath, Xattrs, compare_paths};

pub use reader::Changes;

/// A block ends after as many changes.
const BLOCK: usize = 128;

const KIND: u8 = 0x0f;
const OPAQUE: u8 = 0x10;
const IN_TABLE: u8 = 0x20;
const IN_FOLDER: u8 = 0x40;
const IN_FILE: u8 = 0x80;

/// The changes of a layer, sorted by path, each path once.
#[derive(Clone, Default)]
pub struct ChangeList {
    bytes: Spooled,
    /// Where each block ends in the bytes.
    ends: Vec<u64>,
    count: usize,
    owners: Vec<Owner>,
    folders: Vec<Folder>,
    contents: Vec<Content>,
    files: Vec<Arc<File>>,
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
    blocks: Spool,
    block: Vec<u8>,
    in_block: usize,
    path: Vec<u8>,
    seconds: i64,
    owners: HashMap<Owner, usize>,
    folders: HashMap<(usize, Box<[u8]>), usize>,
}

impl ChangeListBuilder {
    /// Begins a list whose changes are put into a file in `folder` where they are many; the file has no name.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { blocks: Spool::new(Some(folder)), ..Self::default() }
    }

    /// Adds a change, whose path must come behind that of the last one.
    ///
    /// # Errors
    /// When the folder's disk takes no more.
    pub fn push(&mut self, change: Change) -> io::Result<()> {
        let Change { entry: Entry { path, node, metadata }, content } = change;
        if self.in_block == BLOCK {
            self.end_block()?;
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
        Ok(())
    }

    /// The list.
    ///
    /// # Errors
    /// When the folder's disk takes no more.
    pub fn finish(mut self) -> io::Result<ChangeList> {
        self.end_block()?;
        self.list.bytes = self.blocks.finish()?;
        Ok(self.list)
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
            Content::Part(FilePart { file, start, length }) => {
                let known = self.list.files.iter().rposition(|known| Arc::ptr_eq(known, &file));
                let number = known.unwrap_or_else(|| {
                    self.list.files.push(file);
                    self.list.files.len() - 1
                });
                [number as u64, start, length].iter().for_each(|number| push_number(&mut self.block, *number));
                IN_FILE
            }
            Content::Source(file) => {
                let source = file.path.as_bytes();
                let same = source.iter().rev().zip(path.iter().rev()).take_while(|(a, b)| a == b).count();
                let folder = self.folder(&file.opener, &source[..source.len() - same]);
                push_number(&mut self.block, folder as u64);
                push_number(&mut self.block, (same as u64) << 1 | u64::from(file.mark.is_some()));
                self.block.extend_from_slice(&file.stamp.to_le_bytes());
                self.block.extend(file.mark.iter().flat_map(|mark| mark.0));
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

    fn end_block(&mut self) -> io::Result<()> {
        if self.in_block > 0 {
            self.blocks.push(&self.block)?;
            self.list.ends.push(self.blocks.len());
        }
        self.block.clear();
        self.path.clear();
        (self.in_block, self.seconds) = (0, 0);
        Ok(())
    }
}

impl ChangeList {
    /// Makes a list of sorted changes as [`ChangeListBuilder::in_folder`] does.
    ///
    /// # Errors
    /// The first error among `changes`, or that the folder's disk takes no more.
    pub fn collect_in(folder: &Path, mut changes: impl Iterator<Item = io::Result<Change>>) -> io::Result<Self> {
        let mut list = ChangeListBuilder::in_folder(folder);
        changes.try_for_each(|change| list.push(change?))?;
        list.finish()
    }

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

    /// All changes, in order. An error, after which there are no more, says that the file with them can't be read.
    #[must_use]
    pub fn iter(&self) -> Changes<'_> {
        self.after_blocks(0)
    }

    /// The change of a path.
    ///
    /// # Errors
    /// When the file with the changes can't be read.
    pub fn find(&self, path: &TreePath) -> io::Result<Option<Change>> {
        let (mut low, mut high) = (0, self.ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.block(middle)?;
            let mut reader = PackedReader::new(&block);
            let _repeats_nothing = reader.number();
            match compare_paths(reader.bytes(), path.as_bytes()).is_gt() {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        let Some(block) = low.checked_sub(1) else { return Ok(None) };
        let found = self
            .after_blocks(block)
            .take(BLOCK)
            .find(|change| change.as_ref().map_or(true, |change| change.entry.path == *path));
        found.transpose()
    }

    fn block(&self, number: usize) -> io::Result<Vec<u8>> {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        let mut block = vec![0; (self.ends[number] - start) as usize];
        self.bytes.read_at(start, &mut block)?;
        Ok(block)
    }

    fn after_blocks(&self, block: usize) -> Changes<'_> {
        Changes::new(self, block)
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
        let added = changes.into_iter().try_for_each(|change| list.push(change));
        added.and_then(|()| list.finish()).expect("in memory nothing fails")
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
    type Item = io::Result<Change>;
    type IntoIter = Changes<'a>;

    fn into_iter(self) -> Changes<'a> {
        self.iter()
    }
}

#[cfg(test)]
#[path = "change_list_tests.rs"]
mod tests;
