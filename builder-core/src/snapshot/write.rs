//! Writing changes to disk.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use super::SnapshotError;
use crate::rootfs::{Root, set_xattr};
use crate::tree::{Change, Content, Metadata, Node, TreePath, TreeView};

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOCTTY);

/// Makes the empty directory that an overlay's writes go to: its own owner and mode are those of the tree's root.
///
/// # Errors
/// When it exists already or can't be made.
pub fn make_upper(path: &Path, below: &dyn TreeView) -> Result<(), SnapshotError> {
    let error = |source: Errno| write_error("make", &path.display().to_string(), source.into());
    rustix::fs::mkdir(path, Mode::RWXU).map_err(error)?;
    let metadata = match below.get(&TreePath::root())? {
        Some(entry) => entry.metadata,
        None => Metadata { mode: 0o755, ..Metadata::default() },
    };
    let root = Root::open(path)?;
    set_directory(root.as_fd(), &metadata).map_err(|source| write_error("set the owner of", "the upper", source))
}

/// Writes sorted changes into an existing directory, in the form of an overlay's lower directory: a whiteout is a
/// device 0:0, an opaque directory has the attribute `user.overlay.opaque`. Directories may be there already and get
/// the metadata of their change; nothing else may.
///
/// File contents are shared with their source where the file system can (`FICLONE`). Devices that the caller has no
/// right to make are left out; their paths are given back.
///
/// # Errors
/// When something can't be read or written.
pub fn write_changes(directory: &Path, changes: &[Change]) -> Result<Vec<TreePath>, SnapshotError> {
    let writer = Writer { root: Root::open(directory)? };
    writer.write(changes)
}

fn write_error(action: &'static str, path: &str, source: io::Error) -> SnapshotError {
    SnapshotError::Write { action, path: path.to_owned(), source }
}

/// What came of one entry.
enum Written {
    Made,
    NoRight(TreePath),
}

struct Writer {
    root: Root,
}

impl Writer {
    fn write(&self, changes: &[Change]) -> Result<Vec<TreePath>, SnapshotError> {
        let (directories, others): (Vec<&Change>, Vec<&Change>) =
            changes.iter().partition(|change| change.entry.node.is_directory());
        for change in directories.iter().filter(|change| !change.entry.path.is_root()) {
            self.in_parent(change, |parent, name| match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
                // If it is something else, opening it as a directory fails later.
                Err(Errno::EXIST) => Ok(()),
                result => Ok(result?),
            })?;
        }
        let is_link = |change: &&&Change| matches!(change.entry.node, Node::HardLink { .. });
        // Neighbours share their directory, so whole runs of them are one task with one open directory.
        let files: Vec<&Change> = others.iter().filter(|change| !is_link(change)).copied().collect();
        let runs: Vec<&[&Change]> = files
            .chunk_by(|a, b| a.entry.path.parent() == b.entry.path.parent())
            .flat_map(|run| run.chunks(64))
            .collect();
        let written: Vec<Vec<Written>> =
            runs.par_iter().map(|run| self.write_run(run)).collect::<Result<_, SnapshotError>>()?;
        for change in others.iter().filter(is_link) {
            self.link(change)?;
        }
        // Last, because anything made in a directory changes its time.
        directories.par_iter().try_for_each(|change| self.finish_directory(change))?;
        Ok(written
            .into_iter()
            .flatten()
            .filter_map(|written| match written {
                Written::Made => None,
                Written::NoRight(path) => Some(path),
            })
            .collect())
    }

    fn write_run(&self, run: &[&Change]) -> Result<Vec<Written>, SnapshotError> {
        let Some(parent) = run.first().and_then(|change| change.entry.path.parent()) else { return Ok(Vec::new()) };
        let directory = self.root.open_at(&parent, DIRECTORY).map_err(|source| self.error("open", &parent, source))?;
        run.iter()
            .map(|change| {
                let name = change.entry.path.file_name().expect("the root is a directory");
                write_entry(directory.as_fd(), name, change)
                    .map_err(|source| self.error("write", &change.entry.path, source))
            })
            .collect()
    }

    fn link(&self, change: &Change) -> Result<(), SnapshotError> {
        let Node::HardLink { target } = &change.entry.node else { return Ok(()) };
        let (Some(target_parent), Some(target_name)) = (target.parent(), target.file_name()) else { return Ok(()) };
        self.in_parent(change, |parent, name| {
            let from = self.root.open_at(&target_parent, DIRECTORY)?;
            Ok(rustix::fs::linkat(&from, target_name, parent, name, AtFlags::empty())?)
        })
    }

    fn finish_directory(&self, change: &Change) -> Result<(), SnapshotError> {
        let path = &change.entry.path;
        let finish = || -> io::Result<()> {
            let directory = self.root.open_at(path, DIRECTORY)?;
            if change.entry.node == (Node::Directory { opaque: true }) {
                set_xattr(directory.as_fd(), b".", b"user.overlay.opaque", b"y")?;
            }
            set_directory(directory.as_fd(), &change.entry.metadata)
        };
        finish().map_err(|source| self.error("write", path, source))
    }

    fn in_parent(
        &self,
        change: &Change,
        action: impl FnOnce(BorrowedFd<'_>, &[u8]) -> io::Result<()>,
    ) -> Result<(), SnapshotError> {
        let path = &change.entry.path;
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        self.root
            .open_at(&parent, DIRECTORY)
            .and_then(|directory| action(directory.as_fd(), name))
            .map_err(|source| self.error("write", path, source))
    }

    fn error(&self, action: &'static str, path: &TreePath, source: io::Error) -> SnapshotError {
        write_error(action, &self.root.display(path).display().to_string(), source)
    }
}

fn write_entry(directory: BorrowedFd<'_>, name: &[u8], change: &Change) -> io::Result<Written> {
    let metadata = &change.entry.metadata;
    match &change.entry.node {
        Node::File { size } => {
            let file = rustix::fs::openat(directory, name, NEW_FILE, Mode::RUSR | Mode::WUSR)?;
            let file = copy_content(file, &change.content, *size)?;
            set_owner(directory, name, metadata)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(metadata.mode))?;
        }
        Node::Symlink { target } => {
            rustix::fs::symlinkat(target.as_slice(), directory, name)?;
            set_owner(directory, name, metadata)?;
            return set_time(directory, name, metadata).map(|()| Written::Made);
        }
        Node::Whiteout => {
            rustix::fs::mknodat(directory, name, FileType::CharacterDevice, Mode::empty(), 0)?;
            return Ok(Written::Made);
        }
        Node::Fifo => make_node(directory, name, metadata, FileType::Fifo, 0)?,
        Node::CharDevice { major, minor } | Node::BlockDevice { major, minor } => {
            let file_type = match change.entry.node {
                Node::CharDevice { .. } => FileType::CharacterDevice,
                _ => FileType::BlockDevice,
            };
            match make_node(directory, name, metadata, file_type, rustix::fs::makedev(*major, *minor)) {
                Err(error) if Errno::from_io_error(&error) == Some(Errno::PERM) => {
                    return Ok(Written::NoRight(change.entry.path.clone()));
                }
                result => result?,
            }
        }
        Node::Directory { .. } | Node::HardLink { .. } => unreachable!("they are made apart"),
    }
    // After the owner: changing it takes capabilities away.
    for (attribute, value) in &metadata.xattrs {
        set_xattr(directory, name, attribute, value)?;
    }
    set_time(directory, name, metadata)?;
    Ok(Written::Made)
}

fn make_node(
    directory: BorrowedFd<'_>,
    name: &[u8],
    metadata: &Metadata,
    file_type: FileType,
    device: u64,
) -> io::Result<()> {
    rustix::fs::mknodat(directory, name, file_type, Mode::RUSR | Mode::WUSR, device)?;
    set_owner(directory, name, metadata)?;
    Ok(rustix::fs::chmodat(directory, name, Mode::from_raw_mode(metadata.mode), AtFlags::empty())?)
}

fn copy_content(target: OwnedFd, content: &Content, size: u64) -> io::Result<File> {
    let mut target = File::from(target);
    match content {
        Content::None => {}
        Content::Bytes(bytes) => io::Write::write_all(&mut target, bytes)?,
        Content::Part(part) => drop(io::copy(&mut part.reader(), &mut target)?),
        Content::Source(source) => {
            let mut source = source.open()?;
            if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
                io::copy(&mut source, &mut target)?;
            }
        }
    }
    if rustix::fs::fstat(&target)?.st_size.cast_unsigned() != size {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file changed its size while it was copied"));
    }
    Ok(target)
}

fn set_directory(directory: BorrowedFd<'_>, metadata: &Metadata) -> io::Result<()> {
    rustix::fs::fchown(directory, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))?;
    rustix::fs::fchmod(directory, Mode::from_raw_mode(metadata.mode))?;
    for (attribute, value) in &metadata.xattrs {
        set_xattr(directory, b".", attribute, value)?;
    }
    Ok(rustix::fs::futimens(directory, &times(metadata))?)
}

fn set_owner(directory: BorrowedFd<'_>, name: &[u8], metadata: &Metadata) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
    Ok(rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn set_time(directory: BorrowedFd<'_>, name: &[u8], metadata: &Metadata) -> io::Result<()> {
    Ok(rustix::fs::utimensat(directory, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW)?)
}

fn times(metadata: &Metadata) -> Timestamps {
    let time = Timespec { tv_sec: metadata.modified.seconds, tv_nsec: metadata.modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
