//! The layout of a tar stream: which headers and which contents each chunk has. No file is read for it.

use std::io;
use std::sync::Arc;

use tar::EntryType;

use super::border::{BIG_FILE, ends_before};
use super::header::{LARGEST_DEVICE, Member, padding, write_end, write_header};
use super::pax::is_kept;
use super::prefix::{EarlierChunk, Prefix};
use super::{LayerError, OPAQUE_MARK, WHITEOUT_PREFIX};
use crate::tree::{Change, ChangeList, Changes, Entry, Metadata, Node, TreePath};

/// What a chunk of the archive is made of, in order.
#[derive(Default)]
pub(super) struct Chunk {
    /// The bytes of all headers.
    pub(super) headers: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    /// The files whose contents are in the chunk, in order.
    pub(super) files: Vec<Arc<ChunkFile>>,
    /// The size of the chunk in bytes.
    pub(super) size: usize,
    /// The same chunk of an earlier layer.
    pub(super) earlier: Option<EarlierChunk>,
}

/// A part of a chunk.
pub(super) enum Piece {
    /// As many of the chunk's header bytes.
    Headers(usize),
    /// Bytes of a file.
    Content(ContentPiece),
}

/// A file that has contents in a chunk.
pub(super) struct ChunkFile {
    /// Which of the changes it is.
    pub(super) number: usize,
    pub(super) change: Change,
    pub(super) size: u64,
}

/// Bytes of a file, and the zeros that fill its last block.
#[derive(Clone, Copy)]
pub(super) struct ContentPiece {
    /// The index of the file among those of the chunk.
    pub(super) file: usize,
    /// Where the bytes begin in the file.
    pub(super) offset: u64,
    pub(super) length: usize,
    /// Whether the file ends here.
    pub(super) last: bool,
}

impl ContentPiece {
    /// Whether this is all of the file.
    pub(super) const fn is_whole(&self) -> bool {
        self.offset == 0 && self.last
    }
}

impl Chunk {
    fn push_headers(&mut self, headers: &[u8]) {
        self.headers.extend_from_slice(headers);
        self.size += headers.len();
        match self.pieces.last_mut() {
            Some(Piece::Headers(length)) => *length += headers.len(),
            _ => self.pieces.push(Piece::Headers(headers.len())),
        }
    }

    fn push_content(&mut self, file: Arc<ChunkFile>, offset: u64, length: usize) {
        let last = offset + length as u64 == file.size;
        self.size += length + if last { padding(length as u64) } else { 0 };
        self.pieces.push(Piece::Content(ContentPiece { file: self.files.len(), offset, length, last }));
        self.files.push(file);
    }
}

/// Parts the archive of sorted changes into chunks.
pub(super) struct Layout<'a> {
    list: &'a ChangeList,
    changes: Changes<'a>,
    /// The change that comes next, once it was looked at, and how many came before it.
    next: Option<Change>,
    number: usize,
    /// The path of the change before.
    last: Option<TreePath>,
    /// The file whose content comes next, and where to go on.
    content: Option<(Arc<ChunkFile>, u64)>,
    headers: Vec<u8>,
    ended: bool,
    /// How many chunks came before, which is the number of the next one.
    pub(super) chunks: usize,
    /// The earlier layer, as long as all chunks are those of it.
    prefix: Option<&'a Prefix>,
}

impl<'a> Layout<'a> {
    pub(super) fn new(list: &'a ChangeList, prefix: Option<&'a Prefix>) -> Self {
        let (changes, headers) = (list.iter(), Vec::new());
        let (next, last, content) = (None, None, None);
        Self { list, changes, next, number: 0, last, content, headers, ended: false, chunks: 0, prefix }
    }

    /// The next chunk; `None` after the last one, and after an error.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let chunk = self.chunk();
        self.ended |= chunk.is_err();
        let mut chunk = chunk?;
        // The last chunk has the end of the archive, which no entry tells.
        let prefix = self.prefix.filter(|prefix| self.number <= prefix.entries() && !self.ended);
        chunk.earlier = prefix.and_then(|prefix| prefix.chunk(self.chunks, chunk.size));
        self.prefix = prefix.filter(|_| chunk.earlier.is_some());
        self.chunks += 1;
        Ok(Some(chunk))
    }

    fn chunk(&mut self) -> Result<Chunk, LayerError> {
        let mut chunk = Chunk::default();
        loop {
            if let Some((file, offset)) = self.content.take() {
                let end = (offset + BIG_FILE).min(file.size);
                chunk.push_content(Arc::clone(&file), offset, (end - offset) as usize);
                if end < file.size {
                    self.content = Some((file, end));
                    return Ok(chunk);
                }
            }
            let Some(change) = self.look_ahead()? else {
                self.headers.clear();
                write_end(&mut self.headers);
                chunk.push_headers(&self.headers);
                self.ended = true;
                return Ok(chunk);
            };
            let size = if let Node::File { size } = change.entry.node { size } else { 0 };
            let whole = self.headers.len() as u64 + size.next_multiple_of(512);
            if ends_before(change.entry.path.as_bytes(), chunk.size as u64, whole) {
                self.next = Some(change);
                return Ok(chunk);
            }
            chunk.push_headers(&self.headers);
            self.last = Some(change.entry.path.clone());
            if matches!(change.entry.node, Node::File { .. }) {
                self.content = Some((Arc::new(ChunkFile { number: self.number, change, size }), 0));
            }
            self.number += 1;
        }
    }

    /// The next change, with its headers written; `None` at the end.
    fn look_ahead(&mut self) -> Result<Option<Change>, LayerError> {
        if let Some(change) = self.next.take() {
            return Ok(Some(change));
        }
        let Some(change) = self.changes.next().transpose().map_err(unreadable)? else { return Ok(None) };
        let path = &change.entry.path;
        if self.last.as_ref().is_some_and(|last| last >= path) {
            return Err(refuse(path, "entries must be sorted, and each path may come once"));
        }
        self.write_headers(&change)?;
        Ok(Some(change))
    }

    fn write_headers(&mut self, change: &Change) -> Result<(), LayerError> {
        let entry = &change.entry;
        check(change)?;
        let mut name = entry.path.as_bytes().to_vec();
        let size = if let Node::File { size } = entry.node { size } else { 0 };
        let none = Metadata::default();
        let linked;
        let mut member =
            Member { name: &[], kind: EntryType::Regular, link: &[], size, device: None, metadata: &entry.metadata };
        self.headers.clear();
        match &entry.node {
            Node::Directory { opaque } => {
                name = directory_name(&name);
                write_header(&mut self.headers, &Member { name: &name, kind: EntryType::Directory, ..member });
                if *opaque {
                    let mark = if entry.path.is_root() { OPAQUE_MARK.to_vec() } else { [&name, OPAQUE_MARK].concat() };
                    write_header(&mut self.headers, &Member { name: &mark, metadata: &none, ..member });
                }
                return Ok(());
            }
            Node::Whiteout => {
                let length = entry.path.file_name().map_or(0, <[u8]>::len);
                name.splice(name.len() - length..name.len() - length, WHITEOUT_PREFIX.iter().copied());
                member.metadata = &none;
            }
            Node::File { .. } => {}
            Node::Symlink { target } => (member.kind, member.link) = (EntryType::Symlink, target),
            Node::HardLink { target } => {
                (member.kind, member.link) = (EntryType::Link, target.as_bytes());
                linked = metadata_of(self.list, &entry.path, target)?;
                member.metadata = &linked;
            }
            Node::Fifo => member.kind = EntryType::Fifo,
            Node::CharDevice { major, minor } => {
                (member.kind, member.device) = (EntryType::Char, Some((*major, *minor)));
            }
            Node::BlockDevice { major, minor } => {
                (member.kind, member.device) = (EntryType::Block, Some((*major, *minor)));
            }
        }
        member.name = &name;
        write_header(&mut self.headers, &member);
        Ok(())
    }
}

/// The size in bytes that the archive will about have.
pub(crate) fn estimate(changes: &ChangeList) -> u64 {
    changes.content_size() + 1024 * changes.len() as u64
}

/// An entry as a reader of the layer would find it: times are whole seconds, and marks have no metadata.
pub(crate) fn recorded(mut entry: Entry) -> Entry {
    entry.metadata.modified.nanoseconds = 0;
    entry.metadata.xattrs.retain(|name, _| is_kept(name));
    if matches!(entry.node, Node::Whiteout | Node::HardLink { .. }) {
        entry.metadata = Metadata::default();
    }
    entry
}

/// The owner, mode and time of the file that a hard link names: readers may apply them once more for the link.
fn metadata_of(changes: &ChangeList, path: &TreePath, target: &TreePath) -> Result<Metadata, LayerError> {
    match changes.find(target).map_err(unreadable)?.map(|change| change.entry) {
        Some(file) if target < path && matches!(file.node, Node::File { .. }) => Ok(file.metadata),
        _ => Err(refuse(path, "it is a hard link to what is no earlier file of the same layer")),
    }
}

fn directory_name(path: &[u8]) -> Vec<u8> {
    if path.is_empty() { b"./".to_vec() } else { [path, b"/"].concat() }
}

/// Refuses what a reader would take for something else.
fn check(change: &Change) -> Result<(), LayerError> {
    let entry = &change.entry;
    let error = |reason| Err(refuse(&entry.path, reason));
    if entry.path.components().any(|name| name.starts_with(WHITEOUT_PREFIX)) {
        return error("names that begin with `.wh.` mark removed files in layers");
    }
    if entry.path.is_root() && !entry.node.is_directory() {
        return error("the root must be a directory");
    }
    if entry.metadata.xattrs.keys().any(|name| name.contains(&b'=') || name.contains(&0)) {
        return error("it has an extended attribute whose name holds `=`");
    }
    match &entry.node {
        Node::CharDevice { major: 0, minor: 0 } => error("a character device 0:0 marks a removed file for overlayfs"),
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor }
            if *major > LARGEST_DEVICE || *minor > LARGEST_DEVICE =>
        {
            error("its device number is too large")
        }
        Node::Symlink { target } if target.is_empty() || target.contains(&0) => error("its target is no path"),
        _ => Ok(()),
    }
}

/// The error of changes that were put by and can't be read again.
pub(super) const fn unreadable(source: io::Error) -> LayerError {
    LayerError::Record { source }
}

fn refuse(path: &TreePath, reason: &'static str) -> LayerError {
    LayerError::Entry { path: path.to_string(), reason }
}
