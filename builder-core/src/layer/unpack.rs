//! Changes unpacked as they are, without an archive between.
//!
//! ```text
//! begin    directories, links, devices, marks: all but what `write` makes, at the same time as that or before
//! write    contents, from several threads in whatever order, and the directories that are not there yet
//! finish   further names of files; the metadata of directories, once nothing more is put into them
//! ```

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::LayerError;
use super::archive::{ChunkFile, unreadable};
use super::content::ContentReader;
use super::disk::DiskWriter;
use super::read::write_special;
use crate::sys::bulk::{BulkFile, Pace, Way};
use crate::tree::{Change, ChangeList, Metadata, Node, TreePath};

const BUFFER: usize = 256 << 10;

/// Writes sorted changes into `root`, an existing empty folder, in the form that overlayfs takes as a lower directory.
///
/// Directories that no change names get mode `0755` and belong to root. The disk keeps nanoseconds, which an encoded
/// layer does not.
///
/// # Errors
/// When a file can't be read or changed its size, or the folder can't be written. What it then holds is of no use.
pub fn unpack_changes(changes: &ChangeList, root: &Path) -> Result<(), LayerError> {
    let unpacking = Unpacking::new(changes, root, None);
    unpacking.begin()?;
    let mut unpacker = unpacking.unpacker()?;
    let mut buffer = vec![0; BUFFER];
    for (number, change) in changes.iter().enumerate() {
        let change = change.map_err(unreadable)?;
        let Node::File { size } = change.entry.node else { continue };
        let file = ChunkFile { number, change, size };
        let reader = ContentReader::open(&file.change, size)?;
        let mut offset = 0;
        loop {
            let length = (size - offset).min(BUFFER as u64) as usize;
            reader.fill(&mut buffer[..length], offset)?;
            unpacker.write(&file, offset, &buffer[..length])?;
            offset += length as u64;
            if offset == size {
                break;
            }
        }
    }
    drop(unpacker);
    unpacking.finish()
}

/// Changes while they are unpacked.
pub(super) struct Unpacking<'a> {
    changes: &'a ChangeList,
    root: &'a Path,
    /// What was made at the beginning.
    directories: Mutex<Directories>,
    /// Files of which only some pieces are written.
    partial: Mutex<HashMap<usize, Partial>>,
    pace: Option<Pace>,
}

/// All directories, and of those that a change names, whether they are opaque, and the metadata.
type Directories = BTreeMap<TreePath, Option<(bool, Metadata)>>;

#[derive(Clone)]
struct Partial {
    file: Arc<BulkFile>,
    written: u64,
}

impl<'a> Unpacking<'a> {
    pub(super) fn new(changes: &'a ChangeList, root: &'a Path, pace: Option<Pace>) -> Self {
        Self { changes, root, directories: Mutex::default(), partial: Mutex::default(), pace }
    }

    /// Makes everything but regular files and hard links.
    pub(super) fn begin(&self) -> Result<(), LayerError> {
        let mut disk = DiskWriter::open(self.root)?;
        let mut directories = BTreeMap::from([(TreePath::root(), None)]);
        let mut last = TreePath::root();
        for change in self.changes {
            let entry = change.map_err(unreadable)?.entry;
            let parent = entry.path.parent().unwrap_or_default();
            if parent != last {
                for ancestor in entry.path.ancestors() {
                    directories.entry(ancestor).or_insert(None);
                }
                disk.directory(&parent)?;
                last = parent;
            }
            match &entry.node {
                Node::Directory { opaque } => {
                    disk.directory(&entry.path)?;
                    directories.insert(entry.path, Some((*opaque, entry.metadata)));
                }
                Node::File { .. } | Node::HardLink { .. } => {}
                node => write_special(&mut disk, &entry.path, node, &entry.metadata)?,
            }
        }
        *self.directories.lock().unwrap_or_else(PoisonError::into_inner) = directories;
        Ok(())
    }

    /// What one thread writes contents with.
    pub(super) fn unpacker(&self) -> Result<Unpacker<'_>, LayerError> {
        Ok(Unpacker { unpacking: self, disk: DiskWriter::open(self.root)? })
    }

    /// Makes what can be made only when all contents are written.
    pub(super) fn finish(self) -> Result<(), LayerError> {
        let mut disk = DiskWriter::open(self.root)?;
        for change in self.changes {
            let change = change.map_err(unreadable)?;
            if let Node::HardLink { target } = &change.entry.node {
                disk.hard_link(&change.entry.path, target)?;
            }
        }
        let implied = (false, Metadata { mode: 0o755, ..Metadata::default() });
        let directories = self.directories.into_inner().unwrap_or_else(PoisonError::into_inner);
        for (path, named) in directories.iter().rev() {
            let (opaque, metadata) = named.as_ref().unwrap_or(&implied);
            disk.set_directory(path, *opaque, metadata)?;
        }
        Ok(())
    }
}

/// Writes contents of files.
pub(super) struct Unpacker<'a> {
    unpacking: &'a Unpacking<'a>,
    disk: DiskWriter,
}

impl Unpacker<'_> {
    /// Writes a piece of a file. Pieces may come in any order, each once. Tells how it was written.
    pub(super) fn write(&mut self, file: &ChunkFile, offset: u64, bytes: &[u8]) -> Result<Way, LayerError> {
        let ChunkFile { number, change: Change { entry, .. }, size } = file;
        let (number, size) = (*number, *size);
        let error = |source| LayerError::Unpack { action: "write", path: entry.path.to_string(), source };
        if bytes.len() as u64 == size {
            let file = self.disk.create_file(&entry.path)?;
            file.write_all_at(bytes, 0).map_err(error)?;
            return self.disk.set_file(&file, &entry.path, &entry.metadata).map(|()| Way::Cached);
        }
        let file = {
            let mut partial = self.unpacking.partial.lock().unwrap_or_else(PoisonError::into_inner);
            match partial.get(&number) {
                Some(partial) => Arc::clone(&partial.file),
                None => {
                    let file = self.disk.create_file(&entry.path)?;
                    let file = Arc::new(BulkFile::new(file, self.unpacking.pace.clone()));
                    partial.insert(number, Partial { file: Arc::clone(&file), written: 0 });
                    file
                }
            }
        };
        let way = file.write_all_at(bytes, offset).map_err(error)?;
        let mut partial = self.unpacking.partial.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = partial.get_mut(&number) {
            known.written += bytes.len() as u64;
            if known.written == size {
                partial.remove(&number);
                drop(partial);
                // Last, as every write sets the time.
                self.disk.set_file(file.file(), &entry.path, &entry.metadata)?;
            }
        }
        Ok(way)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::num::NonZeroUsize;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::layer::{EncodeOptions, encode_with};
    use crate::tree::{Content, Entry, Timestamp};

    fn change(path: &str, node: Node, content: Content) -> Change {
        let modified = Timestamp { seconds: 1_000_000 + path.len() as i64, nanoseconds: 5 };
        let metadata = Metadata { mode: 0o640, modified, ..Metadata::default() };
        Change { entry: Entry { path: TreePath::clean(path.as_bytes()), node, metadata }, content }
    }

    /// What is in a folder, with the bytes of files.
    fn listing(folder: &Path) -> Vec<String> {
        let mut found: Vec<String> = walkdir::WalkDir::new(folder)
            .into_iter()
            .map(|item| {
                let item = item.unwrap();
                let (stat, path) = (item.metadata().unwrap(), item.path());
                let bytes = if stat.is_file() { fs::read(path).unwrap() } else { Vec::new() };
                let facts = (stat.mode(), stat.mtime(), stat.mtime_nsec(), stat.rdev(), blake3::hash(&bytes).to_hex());
                let links = if stat.is_dir() { 0 } else { stat.nlink() };
                format!("{:?} {facts:?} {links} {:?}", path.strip_prefix(folder).unwrap(), fs::read_link(path).ok())
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn unpacking_while_encoding_gives_the_same_files() {
        let mut changes = vec![
            change("dir", Node::Directory { opaque: false }, Content::None),
            change("implied/deep/empty", Node::File { size: 0 }, Content::None),
            change("implied/link", Node::Symlink { target: b"deep".to_vec() }, Content::None),
        ];
        for (number, size) in [3 << 20, (1 << 20) + 1, 1 << 20, 70_000, 1].into_iter().enumerate() {
            let bytes: Vec<u8> = (0..size).map(|n| (n * (number + 3) / 11 % 256) as u8).collect();
            let node = Node::File { size: size as u64 };
            changes.push(change(&format!("dir/{number}"), node, Content::Bytes(bytes.into())));
        }
        let target = TreePath::clean(b"dir/0");
        changes.push(change("dir/hard", Node::HardLink { target }, Content::None));
        crate::tree::sort_changes(&mut changes);
        let plain = tempfile::tempdir().unwrap();
        let changes = ChangeList::from(changes);
        unpack_changes(&changes, plain.path()).unwrap();
        let want = listing(plain.path());
        assert!(want.len() == 12 && want.iter().any(|line| line.contains("dir/hard")), "{want:#?}");
        for (threads, way) in [(1, Way::Direct), (2, Way::Cached), (5, Way::Direct)] {
            let folder = tempfile::tempdir().unwrap();
            let pace = Pace::default();
            pace.fix(way);
            let options = EncodeOptions {
                threads: NonZeroUsize::new(threads),
                pace: Some(&pace),
                unpack_into: Some(folder.path()),
                ..EncodeOptions::default()
            };
            let layer = encode_with(&changes, &options, &mut std::io::sink()).unwrap();
            assert_eq!(layer.tree.len(), changes.len());
            assert_eq!(listing(folder.path()), want, "{threads} threads, {way:?}");
        }
    }
}
