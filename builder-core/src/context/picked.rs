//! What a walk picked below a directory, packed: a COPY of a million files takes some sixty megabytes, most of which are
//! in a temporary file where there is a folder for it.
//!
//! ```text
//! entry: tag u8 (kind, and which parts follow) | length, name | size of a file, target of a link or numbers of a device
//!        | mode | owner | group | time: seconds (zigzag), nanoseconds | attributes: number, then names and values
//!        | mark of the content (16 bytes) | number of the link | content
//! ```
//!
//! What is in a directory follows it, up to a tag of 0. Numbers are LEB128. A walk packs each directory by itself, and
//! what it packed is put together without being looked at.

use std::borrow::Cow;
use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::select::Picked;
use crate::tree::{
    Appended, Content, ContentMark, Entry, Metadata, Node, OpenContent, PackedReader, Seen, SourceFile, Timestamp,
    TreeError, TreePath, Xattrs, push_bytes, push_number, push_signed,
};

const END: u8 = 0;
const KIND: u8 = 0x07;
const ON_THE_WAY: u8 = 0x08;
const LINKED: u8 = 0x10;
const HAS_MARK: u8 = 0x20;
const HAS_CONTENT: u8 = 0x40;
const HAS_SOURCE: u8 = 0x80;

/// As many openers are looked through for one that is known already.
const RECENT: usize = 8;

/// Pieces of fewer bytes are put together.
const PIECE: usize = 64 << 10;

/// Once a walk packed as many bytes, what each directory adds goes to the temporary file.
const MOST_IN_MEMORY: u64 = 2 << 20;

/// What is packed of one directory goes there in as many pieces at once.
const MOST_PIECES: usize = 16;

/// Packed entries, each directory before what is in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Packed {
    pieces: Vec<Piece>,
    /// How many of them were put by, or might have been.
    settled: usize,
}

/// Whole entries.
#[derive(Debug, Clone)]
enum Piece {
    Memory(Vec<u8>),
    /// Bytes of the walk's file.
    File {
        start: u64,
        length: usize,
    },
}

/// Where contents of packed entries are read from, and the file that entries are put into.
#[derive(Default)]
pub(super) struct Contents {
    table: Mutex<Table>,
    packed: AtomicU64,
    folder: Option<PathBuf>,
    file: Mutex<Option<Arc<Appended>>>,
}

#[derive(Clone, Default)]
struct Table {
    openers: Vec<Arc<dyn OpenContent>>,
    contents: Vec<Content>,
}

/// All that a walk picked.
#[derive(Clone)]
pub(super) struct PickedTree {
    packed: Packed,
    file: Option<Arc<Appended>>,
    contents: Arc<Table>,
    /// The links with several names among what was picked.
    shared: Arc<HashSet<u64>>,
}

impl Packed {
    /// Adds what is no directory; `directory` is where it is in the source.
    pub(super) fn add_file(
        &mut self,
        seen: &Seen<'_>,
        directory: &TreePath,
        contents: &Contents,
    ) -> Result<(), TreeError> {
        let content = (seen.content)()?;
        let (kind, has_content) = match seen.node {
            Node::File { .. } => (2, contents.tag(&content)),
            Node::Symlink { .. } => (3, 0),
            Node::Fifo => (4, 0),
            Node::CharDevice { .. } => (5, 0),
            Node::BlockDevice { .. } => (6, 0),
            Node::Directory { .. } | Node::HardLink { .. } | Node::Whiteout => {
                unreachable!("a view gives files, and directories are added as such")
            }
        };
        let linked = if seen.link.is_some() { LINKED } else { 0 };
        let marked = if seen.digest.is_some() { HAS_MARK } else { 0 };
        let bytes = self.last_piece();
        bytes.push(kind | has_content | linked | marked);
        push_bytes(bytes, seen.name);
        match seen.node {
            Node::File { size } => push_number(bytes, *size),
            Node::Symlink { target } => push_bytes(bytes, target),
            Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
                push_number(bytes, (*major).into());
                push_number(bytes, (*minor).into());
            }
            _ => {}
        }
        push_metadata(bytes, seen.metadata);
        if let Some(digest) = &seen.digest {
            bytes.extend_from_slice(&ContentMark::from(digest).0);
        }
        if let Some(link) = seen.link {
            push_number(bytes, link);
        }
        contents.push(bytes, content, directory, seen.name);
        if self.pieces.len() - self.settled > MOST_PIECES { self.put_by(contents).map_err(unreadable) } else { Ok(()) }
    }

    /// Adds a directory with what is in it.
    pub(super) fn add_directory(&mut self, name: &[u8], metadata: &Metadata, on_the_way: bool, inner: Self) {
        let bytes = self.last_piece();
        bytes.push(1 | if on_the_way { ON_THE_WAY } else { 0 });
        push_bytes(bytes, name);
        push_metadata(bytes, metadata);
        self.append(inner);
        self.last_piece().push(END);
    }

    /// Adds packed entries behind these.
    pub(super) fn append(&mut self, other: Self) {
        for piece in other.pieces {
            match (self.pieces.last_mut(), &piece) {
                (Some(Piece::Memory(last)), Piece::Memory(next)) if last.len() + next.len() <= PIECE => {
                    last.extend_from_slice(next);
                }
                _ => self.begin_piece(piece),
            }
        }
    }

    /// Puts these entries into the walk's file, where what the walk packed is much already and there is one.
    pub(super) fn put_by(&mut self, contents: &Contents) -> io::Result<()> {
        let pieces = &mut self.pieces[self.settled..];
        self.settled += pieces.len();
        let own: usize =
            pieces.iter().map(|piece| if let Piece::Memory(bytes) = piece { bytes.len() } else { 0 }).sum();
        let packed = contents.packed.fetch_add(own as u64, Ordering::Relaxed);
        if packed <= MOST_IN_MEMORY {
            return Ok(());
        }
        let Some(file) = contents.file()? else { return Ok(()) };
        for piece in pieces {
            if let Piece::Memory(bytes) = piece
                && !bytes.is_empty()
            {
                *piece = Piece::File { start: file.append(bytes)?, length: bytes.len() };
            }
        }
        Ok(())
    }

    fn last_piece(&mut self) -> &mut Vec<u8> {
        if !matches!(self.pieces.last(), Some(Piece::Memory(bytes)) if bytes.len() < PIECE) {
            self.begin_piece(Piece::Memory(Vec::new()));
        }
        match self.pieces.last_mut() {
            Some(Piece::Memory(bytes)) => bytes,
            _ => unreachable!("one was just pushed if there was none"),
        }
    }

    fn begin_piece(&mut self, piece: Piece) {
        if let Some(Piece::Memory(full)) = self.pieces.last_mut() {
            full.shrink_to_fit();
        }
        self.pieces.push(piece);
    }
}

impl Contents {
    /// `folder` is for a file without a name.
    pub(super) fn in_folder(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned), ..Self::default() }
    }

    /// The file for entries; `None` where there is no folder for one.
    fn file(&self) -> io::Result<Option<Arc<Appended>>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let (None, Some(folder)) = (&*file, &self.folder) {
            *file = Some(Arc::new(Appended::new(folder)?));
        }
        Ok(file.clone())
    }

    /// The part of an entry's tag that tells what kind of content it has.
    fn tag(&self, content: &Content) -> u8 {
        match content {
            Content::None => 0,
            Content::Bytes(_) | Content::Part(_) => HAS_CONTENT,
            Content::Source(_) => HAS_SOURCE,
        }
    }

    fn push(&self, bytes: &mut Vec<u8>, content: Content, directory: &TreePath, name: &[u8]) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        match content {
            Content::None => {}
            content @ (Content::Bytes(_) | Content::Part(_)) => {
                push_number(bytes, table.contents.len() as u64);
                table.contents.push(content);
            }
            Content::Source(file) => {
                // One of the last ones, or one of as many as there are files.
                let recent = table.openers.iter().enumerate().rev().take(RECENT);
                let known = recent.into_iter().find(|(_, known)| Arc::ptr_eq(known, &file.opener));
                let number = known.map(|(number, _)| number).unwrap_or_else(|| {
                    table.openers.push(file.opener);
                    table.openers.len() - 1
                });
                push_number(bytes, number as u64);
                // Mostly a file is opened where it was seen.
                let seen_there = file.path.is_in(directory, name);
                push_bytes(bytes, if seen_there { b"" } else { file.path.as_bytes() });
                bytes.extend_from_slice(&file.stamp.to_le_bytes());
            }
        }
    }
}

impl PickedTree {
    /// Takes what a walk packed; `shared` are the links that have several names in it.
    pub(super) fn new(packed: Packed, contents: Contents, shared: HashSet<u64>) -> Self {
        let table = contents.table.into_inner().unwrap_or_else(PoisonError::into_inner);
        let file = contents.file.into_inner().unwrap_or_else(PoisonError::into_inner);
        Self { packed, file, contents: Arc::new(table), shared: Arc::new(shared) }
    }

    /// All entries, with their paths below `directory`.
    pub(super) fn iter<'a>(&'a self, directory: &'a TreePath) -> PickedEntries<'a> {
        let next = self.packed.pieces.iter();
        PickedEntries { tree: self, directory, next, piece: Cow::Borrowed(&[]), at: 0, relative: TreePath::root() }
    }
}

/// Goes through what a walk picked. An error, after which there is nothing more, says that the file with it can't be read.
pub(super) struct PickedEntries<'a> {
    tree: &'a PickedTree,
    directory: &'a TreePath,
    next: std::slice::Iter<'a, Piece>,
    piece: Cow<'a, [u8]>,
    at: usize,
    /// The directory that the walk is in.
    relative: TreePath,
}

impl Iterator for PickedEntries<'_> {
    type Item = Result<Picked, TreeError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.at == self.piece.len() {
                let piece = self.next.next()?;
                match self.load(piece) {
                    Ok(piece) => (self.piece, self.at) = (piece, 0),
                    Err(source) => {
                        self.next = [].iter();
                        return Some(Err(unreadable(source)));
                    }
                }
            }
            let piece = std::mem::take(&mut self.piece);
            let mut rest = PackedReader::new(&piece[self.at..]);
            let picked = self.entry(&mut rest);
            self.at = piece.len() - rest.len();
            self.piece = piece;
            if picked.is_some() {
                return picked.map(Ok);
            }
        }
    }
}

impl<'a> PickedEntries<'a> {
    fn load(&self, piece: &'a Piece) -> io::Result<Cow<'a, [u8]>> {
        match (piece, &self.tree.file) {
            (Piece::Memory(bytes), _) => Ok(bytes.into()),
            (Piece::File { start, length }, Some(file)) => {
                let mut bytes = vec![0; *length];
                file.read_at(*start, &mut bytes)?;
                Ok(bytes.into())
            }
            (Piece::File { .. }, None) => unreachable!("only what has a file puts pieces into it"),
        }
    }

    /// The next entry of a piece; `None` at the end of it and of a directory.
    fn entry(&mut self, rest: &mut PackedReader<'_>) -> Option<Picked> {
        if rest.is_empty() {
            return None;
        }
        let tag = rest.byte();
        if tag == END {
            self.relative = self.relative.parent().unwrap_or_default();
            return None;
        }
        let relative = self.relative.join(rest.bytes());
        let node = match tag & KIND {
            1 => Node::Directory { opaque: false },
            2 => Node::File { size: rest.number() },
            3 => Node::Symlink { target: rest.bytes().to_vec() },
            4 => Node::Fifo,
            5 => Node::CharDevice { major: rest.number() as u32, minor: rest.number() as u32 },
            6 => Node::BlockDevice { major: rest.number() as u32, minor: rest.number() as u32 },
            kind => unreachable!("no kind {kind} was packed"),
        };
        let metadata = read_metadata(rest);
        let mark = (tag & HAS_MARK != 0).then(|| rest.mark());
        let link = (tag & LINKED != 0).then(|| rest.number());
        let path = self.directory.join_path(&relative);
        let content = read_content(rest, tag, &self.tree.contents, &path).marked(mark);
        if node.is_directory() {
            self.relative = relative.clone();
        }
        let link = link.filter(|link| self.tree.shared.contains(link));
        let entry = Entry { path, node, metadata };
        Some(Picked { relative, entry, content, mark, link, only_on_the_way: tag & ON_THE_WAY != 0 })
    }
}

/// The error of entries that were put by, and can't be written or read again.
pub(super) fn unreadable(source: io::Error) -> TreeError {
    TreeError::Io { action: "keep", path: "the list of files to copy".to_owned(), source }
}

fn read_content(rest: &mut PackedReader<'_>, tag: u8, table: &Table, path: &TreePath) -> Content {
    if tag & HAS_CONTENT != 0 {
        return table.contents[rest.number() as usize].clone();
    }
    if tag & HAS_SOURCE == 0 {
        return Content::None;
    }
    let opener = Arc::clone(&table.openers[rest.number() as usize]);
    let path = match rest.bytes() {
        b"" => path.clone(),
        other => TreePath::from_checked(other.to_vec()),
    };
    Content::Source(SourceFile { opener, path, stamp: rest.fixed(), mark: None })
}

fn push_metadata(bytes: &mut Vec<u8>, metadata: &Metadata) {
    let Metadata { mode, uid, gid, modified, xattrs } = metadata;
    for number in [*mode, *uid, *gid] {
        push_number(bytes, number.into());
    }
    push_signed(bytes, modified.seconds);
    push_number(bytes, modified.nanoseconds.into());
    push_number(bytes, xattrs.len() as u64);
    for (name, value) in xattrs {
        push_bytes(bytes, name);
        push_bytes(bytes, value);
    }
}

fn read_metadata(rest: &mut PackedReader<'_>) -> Metadata {
    let [mode, uid, gid] = [0; 3].map(|_: u8| rest.number() as u32);
    let modified = Timestamp { seconds: rest.signed(), nanoseconds: rest.number() as u32 };
    let count = rest.number();
    let xattrs: Xattrs = (0..count).map(|_| (rest.bytes().to_vec(), rest.bytes().to_vec())).collect();
    Metadata { mode, uid, gid, modified, xattrs }
}

#[cfg(test)]
#[path = "picked_tests.rs"]
mod tests;
