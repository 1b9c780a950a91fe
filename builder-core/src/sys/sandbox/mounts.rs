//! The mounts of a step, made before its process exists.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::SandboxError;
use super::plan::{Before, Fresh, Otherwise, Plan, c_string, duplicate, read_small};
use super::{Mount, MountSource, NetworkMode, RootMount, SandboxSpec, SecurityMode, TmpfsFile, devices};
use crate::sys::call;
use crate::sys::mount::{self, FileSystem, MountError, Restrictions, TmpfsOptions};
use crate::tree::TreePath;

/// What of `/proc` and `/sys` a step cannot read: the union of Docker's and Podman's lists.
const MASKED: [&str; 13] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/fs/selinux",
];
/// What of `/proc` a step cannot write.
const READ_ONLY: [&str; 5] = ["proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"];
/// Leaks what other processors do; one folder for each processor.
const PROCESSORS: &str = "/sys/devices/system/cpu";

impl Plan {
    /// Prepares namespaces and mounts, and returns the step's terminals.
    pub(super) fn set_namespaces(&mut self, spec: SandboxSpec) -> Result<OwnedFd, SandboxError> {
        self.namespaces =
            libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        match &spec.network {
            NetworkMode::None => {
                self.namespaces |= libc::CLONE_NEWNET;
                self.loopback = true;
            }
            NetworkMode::Host => {}
            NetworkMode::Namespace(namespace) | NetworkMode::Gated(namespace) => {
                let namespace = duplicate(namespace.as_fd(), "the network namespace")?;
                self.network = Some(self.own(namespace)?);
            }
        }
        let insecure = spec.security == SecurityMode::Insecure;
        let root = mount_root(spec.root, insecure)?;
        for name in ["proc", "sys", "dev"] {
            ensure_directory(root.as_fd(), name)?;
        }
        self.root = self.own(root)?;
        self.read_only_root = spec.read_only_root;
        self.add_kernel_file_systems(&spec.network, insecure)?;
        let devices = devices::prepare(spec.shm_size_bytes, insecure, &spec.devices)
            .map_err(|source| SandboxError::Mount { target: "/dev".into(), source })?;
        for mount in &spec.mounts {
            devices::make_mount_point(devices.root.as_fd(), mount)?;
        }
        let terminals = duplicate(devices.terminals.as_fd(), "the terminals")?;
        self.attach_new(devices.root, b"dev")?;
        self.attach_new(devices.terminals, b"dev/pts")?;
        self.attach_new(devices.shared_memory, b"dev/shm")?;
        let queue = self.slot(None)?;
        let flags = Restrictions { no_exec: true, ..Restrictions::PLAIN }.flags();
        self.before.push(Before::Fresh { kind: Fresh::MessageQueue, slot: queue, flags, otherwise: Otherwise::Skip });
        self.attach_at(queue, b"dev/mqueue")?;
        for (name, node) in devices.nodes {
            self.attach_new(node, &[b"dev/", name.as_bytes()].concat())?;
        }
        self.add_memory_files(&spec.mounts)?;
        let mut targets: Vec<TreePath> = Vec::new();
        for mount in spec.mounts {
            let target = mount.target.clone();
            self.add_mount(mount)?;
            let above = targets.iter().filter(|above| target != **above && target.starts_with(above));
            if let (Some(above), Some(attach)) =
                (above.max_by_key(|above| above.as_bytes().len()), self.attach.last_mut())
            {
                attach.make = path_below(above, &target)?;
            }
            targets.push(target);
        }
        if !insecure {
            self.set_masks()?;
        }
        Ok(terminals)
    }

    fn add_kernel_file_systems(&mut self, network: &NetworkMode, insecure: bool) -> Result<(), SandboxError> {
        let strict = Restrictions { no_exec: true, ..Restrictions::PLAIN };
        let proc = self.slot(None)?;
        let flags = strict.flags();
        self.before.push(Before::Fresh { kind: Fresh::Proc, slot: proc, flags, otherwise: Otherwise::Fail });
        self.attach_at(proc, b"proc")?;

        let strict = strict.with_read_only(!insecure);
        let sys = match network {
            NetworkMode::Host => self.slot(host_sys(strict))?,
            NetworkMode::None | NetworkMode::Namespace(_) | NetworkMode::Gated(_) => {
                let slot = self.slot(None)?;
                let otherwise = if in_user_namespace() {
                    Otherwise::Use { slot: self.slot(mount::bind_recursive(Path::new("/sys"), strict).ok())? }
                } else {
                    Otherwise::Skip
                };
                self.before.push(Before::Fresh { kind: Fresh::Sys, slot, flags: strict.flags(), otherwise });
                slot
            }
        };
        self.attach_at(sys, b"sys")?;
        let group = self.slot(None)?;
        let flags = strict.flags();
        self.before.push(Before::Fresh { kind: Fresh::ControlGroup, slot: group, flags, otherwise: Otherwise::Skip });
        self.attach_at(group, b"sys/fs/cgroup")
    }

    fn add_mount(&mut self, mount: Mount) -> Result<(), SandboxError> {
        let target = mount.target.to_string();
        let failed = |source| SandboxError::Mount { target: target.clone(), source };
        let mut components = mount.target.components();
        if matches!((components.next(), components.next()), (None | Some(b"proc" | b"sys"), _) | (Some(b"dev"), None)) {
            return Err(SandboxError::ReservedTarget { target });
        }
        let limits = Restrictions::PLAIN.with_read_only(mount.read_only);
        let slot = match mount.source {
            MountSource::Bind(path) | MountSource::Socket(path) => {
                self.slot(Some(mount::bind(&path, limits).map_err(failed)?))?
            }
            MountSource::Device(path) => self.slot(Some(devices::host_node(&path).map_err(failed)?))?,
            MountSource::BindBeneath { directory, path } => {
                self.slot(Some(mount::bind_beneath(&directory, &path, limits).map_err(failed)?))?
            }
            MountSource::Tmpfs { size_bytes, mode, files } => {
                let options = TmpfsOptions { size_bytes, mode, no_swap: false, restrictions: Restrictions::PLAIN };
                let tmpfs = mount::tmpfs(options).map_err(failed)?;
                write_files(&tmpfs, &files).map_err(failed)?;
                restrict_when_written(tmpfs.as_fd(), limits).map_err(|error| {
                    failed(MountError::Attributes { path: target.clone().into(), source: error.into() })
                })?;
                self.slot(Some(tmpfs))?
            }
            MountSource::SecretFile { .. } => self.next_memory_file(limits)?,
            MountSource::Overlay { overlay, path } => {
                let limits = limits.with_read_only(mount.read_only || overlay.writable.is_none());
                let whole = mount::overlay(&overlay, limits).map_err(failed)?;
                if path.is_root() { self.slot(Some(whole))? } else { self.clone_of(whole, path.as_bytes(), limits)? }
            }
        };
        self.attach_at(slot, mount.target.as_bytes())
    }

    /// Adds a mount of one path of a mount.
    fn clone_of(&mut self, mount: OwnedFd, path: &[u8], limits: Restrictions) -> Result<usize, SandboxError> {
        let from = self.aside(mount)?;
        self.clone_from(from, c_string("a path", path)?, limits)
    }

    fn aside(&mut self, mount: OwnedFd) -> Result<usize, SandboxError> {
        let slot = self.slot(Some(mount))?;
        self.before.push(Before::Aside { slot });
        Ok(slot)
    }

    fn clone_from(&mut self, from: usize, path: CString, limits: Restrictions) -> Result<usize, SandboxError> {
        let to = self.slot(None)?;
        self.before.push(Before::Clone { from, path, to, flags: limits.flags() });
        Ok(to)
    }

    /// Writes the contents of all files in memory. They are in one file system, because making and taking down each has
    /// its price; a mount shows one file of it and has no way to the others.
    fn add_memory_files(&mut self, mounts: &[Mount]) -> Result<(), SandboxError> {
        let mut files: Vec<(&TreePath, TmpfsFile)> = Vec::new();
        for mount in mounts {
            if let MountSource::SecretFile { bytes, mode, uid, gid } = &mount.source {
                let (name, bytes) = (memory_file_name(files.len()), bytes.clone());
                files.push((&mount.target, TmpfsFile { name, mode: *mode, uid: *uid, gid: *gid, bytes }));
            }
        }
        let Some((first, _)) = files.first() else { return Ok(()) };
        let made = |target: &TreePath, source| SandboxError::Mount { target: target.to_string(), source };
        // Each file takes whole pages.
        let size_bytes = files.iter().map(|(_, file)| file.bytes.len() as u64 + PAGE).sum();
        let restrictions = Restrictions::PLAIN;
        let options = TmpfsOptions { size_bytes: Some(size_bytes), mode: 0o700, no_swap: true, restrictions };
        let tmpfs = mount::tmpfs(options).map_err(|source| made(first, source))?;
        for (target, file) in &files {
            write_files(&tmpfs, std::slice::from_ref(file)).map_err(|source| made(target, source))?;
        }
        self.memory_files = Some((self.aside(tmpfs)?, 0));
        Ok(())
    }

    /// Adds a mount of the next file in memory.
    fn next_memory_file(&mut self, limits: Restrictions) -> Result<usize, SandboxError> {
        let (from, number) = self.memory_files.take().expect("all files were written before the mounts are added");
        self.memory_files = Some((from, number + 1));
        self.clone_from(from, memory_file_name(number), limits)
    }

    fn set_masks(&mut self) -> Result<(), SandboxError> {
        let options = TmpfsOptions {
            size_bytes: Some(0),
            mode: 0o555,
            no_swap: false,
            restrictions: Restrictions { read_only: true, no_suid: true, no_dev: true, no_exec: true },
        };
        let empty = mount::tmpfs(options).map_err(|source| SandboxError::Mount { target: "/proc".into(), source })?;
        self.empty = self.slot(Some(empty))?;
        self.masked = MASKED.iter().map(|path| c_string("a path", path.as_bytes())).collect::<Result<_, _>>()?;
        for name in processors() {
            self.masked.push(c_string("a path", format!("{}/{name}/thermal_throttle", &PROCESSORS[1..]).as_bytes())?);
        }
        self.read_only = READ_ONLY.iter().map(|path| c_string("a path", path.as_bytes())).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// The most that a page of memory has on the processors that steps run on, bytes.
const PAGE: u64 = 64 << 10;

fn memory_file_name(number: usize) -> CString {
    CString::new(number.to_string()).expect("digits hold no NUL byte")
}

/// The names of a path below a folder, each with the folder it is in.
fn path_below(folder: &TreePath, path: &TreePath) -> Result<Vec<(CString, CString)>, SandboxError> {
    let mut names = Vec::new();
    let inside = |path: &TreePath| path.starts_with(folder) && path != folder;
    for path in path.ancestors().filter(inside).chain([path.clone()]) {
        if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
            names.push((c_string("a mount point", parent.as_bytes())?, c_string("a mount point", name)?));
        }
    }
    Ok(names)
}

fn mount_root(root: RootMount, insecure: bool) -> Result<OwnedFd, SandboxError> {
    // Device nodes that a step makes are kept in the layer and cannot be opened; the useful ones are in /dev.
    let limits = Restrictions { no_dev: !insecure, ..Restrictions::default() };
    match root {
        RootMount::Overlay(overlay) => mount::overlay(&overlay, limits),
        RootMount::Directory(path) => mount::bind(&path, limits),
        RootMount::Detached(mount) => call::restrict(mount.as_fd(), limits.flags(), false)
            .map_err(|error| MountError::Attributes { path: "/".into(), source: error.into() })
            .map(|()| mount),
    }
    .map_err(|source| SandboxError::Root { source })
}

/// Makes a mount point of the sandbox's own in the root when the image lacks it, and refuses anything but a folder.
fn ensure_directory(root: BorrowedFd<'_>, name: &'static str) -> Result<(), SandboxError> {
    let failed = |error: Errno| SandboxError::NotADirectory { name, source: error.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(root, name, flags, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(Errno::NOENT) => {
            rustix::fs::mkdirat(root, name, Mode::from_raw_mode(0o755)).map_err(failed)?;
            // The process's umask took part in the mode.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = rustix::fs::openat(root, name, flags, Mode::empty()).map_err(failed)?;
            rustix::fs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// The host's `/sys`: a new mount of it, or in a user namespace that may not, a copy of the host's mounts.
fn host_sys(limits: Restrictions) -> Option<OwnedFd> {
    let new = FileSystem::open("sysfs").and_then(|context| context.mount(limits));
    new.or_else(|_| mount::bind_recursive(Path::new("/sys"), limits)).ok()
}

/// Whether this process is in a user namespace of its own (and so may not mount everything).
fn in_user_namespace() -> bool {
    read_small("/proc/self/uid_map").is_none_or(|map| {
        let numbers: Vec<&[u8]> = map.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        numbers != [b"0".as_slice(), b"0", b"4294967295"]
    })
}

/// Writes the files of a tmpfs that nobody else can see yet.
fn write_files(tmpfs: &OwnedFd, files: &[TmpfsFile]) -> Result<(), MountError> {
    for file in files {
        let failed = |error: std::io::Error| MountError::Populate {
            name: file.name.to_string_lossy().into_owned(),
            source: error,
        };
        let open = || -> std::io::Result<()> {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let fd = rustix::fs::openat2(
                tmpfs,
                &file.name,
                flags,
                Mode::from_raw_mode(0o600),
                ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
            )?;
            let (uid, gid) = (rustix::fs::Uid::from_raw(file.uid), rustix::fs::Gid::from_raw(file.gid));
            rustix::fs::fchown(&fd, Some(uid), Some(gid))?;
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(file.mode & 0o7777))?;
            std::io::Write::write_all(&mut std::fs::File::from(fd), &file.bytes)
        };
        open().map_err(failed)?;
    }
    Ok(())
}

/// Restricts a tmpfs whose files were just written.
///
/// A step that another thread starts at this moment has a copy of every descriptor until its process closes them, so a
/// file may still count as open for writing for a few milliseconds; the kernel then refuses to make its mount read-only.
fn restrict_when_written(tmpfs: BorrowedFd<'_>, limits: Restrictions) -> Result<(), Errno> {
    const PAUSE: std::time::Duration = std::time::Duration::from_millis(1);
    const ATTEMPTS: usize = 5000;
    for _ in 1..ATTEMPTS {
        match call::restrict(tmpfs, limits.flags(), false) {
            Err(Errno::BUSY) => std::thread::sleep(PAUSE),
            result => return result,
        }
    }
    call::restrict(tmpfs, limits.flags(), false)
}

/// Names of the processors' folders in `/sys`.
fn processors() -> Vec<String> {
    let Ok(folder) = rustix::fs::open(PROCESSORS, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
    else {
        return Vec::new();
    };
    let Ok(entries) = rustix::fs::Dir::new(folder) else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
        .filter(|name| name.strip_prefix("cpu").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())))
        .collect()
}
