//! The step's own `/dev`.
//!
//! ```text
//! /dev            tmpfs, nodev           null zero full random urandom tty   bind mounts of the host's nodes
//! /dev/pts        devpts, new instance   fd stdin stdout stderr ptmx         symbolic links
//! /dev/shm        tmpfs                  mqueue                              the step's own message queues
//! ```
//!
//! Nodes are bind mounts also for root: the file systems around them are all `nodev`, so a node that the step makes
//! itself opens nothing, without a device control group.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::error::SandboxError;
use super::plan::is_directory;
use super::{Device, Mount, MountSource};
use crate::sys::mount::{self, FileSystem, MountError, Restrictions, TmpfsOptions};
use crate::tree::TreePath;

/// Name, major and minor number of the nodes every step has.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];
/// As in Docker.
const SIZE_BYTES: u64 = 64 << 20;

/// The mounts of `/dev`, detached.
pub(super) struct Devices {
    pub(super) root: OwnedFd,
    pub(super) terminals: OwnedFd,
    pub(super) shared_memory: OwnedFd,
    /// Name below `/dev` and the node.
    pub(super) nodes: Vec<(CString, OwnedFd)>,
}

pub(super) fn prepare(shm_size_bytes: u64, insecure: bool, devices: &[Device]) -> Result<Devices, MountError> {
    let plain = Restrictions { no_exec: true, ..Restrictions::PLAIN };
    let limits = Restrictions { no_suid: true, no_dev: !insecure, ..Restrictions::default() };
    let root =
        mount::tmpfs(TmpfsOptions { size_bytes: Some(SIZE_BYTES), mode: 0o755, no_swap: false, restrictions: limits })?;
    for name in ["pts", "shm", "mqueue"] {
        make(&root, name, true)?;
    }
    for (name, target) in LINKS {
        rustix::fs::symlinkat(target, &root, name)
            .map_err(|error| MountError::Populate { name: name.into(), source: error.into() })?;
    }
    let shared_memory = mount::tmpfs(TmpfsOptions {
        size_bytes: Some(shm_size_bytes),
        mode: 0o1777,
        no_swap: false,
        restrictions: plain,
    })?;
    let mut wanted: Vec<Wanted> = NODES
        .iter()
        .map(|&(name, major, minor)| {
            (TreePath::clean(name.as_bytes()), Path::new("/dev").join(name), Some((major, minor)))
        })
        .collect();
    wanted.extend(devices.iter().map(|device| (device.name.clone(), device.host.clone(), None)));
    if insecure {
        wanted.extend(host_devices().into_iter().map(|(name, path)| (name, path, None)));
    }
    let mut nodes: Vec<(CString, OwnedFd)> = Vec::new();
    for (name, path, number) in wanted {
        let Some(node) = open_node(&path, number)? else { continue };
        let Ok(c_name) = CString::new(name.as_bytes()) else { continue };
        if nodes.iter().any(|(other, _)| *other == c_name) {
            continue;
        }
        make_below(root.as_fd(), &name, false)?;
        nodes.push((c_name, node));
    }
    Ok(Devices { terminals: terminals()?, root, shared_memory, nodes })
}

/// Name below `/dev`, path on the host, and the device it must be.
type Wanted = (TreePath, PathBuf, Option<(u32, u32)>);

/// A bind mount of a host node; `None` when the host has none of that name.
fn open_node(path: &Path, number: Option<(u32, u32)>) -> Result<Option<OwnedFd>, MountError> {
    let failed = |error: rustix::io::Errno| MountError::Open { path: path.into(), source: error.into() };
    let file = match rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => file,
        Err(rustix::io::Errno::NOENT) if number.is_none_or(|number| number != (1, 3)) => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let status = rustix::fs::fstat(&file).map_err(failed)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    let device = (rustix::fs::major(status.st_rdev), rustix::fs::minor(status.st_rdev));
    let expected = match number {
        Some(number) => kind == FileType::CharacterDevice && device == number,
        None => matches!(kind, FileType::CharacterDevice | FileType::BlockDevice),
    };
    if !expected {
        return Err(failed(rustix::io::Errno::NODEV));
    }
    let limits = Restrictions { no_suid: true, no_exec: true, ..Restrictions::default() };
    mount::bind_descriptor(file.as_fd(), path, limits).map(Some)
}

/// A bind mount of a node of the host that must be there.
pub(super) fn host_node(path: &Path) -> Result<OwnedFd, MountError> {
    open_node(path, None)?
        .ok_or_else(|| MountError::Open { path: path.into(), source: rustix::io::Errno::NOENT.into() })
}

/// Every device node in the host's `/dev` but the terminals', two folders deep.
fn host_devices() -> Vec<(TreePath, PathBuf)> {
    let mut found = Vec::new();
    let mut folders = vec![(TreePath::root(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let path = Path::new("/dev").join(folder.as_path());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fd) = rustix::fs::open(&path, flags, Mode::empty()) else { continue };
        let Ok(entries) = rustix::fs::Dir::new(fd) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b".." | b"pts" | b"shm" | b"mqueue" | b"fd" | b"console" | b"ptmx") {
                continue;
            }
            let inside = folder.join(name);
            match entry.file_type() {
                FileType::Directory if depth < 2 => folders.push((inside, depth + 1)),
                FileType::CharacterDevice | FileType::BlockDevice => {
                    found.push((inside.clone(), Path::new("/dev").join(inside.as_path())));
                }
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn terminals() -> Result<OwnedFd, MountError> {
    let limits = Restrictions { no_suid: true, no_exec: true, ..Restrictions::default() };
    let mount = |group: Option<&str>| {
        let context = FileSystem::open("devpts")?;
        context.flag("newinstance")?;
        context.set("ptmxmode", "0666")?;
        context.set("mode", "0620")?;
        if let Some(group) = group {
            context.set("gid", group)?;
        }
        context.mount(limits)
    };
    // The group may have no number in this user namespace.
    mount(Some("5")).or_else(|_| mount(None))
}

/// Makes the mount point of a mount below `/dev`, where no image could have made one.
pub(super) fn make_mount_point(root: BorrowedFd<'_>, mount: &Mount) -> Result<(), SandboxError> {
    let Some(name) = mount.target.strip_prefix(&TreePath::clean(b"dev")).filter(|name| !name.is_root()) else {
        return Ok(());
    };
    let failed = |source| SandboxError::Mount { target: mount.target.to_string(), source };
    let directory = match &mount.source {
        MountSource::Bind(path) | MountSource::Socket(path) => is_directory(&mount::open_path(path).map_err(failed)?),
        MountSource::BindBeneath { directory, path } => {
            is_directory(&mount::bind_beneath(directory, path, Restrictions::PLAIN).map_err(failed)?)
        }
        MountSource::Tmpfs { .. } | MountSource::Overlay { .. } => true,
        MountSource::SecretFile { .. } | MountSource::Device(_) => false,
    };
    make_below(root, &name, directory).map_err(failed)
}

fn make_below(root: BorrowedFd<'_>, path: &TreePath, directory: bool) -> Result<(), MountError> {
    for folder in path.ancestors() {
        make(root, folder.as_path().to_string_lossy().as_ref(), true)?;
    }
    make(root, path.as_path().to_string_lossy().as_ref(), directory)
}

/// Makes an empty file or folder unless there is something.
fn make(root: impl AsFd, name: &str, directory: bool) -> Result<(), MountError> {
    let (kind, mode) = if directory { (FileType::Directory, 0o755) } else { (FileType::RegularFile, 0o666) };
    let result = if kind == FileType::Directory {
        rustix::fs::mkdirat(root.as_fd(), name, Mode::from_raw_mode(mode))
    } else {
        rustix::fs::mknodat(root.as_fd(), name, kind, Mode::from_raw_mode(mode), 0)
    };
    match result {
        Ok(()) if directory => rustix::fs::chmodat(root.as_fd(), name, Mode::from_raw_mode(mode), AtFlags::empty()),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        result => result,
    }
    .map_err(|error| MountError::Populate { name: name.into(), source: error.into() })
}
