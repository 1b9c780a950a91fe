//! Everything the new process needs, made before it exists.

use std::ffi::{CString, OsStr, OsString, c_int};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use libc::sock_filter;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::mount::MountAttrFlags;

use super::error::SandboxError;
use super::filter::{FilterOptions, default_filter};
use super::gate::{self, Gate};
use super::{Isolation, NetworkMode, Process, ResourceLimit, RootMount, SandboxSpec, SecurityMode};
use crate::sys::call::{LAST_DESCRIPTOR, Strings};
use crate::sys::mount;

/// Docker's fourteen default capabilities, `00000000a80425fb`.
const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

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
    /// The slot of the file system with all files in memory, and how many of them have a mount already.
    pub(super) memory_files: Option<(usize, usize)>,
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
    /// Where the network is connected only when a socket is wanted: the other end of the gate, and the filter that
    /// holds such calls back, in place of the one above.
    pub(super) gate: Option<(RawFd, Vec<sock_filter>)>,
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
    /// What else is inherited: ranges of numbers, first and last.
    pub(super) foreign: Vec<(RawFd, RawFd)>,
}

/// What stays with the caller of a step.
pub(super) struct Ends {
    /// The step's terminals, where it has mounts of its own.
    pub(super) terminals: Option<OwnedFd>,
    /// Where the step waits for the network.
    pub(super) gate: Option<Gate>,
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
    /// What to make where the target is missing in an earlier mount: folders, and names in them, down to the target.
    pub(super) make: Vec<(CString, CString)>,
}

/// A resource limit, with the hard limit of now for a process that may not raise it.
#[derive(Debug)]
pub(super) struct Limit {
    pub(super) limit: ResourceLimit,
    pub(super) current_hard: Option<u64>,
}

impl Plan {
    /// Prepares all but standard streams and pipes.
    pub(super) fn new(spec: SandboxSpec) -> Result<(Self, Ends), SandboxError> {
        let mut plan = Self::default();
        plan.set_process(&spec.process)?;
        plan.set_security(spec.security, spec.x86_32_bit);
        let gate = plan.make_gate(&spec)?;
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
        Ok((plan, Ends { terminals, gate }))
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
                self.filter = Some(default_filter(FilterOptions { socketcall: x86_32_bit, gated: false }));
                self.capabilities = Some(DEFAULT_CAPABILITIES);
            }
            SecurityMode::Insecure => {}
        }
    }

    /// Makes the gate of a step whose network is not connected yet, and gives our side of it.
    fn make_gate(&mut self, spec: &SandboxSpec) -> Result<Option<Gate>, SandboxError> {
        match (&spec.network, spec.security) {
            (NetworkMode::Gated(_), SecurityMode::Sandbox) => {}
            (NetworkMode::Gated(_), SecurityMode::Insecure) => return Err(SandboxError::NeedsFilter),
            (NetworkMode::None | NetworkMode::Host | NetworkMode::Namespace(_), _) => return Ok(None),
        }
        let (ours, inner) = gate::pair()?;
        let filter = default_filter(FilterOptions { socketcall: spec.x86_32_bit, gated: true });
        self.gate = Some((self.own(inner)?, filter));
        Ok(Some(ours))
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

    pub(super) fn attach_new(&mut self, mount: OwnedFd, target: &[u8]) -> Result<(), SandboxError> {
        let slot = self.slot(Some(mount))?;
        self.attach_at(slot, target)
    }

    pub(super) fn attach_at(&mut self, slot: usize, target: &[u8]) -> Result<(), SandboxError> {
        self.attach.push(Attach { slot, target: c_string("a mount point", target)?, make: Vec::new() });
        Ok(())
    }

    pub(super) fn slot(&mut self, mount: Option<OwnedFd>) -> Result<usize, SandboxError> {
        let fd = mount.map(|mount| self.own(mount)).transpose()?.unwrap_or(-1);
        self.slots.push(fd);
        Ok(self.slots.len() - 1)
    }

    /// Notes which descriptors the child closes at once, now that all others are planned. Locks are among them, which
    /// would outlive a killed rbuild until the child has noticed.
    pub(super) fn note_foreign(&mut self) {
        let planned = self.owned.iter().map(AsRawFd::as_raw_fd).collect();
        self.foreign = gaps(planned, 3);
    }

    /// Keeps a descriptor, moved out of the way of the numbers the child gives its own.
    pub(super) fn own(&mut self, fd: OwnedFd) -> Result<RawFd, SandboxError> {
        let fd = if fd.as_raw_fd() < FIRST_FREE { duplicate(fd.as_fd(), "a descriptor")? } else { fd };
        let number = fd.as_raw_fd();
        self.owned.push(fd);
        Ok(number)
    }
}

/// The ranges between numbers, from `first` on.
fn gaps(mut numbers: Vec<RawFd>, first: RawFd) -> Vec<(RawFd, RawFd)> {
    numbers.sort_unstable();
    let starts = [first].into_iter().chain(numbers.iter().map(|number| number + 1));
    let ends = numbers.iter().map(|number| number - 1).chain([LAST_DESCRIPTOR]);
    starts.zip(ends).filter(|(start, end)| start <= end).collect()
}

/// The lowest number a planned descriptor has: the child puts its own at 0 to 3.
const FIRST_FREE: RawFd = 8;

pub(super) fn duplicate(fd: std::os::fd::BorrowedFd<'_>, what: &'static str) -> Result<OwnedFd, SandboxError> {
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

/// Where this process's command line and environment are in memory, from `/proc/self/stat` (fields 48 to 51).
fn own_strings() -> Vec<(usize, usize)> {
    let stat = read_small("/proc/self/stat").unwrap_or_default();
    let after_name = stat.iter().rposition(|&b| b == b')').map_or(&[][..], |end| &stat[end + 1..]);
    let text = String::from_utf8_lossy(after_name).into_owned();
    let fields: Vec<usize> = text.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let range = |first: usize| Some((*fields.get(first - 3)?, *fields.get(first - 2)?));
    [48, 50].into_iter().filter_map(range).filter(|&(start, end)| start != 0 && start < end).collect()
}

pub(super) fn read_small(path: &str) -> Option<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_between_planned_descriptors_is_foreign() {
        assert_eq!(gaps(vec![], 3), [(3, RawFd::MAX)]);
        assert_eq!(gaps(vec![9, 8, 12], 3), [(3, 7), (10, 11), (13, RawFd::MAX)]);
        assert_eq!(gaps(vec![3, 4], 3), [(5, RawFd::MAX)]);
    }
}
