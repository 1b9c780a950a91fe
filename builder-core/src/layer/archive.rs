//! The layout of a tar stream: which headers and which contents each chunk has. No file is read for it.

use tar::EntryType;

use super::border::{BIG_FILE, ends_before};
use super::header::{LARGEST_DEVICE, Member, padding, write_end, write_header};
use super::pax::is_kept;
use super::{LayerError, OPAQUE_MARK, WHITEOUT_PREFIX};
use crate::tree::{Change, Entry, Metadata, Node, TreePath};

/// What a chunk of the archive is made of, in order.
#[derive(Default)]
pub(super) struct Chunk {
    /// The bytes of all headers.
    pub(super) headers: Vec<u8>,
    pub(super) pieces: Vec<Piece>,
    /// The size of the chunk in bytes.
    pub(super) size: usize,
}

/// A part of a chunk.
pub(super) enum Piece {
    /// As many of the chunk's header bytes.
    Headers(usize),
    /// Bytes of a file.
    Content(ContentPiece),
}

/// Bytes of a file, and the zeros that fill its last block.
#[derive(Clone, Copy)]
pub(super) struct ContentPiece {
    /// The index of the change that the file is in.
    pub(super) change: usize,
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

    fn push_content(&mut self, piece: ContentPiece) {
        self.size += piece.length + if piece.last { padding(piece.length as u64) } else { 0 };
        self.pieces.push(Piece::Content(piece));
    }
}

/// Parts the archive of sorted changes into chunks.
pub(super) struct Layout<'a> {
    changes: &'a [Change],
    next: usize,
    /// The file whose content comes next: its change, where to go on, and its size.
    content: Option<(usize, u64, u64)>,
    headers: Vec<u8>,
    ended: bool,
}

impl<'a> Layout<'a> {
    pub(super) const fn new(changes: &'a [Change]) -> Self {
        Self { changes, next: 0, content: None, headers: Vec::new(), ended: false }
    }

    /// The next chunk; `None` after the last one, and after an error.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>, LayerError> {
        if self.ended {
            return Ok(None);
        }
        let chunk = self.chunk();
        self.ended |= chunk.is_err();
        chunk.map(Some)
    }

    fn chunk(&mut self) -> Result<Chunk, LayerError> {
        let mut chunk = Chunk::default();
        loop {
            if let Some((change, offset, size)) = self.content.take() {
                let length = (size - offset).min(BIG_FILE);
                let last = offset + length == size;
                chunk.push_content(ContentPiece { change, offset, length: length as usize, last });
                if !last {
                    self.content = Some((change, offset + length, size));
                    return Ok(chunk);
                }
            }
            let Some(change) = self.changes.get(self.next) else {
                self.headers.clear();
                write_end(&mut self.headers);
                chunk.push_headers(&self.headers);
                self.ended = true;
                return Ok(chunk);
            };
            let path = &change.entry.path;
            if self.next > 0 && self.changes[self.next - 1].entry.path >= *path {
                return Err(refuse(path, "entries must be sorted, and each path may come once"));
            }
            let size = if let Node::File { size } = change.entry.node { size } else { 0 };
            self.write_headers(change, size)?;
            let whole = self.headers.len() as u64 + size.next_multiple_of(512);
            if ends_before(path.as_bytes(), chunk.size as u64, whole) {
                return Ok(chunk);
            }
            chunk.push_headers(&self.headers);
            if matches!(change.entry.node, Node::File { .. }) {
                self.content = Some((self.next, 0, size));
            }
            self.next += 1;
        }
    }

    fn write_headers(&mut self, change: &Change, size: u64) -> Result<(), LayerError> {
        let entry = &change.entry;
        check(change)?;
        let mut name = entry.path.as_bytes().to_vec();
        let none = Metadata::default();
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
                member.metadata = metadata_of(self.changes, &entry.path, target)?;
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
pub(super) fn estimate(changes: &[Change]) -> u64 {
    let size = |change: &Change| match change.entry.node {
        Node::File { size } => size + 1024,
        _ => 512,
    };
    changes.iter().map(size).sum()
}

/// An entry as a reader of the layer would find it: times are whole seconds, and marks have no metadata.
pub(crate) fn recorded(entry: &Entry) -> Entry {
    let mut entry = entry.clone();
    entry.metadata.modified.nanoseconds = 0;
    entry.metadata.xattrs.retain(|name, _| is_kept(name));
    if matches!(entry.node, Node::Whiteout | Node::HardLink { .. }) {
        entry.metadata = Metadata::default();
    }
    entry
}

/// The owner, mode and time of the file that a hard link names: readers may apply them once more for the link.
fn metadata_of<'a>(changes: &'a [Change], path: &TreePath, target: &TreePath) -> Result<&'a Metadata, LayerError> {
    let found = changes.binary_search_by(|change| change.entry.path.cmp(target)).ok();
    let file = found.map(|index| &changes[index].entry);
    match file {
        Some(file) if target < path && matches!(file.node, Node::File { .. }) => Ok(&file.metadata),
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

fn refuse(path: &TreePath, reason: &'static str) -> LayerError {
    LayerError::Entry { path: path.to_string(), reason }
}
