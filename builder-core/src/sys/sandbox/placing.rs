//! Puts prepared mounts in their places, in the step's first process.
//!
//! The rules of [`child`](super::child) hold: system calls only.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, RawFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};

use super::child::{At, Failure};
use super::error::Stage;
use super::plan::{Before, Fresh, Otherwise, Plan};
use crate::sys::call;

pub(super) fn before(slots: &mut [RawFd], step: &Before, index: usize) -> Result<(), Failure> {
    match step {
        Before::Aside { slot } => {
            // SAFETY: slots hold open descriptors until the process starts its loop.
            let mount = unsafe { call::borrow(slots[*slot]) };
            move_to(mount, CWD, c"/").at(Stage::StageMount, index)
        }
        Before::Clone { from, path, to, flags } => {
            // SAFETY: as above.
            let from = unsafe { call::borrow(slots[*from]) };
            slots[*to] = clone_path(from, path, *flags).at(Stage::StageMount, index)?;
            Ok(())
        }
        Before::Fresh { kind, slot, flags, otherwise } => {
            let made = fresh(*kind, *flags);
            slots[*slot] = match (made, otherwise) {
                (Ok(fd), _) => fd,
                (Err(_), Otherwise::Skip) => -1,
                (Err(_), Otherwise::Use { slot }) if slots[*slot] >= 0 => slots[*slot],
                (Err(error), Otherwise::Fail | Otherwise::Use { .. }) => {
                    return Err(Failure { stage: Stage::FreshMount, error, index: *kind as usize });
                }
            };
            Ok(())
        }
    }
}

fn clone_path(from: BorrowedFd<'_>, path: &CStr, flags: MountAttrFlags) -> Result<RawFd, Errno> {
    let file = open_inside(from, path, ResolveFlags::empty())?;
    // SAFETY: just opened.
    let file = unsafe { call::borrow(file) };
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let mount = rustix::mount::open_tree(file, c"", clone)?.into_raw_fd();
    // SAFETY: just opened.
    call::restrict(unsafe { call::borrow(mount) }, flags, false)?;
    Ok(mount)
}

/// Opens a path whose symbolic links stay inside a root.
fn open_inside(root: BorrowedFd<'_>, path: &CStr, more: ResolveFlags) -> Result<RawFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // Someone renamed a folder on the way meanwhile.
            Err(Errno::AGAIN) if tries < 100 => tries += 1,
            result => return result.map(IntoRawFd::into_raw_fd),
        }
    }
}

fn fresh(kind: Fresh, flags: MountAttrFlags) -> Result<RawFd, Errno> {
    let name = match kind {
        Fresh::Proc => c"proc",
        Fresh::Sys => c"sysfs",
        Fresh::MessageQueue => c"mqueue",
        Fresh::ControlGroup => c"cgroup2",
    };
    let context = rustix::mount::fsopen(name, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags).map(IntoRawFd::into_raw_fd)
}

fn move_to(mount: BorrowedFd<'_>, directory: BorrowedFd<'_>, path: &CStr) -> Result<(), Errno> {
    let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.is_empty());
    rustix::mount::move_mount(mount, c"", directory, path, flags)
}

/// Takes away what [`before`] attached to be cloned. It lies on the old root, and a pivot takes one mount along only:
/// what is on top of it would stay, and the old root below that.
pub(super) fn clear_away(plan: &Plan) -> Result<(), Failure> {
    for step in &plan.before {
        if matches!(step, Before::Aside { .. }) {
            rustix::mount::unmount(c"/", UnmountFlags::DETACH).at(Stage::StageMount, 0)?;
        }
    }
    Ok(())
}

pub(super) fn change_root(plan: &Plan) -> Result<(), Failure> {
    // SAFETY: the root's descriptor is open until the process starts its loop.
    let root = unsafe { call::borrow(plan.root) };
    move_to(root, CWD, c"/").at(Stage::MoveRoot, 0)?;
    rustix::process::fchdir(root).at(Stage::PivotRoot, 0)?;
    // The old root ends up on top of the new one, where the working directory is, and goes with all it carries.
    rustix::process::pivot_root(c".", c".").at(Stage::PivotRoot, 0)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).at(Stage::DetachOldRoot, 0)?;
    rustix::process::chdir(c"/").at(Stage::PivotRoot, 0)?;
    // The parent of the root is the root, unless something is still mounted over it.
    let (root, parent) = (status(c"/").at(Stage::DetachOldRoot, 1)?, status(c"/..").at(Stage::DetachOldRoot, 1)?);
    if root == parent { Ok(()) } else { Err(Failure { stage: Stage::DetachOldRoot, error: Errno::BUSY, index: 2 }) }
}

/// The device and inode that a path leads to.
fn status(path: &CStr) -> Result<(u64, u64), Errno> {
    let status = rustix::fs::statat(CWD, path, rustix::fs::AtFlags::empty())?;
    Ok((status.st_dev, status.st_ino))
}

pub(super) fn attach(plan: &Plan, index: usize) -> Result<(), Failure> {
    let step = &plan.attach[index];
    let slot = plan.slots[step.slot];
    if slot < 0 {
        return Ok(());
    }
    // SAFETY: slots hold open descriptors until the process starts its loop.
    let mount = unsafe { call::borrow(slot) };
    let open = || open_inside(CWD, &step.target, ResolveFlags::NO_SYMLINKS);
    let target = match open() {
        Err(Errno::NOENT) if !step.make.is_empty() => make_mount_point(&step.make, mount).and_then(|()| open()),
        result => result,
    };
    let target = target.at(Stage::MountPoint, index)?;
    // SAFETY: just opened.
    let target_fd = unsafe { call::borrow(target) };
    move_to(mount, target_fd, c"").at(Stage::Attach, index)?;
    call::close(target);
    Ok(())
}

/// Makes the place of a mount in what an earlier mount shows. It stays there, for example in a cache.
fn make_mount_point(names: &[(CString, CString)], mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let is_directory = FileType::from_raw_mode(rustix::fs::fstat(mount)?.st_mode) == FileType::Directory;
    for (index, (folder, name)) in names.iter().enumerate() {
        let folder = open_inside(CWD, folder, ResolveFlags::NO_SYMLINKS)?;
        // SAFETY: just opened.
        let folder_fd = unsafe { call::borrow(folder) };
        let made = if index + 1 < names.len() || is_directory {
            rustix::fs::mkdirat(folder_fd, name, Mode::from_raw_mode(0o755))
        } else {
            rustix::fs::mknodat(folder_fd, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        };
        call::close(folder);
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Hides a kernel file behind `/dev/null` and a kernel folder behind an empty one.
pub(super) fn mask(empty: RawFd, path: &CStr) -> Result<(), Errno> {
    let target = match open_inside(CWD, path, ResolveFlags::NO_SYMLINKS) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result?,
    };
    // SAFETY: just opened.
    let target_fd = unsafe { call::borrow(target) };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(target_fd)?.st_mode);
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let cover = if kind == FileType::Directory {
        // SAFETY: the slot is open until the process starts its loop.
        let empty = unsafe { call::borrow(empty) };
        match rustix::mount::open_tree(empty, c"", clone | OpenTreeFlags::AT_EMPTY_PATH) {
            // Not attached yet, so this is the first folder: the mount itself goes here.
            Err(Errno::INVAL) => return move_to(empty, target_fd, c""),
            result => result?,
        }
    } else {
        rustix::mount::open_tree(CWD, c"/dev/null", clone)?
    };
    move_to(cover.as_fd(), target_fd, c"")?;
    call::close(target);
    Ok(())
}

/// Puts a read-only copy of a kernel folder over itself.
pub(super) fn make_read_only(path: &CStr) -> Result<(), Errno> {
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let copy = match rustix::mount::open_tree(CWD, path, clone) {
        Err(Errno::NOENT) => return Ok(()),
        result => result?,
    };
    call::restrict(copy.as_fd(), MountAttrFlags::MOUNT_ATTR_RDONLY, true)?;
    move_to(copy.as_fd(), CWD, path)
}
