//! Changes written as a tar stream, in chunks.

use tar::EntryType;

use super::border::{BIG_FILE, LARGEST, ends_before};
use super::content::ContentReader;
use super::header::{LARGEST_DEVICE, Member, pad, write_end, write_header};
use super::pax::is_kept;
use super::{LayerError, OPAQUE_MARK, WHITEOUT_PREFIX};
use crate::tree::{Change, ContentDigest, Entry, Metadata, Node, Tree, TreeEntry, TreePath};

/// Writes the archive of sorted changes; `chunk` takes each full chunk and gives back an empty buffer.
pub(super) fn write_archive(
    changes: &[Change],
    chunk: &mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>, LayerError>,
) -> Result<Tree, LayerError> {
    let mut archive = Archive { changes, chunk, buffer: Vec::with_capacity(LARGEST as usize), header: Vec::new() };
    let mut entries = Vec::with_capacity(changes.len());
    let mut previous: Option<&TreePath> = None;
    for change in changes {
        let path = &change.entry.path;
        if previous.is_some_and(|previous| previous >= path) {
            return Err(refuse(path, "entries must be sorted, and each path may come once"));
        }
        previous = Some(path);
        let digest = archive.write(change)?;
        entries.push(TreeEntry { entry: recorded(&change.entry), digest });
    }
    write_end(&mut archive.buffer);
    (archive.chunk)(archive.buffer)?;
    Ok(Tree::build(entries))
}

/// The size in bytes that the archive will about have.
pub(super) fn estimate(changes: &[Change]) -> u64 {
    let size = |change: &Change| match change.entry.node {
        Node::File { size } => size + 1024,
        _ => 512,
    };
    changes.iter().map(size).sum()
}

struct Archive<'a> {
    changes: &'a [Change],
    chunk: &'a mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>, LayerError>,
    buffer: Vec<u8>,
    header: Vec<u8>,
}

impl Archive<'_> {
    fn write(&mut self, change: &Change) -> Result<Option<ContentDigest>, LayerError> {
        let entry = &change.entry;
        check(change)?;
        let mut name = entry.path.as_bytes().to_vec();
        let none = Metadata::default();
        let mut member =
            Member { name: &[], kind: EntryType::Regular, link: &[], size: 0, device: None, metadata: &entry.metadata };
        self.header.clear();
        match &entry.node {
            Node::Directory { opaque } => {
                name = directory_name(&name);
                write_header(&mut self.header, &Member { name: &name, kind: EntryType::Directory, ..member });
                if *opaque {
                    let mark = if entry.path.is_root() { OPAQUE_MARK.to_vec() } else { [&name, OPAQUE_MARK].concat() };
                    write_header(&mut self.header, &Member { name: &mark, metadata: &none, ..member });
                }
                self.start(entry.path.as_bytes(), 0)?;
                return Ok(None);
            }
            Node::Whiteout => {
                let length = entry.path.file_name().map_or(0, <[u8]>::len);
                name.splice(name.len() - length..name.len() - length, WHITEOUT_PREFIX.iter().copied());
                member.metadata = &none;
            }
            Node::File { size } => member.size = *size,
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
        write_header(&mut self.header, &member);
        self.start(entry.path.as_bytes(), member.size)?;
        if let Node::File { size } = entry.node { self.content(change, size).map(Some) } else { Ok(None) }
    }

    /// Puts the header where it belongs: into this chunk or the next one.
    fn start(&mut self, path: &[u8], size: u64) -> Result<(), LayerError> {
        let whole = self.header.len() as u64 + size.next_multiple_of(512);
        if ends_before(path, self.buffer.len() as u64, whole) {
            self.flush()?;
        }
        self.buffer.extend_from_slice(&self.header);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LayerError> {
        let full = std::mem::take(&mut self.buffer);
        self.buffer = (self.chunk)(full)?;
        self.buffer.clear();
        Ok(())
    }

    fn content(&mut self, change: &Change, size: u64) -> Result<ContentDigest, LayerError> {
        let mut reader = ContentReader::open(change, size)?;
        let mut hasher = blake3::Hasher::new();
        let mut left = size;
        loop {
            let piece = left.min(BIG_FILE);
            let start = self.buffer.len();
            self.buffer.resize(start + piece as usize, 0);
            reader.fill(&mut self.buffer[start..], left - piece)?;
            hasher.update(&self.buffer[start..]);
            left -= piece;
            if left == 0 {
                break;
            }
            self.flush()?;
        }
        pad(&mut self.buffer, size);
        Ok(hasher.finalize())
    }
}

/// An entry as a reader of the layer would find it: times are whole seconds, and marks have no metadata.
fn recorded(entry: &Entry) -> Entry {
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
