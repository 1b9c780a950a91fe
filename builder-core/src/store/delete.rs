//! Removing a tree that something untrusted made.
//!
//! Everything happens relative to open folders, so nothing outside the tree can be reached through links or renames.
//! The walk is a loop with a bounded number of open folders: what lies deeper is moved up to the tree's top first.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

/// How many folders are open at once.
const DEPTH_LIMIT: usize = 24;

/// Removes `name` in the open folder `parent`, and all that is in it. Nothing there is success.
///
/// Links are removed, never followed. Folders that forbid it are made writable first. A mounted file system is left
/// alone and reported.
///
/// # Errors
/// When something can't be removed; the rest of the tree may be gone then.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let name = CString::new(name.as_bytes())?;
    match fs::unlinkat(parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Linux says ISDIR, POSIX allows PERM.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let Some(top) = open_dir(parent, &name)? else { return Ok(()) };
    let mut walk = Walk { parent, mount: mount_id(parent)?, stack: Vec::new(), moved: 0 };
    walk.enter(top, name)?;
    while !walk.stack.is_empty() {
        walk.step()?;
    }
    Ok(())
}

/// Removes what is at a path, and all that is in it; the folder above it is trusted.
pub(super) fn remove_path(path: &Path) -> io::Result<()> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "not a path with a last component");
    let (parent, name) = (path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?);
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::PATH;
    match fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => remove_tree(parent.as_fd(), name),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

struct Walk<'a> {
    parent: BorrowedFd<'a>,
    mount: u64,
    stack: Vec<Level>,
    moved: u64,
}

/// An open folder of the walk.
struct Level {
    fd: OwnedFd,
    entries: Dir,
    name: CString,
}

impl Walk<'_> {
    fn enter(&mut self, fd: OwnedFd, name: CString) -> io::Result<()> {
        if mount_id(fd.as_fd())? != self.mount {
            let text = format!("a file system is mounted on `{}`", name.to_string_lossy());
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        let entries = Dir::read_from(&fd)?;
        self.stack.push(Level { fd, entries, name });
        Ok(())
    }

    /// Deals with the next entry of the innermost folder.
    fn step(&mut self) -> io::Result<()> {
        let level = self.stack.last_mut().expect("a step is made only inside a folder");
        let Some(entry) = level.entries.read() else { return self.leave() };
        let entry = match entry {
            // Another process removes the same leftover.
            Err(Errno::NOENT) => return self.leave(),
            other => other?,
        };
        let name = entry.file_name();
        if name == c"." || name == c".." {
            return Ok(());
        }
        if entry.file_type() != FileType::Directory {
            match fs::unlinkat(&level.fd, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::ISDIR) => {}
                Err(Errno::ACCESS) => {
                    make_writable(&level.fd)?;
                    return Ok(fs::unlinkat(&level.fd, name, AtFlags::empty())?);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        // Most folders are empty or soon are, and this saves opening the empty ones.
        match fs::unlinkat(&level.fd, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ACCESS) => make_writable(&level.fd)?,
            Err(_) => {}
        }
        let name = name.to_owned();
        if self.stack.len() >= DEPTH_LIMIT {
            return self.move_up(&name);
        }
        let level = self.stack.last().expect("a step is made only inside a folder");
        match open_dir(level.fd.as_fd(), &name)? {
            Some(fd) => self.enter(fd, name),
            None => Ok(()),
        }
    }

    /// Removes the innermost folder, whose entries were all seen.
    fn leave(&mut self) -> io::Result<()> {
        let level = self.stack.last_mut().expect("only an entered folder is left");
        let name = level.name.clone();
        let above = match self.stack.len() {
            1 => self.parent,
            n => self.stack[n - 2].fd.as_fd(),
        };
        let mut result = fs::unlinkat(above, &name, AtFlags::REMOVEDIR);
        if result == Err(Errno::ACCESS) && self.stack.len() > 1 {
            make_writable(&self.stack[self.stack.len() - 2].fd)?;
            result = fs::unlinkat(&self.stack[self.stack.len() - 2].fd, &name, AtFlags::REMOVEDIR);
        }
        match result {
            Ok(()) | Err(Errno::NOENT) => {
                self.stack.pop();
                Ok(())
            }
            // Folders were moved up into it, or entries escaped a listing that changed under it. Every round removes
            // or moves something, or fails, so this ends.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {
                self.stack.last_mut().expect("only an entered folder is left").entries.rewind();
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Moves a deep folder to the tree's top, where it is found again when that is read anew.
    fn move_up(&mut self, name: &CStr) -> io::Result<()> {
        let (from, to) = (&self.stack[self.stack.len() - 1].fd, &self.stack[0].fd);
        self.moved += 1;
        let new = CString::new(format!(".rbuild-deep-{}", self.moved)).expect("the text has no NUL");
        let rename = || fs::renameat_with(from, name, to, &new, fs::RenameFlags::NOREPLACE);
        match rename() {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(Errno::ACCESS) => {
                if let Some(fd) = open_dir(from.as_fd(), name)? {
                    make_writable(&fd)?;
                }
                make_writable(to)?;
                Ok(rename()?)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Opens a folder to list it; `None` where there is none. One that may not be listed is made readable first.
fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match fs::openat(parent, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::ACCESS) => {
            let path = fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
            make_writable(&path)?;
            Ok(Some(fs::openat(parent, name, flags, Mode::empty())?))
        }
        Err(errno) => Err(errno.into()),
    }
}

/// Gives the owner all rights to an open folder, also to one opened only as a path.
fn make_writable(fd: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    Ok(fs::chmod(link, Mode::RWXU)?)
}

fn mount_id(fd: BorrowedFd<'_>) -> io::Result<u64> {
    // STATX_MNT_ID, Linux 5.8; older kernels leave 0, and then removing the mount point itself fails as busy.
    let flags = StatxFlags::from_bits_retain(0x1000);
    Ok(fs::statx(fd, c"", AtFlags::EMPTY_PATH, flags)?.stx_mnt_id)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removes_strange_trees_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let canary = dir.path().join("canary");
        std::fs::create_dir(&canary).unwrap();
        std::fs::write(canary.join("file"), "x").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/locked/in")).unwrap();
        symlink(&canary, tree.join("link")).unwrap();
        symlink(&canary, tree.join("a/locked/link")).unwrap();
        std::fs::write(tree.join(OsStr::from_bytes(b"a/\xff\n")), "x").unwrap();
        fs::mkfifoat(fs::CWD, tree.join("fifo"), Mode::RUSR).unwrap();
        for path in ["a/locked/in", "a/locked", "a"] {
            std::fs::set_permissions(tree.join(path), std::fs::Permissions::from_mode(0o0)).unwrap();
        }
        remove_path(&tree).unwrap();
        assert!(!tree.exists() && canary.join("file").exists());
        remove_path(&tree).unwrap();
        let link = dir.path().join("link");
        symlink(&canary, &link).unwrap();
        remove_path(&link).unwrap();
        assert!(link.symlink_metadata().is_err() && canary.join("file").exists());
    }

    #[test]
    fn removes_a_tree_deeper_than_any_path_may_be() {
        let dir = tempfile::tempdir().unwrap();
        let top = fs::open(dir.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        let mut fd = top.try_clone().unwrap();
        for _ in 0..1500 {
            fs::mkdirat(&fd, c"deep", Mode::RWXU).unwrap();
            fs::openat(&fd, c"file", OFlags::CREATE, Mode::RUSR).unwrap();
            fd = fs::openat(&fd, c"deep", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(top.as_fd(), OsStr::new("deep")).unwrap();
        assert!(!dir.path().join("deep").exists());
    }

    #[test]
    fn removes_a_folder_of_many_files() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        for n in 0..2000 {
            std::fs::create_dir_all(tree.join(format!("dir-{n}/sub"))).unwrap();
        }
        remove_path(&tree).unwrap();
        assert!(!tree.exists());
    }

    #[test]
    fn leaves_a_mounted_file_system_alone() {
        let dir = tempfile::tempdir().unwrap();
        let point = dir.path().join("tree/point");
        std::fs::create_dir_all(&point).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        if let Err(errno) = rustix::mount::mount("rbuild-test", &point, "tmpfs", flags, None) {
            println!("skipped: can't mount a file system: {errno}");
            return;
        }
        std::fs::write(point.join("canary"), "x").unwrap();
        let result = remove_path(&dir.path().join("tree"));
        let alive = point.join("canary").exists();
        rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(result.is_err() && alive);
        remove_path(&dir.path().join("tree")).unwrap();
    }
}
