//! What the kernel says of one name in a directory.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Statx, StatxFlags, StatxTimestamp};

use super::xattr::{LOOK, OverlayMarks, read_xattrs};
use crate::tree::{Entry, Metadata, Node, Timestamp, TreePath, Xattrs};

/// Which file a name leads to; names of one file have equal ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Inode {
    /// The file system's device number.
    pub device: u64,
    /// The file's number on it.
    pub number: u64,
}

impl Inode {
    /// One number for both, the same for the same file.
    #[must_use]
    pub fn link_id(&self) -> u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.device.to_le_bytes());
        bytes[8..].copy_from_slice(&self.number.to_le_bytes());
        let digest = blake3::hash(&bytes);
        u64::from_le_bytes(digest.as_bytes()[..8].try_into().expect("a digest has more than eight bytes"))
    }
}

/// An entry as it is on disk, with what only a disk knows.
#[derive(Debug, Clone)]
pub struct Status {
    /// The entry. Hard links are files here, and a device 0:0 is a device.
    pub entry: Entry,
    /// The file itself.
    pub inode: Inode,
    /// How many names the file has.
    pub links: u32,
    /// When the file, its owner, mode or links last changed; nobody can set it.
    pub changed: Timestamp,
    /// What overlayfs noted on it.
    pub marks: OverlayMarks,
}

impl Status {
    /// Reads `name` in a directory (`.` for itself), or `None` for a socket, which no tree holds.
    pub(super) fn read(
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: TreePath,
    ) -> Result<Option<Self>, rustix::io::Errno> {
        let status = rustix::fs::statx(directory, name, LOOK, StatxFlags::BASIC_STATS)?;
        let file_type = FileType::from_raw_mode(status.stx_mode.into());
        let (xattrs, marks) = match file_type {
            FileType::Directory | FileType::RegularFile => read_xattrs(directory, name)?,
            _ => (Xattrs::new(), OverlayMarks::default()),
        };
        let node = match file_type {
            FileType::Directory => Node::Directory { opaque: false },
            FileType::RegularFile => Node::File { size: status.stx_size },
            FileType::Symlink => {
                Node::Symlink { target: rustix::fs::readlinkat(directory, name, Vec::new())?.into_bytes() }
            }
            FileType::Fifo => Node::Fifo,
            FileType::CharacterDevice => {
                Node::CharDevice { major: status.stx_rdev_major, minor: status.stx_rdev_minor }
            }
            FileType::BlockDevice => Node::BlockDevice { major: status.stx_rdev_major, minor: status.stx_rdev_minor },
            FileType::Socket | FileType::Unknown => return Ok(None),
        };
        Ok(Some(Self {
            entry: Entry { path, node, metadata: metadata(&status, xattrs) },
            inode: Inode {
                device: (u64::from(status.stx_dev_major) << 32) | u64::from(status.stx_dev_minor),
                number: status.stx_ino,
            },
            links: status.stx_nlink,
            changed: timestamp(status.stx_ctime),
            marks,
        }))
    }

    /// Whether this is a regular file with further names.
    #[must_use]
    pub const fn is_linked(&self) -> bool {
        self.links > 1 && matches!(self.entry.node, Node::File { .. })
    }
}

fn metadata(status: &Statx, xattrs: Xattrs) -> Metadata {
    Metadata {
        mode: u32::from(status.stx_mode) & 0o7777,
        uid: status.stx_uid,
        gid: status.stx_gid,
        modified: timestamp(status.stx_mtime),
        xattrs,
    }
}

const fn timestamp(time: StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec }
}
