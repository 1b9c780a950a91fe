//! The open folder of a context: every path is opened relative to it, and no link is followed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::copied::CopiedDigests;
use super::held::{ChangedFile, HeldFiles};
use super::spool::hash_in_pieces;
use super::stat_cache::FileStatus;
use crate::tree::{ContentDigest, OpenContent, Timestamp, TreeError, TreePath, Xattrs};

/// The one attribute that layers carry.
const CAPABILITY: &str = "security.capability";

/// As many bytes of a file are read at once.
const LARGEST_READ: usize = 256 * 1024;

/// How files are opened for reading: what is no regular file must not block or become the terminal.
pub(super) const READ: OFlags =
    OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// The open folder.
pub(super) struct Folder {
    pub(super) root: OwnedFd,
    pub(super) path: PathBuf,
    pub(super) copied: CopiedDigests,
    pub(super) held: HeldFiles,
}

impl OpenContent for Folder {
    /// Opens a file that has not changed since its status had this stamp.
    fn open(&self, path: &TreePath, stamp: u64) -> io::Result<File> {
        let file = File::from(self.open_at(path, READ).map_err(|error| self.told(path, error.into()))?);
        let is_same = FileStatus::of(&rustix::fs::fstat(&file)?).stamp() == stamp;
        self.unchanged(path, is_same.then_some(file))
    }

    fn note_digest(&self, path: &TreePath, stamp: u64, digest: ContentDigest) {
        self.copied.note(path, stamp, digest);
    }
}

/// Computes the digest of a file in an open directory; `None` unless it has this status before and after.
pub(super) fn hash_file(
    directory: BorrowedFd<'_>,
    name: &[u8],
    status: &FileStatus,
) -> io::Result<Option<ContentDigest>> {
    hash_unchanged(File::from(rustix::fs::openat(directory, name, READ, Mode::empty())?), status)
}

/// Computes the digest of an open file; `None` unless it has this status before and after.
pub(super) fn hash_unchanged(file: File, status: &FileStatus) -> io::Result<Option<ContentDigest>> {
    if !has_status(&file, status)? {
        return Ok(None);
    }
    // Most files are small: they get a buffer of their size.
    let size = usize::try_from(status.size).unwrap_or(usize::MAX).clamp(1, LARGEST_READ);
    let digest = hash_in_pieces(&file, size)?;
    Ok(has_status(&file, status)?.then_some(digest))
}

fn has_status(file: &File, status: &FileStatus) -> io::Result<bool> {
    Ok(FileStatus::of(&rustix::fs::fstat(file)?) == *status)
}

impl FileStatus {
    pub(super) fn of(stat: &Stat) -> Self {
        // Kernel interfaces give these in types that differ between architectures.
        #[allow(clippy::useless_conversion, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let time = |seconds: i64, nanoseconds: u64| Timestamp { seconds, nanoseconds: nanoseconds as u32 };
        #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
        Self {
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            changed: time(stat.st_ctime as i64, stat.st_ctime_nsec as u64),
            modified: time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
            size: stat.st_size.unsigned_abs(),
            mode: stat.st_mode,
        }
    }
}

impl Folder {
    pub(super) fn open_directory(&self, path: &TreePath) -> Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
    }

    /// Opens something below the folder without following any link.
    pub(super) fn open_at(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&self.root, path.as_path(), flags, Mode::empty(), resolve) {
            // Some container sandboxes refuse the call.
            Err(Errno::NOSYS | Errno::PERM) => self.open_stepwise(path, flags),
            result => result,
        }
    }

    fn open_stepwise(&self, path: &TreePath, flags: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Some(name) = path.file_name() else {
            return rustix::fs::openat(&self.root, ".", flags, Mode::empty());
        };
        let mut directory: Option<OwnedFd> = None;
        for ancestor in path.ancestors() {
            let at = directory.as_ref().map_or_else(|| self.root.as_fd(), AsFd::as_fd);
            let next = rustix::fs::openat(at, ancestor.file_name().unwrap_or(b"."), step, Mode::empty())?;
            directory = Some(next);
        }
        let at = directory.as_ref().map_or_else(|| self.root.as_fd(), AsFd::as_fd);
        rustix::fs::openat(at, name, flags, Mode::empty())
    }

    pub(super) fn shown(&self, path: &TreePath) -> String {
        self.path.join(path.as_path()).display().to_string()
    }

    /// What there is only of a file that did not change.
    pub(super) fn unchanged<T>(&self, path: &TreePath, found: Option<T>) -> io::Result<T> {
        found.ok_or_else(|| ChangedFile::error(self.shown(path)))
    }

    /// The failure of a call for something that was there: where it is no more, or is something else, it changed.
    fn told(&self, path: &TreePath, error: io::Error) -> io::Error {
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::INVAL | Errno::STALE) => {
                ChangedFile::error(self.shown(path))
            }
            _ => error,
        }
    }

    /// The failure of a call for something that was there.
    pub(super) fn error(&self, action: &'static str, path: &TreePath, error: io::Error) -> TreeError {
        TreeError::Io { action, path: self.shown(path), source: self.told(path, error) }
    }
}

/// Reads a file's capabilities. A path through `/proc` is the only way to a file that need not be readable.
pub(super) fn read_capability(directory: BorrowedFd<'_>, name: &[u8]) -> Xattrs {
    let path = [format!("/proc/self/fd/{}/", directory.as_raw_fd()).as_bytes(), name].concat();
    let mut value = [0; 64];
    match rustix::fs::lgetxattr(path.as_slice(), CAPABILITY, &mut value) {
        Ok(length @ 1..) => Xattrs::from([(CAPABILITY.as_bytes().to_vec(), value[..length].to_vec())]),
        _ => Xattrs::new(),
    }
}
