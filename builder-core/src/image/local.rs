//! An image's file tree in a folder: `type=local`.
//!
//! The folder may hold anything before, links included, and the tree may come from anyone. So everything is made
//! relative to open folders, which are opened one component at a time without following links: nothing outside the
//! target is ever written. Files appear under their names only when they are complete. Everything belongs to the
//! caller, as with BuildKit; modes, times and what attributes the caller may set are the tree's.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rayon::prelude::*;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::store::remove_tree;
use crate::tree::{Change, Content, MergedTree, Metadata, Node, TreePath, flatten};

use super::ImageError;

/// What becomes of things in the target that the tree does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LocalMode {
    /// They stay.
    #[default]
    Copy,
    /// They are removed.
    Delete,
}

/// How a tree is put into a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LocalOptions {
    /// What becomes of other things in the target.
    pub mode: LocalMode,
}

/// What [`export_local`] could not do without failing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LocalReport {
    /// Devices that the caller may not make.
    pub skipped: Vec<TreePath>,
}

/// Puts the whole tree into a folder, which is made where it is missing.
///
/// Things of the same path are replaced, a folder by a folder being kept. A hard link becomes one where the file
/// system allows it.
///
/// # Errors
/// When the tree can't be read, or something can't be made in the folder; what was finished stays then.
pub fn export_local(tree: &MergedTree, target: &Path, options: LocalOptions) -> Result<LocalReport, ImageError> {
    put_changes(&flatten(tree)?, target, options)
}

/// A change that failed, and why.
struct Failure<'a> {
    action: &'static str,
    entry: &'a TreePath,
    source: io::Error,
}

fn put_changes(changes: &[Change], target: &Path, options: LocalOptions) -> Result<LocalReport, ImageError> {
    fs::create_dir_all(target).map_err(ImageError::io("make the folder", target))?;
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(target, flags, Mode::empty()).map_err(|e| ImageError::io("open", target)(e.into()))?;
    let failed = |failure: Failure<'_>| ImageError::Local {
        action: failure.action,
        entry: failure.entry.clone(),
        path: target.to_owned(),
        source: failure.source,
    };
    let mut folders: BTreeMap<TreePath, Vec<&Change>> = BTreeMap::from([(TreePath::root(), Vec::new())]);
    let mut links = Vec::new();
    for change in changes {
        let path = &change.entry.path;
        let Some(parent) = path.parent() else { continue };
        match &change.entry.node {
            Node::Whiteout => continue,
            Node::HardLink { target } => links.push((path, target)),
            Node::Directory { .. } => drop(folders.entry(path.clone()).or_default()),
            _ => {}
        }
        folders.entry(parent).or_default().push(change);
    }
    let mut report = LocalReport::default();
    // A folder sorts before what is in it, so it exists when its turn comes.
    for (path, entries) in &folders {
        report.skipped.extend(fill_folder(&top, path, entries, options).map_err(failed)?);
    }
    for (path, first) in links {
        link(&top, path, first).map_err(|source| failed(Failure { action: "link", entry: path, source }))?;
    }
    // Last and from below, because filling a folder changes its time, and its mode may forbid filling it.
    for change in changes.iter().rev().filter(|change| change.entry.node.is_directory()) {
        let path = &change.entry.path;
        let finish = || finish(&open_folder(&top, path)?, &change.entry.metadata);
        finish().map_err(|source| failed(Failure { action: "finish the folder", entry: path, source }))?;
    }
    Ok(report)
}

/// Makes everything of one folder but hard links; gives what had to be left out.
fn fill_folder<'a>(
    top: &OwnedFd,
    path: &'a TreePath,
    entries: &[&'a Change],
    options: LocalOptions,
) -> Result<Vec<TreePath>, Failure<'a>> {
    let failure = |action, source| Failure { action, entry: path, source };
    let folder = make_folders(top, path).map_err(|source| failure("open the folder", source))?;
    if options.mode == LocalMode::Delete {
        let names = entries.iter().filter_map(|change| change.entry.path.file_name()).collect();
        remove_others(&folder, &names).map_err(|source| failure("clean the folder", source))?;
    }
    let made = entries.par_iter().map(|change| {
        let entry = &change.entry.path;
        let name = entry.file_name().expect("the root is in no folder");
        match make(&folder, name, change) {
            Ok(()) => Ok(None),
            Err(error) if is_device(&change.entry.node) && error.kind() == io::ErrorKind::PermissionDenied => {
                Ok(Some(entry.clone()))
            }
            Err(source) => Err(Failure { action: "write", entry, source }),
        }
    });
    Ok(made.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
}

const fn is_device(node: &Node) -> bool {
    matches!(node, Node::CharDevice { .. } | Node::BlockDevice { .. })
}

fn make(folder: &OwnedFd, name: &[u8], change: &Change) -> io::Result<()> {
    let metadata = &change.entry.metadata;
    let temp = temp_name(name);
    match &change.entry.node {
        Node::Directory { .. } => return make_folder(folder, name),
        // Made at the end, when all first names exist.
        Node::HardLink { .. } | Node::Whiteout => return Ok(()),
        _ => remove(folder, &temp)?,
    }
    let result = match &change.entry.node {
        Node::File { size } => write_file(folder, &temp, *size, &change.content, metadata),
        Node::Symlink { target } => rustix::fs::symlinkat(&target[..], folder, &temp[..]).map_err(Into::into),
        Node::Fifo => make_node(folder, &temp, FileType::Fifo, 0),
        Node::CharDevice { major, minor } => {
            make_node(folder, &temp, FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))
        }
        Node::BlockDevice { major, minor } => {
            make_node(folder, &temp, FileType::BlockDevice, rustix::fs::makedev(*major, *minor))
        }
        Node::Directory { .. } | Node::HardLink { .. } | Node::Whiteout => unreachable!("dealt with above"),
    };
    let result = result.and_then(|()| {
        if !matches!(change.entry.node, Node::File { .. }) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            if !matches!(change.entry.node, Node::Symlink { .. }) {
                rustix::fs::chmodat(folder, &temp[..], mode_of(metadata), AtFlags::empty())?;
            }
            rustix::fs::utimensat(folder, &temp[..], &times_of(metadata), flags)?;
        }
        put_in_place(folder, &temp, name)
    });
    if result.is_err() {
        let _ = rustix::fs::unlinkat(folder, &temp[..], AtFlags::empty());
    }
    result
}

/// Makes a folder that only the caller may use until it is finished; a folder that is there stays.
fn make_folder(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    for _ in 0..2 {
        match rustix::fs::mkdirat(parent, name, Mode::RWXU) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
        match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let mode = Mode::from_raw_mode(stat.st_mode as RawMode & 0o7777);
                if !mode.contains(Mode::RWXU) {
                    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                    chmod_path(&fd, mode | Mode::RWXU)?;
                }
                return Ok(());
            }
            Ok(_) => rustix::fs::unlinkat(parent, name, AtFlags::empty())?,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn write_file(folder: &OwnedFd, name: &[u8], size: u64, content: &Content, metadata: &Metadata) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?);
    let written = match content {
        Content::None => 0,
        Content::Bytes(bytes) => file.write_all(bytes).map(|()| bytes.len() as u64)?,
        // Between files this clones or copies inside the kernel where it can.
        Content::Source(source) => io::copy(&mut source.open()?, &mut file)?,
        Content::Part(part) => io::copy(&mut part.reader(), &mut file)?,
    };
    if written != size {
        let text = format!("it has {written} bytes instead of {size}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    finish(&file.into(), metadata)
}

/// Gives an open file or folder its attributes, mode and time, the time last.
fn finish(fd: &OwnedFd, metadata: &Metadata) -> io::Result<()> {
    for (name, value) in &metadata.xattrs {
        // Many file systems and users can't hold every attribute; the file is of use without it.
        let _ = rustix::fs::fsetxattr(fd, &name[..], value, XattrFlags::empty());
    }
    rustix::fs::fchmod(fd, mode_of(metadata))?;
    Ok(rustix::fs::futimens(fd, &times_of(metadata))?)
}

fn make_node(folder: &OwnedFd, name: &[u8], kind: FileType, device: u64) -> io::Result<()> {
    Ok(rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device)?)
}

fn link(top: &OwnedFd, path: &TreePath, first: &TreePath) -> io::Result<()> {
    let open = |path: &TreePath| open_folder(top, &path.parent().unwrap_or_default());
    let name = |path: &TreePath| path.file_name().unwrap_or_default().to_vec();
    let (from, to) = (open(first)?, open(path)?);
    let temp = temp_name(&name(path));
    remove(&to, &temp)?;
    match rustix::fs::linkat(&from, &name(first)[..], &to, &temp[..], AtFlags::empty()) {
        Ok(()) => {}
        // The file has too many names, or the file system knows no further names.
        Err(Errno::MLINK | Errno::PERM | Errno::NOTSUP) => copy(&from, &name(first), &to, &temp)?,
        Err(errno) => return Err(errno.into()),
    }
    put_in_place(&to, &temp, &name(path))
}

/// Copies a file that was finished before, with its mode and times.
fn copy(from: &OwnedFd, name: &[u8], to: &OwnedFd, new: &[u8]) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut source = File::from(rustix::fs::openat(from, name, flags, Mode::empty())?);
    let stat = rustix::fs::fstat(&source)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(to, new, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut source, &mut file)?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(stat.st_mode as RawMode & 0o7777))?;
    let modified = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    Ok(rustix::fs::futimens(&file, &Timestamps { last_access: modified, last_modification: modified })?)
}

/// Renames a finished file over whatever has its name.
fn put_in_place(folder: &OwnedFd, temp: &[u8], name: &[u8]) -> io::Result<()> {
    match rustix::fs::renameat(folder, temp, folder, name) {
        Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {
            remove(folder, name)?;
            rustix::fs::renameat(folder, temp, folder, name)?;
        }
        other => other?,
    }
    // Renaming one name of a file to another name of the same file does nothing.
    match rustix::fs::unlinkat(folder, temp, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn remove(folder: &OwnedFd, name: &[u8]) -> io::Result<()> {
    remove_tree(folder.as_fd(), OsStr::from_bytes(name))
}

fn remove_others(folder: &OwnedFd, names: &std::collections::BTreeSet<&[u8]>) -> io::Result<()> {
    let mut others = Vec::new();
    for entry in rustix::fs::Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") && !names.contains(name) {
            others.push(name.to_vec());
        }
    }
    others.iter().try_for_each(|name| remove(folder, name))
}

/// As [`open_folder`], but makes folders that the tree uses without having entries for them.
fn make_folders(top: &OwnedFd, path: &TreePath) -> io::Result<OwnedFd> {
    match open_folder(top, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    for ancestor in path.ancestors().chain([path.clone()]) {
        let parent = open_folder(top, &ancestor.parent().unwrap_or_default())?;
        match rustix::fs::mkdirat(&parent, ancestor.file_name().unwrap_or_default(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    open_folder(top, path)
}

/// Opens a folder of the target one component at a time, so that no link is followed.
fn open_folder(top: &OwnedFd, path: &TreePath) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut folder = top.try_clone()?;
    for component in path.components() {
        folder = rustix::fs::openat(&folder, component, flags, Mode::empty())?;
    }
    Ok(folder)
}

/// A name beside `name` for its unfinished form; it fits where `name` has the greatest length too.
fn temp_name(name: &[u8]) -> Vec<u8> {
    let hash = blake3::hash(name).to_hex();
    format!(".rbuild-{}-{}.part", std::process::id(), &hash[..16]).into_bytes()
}

fn chmod_path(fd: &OwnedFd, mode: Mode) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    Ok(rustix::fs::chmod(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)?)
}

fn mode_of(metadata: &Metadata) -> Mode {
    Mode::from_raw_mode(metadata.mode as RawMode & 0o7777)
}

fn times_of(metadata: &Metadata) -> Timestamps {
    let modified = Timespec { tv_sec: metadata.modified.seconds, tv_nsec: metadata.modified.nanoseconds.into() };
    Timestamps { last_access: modified, last_modification: modified }
}

#[cfg(test)]
mod tests;
