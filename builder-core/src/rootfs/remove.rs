//! Removing a tree that somebody else wrote.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags};
use rustix::io::Errno;

/// How deep directories are walked before what is deeper is moved up: it bounds the open descriptors.
const GREATEST_DEPTH: usize = 64;
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);
/// `openat2` takes no further flag with `PATH`.
const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removes `name` and everything in it; that it isn't there is no error.
///
/// Follows no link, enters directories that allow nobody in, copes with any depth, and stops with an error at a mount
/// (what is mounted is left as it is).
///
/// # Errors
/// When something can't be removed; the rest may be gone by then.
pub fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    let directory = match open_directory(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        directory => directory?,
    };
    remove_contents(directory.as_fd())?;
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Removes everything in a directory, as [`remove_tree`] does, and keeps the directory.
///
/// # Errors
/// When something can't be removed; the rest may be gone by then.
pub fn remove_contents(directory: BorrowedFd<'_>) -> io::Result<()> {
    let mut moved = 0;
    // What was too deep is moved up here, so another round finds it.
    loop {
        let before = moved;
        remove_level(directory, directory, 0, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
}

fn remove_level(top: BorrowedFd<'_>, directory: BorrowedFd<'_>, depth: usize, moved: &mut u64) -> io::Result<()> {
    for (name, is_directory) in names(directory)? {
        if !is_directory {
            match rustix::fs::unlinkat(directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // Most directories of a removed tree are empty by now or hold files only; try the cheap way first.
        match rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let child = open_directory(directory, &name)?;
        if depth < GREATEST_DEPTH {
            remove_level(top, child.as_fd(), depth + 1, moved)?;
            rustix::fs::unlinkat(directory, &name, AtFlags::REMOVEDIR)?;
        } else {
            move_up(top, directory, &name, moved)?;
        }
    }
    Ok(())
}

/// Moves a directory to the top, under a name that is free there.
fn move_up(top: BorrowedFd<'_>, directory: BorrowedFd<'_>, name: &CStr, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let free = CString::new(format!(".deep-{moved}")).expect("a number holds no NUL");
        match rustix::fs::renameat_with(directory, name, top, &free, rustix::fs::RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            result => return Ok(result?),
        }
    }
}

fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<(CString, bool)>> {
    let mut found = Vec::new();
    let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
    // The directory may have been listed before.
    rustix::fs::seek(directory, rustix::fs::SeekFrom::Start(0))?;
    let mut names = RawDir::new(directory, &mut buffer);
    while let Some(name) = names.next() {
        let name = name?;
        if !matches!(name.file_name().to_bytes(), b"." | b"..") {
            found.push((name.file_name().to_owned(), name.file_type() == FileType::Directory));
        }
    }
    Ok(found)
}

fn open_directory(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    // Without read, write and search permission, what is inside can't be listed or removed. Only matters without
    // privilege; root is let in anyway.
    match open_same_mount(parent, name, DIRECTORY) {
        Ok(fd) => {
            let status = rustix::fs::fstat(&fd)?;
            if status.st_mode & 0o700 != 0o700 {
                let _ = rustix::fs::fchmod(&fd, Mode::RWXU);
            }
            Ok(fd)
        }
        Err(Errno::ACCESS) => {
            let fd = open_same_mount(parent, name, PATH)?;
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            rustix::fs::chmodat(CWD, path.as_str(), Mode::RWXU, AtFlags::empty())?;
            open_same_mount(parent, name, DIRECTORY)
        }
        Err(error) => Err(error),
    }
}

fn open_same_mount(parent: BorrowedFd<'_>, name: &CStr, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
            if rustix::fs::fstat(&fd)?.st_dev != rustix::fs::fstat(parent)?.st_dev {
                return Err(Errno::XDEV);
            }
            Ok(fd)
        }
        result => result,
    }
}
