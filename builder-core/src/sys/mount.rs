//! Mounts made by file descriptor.
//!
//! Every function returns a *detached* mount: a descriptor that names a file tree nobody can see yet. The sandbox
//! attaches it inside the step's own mount namespace, so nothing is ever mounted on the host and closing the
//! descriptor takes everything back. Paths are resolved once, to a descriptor, and never again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::call;
use crate::tree::TreePath;

mod overlay;

pub use overlay::{MOST_LAYERS, Overlay, WritableLayer, overlay};

/// A mount could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The mounts of a thread could not be made its own.
    #[error("cannot create a mount namespace")]
    Namespace {
        /// What the kernel said.
        source: io::Error,
    },
    /// A path that a mount needs could not be opened.
    #[error("cannot open `{path}` for a mount")]
    Open {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a new file system.
    #[error("cannot create {file_system} mount: `{option}` was refused{message}")]
    Create {
        /// The file system's type.
        file_system: &'static str,
        /// The option that was refused, or `create`.
        option: String,
        /// The kernel's own words, if it gave any.
        message: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// More layers than the kernel can stack.
    #[error("cannot stack {count} layers: the kernel takes {most} at most")]
    TooManyLayers {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A tree could not be cloned into a bind mount.
    #[error("cannot make a bind mount of `{path}`")]
    Bind {
        /// The path as given.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Read-only and the like could not be set.
    #[error("cannot set the attributes of the mount of `{path}`")]
    Attributes {
        /// What is mounted.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A mount could not be put in its place.
    #[error("cannot attach a mount at `{path}`")]
    Attach {
        /// Where it should have gone.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file or folder inside a fresh file system could not be made.
    #[error("cannot make `{name}` in a fresh file system")]
    Populate {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl MountError {
    fn is_invalid_argument(&self) -> bool {
        matches!(self, Self::Create { source, .. } if source.raw_os_error() == Some(libc::EINVAL))
    }
}

/// What may not be done through a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restrictions {
    /// Nothing can be written.
    pub read_only: bool,
    /// Set-user-id bits and file capabilities are ignored.
    pub no_suid: bool,
    /// Device nodes cannot be opened.
    pub no_dev: bool,
    /// Programs cannot be executed.
    pub no_exec: bool,
}

impl Restrictions {
    /// Nothing but reading and writing plain files: no set-user-id, no devices.
    pub const PLAIN: Self = Self { read_only: false, no_suid: true, no_dev: true, no_exec: false };

    /// The same, for reading only or not.
    #[must_use]
    pub const fn with_read_only(self, read_only: bool) -> Self {
        Self { read_only, ..self }
    }

    pub(super) fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_suid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_dev);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags
    }
}

/// Runs `work` on a thread that has a mount namespace of its own.
fn in_private_namespace<T: Send>(work: impl FnOnce() -> Result<T, MountError> + Send) -> Result<T, MountError> {
    let failed = |source| MountError::Namespace { source };
    let run = || {
        call::unshare_thread_mounts().map_err(|error| failed(error.into()))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private).map_err(|error| failed(error.into()))?;
        work()
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(run);
        thread.join().unwrap_or_else(|_| Err(failed(io::Error::other("the thread that mounts panicked"))))
    })
}

/// Makes a detached mount of a file or folder and of nothing mounted below it.
///
/// # Errors
/// When the path cannot be opened or the kernel refuses the clone.
pub fn bind(path: &Path, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    bind_descriptor(open_path(path)?.as_fd(), path, restrictions)
}

/// Makes a detached mount of `path` below the folder `directory`, which is the root for every symbolic link on the way.
///
/// # Errors
/// When the path does not exist in the folder or the kernel refuses the clone.
pub fn bind_beneath(directory: &Path, path: &TreePath, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    let root = open_path(directory)?;
    let full = directory.join(path.as_path());
    let found = rustix::fs::openat2(
        &root,
        path.as_path(),
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .map_err(|error| MountError::Open { path: full.clone(), source: error.into() })?;
    bind_descriptor(found.as_fd(), &full, restrictions)
}

pub(super) fn bind_descriptor(
    file: BorrowedFd<'_>,
    path: &Path,
    restrictions: Restrictions,
) -> Result<OwnedFd, MountError> {
    let clone = |flags| open_tree(file, c"", flags);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let (mount, recursive) = match clone(flags) {
        // In a user namespace a folder with mounts of the host below it can only be cloned with them.
        Err(Errno::INVAL) => (clone(flags | OpenTreeFlags::AT_RECURSIVE), true),
        result => (result, false),
    };
    let mount = mount.map_err(|error| MountError::Bind { path: path.into(), source: error.into() })?;
    call::restrict(mount.as_fd(), restrictions.flags(), recursive)
        .map_err(|error| MountError::Attributes { path: path.into(), source: error.into() })?;
    Ok(mount)
}

/// Makes a detached mount of a folder and of everything mounted below it.
pub(super) fn bind_recursive(path: &Path, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let mount =
        open_tree(CWD, path, flags).map_err(|error| MountError::Bind { path: path.into(), source: error.into() })?;
    call::restrict(mount.as_fd(), restrictions.flags(), true)
        .map_err(|error| MountError::Attributes { path: path.into(), source: error.into() })?;
    Ok(mount)
}

/// Options of a tmpfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TmpfsOptions {
    /// The most it may hold; the kernel's default (half of the memory) without it.
    pub size_bytes: Option<u64>,
    /// Permission bits of its root.
    pub mode: u32,
    /// Its pages never reach a swap device, where the kernel can promise that.
    pub no_swap: bool,
    /// What may not be done through it.
    pub restrictions: Restrictions,
}

/// Makes a detached, empty tmpfs.
///
/// # Errors
/// When the kernel refuses it.
pub fn tmpfs(options: TmpfsOptions) -> Result<OwnedFd, MountError> {
    let context = FileSystem::open("tmpfs")?;
    context.set("mode", &format!("{:o}", options.mode))?;
    if let Some(size) = options.size_bytes {
        context.set("size", &size.to_string())?;
    }
    if options.no_swap {
        // Since 6.4 and not in a user namespace; without it the pages are as safe as any process memory.
        let _ = fsconfig_set_flag(context.fd.as_fd(), c"noswap");
    }
    context.mount(options.restrictions)
}

/// Attaches a detached mount at a path of this process's own mount namespace; [`detach`] undoes it.
///
/// # Errors
/// When the path is missing or this process may not mount.
pub fn attach(mount: BorrowedFd<'_>, path: &Path) -> Result<(), MountError> {
    move_mount(mount, c"", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(|error| MountError::Attach { path: path.into(), source: error.into() })
}

/// Takes the topmost mount at a path away, at once for new users and for the others when they are done.
///
/// # Errors
/// When nothing is mounted there.
pub fn detach(path: &Path) -> Result<(), MountError> {
    rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
        .map_err(|error| MountError::Attach { path: path.into(), source: error.into() })
}

pub(super) fn open_path(path: &Path) -> Result<OwnedFd, MountError> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| MountError::Open { path: path.into(), source: error.into() })
}

pub(super) fn descriptor_path(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// A file system that is being configured.
pub(super) struct FileSystem {
    kind: &'static str,
    fd: OwnedFd,
}

impl FileSystem {
    pub(super) fn open(kind: &'static str) -> Result<Self, MountError> {
        let fd = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|error| MountError::Create {
            file_system: kind,
            option: "open".into(),
            message: String::new(),
            source: error.into(),
        })?;
        Ok(Self { kind, fd })
    }

    pub(super) fn set(&self, key: &'static str, value: &str) -> Result<(), MountError> {
        fsconfig_set_string(self.fd.as_fd(), key, value).map_err(|error| self.refused(format!("{key}={value}"), error))
    }

    pub(super) fn flag(&self, key: &'static str) -> Result<(), MountError> {
        fsconfig_set_flag(self.fd.as_fd(), key).map_err(|error| self.refused(key.into(), error))
    }

    pub(super) fn mount(&self, restrictions: Restrictions) -> Result<OwnedFd, MountError> {
        fsconfig_create(self.fd.as_fd()).map_err(|error| self.refused("create".into(), error))?;
        fsmount(self.fd.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, restrictions.flags())
            .map_err(|error| self.refused("mount".into(), error))
    }

    fn refused(&self, option: String, error: Errno) -> MountError {
        MountError::Create { file_system: self.kind, option, message: self.message(), source: error.into() }
    }

    /// The kernel's log of this configuration, as text to append.
    fn message(&self) -> String {
        let mut text = String::new();
        let mut buffer = [0; 1024];
        let log = self.fd.try_clone().map(File::from);
        while let Ok(read) = log.as_ref().map_or(Ok(0), |mut log| io::Read::read(&mut log, &mut buffer)) {
            if read == 0 {
                break;
            }
            // Each message is one read: a class letter, a space, the words.
            let line = String::from_utf8_lossy(&buffer[..read]);
            text.push_str(": ");
            text.push_str(line.trim_end().get(2..).unwrap_or_default());
        }
        text
    }
}
