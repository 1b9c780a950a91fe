//! Everything the new process needs, made before it exists.

use std::ffi::{CString, OsStr, OsString, c_int};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use libc::sock_filter;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::MountAttrFlags;

use super::devices;
use super::error::SandboxError;
use super::filter::{FilterOptions, default_filter};
use super::{
    Isolation, Mount, MountSource, NetworkMode, Process, ResourceLimit, RootMount, SandboxSpec, SecurityMode, TmpfsFile,
};
use crate::sys::call::Strings;
use crate::sys::mount::{self, FileSystem, MountError, Restrictions, TmpfsOptions};

/// Docker's fourteen default capabilities, `00000000a80425fb`.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

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

/// The most open files a step may ask for, as in Docker.
const OPEN_FILES: (u64, u64) = (1024, 1 << 20);

/// A step's process, laid out for a child that can neither allocate nor lock.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) namespaces: c_int,
    pub(super) network: Option<RawFd>,
    pub(super) loopback: bool,
    /// Detached mounts; -1 where there is none (yet).
    pub(super) slots: Vec<RawFd>,
    pub(super) before: Vec<Before>,
    /// The new root: a detached mount, or the folder to change the root to.
    pub(super) root: RawFd,
    pub(super) attach: Vec<Attach>,
    pub(super) masked: Vec<CString>,
    pub(super) read_only: Vec<CString>,
    /// A slot with an empty read-only folder.
    pub(super) empty: usize,
    pub(super) read_only_root: bool,
    pub(super) hostname: Vec<u8>,
    pub(super) streams: [RawFd; 3],
    pub(super) terminal: bool,
    pub(super) life_line: RawFd,
    pub(super) report: RawFd,
    pub(super) limits: Vec<Limit>,
    pub(super) filter: Option<Vec<sock_filter>>,
    pub(super) capabilities: Option<u64>,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) working_directory: CString,
    pub(super) programs: Vec<CString>,
    pub(super) arguments: Option<Strings>,
    pub(super) environment: Option<Strings>,
    /// Memory with the command line and the environment of this process.
    pub(super) wipe: Vec<(usize, usize)>,
    /// Keeps every descriptor above open until the child has its copies.
    pub(super) owned: Vec<OwnedFd>,
}

/// What happens before the old root goes.
#[derive(Debug)]
pub(super) enum Before {
    /// Attaches a mount out of the way, because only attached mounts can be cloned.
    Aside { slot: usize },
    /// Clones a path of a mount that is aside.
    Clone { from: usize, path: CString, to: usize, flags: MountAttrFlags },
    /// Mounts a file system that belongs to the new namespaces.
    Fresh { kind: Fresh, slot: usize, flags: MountAttrFlags, otherwise: Otherwise },
}

/// A kernel file system that shows the namespaces of who mounts it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Fresh {
    Proc,
    Sys,
    MessageQueue,
    ControlGroup,
}

/// What to do when it cannot be mounted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Otherwise {
    Fail,
    Skip,
    Use { slot: usize },
}

/// A mount and its place.
#[derive(Debug)]
pub(super) struct Attach {
    pub(super) slot: usize,
    pub(super) target: CString,
}

/// A resource limit, with the hard limit of now for a process that may not raise it.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) limit: ResourceLimit,
    pub(super) current_hard: Option<u64>,
}

impl Plan {
    /// Prepares all but standard streams and pipes.
    pub(super) fn new(spec: SandboxSpec) -> Result<(Self, Option<OwnedFd>), SandboxError> {
        let mut plan = Self::default();
        plan.set_process(&spec.process)?;
        plan.set_security(spec.security, spec.x86_32_bit);
        plan.set_limits(&spec.limits);
        plan.hostname = spec.hostname.as_bytes().to_vec();
        plan.wipe = own_strings();
        let terminals = match spec.isolation {
            Isolation::Namespaces => Some(plan.set_namespaces(spec)?),
            Isolation::Chroot => {
                plan.set_chroot(&spec)?;
                None
            }
        };
        Ok((plan, terminals))
    }

    fn set_process(&mut self, process: &Process) -> Result<(), SandboxError> {
        let program = process.arguments.first().ok_or(SandboxError::EmptyCommand)?;
        self.programs = candidates(program, &process.environment)?;
        let arguments = process.arguments.iter().map(|text| c_string("an argument", text.as_bytes()));
        self.arguments = Some(Strings::new(arguments.collect::<Result<_, _>>()?));
        let environment = process.environment.iter().map(|text| c_string("the environment", text.as_bytes()));
        self.environment = Some(Strings::new(environment.collect::<Result<_, _>>()?));
        let directory = process.working_directory.as_bytes();
        let directory = if directory.starts_with(b"/") { directory.to_vec() } else { [b"/", directory].concat() };
        self.working_directory = c_string("the working directory", &directory)?;
        (self.uid, self.gid, self.groups) = (process.uid, process.gid, process.groups.clone());
        Ok(())
    }

    fn set_security(&mut self, security: SecurityMode, x86_32_bit: bool) {
        match security {
            SecurityMode::Sandbox => {
                self.filter = Some(default_filter(FilterOptions { socketcall: x86_32_bit }));
                self.capabilities = Some(DEFAULT_CAPABILITIES);
            }
            SecurityMode::Insecure => {}
        }
    }

    fn set_limits(&mut self, limits: &[ResourceLimit]) {
        let limit = |resource, soft, hard| ResourceLimit { resource, soft: Some(soft), hard: Some(hard) };
        let defaults = [limit(super::Resource::Core, 0, 0), limit(super::Resource::Nofile, OPEN_FILES.0, OPEN_FILES.1)];
        self.limits = defaults
            .iter()
            .filter(|default| limits.iter().all(|limit| limit.resource != default.resource))
            .chain(limits)
            .map(|&limit| Limit { limit, current_hard: rustix::process::getrlimit(limit.resource).maximum })
            .collect();
    }

    fn set_chroot(&mut self, spec: &SandboxSpec) -> Result<(), SandboxError> {
        let lacks = |what| Err(SandboxError::NeedsNamespaces { what });
        let RootMount::Directory(root) = &spec.root else { return lacks("a mounted root file system") };
        if !spec.mounts.is_empty() {
            return lacks("mounts");
        }
        if !spec.devices.is_empty() {
            return lacks("devices");
        }
        if spec.read_only_root {
            return lacks("a read-only root file system");
        }
        if !matches!(spec.network, NetworkMode::Host) {
            return lacks("a network of its own");
        }
        let root = mount::open_path(root).map_err(|source| SandboxError::Root { source })?;
        self.root = self.own(root)?;
        Ok(())
    }

    /// Prepares namespaces and mounts, and returns the step's terminals.
    fn set_namespaces(&mut self, spec: SandboxSpec) -> Result<OwnedFd, SandboxError> {
        self.namespaces =
            libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        match &spec.network {
            NetworkMode::None => {
                self.namespaces |= libc::CLONE_NEWNET;
                self.loopback = true;
            }
            NetworkMode::Host => {}
            NetworkMode::Namespace(namespace) => {
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
        for mount in spec.mounts {
            self.add_mount(mount)?;
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
            NetworkMode::None | NetworkMode::Namespace(_) => {
                let slot = self.slot(None)?;
                let otherwise = if in_user_namespace() {
                    Otherwise::Use { slot: self.slot(mount::bind_recursive(Path::new("/sys"), strict).ok())? }
                } else {
                    Otherwise::Fail
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
            MountSource::BindBeneath { directory, path } => {
                self.slot(Some(mount::bind_beneath(&directory, &path, limits).map_err(failed)?))?
            }
            MountSource::Tmpfs { size_bytes, mode, files } => {
                let options = TmpfsOptions { size_bytes, mode, no_swap: false, restrictions: Restrictions::PLAIN };
                let tmpfs = mount::tmpfs(options).map_err(failed)?;
                write_files(&tmpfs, &files).map_err(failed)?;
                crate::sys::call::restrict(tmpfs.as_fd(), limits.flags(), false).map_err(|error| {
                    failed(MountError::Attributes { path: target.clone().into(), source: error.into() })
                })?;
                self.slot(Some(tmpfs))?
            }
            MountSource::SecretFile { bytes, mode, uid, gid } => {
                let options = TmpfsOptions {
                    size_bytes: Some(bytes.len() as u64 + 4096),
                    mode: 0o700,
                    no_swap: true,
                    restrictions: Restrictions::PLAIN,
                };
                let tmpfs = mount::tmpfs(options).map_err(failed)?;
                let name = c"secret".to_owned();
                write_files(&tmpfs, &[TmpfsFile { name, mode, uid, gid, bytes }]).map_err(failed)?;
                self.clone_of(tmpfs, b"secret", limits)?
            }
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
        let (from, to) = (self.slot(Some(mount))?, self.slot(None)?);
        let path = c_string("a path", path)?;
        self.before.extend([Before::Aside { slot: from }, Before::Clone { from, path, to, flags: limits.flags() }]);
        Ok(to)
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

    fn attach_new(&mut self, mount: OwnedFd, target: &[u8]) -> Result<(), SandboxError> {
        let slot = self.slot(Some(mount))?;
        self.attach_at(slot, target)
    }

    fn attach_at(&mut self, slot: usize, target: &[u8]) -> Result<(), SandboxError> {
        self.attach.push(Attach { slot, target: c_string("a mount point", target)? });
        Ok(())
    }

    fn slot(&mut self, mount: Option<OwnedFd>) -> Result<usize, SandboxError> {
        let fd = mount.map(|mount| self.own(mount)).transpose()?.unwrap_or(-1);
        self.slots.push(fd);
        Ok(self.slots.len() - 1)
    }

    /// Keeps a descriptor, moved out of the way of the numbers the child gives its own.
    pub(super) fn own(&mut self, fd: OwnedFd) -> Result<RawFd, SandboxError> {
        let fd = if fd.as_raw_fd() < FIRST_FREE { duplicate(fd.as_fd(), "a descriptor")? } else { fd };
        let number = fd.as_raw_fd();
        self.owned.push(fd);
        Ok(number)
    }
}

/// The lowest number a planned descriptor has: the child puts its own at 0 to 3.
const FIRST_FREE: RawFd = 8;

fn duplicate(fd: std::os::fd::BorrowedFd<'_>, what: &'static str) -> Result<OwnedFd, SandboxError> {
    rustix::io::fcntl_dupfd_cloexec(fd, FIRST_FREE)
        .map_err(|error| SandboxError::Prepare { what, source: error.into() })
}

pub(super) fn c_string(what: &'static str, bytes: &[u8]) -> Result<CString, SandboxError> {
    CString::new(bytes)
        .map_err(|_| SandboxError::NulByte { what, text: String::from_utf8_lossy(bytes).replace('\0', "\\0") })
}

/// Where a program may be, in the order to try.
fn candidates(program: &OsStr, environment: &[OsString]) -> Result<Vec<CString>, SandboxError> {
    let bytes = program.as_bytes();
    if bytes.is_empty() {
        return Err(SandboxError::ProgramNotFound { program: String::new(), searched: false });
    }
    if bytes.contains(&b'/') {
        return Ok(vec![c_string("the program", bytes)?]);
    }
    let path = environment.iter().rev().find_map(|entry| entry.as_bytes().strip_prefix(b"PATH="));
    let directories = path.filter(|path| !path.is_empty()).into_iter().flat_map(|path| path.split(|&b| b == b':'));
    directories
        .map(|directory| {
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            c_string("the program", &[directory, b"/", bytes].concat())
        })
        .collect()
}

fn mount_root(root: RootMount, insecure: bool) -> Result<OwnedFd, SandboxError> {
    // Device nodes that a step makes are kept in the layer and cannot be opened; the useful ones are in /dev.
    let limits = Restrictions { no_dev: !insecure, ..Restrictions::default() };
    match root {
        RootMount::Overlay(overlay) => mount::overlay(&overlay, limits),
        RootMount::Directory(path) => mount::bind(&path, limits),
        RootMount::Detached(mount) => crate::sys::call::restrict(mount.as_fd(), limits.flags(), false)
            .map_err(|error| MountError::Attributes { path: "/".into(), source: error.into() })
            .map(|()| mount),
    }
    .map_err(|source| SandboxError::Root { source })
}

/// Makes a mount point of the sandbox's own in the root when the image lacks it, and refuses anything but a folder.
fn ensure_directory(root: std::os::fd::BorrowedFd<'_>, name: &'static str) -> Result<(), SandboxError> {
    let failed = |error: rustix::io::Errno| SandboxError::NotADirectory { name, source: error.into() };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(root, name, flags, Mode::empty()) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
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

/// Where this process's command line and environment are in memory, from `/proc/self/stat` (fields 48 to 51).
fn own_strings() -> Vec<(usize, usize)> {
    let stat = read_small("/proc/self/stat").unwrap_or_default();
    let after_name = stat.iter().rposition(|&b| b == b')').map_or(&[][..], |end| &stat[end + 1..]);
    let text = String::from_utf8_lossy(after_name).into_owned();
    let fields: Vec<usize> = text.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let range = |first: usize| Some((*fields.get(first - 3)?, *fields.get(first - 2)?));
    [48, 50].into_iter().filter_map(range).filter(|&(start, end)| start != 0 && start < end).collect()
}

fn read_small(path: &str) -> Option<Vec<u8>> {
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut std::fs::File::from(fd), &mut bytes).ok()?;
    Some(bytes)
}

/// Whether a path of a mount is a folder.
pub(super) fn is_directory(mount: &OwnedFd) -> bool {
    rustix::fs::statat(mount, c"", AtFlags::EMPTY_PATH)
        .is_ok_and(|status| FileType::from_raw_mode(status.st_mode) == FileType::Directory)
}

/// Text of a path for errors.
pub(super) fn display(path: &CString) -> String {
    format!("`/{}`", OsString::from_vec(path.as_bytes().to_vec()).to_string_lossy().trim_start_matches('/'))
}
