//! An open directory, and reading what is below it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

use super::Status;
use crate::tree::{Entry, Node, TreeError, TreePath};

pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
/// `openat2` takes no further flag with `PATH`.
const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// `NONBLOCK` so that a FIFO that took a file's place is not waited for.
const FILE: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
/// What one call may be given as a path; the kernel's limit is 4096 with the NUL.
const GREATEST_PATH: usize = 4000;
/// `openat2` asks for another try when something was renamed while it climbed a `..`.
const GREATEST_TRIES: usize = 128;

/// An open directory of a tree that somebody else wrote. Cheap to clone; clones share the descriptor.
#[derive(Debug, Clone)]
pub struct Root {
    fd: Arc<OwnedFd>,
    name: Arc<Path>,
}

impl Root {
    /// Opens a directory. Links in `path` itself are followed: it is the caller's own.
    ///
    /// # Errors
    /// When it can't be opened or is no directory.
    pub fn open(path: &Path) -> Result<Self, TreeError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
            Ok(fd) => Ok(Self::from_fd(fd, path)),
            Err(error) => Err(TreeError::Io { action: "open", path: path.display().to_string(), source: error.into() }),
        }
    }

    /// Takes an open directory. `name` is what messages call it.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, name: &Path) -> Self {
        Self { fd: Arc::new(fd), name: name.into() }
    }

    /// Opens a directory below, itself a root then. No link is followed.
    ///
    /// # Errors
    /// When it is not there or no directory.
    pub fn open_dir(&self, path: &TreePath) -> Result<Self, TreeError> {
        let fd = self.open_at(path, DIRECTORY).map_err(|error| self.error("open", path, error))?;
        Ok(Self::from_fd(fd, &self.display(path)))
    }

    /// Opens a regular file below for reading. No link is followed.
    ///
    /// # Errors
    /// When it is not there or no regular file.
    pub fn open_file(&self, path: &TreePath) -> Result<File, TreeError> {
        self.open_at(path, FILE).and_then(regular_file).map_err(|error| self.error("open", path, error))
    }

    /// Opens a regular file by a path that may be absolute, relative, and lead through links: all of it is resolved
    /// as if this root were `/`.
    ///
    /// # Errors
    /// When it leads nowhere or to something else than a regular file.
    pub fn open_file_following(&self, path: &[u8]) -> Result<File, TreeError> {
        self.open_following(path, FILE.difference(OFlags::NOFOLLOW))
            .and_then(regular_file)
            .map_err(|error| self.error("open", &TreePath::clean(path), error))
    }

    /// Opens a directory by a path that may lead through links, resolved as if this root were `/`.
    ///
    /// # Errors
    /// When it leads nowhere or to no directory.
    pub fn open_dir_following(&self, path: &[u8]) -> Result<Self, TreeError> {
        let clean = TreePath::clean(path);
        let fd = self
            .open_following(path, DIRECTORY.difference(OFlags::NOFOLLOW))
            .map_err(|error| self.error("open", &clean, error))?;
        Ok(Self::from_fd(fd, &self.display(&clean)))
    }

    /// The entry of a path, or `None` where there is none (a socket counts as none). No link is followed.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn metadata(&self, path: &TreePath) -> Result<Option<Entry>, TreeError> {
        Ok(self.status(path)?.map(|status| status.entry))
    }

    /// The same with what only the disk knows.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn status(&self, path: &TreePath) -> Result<Option<Status>, TreeError> {
        let result = match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) if !parent.is_root() => {
                self.open_at(&parent, PATH).and_then(|fd| Ok(Status::read(fd.as_fd(), name, path.clone())?))
            }
            (Some(_), Some(name)) => Status::read(self.as_fd(), name, path.clone()).map_err(Into::into),
            _ => Status::read(self.as_fd(), b".", path.clone()).map_err(Into::into),
        };
        match result {
            Err(error) if is_absent(&error) => Ok(None),
            result => result.map_err(|error| self.error("read", path, error)),
        }
    }

    /// The target of a symbolic link, as it was written.
    ///
    /// # Errors
    /// When there is none, or the tree can't be read.
    pub fn read_link(&self, path: &TreePath) -> Result<Vec<u8>, TreeError> {
        match self.metadata(path)?.map(|entry| entry.node) {
            Some(Node::Symlink { target }) => Ok(target),
            _ => Err(self.error("read the link", path, Errno::INVAL.into())),
        }
    }

    /// The entries of a directory, sorted by path; sockets are left out. Empty where the path is no directory.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn read_dir(&self, path: &TreePath) -> Result<Vec<Entry>, TreeError> {
        Ok(self.list(path)?.into_iter().map(|status| status.entry).collect())
    }

    /// The same with what only the disk knows.
    ///
    /// # Errors
    /// When the tree can't be read.
    pub fn list(&self, path: &TreePath) -> Result<Vec<Status>, TreeError> {
        match self.open_at(path, DIRECTORY).and_then(|fd| list(fd.as_fd(), path)) {
            Err(error) if is_absent(&error) => Ok(Vec::new()),
            result => result.map_err(|error| self.error("list", path, error)),
        }
    }

    /// A path below as messages show it.
    #[must_use]
    pub fn display(&self, path: &TreePath) -> PathBuf {
        if path.is_root() { self.name.to_path_buf() } else { self.name.join(path.as_path()) }
    }

    /// Opens what is at a path without following any link.
    pub(crate) fn open_at(&self, path: &TreePath, flags: OFlags) -> io::Result<OwnedFd> {
        if path.as_bytes().len() <= GREATEST_PATH {
            return open_beneath(self.as_fd(), path.as_path(), flags);
        }
        // Too long for one call: in pieces of whole components.
        let mut at: Option<OwnedFd> = None;
        let mut piece = TreePath::root();
        for name in path.components() {
            if piece.as_bytes().len() + name.len() >= GREATEST_PATH {
                let from = at.as_ref().map_or(self.as_fd(), AsFd::as_fd);
                at = Some(open_beneath(from, piece.as_path(), PATH)?);
                piece = TreePath::root();
            }
            piece = piece.join(name);
        }
        open_beneath(at.as_ref().map_or(self.as_fd(), AsFd::as_fd), piece.as_path(), flags)
    }

    fn open_following(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        for _ in 0..GREATEST_TRIES {
            match rustix::fs::openat2(self.as_fd(), path, flags, Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::NOSYS | Errno::PERM) => return self.open_emulated(path, flags),
                result => return Ok(result?),
            }
        }
        Err(Errno::AGAIN.into())
    }

    /// For kernels and system call filters without `openat2`.
    fn open_emulated(&self, path: &[u8], flags: OFlags) -> io::Result<OwnedFd> {
        let root = pathrs::Root::from_fd(self.fd.try_clone()?);
        let path = Path::new(OsStr::from_bytes(path));
        let flags = pathrs::flags::OpenFlags::from_bits_retain(u64::from(flags.bits()));
        root.open_subpath(path, flags).map(Into::into).map_err(|error| match error.kind() {
            pathrs::error::ErrorKind::OsError(Some(number)) => io::Error::from_raw_os_error(number),
            _ => io::Error::other(error),
        })
    }

    pub(crate) fn error(&self, action: &'static str, path: &TreePath, source: io::Error) -> TreeError {
        TreeError::Io { action, path: self.display(path).display().to_string(), source }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Whether an error says that a path leads to nothing: missing, through a file, or through a link.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

/// Opens a clean relative path with no link on the way or at its end.
fn open_beneath(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(directory, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::NOSYS | Errno::PERM) => break,
            result => return Ok(result?),
        }
    }
    // Without `openat2` one component after the other; there is no `..` among them.
    let mut components = path.components().peekable();
    let mut at: Option<OwnedFd> = None;
    while let Some(component) = components.next() {
        let last = components.peek().is_none();
        let flags = if last { flags } else { PATH };
        at = Some(rustix::fs::openat(
            at.as_ref().map_or(directory, AsFd::as_fd),
            component.as_os_str(),
            flags | OFlags::NOFOLLOW,
            Mode::empty(),
        )?);
    }
    at.ok_or_else(|| Errno::NOENT.into())
}

fn regular_file(fd: OwnedFd) -> io::Result<File> {
    let status = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(File::from(fd))
}

fn list(directory: BorrowedFd<'_>, path: &TreePath) -> io::Result<Vec<Status>> {
    let mut found = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    let mut names = RawDir::new(directory, &mut buffer);
    while let Some(name) = names.next() {
        let name = name?;
        let bytes = name.file_name().to_bytes();
        if matches!(bytes, b"." | b"..") || name.file_type() == FileType::Socket {
            continue;
        }
        found.extend(Status::read(directory, bytes, path.join(bytes))?);
    }
    found.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
    Ok(found)
}
