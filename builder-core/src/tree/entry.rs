//! Entries of a tree, and changes to one.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{ContentDigest, TreePath};

/// Extended attributes by full name, such as `security.capability`.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// A point in time: seconds since the epoch and nanoseconds (0..1,000,000,000) after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: i64,
    /// Nanoseconds after that second.
    pub nanoseconds: u32,
}

impl Timestamp {
    /// Makes a time of whole seconds.
    #[must_use]
    pub const fn from_seconds(seconds: i64) -> Self {
        Self { seconds, nanoseconds: 0 }
    }
}

/// What an entry has besides its kind and contents.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// Permission, set-id and sticky bits (`07777`).
    pub mode: u32,
    /// The owner, as the container sees it.
    pub uid: u32,
    /// The group, as the container sees it.
    pub gid: u32,
    /// The modification time.
    pub modified: Timestamp,
    /// Extended attributes that a layer may carry.
    pub xattrs: Xattrs,
}

/// The kind of an entry, and what that kind has of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A directory; an opaque one hides what lower layers hold at the same path.
    Directory {
        /// Whether lower layers' contents are hidden.
        opaque: bool,
    },
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Its target, as it was written.
        target: Vec<u8>,
    },
    /// A further name of a regular file in the same layer that sorts before this one.
    HardLink {
        /// The first name.
        target: TreePath,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// The major number.
        major: u32,
        /// The minor number.
        minor: u32,
    },
    /// A mark that lower layers' entry of this path is gone (OCI image spec, "Whiteouts").
    Whiteout,
}

impl Node {
    /// Whether this is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// The first name of the file, where this is a further one.
    #[must_use]
    pub const fn link_target(&self) -> Option<&TreePath> {
        if let Self::HardLink { target } = self { Some(target) } else { None }
    }
}

/// One entry of a tree. A [`Node::Whiteout`] and a [`Node::HardLink`] carry no metadata of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it is.
    pub path: TreePath,
    /// What it is.
    pub node: Node,
    /// Its owner, mode, time and attributes.
    pub metadata: Metadata,
}

/// Where the bytes of a regular file are read from.
#[derive(Clone, Default)]
pub enum Content {
    /// Nothing: the entry is no regular file, or an empty one.
    #[default]
    None,
    /// Bytes in memory.
    Bytes(Arc<[u8]>),
    /// A file that is opened when it is its turn.
    Source(SourceFile),
    /// Bytes within a larger file that is open.
    Part(FilePart),
}

/// Bytes within an open file.
#[derive(Debug, Clone)]
pub struct FilePart {
    /// The file.
    pub file: Arc<File>,
    /// Where the bytes begin.
    pub start: u64,
    /// How many there are.
    pub length: u64,
}

impl FilePart {
    /// Gives the bytes, from the first one on.
    #[must_use]
    pub fn reader(&self) -> FilePartReader {
        FilePartReader { part: self.clone() }
    }
}

/// Reads a [`FilePart`].
#[derive(Debug)]
pub struct FilePartReader {
    part: FilePart,
}

impl io::Read for FilePartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let FilePart { file, start, length } = &mut self.part;
        let most = usize::try_from(*length).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..most], *start)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        *start += count as u64;
        *length -= count as u64;
        Ok(count)
    }
}

/// A file that can be opened for reading, any number of times.
#[derive(Clone)]
pub struct SourceFile {
    /// Opens it.
    pub opener: Arc<dyn OpenContent>,
    /// Where it is, as the opener knows it.
    pub path: TreePath,
    /// What the opener tells its state by; 0 where it knows none.
    pub stamp: u64,
    /// What it holds in that state, where that is known.
    pub mark: Option<ContentMark>,
}

/// The first half of a content's digest: enough to tell whether a file is another one than in an earlier build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentMark(pub [u8; 16]);

impl From<&ContentDigest> for ContentMark {
    fn from(digest: &ContentDigest) -> Self {
        Self(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    }
}

impl Content {
    /// The same, of which it is known what it holds.
    #[must_use]
    pub(crate) fn marked(self, mark: Option<ContentMark>) -> Self {
        match self {
            Self::Source(file) => Self::Source(SourceFile { mark, ..file }),
            other => other,
        }
    }
}

impl SourceFile {
    /// Opens the file at its start.
    ///
    /// # Errors
    /// When the file can't be opened any more, or is not what it was.
    pub fn open(&self) -> io::Result<File> {
        self.opener.open(&self.path, self.stamp)
    }
}

/// Opens the files of a tree.
pub trait OpenContent: Send + Sync {
    /// Opens a file at its start. The reader must give exactly the size that the entry says.
    ///
    /// # Errors
    /// When the file can't be opened any more, or is not in the state that the stamp tells.
    fn open(&self, path: &TreePath, stamp: u64) -> io::Result<File>;

    /// Takes note of the digest of a file that was opened with this stamp and read to its end.
    fn note_digest(&self, _path: &TreePath, _stamp: u64, _digest: ContentDigest) {}
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::Source(_) => f.write_str("Source"),
            Self::Part(part) => write!(f, "Part({})", part.length),
        }
    }
}

/// One change that a layer makes: an entry set, or (by a whiteout) removed.
#[derive(Debug, Clone)]
pub struct Change {
    /// The entry.
    pub entry: Entry,
    /// Its bytes, for a regular file.
    pub content: Content,
}

impl Change {
    /// Makes a change without content.
    #[must_use]
    pub const fn new(entry: Entry) -> Self {
        Self { entry, content: Content::None }
    }
}

/// Sorts changes into a layer's order; of several with one path only the last stays.
pub fn sort_changes(changes: &mut Vec<Change>) {
    changes.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    changes.reverse();
    changes.dedup_by(|a, b| a.entry.path == b.entry.path);
    changes.reverse();
}
