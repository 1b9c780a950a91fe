//! Writes a layer's unpacked form: a folder that overlayfs can use as a lower directory, mounted with `userxattr`.
//!
//! ```text
//! whiteout           character device 0:0
//! opaque directory   attribute user.overlay.opaque=y
//! device             the device, or an empty file where the kernel does not let us make it (a user namespace)
//! ```
//!
//! Everything is done by directory descriptors below the root, one name at a time, and no name that is a symbolic link
//! is ever gone through: a path with one in the middle is an error. Nothing that is there is written to; files are made
//! anew. Directories get their owner, mode, attributes and time at the end, the deepest first.
//!
//! Inside a user namespace, owners that it has no id for and attributes that the disk does not take are left out: the
//! record of the layer has them.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::LayerError;
use crate::tree::{Metadata, Timestamp, TreePath, Xattrs};

/// Directory descriptors that are kept open.
const MOST_OPEN: usize = 48;

const OPAQUE_XATTR: &str = "user.overlay.opaque";

/// Writes below one root directory.
pub(super) struct DiskWriter {
    root: OwnedFd,
    /// Open directories on the way to the last parent, from the root's child down.
    open: Vec<(Vec<u8>, OwnedFd)>,
    /// The last parent, where it is deeper than what is kept open.
    deep: Option<(TreePath, OwnedFd)>,
    privileges: Privileges,
}

/// What this process may do with owners.
#[derive(Debug, Clone, Copy)]
struct Privileges {
    /// New files belong to 0:0 without being told.
    makes_root_files: bool,
    /// All ids exist.
    all_ids: bool,
    /// Modes stop nobody here. Whom they stop must be able to read what it wrote; no command runs with such files, and the
    /// layer's record knows the mode.
    passes_modes: bool,
}

type Outcome<T> = Result<T, (&'static str, io::Error)>;

impl DiskWriter {
    /// Opens an existing directory, which should be empty.
    pub(super) fn open(root: &Path) -> Result<Self, LayerError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let error = |errno: Errno| LayerError::Unpack {
            action: "open the folder",
            path: root.display().to_string(),
            source: errno.into(),
        };
        let root = fs::open(root, flags, Mode::empty()).map_err(error)?;
        let stat = fs::fstat(&root).map_err(error)?;
        let as_root = rustix::process::geteuid().is_root() && rustix::process::getegid().is_root();
        let privileges = Privileges {
            makes_root_files: as_root && stat.st_mode & 0o2000 == 0,
            all_ids: rustix::process::geteuid().is_root() && all_ids_exist(),
            passes_modes: rustix::process::geteuid().is_root(),
        };
        Ok(Self { root, open: Vec::new(), deep: None, privileges })
    }

    /// Makes a directory, or keeps the one that is there. [`DiskWriter::set_directory`] does the rest at the end.
    pub(super) fn directory(&mut self, path: &TreePath) -> Result<(), LayerError> {
        if path.is_root() {
            return Ok(());
        }
        self.in_parent(path, |parent, name, _| match fs::mkdirat(parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(("make the directory", errno.into())),
        })
    }

    /// Makes an empty regular file. [`DiskWriter::set_file`] does the rest when its content is written.
    pub(super) fn create_file(&mut self, path: &TreePath) -> Result<File, LayerError> {
        self.in_parent(path, |parent, name, _| {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR);
            file.map(File::from).map_err(|errno| ("make the file", errno.into()))
        })
    }

    /// Gives a regular file its metadata.
    pub(super) fn set_file(&self, file: &File, path: &TreePath, metadata: &Metadata) -> Result<(), LayerError> {
        let result = self.privileges.set_metadata(file.as_fd(), metadata);
        result.map_err(|(action, source)| LayerError::Unpack { action, path: path.to_string(), source })
    }

    /// Makes a symbolic link.
    pub(super) fn symlink(&mut self, path: &TreePath, target: &[u8], metadata: &Metadata) -> Result<(), LayerError> {
        self.in_parent(path, |parent, name, privileges| {
            fs::symlinkat(target, parent, name).map_err(|errno| ("make the symbolic link", errno.into()))?;
            privileges.set_metadata_at(parent, name, metadata, false)
        })
    }

    /// Makes a further name of the file at `target`.
    pub(super) fn hard_link(&mut self, path: &TreePath, target: &TreePath) -> Result<(), LayerError> {
        let directory = target.parent().unwrap_or_default();
        let directory = self.walk_from(self.root.as_fd(), &directory).map_err(|errno| LayerError::Unpack {
            action: "open the directory of the hard link's target",
            path: target.to_string(),
            source: errno.into(),
        })?;
        let target = target.file_name().unwrap_or_default();
        self.in_parent(path, |parent, name, _| {
            let linked = fs::linkat(&directory, target, parent, name, AtFlags::empty());
            linked.map_err(|errno| ("make the hard link", errno.into()))
        })
    }

    /// Makes a named pipe.
    pub(super) fn fifo(&mut self, path: &TreePath, metadata: &Metadata) -> Result<(), LayerError> {
        self.in_parent(path, |parent, name, privileges| {
            let made = fs::mknodat(parent, name, FileType::Fifo, Mode::RUSR, 0);
            made.map_err(|errno| ("make the named pipe", errno.into()))?;
            privileges.set_metadata_at(parent, name, metadata, true)
        })
    }

    /// Makes a device, or an empty file where the kernel refuses it.
    pub(super) fn device(
        &mut self,
        path: &TreePath,
        kind: FileType,
        (major, minor): (u32, u32),
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        self.in_parent(path, |parent, name, privileges| {
            let made = match fs::mknodat(parent, name, kind, Mode::RUSR, fs::makedev(major, minor)) {
                Err(Errno::PERM) => fs::mknodat(parent, name, FileType::RegularFile, Mode::RUSR, 0),
                made => made,
            };
            made.map_err(|errno| ("make the device", errno.into()))?;
            privileges.set_metadata_at(parent, name, metadata, true)
        })
    }

    /// Marks a path of lower layers as removed.
    pub(super) fn whiteout(&mut self, path: &TreePath) -> Result<(), LayerError> {
        self.in_parent(path, |parent, name, _| {
            let made = fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0);
            made.map_err(|errno| ("make the whiteout", errno.into()))
        })
    }

    /// Removes what is at a path, and all below it.
    pub(super) fn remove(&mut self, path: &TreePath) -> Result<(), LayerError> {
        let result =
            self.in_parent(path, |parent, name, _| remove_all(parent, name).map_err(|errno| ("remove", errno.into())));
        // What was open may be gone now.
        self.forget_directories();
        result
    }

    /// Opens directories anew from now on, because some may have been removed.
    pub(super) fn forget_directories(&mut self) {
        self.open.clear();
        self.deep = None;
    }

    /// Gives a directory its metadata; once nothing more is put into it.
    pub(super) fn set_directory(
        &mut self,
        path: &TreePath,
        opaque: bool,
        metadata: &Metadata,
    ) -> Result<(), LayerError> {
        let error = |(action, source)| LayerError::Unpack { action, path: path.to_string(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let privileges = self.privileges;
        let directory = if path.is_root() {
            fs::openat(&self.root, ".", flags, Mode::empty()).map_err(|errno| error(("open", errno.into())))?
        } else {
            self.in_parent(path, |parent, name, _| {
                fs::openat(parent, name, flags, Mode::empty()).map_err(|errno| ("open the directory", errno.into()))
            })?
        };
        if opaque {
            fs::fsetxattr(&directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
                .map_err(|errno| error(("mark as opaque the directory", errno.into())))?;
        }
        privileges.set_metadata(directory.as_fd(), metadata).map_err(error)
    }

    fn in_parent<T>(
        &mut self,
        path: &TreePath,
        act: impl FnOnce(BorrowedFd<'_>, &[u8], Privileges) -> Outcome<T>,
    ) -> Result<T, LayerError> {
        let error = |(action, source)| LayerError::Unpack { action, path: path.to_string(), source };
        let name = path.file_name().ok_or_else(|| error(("replace", io::ErrorKind::IsADirectory.into())))?;
        let privileges = self.privileges;
        let parent = path.parent().unwrap_or_default();
        let parent = self.parent(&parent).map_err(|errno| error(("open the directory of", errno.into())))?;
        act(parent, name, privileges).map_err(error)
    }

    /// Opens a directory, and makes those on the way that are missing.
    fn parent(&mut self, directory: &TreePath) -> Result<BorrowedFd<'_>, Errno> {
        let names: Vec<&[u8]> = directory.components().collect();
        let shared = self.open.iter().zip(&names).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(shared);
        for &name in names.iter().take(MOST_OPEN).skip(shared) {
            let parent = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
            let next = open_or_make(parent, name)?;
            self.open.push((name.to_vec(), next));
        }
        let last = self.open.last().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd());
        if names.len() <= MOST_OPEN {
            return Ok(last);
        }
        if self.deep.as_ref().is_none_or(|(path, _)| path != directory) {
            let mut next = open_or_make(last, names[MOST_OPEN])?;
            for name in &names[MOST_OPEN + 1..] {
                next = open_or_make(next.as_fd(), name)?;
            }
            self.deep = Some((directory.clone(), next));
        }
        Ok(self.deep.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    /// Opens an existing directory without touching what is kept open.
    fn walk_from(&self, root: BorrowedFd<'_>, directory: &TreePath) -> Result<OwnedFd, Errno> {
        let mut found = open_directory(root, b".")?;
        for name in directory.components() {
            found = open_directory(found.as_fd(), name)?;
        }
        Ok(found)
    }
}

impl Privileges {
    /// Owner before mode and attributes: a new owner takes set-id bits and capabilities away.
    fn set_metadata(self, file: BorrowedFd<'_>, metadata: &Metadata) -> Outcome<()> {
        if !(self.makes_root_files && metadata.uid == 0 && metadata.gid == 0) {
            let (uid, gid) = ids(metadata);
            self.owner_outcome(fs::fchown(file, uid, gid))?;
        }
        let own = if self.passes_modes { Mode::empty() } else { Mode::RWXU };
        fs::fchmod(file, mode(metadata) | own).map_err(|errno| ("set the mode of", errno.into()))?;
        self.set_xattrs(file, &metadata.xattrs)?;
        fs::futimens(file, &times(metadata.modified)).map_err(|errno| ("set the time of", errno.into()))
    }

    /// The same by name, for what can't be opened. Nobody else can have changed the name meanwhile.
    fn set_metadata_at(self, parent: BorrowedFd<'_>, name: &[u8], metadata: &Metadata, has_mode: bool) -> Outcome<()> {
        if !(self.makes_root_files && metadata.uid == 0 && metadata.gid == 0) {
            let (uid, gid) = ids(metadata);
            self.owner_outcome(fs::chownat(parent, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW))?;
        }
        if has_mode {
            fs::chmodat(parent, name, mode(metadata), AtFlags::empty())
                .map_err(|errno| ("set the mode of", errno.into()))?;
        }
        fs::utimensat(parent, name, &times(metadata.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|errno| ("set the time of", errno.into()))
    }

    fn owner_outcome(self, result: Result<(), Errno>) -> Outcome<()> {
        match result {
            Err(Errno::PERM | Errno::INVAL) if !self.all_ids => Ok(()),
            result => result.map_err(|errno| ("set the owner of", errno.into())),
        }
    }

    fn set_xattrs(self, file: BorrowedFd<'_>, xattrs: &Xattrs) -> Outcome<()> {
        for (name, value) in xattrs {
            match fs::fsetxattr(file, name.as_slice(), value, XattrFlags::empty()) {
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(Errno::PERM) if !self.all_ids => {}
                Err(errno) => return Err(("set an extended attribute of", errno.into())),
            }
        }
        Ok(())
    }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

fn open_or_make(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    match open_directory(parent, name) {
        Err(Errno::NOENT) => {
            match fs::mkdirat(parent, name, Mode::RWXU) {
                // Another thread made it meanwhile.
                Ok(()) | Err(Errno::EXIST) => open_directory(parent, name),
                Err(errno) => Err(errno),
            }
        }
        result => result,
    }
}

/// Removes a name and all below it; a loop, as the depth is an archive's to choose.
fn remove_all(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        result => return result,
    }
    let mut path: Vec<(Vec<u8>, OwnedFd)> = vec![(name.to_vec(), open_for_listing(parent, name)?)];
    while let Some((_, directory)) = path.last() {
        let mut inner = None;
        for entry in fs::Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            match fs::unlinkat(directory, name, AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => {
                    inner = Some(name.to_vec());
                    break;
                }
                result => result?,
            }
        }
        if let Some(name) = inner {
            let next = open_for_listing(directory.as_fd(), &name)?;
            path.push((name, next));
            continue;
        }
        let name = path.pop().map(|(name, _)| name).unwrap_or_default();
        let above = path.last().map_or(parent, |(_, fd)| fd.as_fd());
        fs::unlinkat(above, name.as_slice(), AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

fn open_for_listing(parent: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::empty())
}

/// Whether this user namespace has all ids of the machine.
fn all_ids_exist() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.is_empty() || map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn ids(metadata: &Metadata) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
}

const fn mode(metadata: &Metadata) -> Mode {
    Mode::from_raw_mode(metadata.mode & 0o7777)
}

fn times(modified: Timestamp) -> Timestamps {
    let time = Timespec { tv_sec: modified.seconds, tv_nsec: modified.nanoseconds.into() };
    Timestamps { last_access: time, last_modification: time }
}
